"""What people start: the winnow command, and YAML jobs that are promises."""
