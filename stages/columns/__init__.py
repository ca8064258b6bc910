"""Columns: values that winnow computes for every sample, one file a kind; cuts use them like fields of the pool."""
