"""The exchange (a shuffle): rows of many shards meet, are decided on together, and the answers go back to the shards.

It is three passes of an executor's `map`, whose rows travel through files, so it is one code for both executors.
Retries, deadlines and lost nodes are those of `map`; a run that goes on begins with the files that are there.

    work.py      the contract: what an exchange does at each step
    shuffle.py   the driver: three passes, cut by bytes, and what an earlier run left
    steps.py     the worker: scatter, decide and settle for some items or parts
    pieces.py    the files: rows by receiver, with an index
"""
