"""Cuts by fields of the pool: limits and values for other cuts, and the cut `cap` with its groups and domains."""
