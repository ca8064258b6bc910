"""`winnow plan`: shows a job before it runs: its stages, first samples and, with --price, its cost."""
