"""`winnow why`: one sample of a finished job, and what every cut said of it; from files alone, and writes nothing."""
