"""The quickstart: a small world that winnow renders, trains a filter network on, and filters."""
