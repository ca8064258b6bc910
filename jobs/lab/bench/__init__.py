"""Benchmarks: the time of each step, compared with its limit on the same machine."""
