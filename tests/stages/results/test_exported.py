"""An export names every kept sample once, in the order of the pool, with what its row says; the oracle is a loop."""

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pools import Filtered, Samples, artifact_of, opened, write_datacomp, write_vectors
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.stage import execute
from winnow.stages.distinct import Distinct
from winnow.stages.pools.datacomp import Datacomp
from winnow.stages.results.exported import Export, named_rows
from winnow.stages.results.manifest import Manifest

READER = Datacomp(use=("l14",))


def exported(pool: Filtered, kept: list[str]) -> Artifact:
    """The export of a job that keeps these uids."""
    store = pool.run.store
    cut = Artifact(store, "chosen", "00000000")
    for item in pool.run.items:
        uids = pool.survivors.samples.read(item.index, ["uid"])["uid"].to_pylist()
        cut.write(item.index, pa.table({"kept": np.array([uid in kept for uid in uids], bool)}), {})
    distinct = execute(Distinct(pool.survivors.samples), pool.run).artifact
    manifest = execute(Manifest(pool.survivors.samples, distinct, (("chosen", cut),)), pool.run).artifact
    stage = Export(pool.survivors.samples, manifest, pool.survivors.reader)
    assert execute(stage, pool.run).report["named"] == len(kept)
    return artifact_of(stage, store)


def rows(pool: Filtered, made: Artifact) -> list[dict[str, object]]:
    return [row for item in pool.run.items for row in made.read(item.index).to_pylist()]


@settings(max_examples=5)
@given(shards=st.integers(1, 4), chosen=st.sets(st.integers(0, 19)))
def test_it_is_the_kept_rows_of_the_pool(shards: int, chosen: set[int]) -> None:
    samples = Samples.drawn(20)
    root = f"memory://{uuid.uuid4().hex}"
    pool = opened(write_vectors(f"{root}/pool", samples, shards), store=f"{root}/store")
    found = rows(pool, exported(pool, [samples.uid[i] for i in sorted(chosen)]))
    assert [(row["uid"], row["caption"], row["width"], row["height"]) for row in found] == [
        (samples.uid[i], samples.caption[i], 256, 192) for i in sorted(chosen)
    ]


def test_a_pool_with_links_and_rejects(tmp_path: Path) -> None:
    samples = Samples.drawn(12)
    samples.image[[0, 5]] = 0  # these two are rejects, so rows of the embeddings and of the manifest differ
    pool = opened(write_datacomp(tmp_path / "pool", samples, 2), READER, str(tmp_path / "store"))
    found = rows(pool, exported(pool, [samples.uid[i] for i in (1, 4, 6, 11)]))
    assert [row["url"] for row in found] == [f"http://x/{samples.uid[i]}" for i in (1, 4, 6, 11)]
    assert [row["key"] for row in found] == [row["uid"] for row in found]


def test_a_manifest_of_another_pool_is_refused(tmp_path: Path) -> None:
    pool = opened(write_vectors(str(tmp_path), Samples.drawn(6)), store=str(tmp_path / "store"))
    other = Artifact(pool.run.store, "manifest", "00000000")
    columns = {"uid": ["", ""], "key": ["", ""], "caption": ["", ""], "kept": [True, False], "reason": [None, "x"]}
    other.write(0, pa.table(columns), {})
    with pytest.raises(AccountingError, match=r"must have a row for each sample .* but has 2; run the job again"):
        named_rows(Export(pool.survivors.samples, other, pool.survivors.reader), pool.run.items[0])
