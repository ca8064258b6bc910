"""The first samples of a pool, seen before a run starts: what they are, and which option would read them."""
