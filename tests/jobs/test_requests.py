"""How many requests a shard costs each stage on a real S3 server: every pass opens each file once, by one request."""

import uuid
from collections import Counter

from tests.faults import FaultyProxy
from tests.pools import Samples, opened, write_vectors
from winnow.pipeline import storage
from winnow.stages.cuts.density import Density
from winnow.stages.cuts.rules import Rules
from winnow.stages.cuts.similarity import Similarity

PER_SHARD = {
    # the pool's file, for the samples and again for the vectors, with the samples' positions; what is made of both; for
    # which are distinct, uids and which have a vector, there and back; of the exchange, as few shards are spans of one:
    # a piece there and back, the answers, and a record that it is settled
    "samples, vectors and distinct": {"GET object": 1 + 2 + 2 * 2 + 2, "PUT object": 1 + 1 + 1 + 2},
    # captions; which are still in
    "rules": {"GET object": 2, "PUT object": 1},
    # cosines, uids, and which are still in, by the pass for the threshold and by the one that commits
    "similarity": {"GET object": 2 * 3, "PUT object": 1},
    # clusters: two files and the pool's for each of three passes, less the first's vectors, and their sample there
    # and back, and the members once more for their sizes; density: members, uids in two passes, and members for sizes
    "density": {"GET object": 10 + 5, "PUT object": 2 + 1},
}


def requests(root: str, shards: int, counted: FaultyProxy) -> dict[str, Counter[str]]:
    """Requests of each stage over a pool of so many shards of 30 samples."""
    found = {}
    urls = write_vectors(f"{root}/pool", Samples.drawn(30 * shards), shards)
    counted.requests.clear()
    pool = opened(urls, store=f"{root}/store")
    found["samples, vectors and distinct"] = counted.requests.copy()
    cuts = {
        "rules": Rules(min_words=3),
        "similarity": Similarity(by="clip", fraction=0.8),
        "density": Density(by="clip", fraction=0.5, clusters=3),
    }
    for name, cut in cuts.items():
        counted.requests.clear()
        pool = pool.through(cut)
        found[name] = counted.requests.copy()
    return found


def test_a_shard_costs_each_pass_one_request_a_file(s3_store: str, counted: FaultyProxy) -> None:
    """What one more shard costs; the folders' listings and small files of a stage do not count, as they are once."""
    root = storage.join(s3_store, uuid.uuid4().hex)
    few, more = (requests(f"{root}/{shards}", shards, counted) for shards in (1, 2))
    assert {name: dict(more[name] - few[name]) for name in PER_SHARD} == PER_SHARD
    assert not [found for found in more.values() if found["HEAD object"] > 1]
