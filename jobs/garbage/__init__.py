"""`winnow gc`: finds and removes what no job of a store needs."""
