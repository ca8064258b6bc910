"""Benchmarks and experiments, which are not in the wheel."""
