"""`winnow verify`: checks a finished job against its own files, one module per kind of file."""
