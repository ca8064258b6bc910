"""What `winnow verify` looks at, a module for each kind of file; reads a finished job, writes nothing."""
