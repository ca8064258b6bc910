"""Pocket DataComp: trains the same small CLIP on what each policy keeps of one pool, and compares accuracy."""
