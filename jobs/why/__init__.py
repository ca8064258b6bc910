"""`winnow why`: shows what became of one sample of a finished job, and what each cut said about it."""
