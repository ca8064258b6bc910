"""Vectors that another program made for the samples of a pool: their files, the join, and the check of it."""
