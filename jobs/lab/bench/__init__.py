"""Benchmarks: the time of each step beside its limit on the same machine."""
