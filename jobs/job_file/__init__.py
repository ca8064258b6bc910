"""Job files: reads YAML strictly and checks every option."""
