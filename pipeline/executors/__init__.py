"""Executors run work on the items of a pool: threads of this process, or a pool of Ray actors."""
