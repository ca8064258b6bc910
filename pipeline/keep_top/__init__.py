"""keep_top: keeps exactly the `quota` rows of highest value in each group of a pool, without a shuffle.

The one distributed primitive under every cut. Rows are ordered by value descending, then uid, then place
(shard, row) ascending, so the answer is a property of the rows: no split into shards, order of arrival or
number of workers can change it. Nothing is shuffled; each pass reads every shard on its own:

    selection = Selection(quota)
    while (step := selection.next_pass()) is not None:
        selection.absorb(step.scan(rows) for rows in shards)      # scan runs anywhere, results in any order
    thresholds = selection.thresholds()
    masks = [kept(rows, thresholds) for rows in shards]

The order is written into one key a row, smallest first: 4 bytes of inverted value, or 8 where values are wider than
float32, 16 of uid, 8 of shard, 8 of row. A counting pass counts the next 16 bits of the key inside the one bin per
group where the quota runs out; when the rows in those bins are few enough, one gathering pass fetches them and ends
it. Memory follows groups and `candidate_limit`, never rows. Nearly always 2 passes; a billion equal values take the
digits of the uid, and at most 18 counting passes, or 20 of wide values, end any input.

A descent, for one group with quota 5 and 3 shards (digits of one hex place here, of 16 bits in truth):

    pass 1   counts of the first digit, summed over shards     0: 2 rows   1: 1 row   2: 9 rows   3: 40 rows …
             2 + 1 rows are in for sure; the quota runs out in bin 2, where 2 of 9 rows are still to be kept
    pass 2   the 9 rows whose key begins with 2 are few: gather their keys, sort them, and the second one is the bound
    kept     every row whose key is not above the bound: a local comparison in each shard

rows.py checks the columns of a shard, scan.py is one pass over it, selection.py asks for passes and finds the bounds.
"""

from winnow.pipeline.keep_top.rows import Rows
from winnow.pipeline.keep_top.scan import Candidates, Counts, Merging, Partial, Pass, merge
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
