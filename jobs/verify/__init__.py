"""`winnow verify`: checks a finished job against its own files, a module for each kind of file."""
