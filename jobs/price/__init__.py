"""`winnow plan --price`: a miniature of the job is run here and its times are extended to the pool; keeps nothing."""
