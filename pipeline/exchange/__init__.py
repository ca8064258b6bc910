"""The exchange (a shuffle): brings rows of many shards together, decides on them, and sends the answers to the shards.

It is three passes of an executor's `map`. Rows travel through files, so both executors use the same code. `map` handles
retries, deadlines and lost nodes. A run that resumes uses the files that exist.

    work.py      the contract: what an exchange does at each step
    shuffle.py   the driver: three passes, split by bytes, and the files of an earlier run
    steps.py     the worker: scatter, decide and settle for some items or parts
    pieces.py    the files: rows by receiver, with an index
"""
