"""Lists of samples that a user brings, such as take-downs: their files, what they name, and the join with the pool."""
