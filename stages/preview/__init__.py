"""Looks at the first samples of a pool before a run: what they are, and which option would read them."""
