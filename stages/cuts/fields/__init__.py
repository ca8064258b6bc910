"""What cuts do with fields of the pool: limits, values, and registered domains of links."""
