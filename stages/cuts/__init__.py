"""The cuts, a file each: what a sample is worth, which group it competes in, how many of each group stay."""
