"""Vectors that were computed before: npy, npz and parquet files read in blocks, and the rows beside the vectors."""
