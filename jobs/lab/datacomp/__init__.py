"""Pocket DataComp: one pool, many policies, the same small CLIP trained on what each of them keeps; leaves a table."""
