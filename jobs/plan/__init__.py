"""`winnow plan`: what a job is, what is done already, its first samples, and with --price what it will cost."""
