"""Benchmarks: what each step costs beside its limits on the same machine."""
