"""The cuts, one file each: the value of a sample, its group, and how many of each group stay."""
