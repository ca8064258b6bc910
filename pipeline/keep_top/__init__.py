"""keep_top: exact distributed top-k by group. Keeps the `quota` rows of highest value in each group, without a shuffle.

Every cut selects with it. Rows are ordered by value descending, then by uid, then by place (shard, row) ascending. This
order is total, so the answer depends on the rows alone: the split into shards, the order of arrival and the number of
workers cannot change it. Each pass reads every shard independently:

    selection = Selection(quota)
    while (step := selection.next_pass()) is not None:
        selection.absorb(step.scan(rows) for rows in shards)      # scan runs anywhere, results in any order
    thresholds = selection.thresholds()
    masks = [kept(rows, thresholds) for rows in shards]

Each row has a sort key, and the smallest key is the best row. Its bytes are 4 of inverted value (8 if values are wider
than float32), 16 of uid, 8 of shard and 8 of row. The search for the boundary is a radix descent over 16-bit digits of
the key. A counting pass makes a histogram of the next digit, for each group only inside the bin where its quota runs
out. When these bins hold few enough rows, one gathering pass fetches their keys and ends the search. With more than 512
groups a digit has 8 bits, so that the histogram of all groups is a small dense array.

Memory grows with groups and `candidate_limit`, not with rows. Two passes are nearly always enough. A billion equal
values are separated by the digits of the uid. Any input ends after at most 18 counting passes, 20 if values are wide,
and twice as many with digits of 8 bits.

A descent for one group with quota 5 in 3 shards (a digit is one hex place here and 16 bits in the code):

    pass 1   histogram of the first digit, summed over shards     0: 2 rows   1: 1 row   2: 9 rows   3: 40 rows …
             bins 0 and 1 are kept whole (3 rows); the quota runs out in bin 2, which keeps 2 of its 9 rows
    pass 2   the 9 rows whose key begins with 2 are few: gather their keys and sort them; the second one is the bound
    kept     every row whose key is at most the bound: a local comparison in each shard

rows.py checks the columns of a shard, scan.py runs one pass over it, merging.py merges the answers of the shards, and
selection.py plans passes and finds the bounds.
"""

from winnow.pipeline.keep_top.merging import Merging, merge
from winnow.pipeline.keep_top.rows import Rows
from winnow.pipeline.keep_top.scan import Candidates, Counts, Partial, Pass
from winnow.pipeline.keep_top.selection import Selection, Thresholds, keep_top, kept

__all__ = [
    "Candidates",
    "Counts",
    "Merging",
    "Partial",
    "Pass",
    "Rows",
    "Selection",
    "Thresholds",
    "keep_top",
    "kept",
    "merge",
]
