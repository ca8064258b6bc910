"""Finished jobs of every kind of pool pass, and each kind of damage to their files, done from outside, is named."""

import itertools
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.jobs.test_cli import called
from tests.jobs.test_run import FULL, job_values, planted
from tests.pools import (
    Entry,
    Samples,
    hex_uids,
    jpeg,
    members,
    normed,
    pair,
    read_tar,
    tiny_clip,
    unit,
    write_clip_retrieval,
    write_datacomp,
    write_parquet,
    write_tar,
    write_vectors,
)
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import run_job, run_of
from winnow.jobs.verify.finished import read_finished
from winnow.jobs.verify.verify import CheckResult, checks_of, verify_job
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import JobError, StorageError
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import ShardItem
from winnow.pipeline.uid import UID, uids_from_hex
from winnow.stages.cuts.contract.findings import Findings, looked, violated_rows
from winnow.stages.cuts.contract.finished import RowSample
from winnow.stages.cuts.contract.orders import PartStandings, Ranking, Standings, merge_standings

EVERY = RowSample(None)
CHECKS = checks_of([])


@dataclass(frozen=True)
class Done:
    """A finished job in a store that a test may damage."""

    store: Path
    name: str

    def copied(self, folder: Path) -> "Done":
        """The same in another place, so that a store which has moved is verified by the way."""
        return Done(Path(shutil.copytree(self.store, folder / "moved" / self.name)), self.name)

    def lines(self, sample: RowSample = EVERY, executor: Executor | None = None) -> dict[str, CheckResult]:
        """Every check's line."""
        return {x.check: x for x in verify_job(str(self.store), self.name, executor or LocalExecutor(1), sample)}

    def told(self, check: str) -> str:
        """What one check says, "" where it holds."""
        job, shards = read_finished(str(self.store), self.name, EVERY)
        findings = CHECKS[check](job, run_of(job.job, LocalExecutor(1), shards))
        return "" if findings is None or not findings.wrong else str(CheckResult(check, findings))

    def broken(self) -> list[str]:
        """Names of the checks that do not hold."""
        return [name for name, line in self.lines().items() if not line.holds]

    def artifact(self, label: str) -> Artifact:
        """The artifact of a stage."""
        job, _ = read_finished(str(self.store), self.name, EVERY)
        return job.artifacts[label]


def finished(values: dict[str, Any], executor: Executor | None = None) -> Done:
    run_job(parse(values), executor or LocalExecutor(2), lambda line: None)
    return Done(Path(values["store"]), values["name"])


DATACOMP = {"format": "datacomp", "use": ["l14"], "fields": {"side": "original_height"}}


COLUMNS = {"words": {"captions": "words"}, "copies": {"captions": "count"}, "lang": {"language": "caption"}}


def every_cut(folder: Path) -> list[dict[str, Any]]:
    """A policy of all cuts that need no image, in an order in which each has something to do; `side` is a field."""
    (folder / "takedown.txt").write_text("\n".join(near_sets().uid[7::30]))
    target, clusters = {"by": "l14", "target": str(folder / "target.npy")}, {"by": "l14", "clusters": 4}
    return [
        {"rules": {"min_side": 100}},
        {"duplicates": {"by": "l14", "exact": False, "epsilon": 0.02, "clusters": 3}},
        {"similarity": {"by": "l14", "fraction": 0.9}},
        {"similarity": {"by": "l14", "threshold": 0.3}},
        {"negclip": {"by": "l14", "fraction": 0.95, "batch": 32, "partitions": 2}},
        {"score": {"from": f"{folder}/el2n.parquet", "column": "el2n", "fraction": 0.95, "keep": "lowest"}},
        {"coverage": {"by": "l14", "fraction": 0.9, "strata": 4, "beta": 0.05, "hardest": "highest"}},
        {"normsim": {**target, "fraction": 0.95}},
        {"normsim": {**target, "p": 2, "fraction": 0.95}},
        {"image_based": {**target, "clusters": 12}},
        {"feature_mapping": {**target, "clusters": 8, "top": 6}},
        {"prototypes": {**clusters, "fraction": 0.9, "balance": 0.8, "keep": "easy"}},
        {"density": {**clusters, "fraction": 0.9}},
        {"subset": {"uids": f"{folder}/takedown.txt", "keep": False}},
        {"cap": {"by": "side", "most": 4}},
        {"mix": {"values": [{"by": "l14"}, {"from": f"{folder}/el2n.parquet", "column": "el2n"}], "fraction": 0.95}},
        {"any": [{"similarity": {"by": "l14", "fraction": 0.5}}, {"density": {**clusters, "fraction": 0.9}}]},
        {"random": {"fraction": 0.95}},
        {"epochs": {"epochs": 5, "fraction": 0.3}},
    ]


def near_sets(n: int = 240) -> Samples:
    """Near sets of three with texts that are more or less theirs; every tenth image is small; seven heights."""
    rng = np.random.default_rng(0)
    centre = unit(n // 3, 16, 3).repeat(3, axis=0)
    image = normed(centre + 0.02 * rng.normal(size=centre.shape))
    text = normed(image + 0.4 * rng.normal(size=image.shape))
    sides = {"width": [64 if i % 10 == 0 else 256 for i in range(n)], "height": [192 + i % 7 for i in range(n)]}
    return Samples.drawn(n, image=image, text=text, **sides)


@pytest.fixture(scope="module")
def vectors_job(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Every cut over 240 precomputed pairs in four shards."""
    folder, samples = tmp_path_factory.mktemp("vectors"), near_sets()
    el2n = np.random.default_rng(1).random(len(samples))
    write_parquet(str(folder / "el2n.parquet"), pa.table({"uid": samples.uid, "el2n": el2n}))
    np.save(folder / "target.npy", unit(30, 16, 9))
    pool = {"shards": list(write_datacomp(folder / "pool", samples, 4)), **DATACOMP}
    job = {"name": "all", "store": str(folder / "store"), "pool": pool, "columns": COLUMNS, "policy": every_cut(folder)}
    return finished(job)


def test_captions_verify_too(tmp_path: Path) -> None:
    """Cuts by captions and their vectors hold, and another name than that of the better sample is seen."""
    samples = near_sets()
    turned = Samples.drawn(240, image=samples.text, text=samples.image, uid=samples.uid)
    turned.caption[::4] = ["the same words"] * 60
    pool = {"shards": list(write_datacomp(tmp_path / "pool", turned, 4)), **DATACOMP}
    text = {"by": "l14", "clusters": 4, "tower": "text"}
    policy = [{"duplicates": {**text, "exact": "caption", "epsilon": 0.02}}, {"density": {**text, "fraction": 0.8}}]
    made = finished({"name": "words", "store": str(tmp_path / "store"), "pool": pool, "policy": policy})
    assert made.broken() == []
    exact = made.artifact("duplicates.exact")
    row = next(at for at, name in enumerate(exact.read(0)["duplicate_of"]) if name.is_valid)
    edit(made.artifact("samples").shard(0), "caption", row, lambda words: f"{words}!")
    assert "must repeat it, but has another caption" in str(made.lines()["duplicates"])


@pytest.fixture(scope="module")
def tar_job(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """120 planted samples in three tars, rejects among them; tars of ten come out."""
    folder = tmp_path_factory.mktemp("tars")
    planted(folder / "pool")
    limits = {"limits": {"max_reject_fraction": 0.1}}
    return finished(job_values(folder, FULL, shards={"samples_per_shard": 10}, **limits))


@pytest.fixture
def tars(tar_job: Done, tmp_path: Path) -> Done:
    return tar_job.copied(tmp_path)


@pytest.fixture
def vectors(vectors_job: Done, tmp_path: Path) -> Done:
    return vectors_job.copied(tmp_path)


def test_an_undamaged_job_passes_and_says_what_was_looked_at(tar_job: Done, vectors_job: Done) -> None:
    lines = tar_job.lines()
    assert [str(line) for line in lines.values() if not line.holds] == []
    assert list(lines) == list(CHECKS)
    assert str(lines["ledger"]) == "ok   ledger: 3 shards, 120 samples"
    assert str(lines["shards"]) == "ok   shards: 4 tars, 99 members"
    assert str(lines["members"]).startswith("ok   members: 4 tars, 33 samples, 99 members, ")
    assert str(lines["similarity"]) == "ok   similarity: 114 samples"
    lines = vectors_job.lines()
    assert [str(line) for line in lines.values() if not line.holds] == []
    assert str(lines["shards"]) == "–    shards: this job has none"
    looked = lines["cuts"].findings
    assert looked is not None
    assert looked.looked["cuts"] == 17


def parquet_pool(folder: Path) -> dict[str, Any]:
    """40 rows in two files: keys that come again, one that no tar may have, copies, and a row without an image."""
    for shard in range(2):
        numbers = range(20 * shard, 20 * shard + 20)
        columns = {
            "image": [None if n == 7 else jpeg(n % 35) for n in numbers],
            "text": [f"a picture of thing {n}" for n in numbers],
            "key": [f"{n // 3:03d}" if n != 11 else "../odd.key" for n in numbers],
            "shown": [n / 7 for n in numbers],
        }
        write_parquet(f"{folder}/pool/{shard}.parquet", pa.table(columns))
    return {"shards": f"{folder}/pool/*.parquet"}


def json_pool(folder: Path) -> dict[str, Any]:
    """Captions from the json, with another txt or none beside it; a key that is in both shards."""
    for shard in range(2):
        samples = [(f"{n:03d}", pair(20 * shard + n, f"a picture of thing {n}")) for n in range(20)]
        for n, (_, parts) in enumerate(samples):
            parts["txt"] = b"another text"
            if n % 2:
                del parts["txt"]
        write_tar(folder / f"pool/{shard}.tar", members(samples))
    return {"shards": f"{folder}/pool/*.tar", "caption": "json:caption", "uid": "content"}


def broken_pool(folder: Path) -> dict[str, Any]:
    """A shard that is no tar between two that are."""
    pool = json_pool(folder)
    (folder / "pool/00.tar").write_bytes(b"<html>503</html>" * 99)
    return pool


def long_pool(folder: Path) -> dict[str, Any]:
    """Names that do not fit into a header, in the two ways to write them, and a member that lies apart."""
    for shard, kind in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        samples = [(f"{'k' * 120}{n:03d}", pair(20 * shard + n, f"a picture of thing {n}")) for n in range(20)]
        entries = members(samples)
        write_tar(folder / f"pool/{shard}.tar", [*entries[1:], entries[0]], kind)
    return {"shards": f"{folder}/pool/*.tar"}


IMAGE_POOLS = {"parquet": parquet_pool, "json": json_pool, "broken": broken_pool, "long": long_pool}


@pytest.mark.parametrize("layout", [*IMAGE_POOLS, "clip-retrieval", "vectors"])
def test_undamaged_jobs_of_other_pools_pass(tmp_path: Path, layout: str) -> None:
    policy: list[dict[str, Any]] = [{"duplicates": {}}, {"random": {"fraction": 0.8}}]
    values: dict[str, Any] = {"name": layout, "store": str(tmp_path / "store")}
    if layout in IMAGE_POOLS:
        values["pool"] = IMAGE_POOLS[layout](tmp_path)
        values["limits"] = {"max_reject_fraction": 0.1, "max_failed_shards": 1}
        encoder = {"model": tiny_clip(tmp_path).model, "pretrained": "random"}
        values |= {"embeddings": {"clip": encoder}, "shards": {"samples_per_shard": 12}}
    else:
        write = write_clip_retrieval if layout == "clip-retrieval" else write_vectors
        shards = list(write(tmp_path / "pool", near_sets(30), 3))  # type: ignore[operator]  # path or text, both join
        text = {} if layout == "clip-retrieval" else {"text": "text"}
        values["pool"] = {"shards": shards, "format": layout, "encoder": "l14", **text}
        semdedup = {"by": "l14", "exact": False, "epsilon": 0.02, "clusters": 3, "method": "semdedup"}
        policy = [{"duplicates": semdedup}, {"density": {"by": "l14", "fraction": 0.5, "clusters": 3}}]
    lines = finished({**values, "policy": policy}).lines()
    assert [str(line) for line in lines.values() if not line.holds] == []
    holding = {name for name, line in lines.items() if line.findings is not None}
    assert ("members" in holding) == (layout in IMAGE_POOLS)


def test_on_ray_as_in_this_process(tar_job: Done, tmp_path: Path, ray_executor: Executor) -> None:
    there = {name: str(line) for name, line in tar_job.lines(executor=ray_executor).items()}
    assert there == {name: str(line) for name, line in tar_job.lines().items()}
    assert all(text.startswith(("ok", "–")) for text in there.values())
    damaged = tar_job.copied(tmp_path)
    edit(damaged.artifact("manifest").shard(1), "kept", 3)
    flip(Path(damaged.artifact("shards").file("00000.tar")), 600)
    there = {name: str(line) for name, line in damaged.lines(executor=ray_executor).items()}
    assert there == {name: str(line) for name, line in damaged.lines().items()}
    assert sum(text.startswith("NOT") for text in there.values()) >= 3


# damage


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def other(value: Any) -> Any:
    """A value of the same kind that is as close as can be."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return float(np.nextafter(np.float32(value), np.float32(9)))
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:]
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1] != "0" else "1")
    assert isinstance(value, list)
    return [*value[:-1], other(value[-1])]


def edit(url: str, column: str, row: int | None = None, change: Callable[[Any], Any] = other) -> int:
    """Change one cell of a parquet file, the first that is not null where no row is given; its row."""
    table = pq.read_table(url)
    values = table[column].to_pylist()
    if row is None:
        row = next(at for at, value in enumerate(values) if value not in (None, []))
    values[row] = change(values[row])
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type)), url)
    return row


def test_every_column_of_every_cut_is_held_against_manifest_and_scores(vectors: Done) -> None:
    """Each alone: one cell moves by one step and is back before the next."""
    job, _ = read_finished(str(vectors.store), vectors.name, EVERY)
    seen = 0
    for cut in job.cuts:
        url = cut.artifact.shard(1)
        whole = Path(url).read_bytes()
        for column in pq.read_schema(url).names:
            first = int(np.flatnonzero(cut.before.mask(1))[0]) if column == "kept" else None
            row = edit(url, column, first)
            uid = job.places.read(1, ["uid"])["uid"][row].as_py()
            said = vectors.told("manifest")
            assert f"uid {uid}" in said
            assert column == "kept" or f"{cut.name}.{column} must be" in said
            if column != "kept" or cut.kind == "rules":
                judge = {"duplicates": "duplicates", "epochs": "uids"}.get(cut.kind, "values")
                judge = "caps" if column == "size" else judge
                assert uid in vectors.told(judge)
            Path(url).write_bytes(whole)
            seen += 1
    assert seen == 50
    assert vectors.broken() == []


@pytest.mark.parametrize(
    ("label", "column", "check"),
    [
        ("duplicates.clusters", "cluster", "clusters"),
        ("density.clusters", "distance", "clusters"),
        ("duplicates.clusters", "probes", "clusters"),
        ("density.clusters", "row", "clusters"),
        ("negclip.contrast_1", "contrast", "values"),
        ("score.scores", "value", "values"),
        ("mix.scores_1", "value", "mixed"),
        ("mix.mixed", "value", "mixed"),
        ("normsim.norms", "value", "norms"),
        ("normsim_2.norms", "value", "norms"),
        ("vectors.l14", "similarity", "similarity"),
        ("samples", "position", "ledger"),
        ("samples", "uid", "manifest"),
        ("samples", "key", "manifest"),
        ("manifest", "uid", "manifest"),
        ("manifest", "shard", "manifest"),
        ("manifest", "key", "manifest"),
        ("manifest", "kept", "ledger"),
        ("manifest", "reason", "ledger"),
        ("manifest", "weight", "ledger"),
        ("manifest", "density.distance", "manifest"),
        ("manifest", "duplicates.duplicate_of", "manifest"),
    ],
)
def test_a_changed_cell_of_other_files_is_named(vectors: Done, label: str, column: str, check: str) -> None:
    url = vectors.artifact(label).shard(2)
    drift = {"contrast": lambda value: value - 1e-6}.get(column, other)
    edit(url, column, change=drift)
    said = vectors.told(check)
    assert said.startswith(f"NOT  {check}: ")
    assert "00002.parquet" in said


@pytest.mark.parametrize(
    ("label", "file", "column"),
    [
        ("density", "density.parquet", "quota"),
        ("density", "density.parquet", "size"),
        ("coverage", "strata.parquet", "quota"),
        ("coverage", "strata.parquet", "size"),
        ("image_based", "votes.parquet", "votes"),
        ("image_based", "votes.parquet", "kept"),
        ("feature_mapping", "votes.parquet", "kept"),
        ("feature_mapping", "votes.parquet", "size"),
    ],
)
def test_quotas_and_votes_are_held_against_the_members(vectors: Done, label: str, file: str, column: str) -> None:
    edit(vectors.artifact(label).meta(file), column)
    assert f"{label}" in vectors.told("cuts")


SWAPPED = ["similarity", "negclip", "score", "coverage", "normsim", "prototypes", "density", "mix", "random", "epochs"]


@pytest.mark.parametrize("name", [*SWAPPED, "similarity_2", "image_based", "feature_mapping"])
def test_a_kept_sample_that_changes_places_with_a_dropped_one_is_named(vectors: Done, name: str) -> None:
    """Counts stay as they are, so only the order can tell."""
    artifact = vectors.artifact(name)
    job, _ = read_finished(str(vectors.store), vectors.name, EVERY)
    [cut] = [cut for cut in job.cuts if cut.name == name]
    tables = [artifact.read(index) for index in range(4)]
    places = [(i, row) for i, table in enumerate(tables) for row in np.flatnonzero(cut.before.mask(i)).tolist()]
    state = {at: tables[at[0]]["kept"][at[1]].as_py() for at in places}
    group = {at: tables[at[0]]["cluster"][at[1]].as_py() if name == "density" else 0 for at in places}
    stays, goes = next(
        ((a, b) for a in places for b in places if state[a] and not state[b] and group[a] == group[b]),
        (places[0], None),
    )
    edit(artifact.shard(stays[0]), "kept", stays[1])
    if goes is not None:
        edit(artifact.shard(goes[0]), "kept", goes[1])
    if name == "epochs":  # its order is that of the lists
        edit(artifact.shard(stays[0]), "epochs", stays[1], lambda epochs: [])
    assert name in vectors.told("cuts")


@pytest.mark.parametrize(
    ("name", "column"),
    [("similarity", "cosine"), ("negclip", "contrast"), ("normsim", "value"), ("random", "hash")],
)
def test_one_too_few_is_named_though_the_order_holds(vectors: Done, name: str, column: str) -> None:
    artifact = vectors.artifact(name)
    tables = [artifact.read(index) for index in range(4)]
    kept = [(i, row) for i, table in enumerate(tables) for row in np.flatnonzero(table["kept"]).tolist()]
    shard, last = min(kept, key=lambda at: tables[at[0]][column][at[1]].as_py())
    edit(artifact.shard(shard), "kept", last)
    said = vectors.told("cuts")
    assert f"{name}: the samples that it keeps must be {len(kept)}, but is {len(kept) - 1}" in said
    assert f"{name}, group" not in said


def test_an_epoch_of_one_too_few_is_named(vectors: Done) -> None:
    url = vectors.artifact("epochs").shard(1)
    lists = pq.read_table(url)["epochs"].to_pylist()
    row = next(at for at, epochs in enumerate(lists) if epochs)
    edit(url, "epochs", row, lambda epochs: epochs[1:])
    assert f"epochs: samples up to epoch {lists[row][0]} must be 6, but is 5" in vectors.told("cuts")


def test_clusters_of_prototypes_are_held_against_each_other(vectors: Done) -> None:
    """The last of one cluster goes and the next of another stays: the order in each of them holds."""
    artifact = vectors.artifact("prototypes")
    rows = [
        (value["distance"], value["cluster"], value["kept"], index, row)
        for index in range(4)
        for row, value in enumerate(artifact.read(index).to_pylist())
        if value["cluster"] is not None
    ]
    goes = min(row for row in rows if not row[2])  # `keep: easy`: the nearest first
    stays = max(row for row in rows if row[2] and row[1] != goes[1])
    for *_, index, row in (goes, stays):
        edit(artifact.shard(index), "kept", row)
    said = vectors.told("cuts")
    assert f"prototypes, group {goes[1]}: " in said or f"prototypes, group {stays[1]}: " in said
    assert "prototypes: the samples that it keeps" not in said


def test_votes_decide_which_clusters_stay(vectors: Done) -> None:
    url = vectors.artifact("image_based").meta("votes.parquet")
    votes = pq.read_table(url)["votes"].to_pylist()
    edit(url, "votes", votes.index(max(votes)), lambda count: count - 1)
    edit(url, "votes", votes.index(0), lambda count: count + 1)
    said = vectors.told("cuts")
    assert (
        f"image_based: clusters that votes.parquet keeps against its votes must be [], but is [{votes.index(0)}]"
        in said
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda uid: "0" * 32, "must name a sample that stays"),
        (lambda uid: None, "must name one if and only if it is dropped"),
    ],
)
def test_a_duplicate_names_one_that_stays(vectors: Done, change: Callable[[str], str | None], said: str) -> None:
    edit(vectors.artifact("duplicates").shard(0), "duplicate_of", change=change)
    assert said in vectors.told("duplicates")


def test_a_duplicate_is_held_against_the_vectors_of_the_one_it_names(vectors: Done) -> None:
    uids = pq.read_table(vectors.artifact("samples").shard(3))["uid"].to_pylist()
    kept = pq.read_table(vectors.artifact("duplicates").shard(3))["kept"].to_pylist()
    stranger = next(uid for uid, stays in zip(uids, kept, strict=True) if stays)
    edit(vectors.artifact("duplicates").shard(0), "duplicate_of", change=lambda uid: stranger)
    assert "of shard 0 must repeat it, but has a cosine of" in vectors.told("duplicates")
    assert stranger in vectors.told("duplicates")


def test_copies_are_held_against_each_others_bytes(tars: Done) -> None:
    artifact = tars.artifact("duplicates.exact")
    gone = [(i, row) for i in range(3) for row, name in enumerate(artifact.read(i)["duplicate_of"]) if name.is_valid]
    [(a, row), (b, last)] = gone[0], gone[-1]
    named = artifact.read(b)["duplicate_of"][last].as_py()
    edit(artifact.shard(a), "cosine", row, lambda cosine: cosine - 1e-3)
    assert "has cosine 0.999" in tars.told("duplicates")
    edit(artifact.shard(a), "duplicate_of", row, lambda uid: named)
    assert f"of shard {a} must repeat it, but has other bytes" in tars.told("duplicates")


# files


def result_files(done: Done) -> Iterator[Path]:
    """Every file that a job's results rest on; what only helped to make them may go."""
    for path in sorted(done.store.glob("*-*/**/*")):
        helps = {"steps", "sample", "rejects", "gram.npy"} & {*path.relative_to(done.store).parts}
        if path.is_file() and not helps and path.name != "shards.parquet":
            yield path


def test_a_lost_row_of_a_cluster_is_named(vectors: Done) -> None:
    url = vectors.artifact("density.clusters").shard(0)
    table = pq.read_table(url)
    pq.write_table(table.slice(1), url)
    assert f"must have the {len(table)} rows that were in, but has others" in vectors.told("clusters")


def test_every_lost_file_is_named(tars: Done, vectors: Done) -> None:
    """One at a time; shards of the second job are as those of the first."""
    whole = [path for path in result_files(vectors) if not path.stem.isdigit()]
    assert len(whole) > 40
    for done, paths in ((tars, list(result_files(tars))), (vectors, whole)):
        for path in paths:
            content = path.read_bytes()
            path.unlink()
            assert str(path) in done.told("shards" if path.suffix == ".tar" else "files")
            path.write_bytes(content)
        assert done.told("files") + done.told("shards") == ""


def test_lost_rejects_and_strange_files_are_named(tars: Done) -> None:
    next(Path(tars.artifact("samples").meta("rejects")).iterdir()).unlink()
    assert "rejects/0000" in tars.told("ledger")
    shutil.copy(tars.artifact("rules").shard(0), tars.artifact("rules").file("00003.parquet"))
    assert "00003.parquet belongs to none of the 3 input shards" in tars.told("files")
    shutil.copy(tars.artifact("shards").file("00001.tar"), tars.artifact("shards").file("00009.tar"))
    assert "00009.tar belongs to none of the 4 output shards" in tars.told("shards")


def test_a_lost_list_of_shards_ends_it(tars: Done) -> None:
    Path(tars.artifact("pool").file("shards.parquet")).unlink()
    with pytest.raises(StorageError, match=r"cannot read .*shards\.parquet"):
        tars.lines()


@pytest.mark.parametrize("keep", [0, 100, -100])
@pytest.mark.parametrize("label", ["samples", "vectors.clip", "density.clusters"])
def test_a_torn_file_is_a_violation_and_no_crash(tars: Done, label: str, keep: int) -> None:
    url = tars.artifact(label).shard(1)
    content = Path(url).read_bytes()
    Path(url).write_bytes(content[:keep] if keep >= 0 else bytes(-keep) + content[-keep:])
    said = "".join(str(line) for line in tars.lines().values() if not line.holds)
    assert url in said


def test_a_missing_row_of_the_manifest_is_named(tars: Done) -> None:
    url = tars.artifact("manifest").shard(0)
    table = pq.read_table(url)
    pq.write_table(pa.concat_tables([table.slice(0, 5), table.slice(6)]), url)
    lost = table["key"][5].as_py()
    assert f"they part at row 5, key {lost!r}" in tars.told("manifest")
    assert {"ledger", "manifest"} <= set(tars.broken())


def test_a_wrong_uid_is_named(tars: Done) -> None:
    path = Path(tars.artifact("manifest").meta("uids.npy"))
    whole = path.read_bytes()
    flip(path, len(whole) - 16)  # the low byte of the last high half
    said = tars.told("uids")
    assert "2 violations" in said
    assert "entry 32: uid " in said
    assert "is of none of its samples" in said
    assert f"must be in {path}, but is not" in said
    path.write_bytes(whole[:-32] + whole[-16:] + whole[-32:-16])
    assert "entry 32: uids must be sorted" in tars.told("uids")
    path.write_bytes(whole[:-16])
    assert "its size must be" in tars.told("uids")
    path.write_bytes(whole[50:])
    assert "must be as its job wrote it" in str(tars.lines()["uids"])


def test_a_uid_that_two_kept_samples_have_is_found(tmp_path: Path) -> None:
    samples = Samples.drawn(12)
    samples = replace(samples, uid=[*samples.uid[:10], samples.uid[0], samples.uid[0]])
    pool = {"shards": list(write_vectors(str(tmp_path / "pool"), samples, 3)), "format": "vectors", "encoder": "clip"}
    values = {"name": "again", "store": str(tmp_path / "store"), "pool": pool, "policy": []}
    done = finished({**values, "limits": {"max_reject_fraction": 0.2}})
    assert "10 uids" in str(done.lines()["uids"])
    assert all(line.holds for line in done.lines().values())
    # as if nobody had looked: every row in, and named
    url = done.artifact("distinct").shard(2)
    pq.write_table(pq.read_table(url).set_column(0, "kept", pa.array([True] * 4)), url)
    assert "must have a reject for each of 0 rows out, but has 2" in done.told("ledger")
    for index in range(3):
        url = done.artifact("manifest").shard(index)
        table = pq.read_table(url)
        named = pa.array([samples.uid[4 * index + n] for n in range(4)])
        pq.write_table(table.set_column(0, "uid", named).set_column(4, "kept", pa.array([True] * 4)), url)
    url = done.artifact("manifest").meta("uids.npy")
    np.save(url, np.sort(uids_from_hex(samples.uid)))
    assert "a uid must name one sample, but 1 of its uids name more than one" in done.told("uids")


# shards


def test_every_flipped_byte_of_a_tar_is_found(tars: Done) -> None:
    path = Path(tars.artifact("shards").file("00001.tar"))
    size, rng = path.stat().st_size, np.random.default_rng(0)
    for at in [0, 600, size - 1, *rng.integers(0, size, 15).tolist()]:
        flip(path, at)
        said = tars.told("members") + tars.told("shards")
        assert "00001.tar" in said, at
        flip(path, at)
    assert tars.told("members") + tars.told("shards") == ""


def rewritten(path: Path, change: Callable[[list[Entry]], list[Entry]]) -> None:
    """Another tar of its members, whose headers stay as they were."""
    write_tar(path, change(read_tar(path)))


def swapped(entries: list[Entry], a: int, b: int, names: bool) -> list[Entry]:
    """Names or contents of two members change places."""
    (name_a, content_a), (name_b, content_b) = entries[a], entries[b]
    changed = list(entries)
    changed[a], changed[b] = (
        ((name_b, content_a), (name_a, content_b)) if names else ((name_a, content_b), (name_b, content_a))
    )
    return changed


def test_swapped_members_are_named(tars: Done) -> None:
    path = Path(tars.artifact("shards").file("00000.tar"))
    key = read_tar(path)[3][0].partition(".")[0]
    rewritten(path, lambda entries: swapped(entries, 0, 3, names=False))
    said = tars.told("members")
    assert "2 violations" in said
    assert f"key {key!r}" in said
    assert "member jpg must hash to" in said
    assert "its image must hash to" in said
    assert tars.told("shards") == ""
    rewritten(path, lambda entries: swapped(swapped(entries, 0, 3, names=False), 1, 4, names=False))
    assert "member txt must hash to" in tars.told("members")
    rewritten(path, lambda entries: swapped(entries, 1, 4, names=True))
    said = tars.told("shards")
    assert "members of " in said
    assert "must lie side by side" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda entries: entries[:-3], "it must hold 10 samples, but holds 9"),
        (lambda entries: entries[3:6] + entries[:3] + entries[6:], "sample 0 must be row"),
        (lambda entries: [*entries[:2], *entries[3:]], ""),
    ],
)
def test_samples_of_a_tar_are_those_of_the_plan(
    tars: Done, change: Callable[[list[Entry]], list[Entry]], said: str
) -> None:
    path = Path(tars.artifact("shards").file("00002.tar"))
    rewritten(path, change)
    assert said in tars.told("shards")
    assert "00002.tar" in tars.told("members") + tars.told("shards")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_tar_is_named(tars: Done, share: float) -> None:
    path = Path(tars.artifact("shards").file("00000.tar"))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "00000.tar" in tars.told("shards")


def test_sizes_that_are_not_those_of_the_tars_are_named(tars: Done) -> None:
    path = Path(tars.artifact("shards").meta("sizes.json"))
    path.write_text(path.read_text().replace('"00003.tar": 3', '"00003.tar": 4'))
    assert "samples of 00003.tar must be 3, but is 4" in tars.told("shards")
    path.write_text("{")
    assert f"{path} must be a whole JSON file" in str(tars.lines()["shards"])


def test_rows_of_the_samples_are_held_against_the_sources(tars: Done) -> None:
    """What stays is read again at its place; what the samples file tells of it must be so."""
    samples, last = tars.artifact("samples"), tars.artifact("density")
    row = int(np.flatnonzero(last.read(0)["kept"])[0])
    whole = Path(samples.shard(0)).read_bytes()
    for column, said in {
        "image_hash": "its image must hash to",
        "caption": "its caption must be",
        "uid": "its members must have uid",
        "offset": "00000.tar",
        "size": "00000.tar",
    }.items():
        edit(samples.shard(0), column, row, lambda value: value + 512 if isinstance(value, int) else other(value))
        assert said in tars.told("members"), column
        Path(samples.shard(0)).write_bytes(whole)


# the pool


def test_a_changed_or_missing_input_shard_is_named(tmp_path: Path) -> None:
    urls = write_datacomp(tmp_path / "pool", near_sets(30), 3)
    pool = {"shards": list(urls), "format": "datacomp", "use": ["l14"]}
    done = finished({"name": "gone", "store": str(tmp_path / "store"), "pool": pool, "policy": []})
    np.savez(urls[1].replace(".parquet", ".npz"), l14_img=unit(9), l14_txt=unit(9))
    Path(urls[2]).unlink()
    said = done.told("pool")
    assert "2 violations" in said
    assert f"{urls[1]}: an input shard must stay as it was" in said
    assert f"{urls[2]}: an input shard must still exist, but it does not" in said


# record, sample and command


def test_a_sample_is_the_same_however_the_pool_is_cut_into_shards() -> None:
    uids = uids_from_hex(hex_uids(20_000))
    mask = RowSample(500).mask(uids, len(uids))
    assert 400 < mask.sum() < 600
    parts = [RowSample(500).mask(part, len(uids)) for part in np.array_split(uids, 7)]
    assert (np.concatenate(parts) == mask).all()
    again = RowSample(500, seed=1).mask(uids, len(uids))
    assert 0 < (mask & again).sum() < 50
    assert (RowSample(1000).mask(uids, len(uids)) >= mask).all()
    for everything in (RowSample(None), RowSample(20_000), RowSample(99_999)):
        assert everything.mask(uids, len(uids)).all()


def test_a_smaller_sample_looks_at_fewer_rows(vectors: Done) -> None:
    line = vectors.lines(RowSample(60))["similarity"]
    assert line.holds
    assert line.findings is not None
    assert 30 < line.findings.looked["samples"] < 90


@given(st.permutations(range(9)), st.integers(1, 8))
def test_findings_are_the_same_in_any_order(order: list[int], cut: int) -> None:
    parts = [
        violated_rows(ShardItem(n, f"{n}.tar"), range(n), lambda row: f"row {row}") + looked(rows=n) for n in order
    ]
    first, rest = sum(parts[:cut], Findings()), sum(parts[cut:], Findings())
    found = first + rest
    assert (found.looked, found.wrong) == ({"rows": 36}, 36)
    assert [text for _, _, text in found.first] == [
        "1.tar, row 0", "2.tar, row 0", "2.tar, row 1", "3.tar, row 0", "3.tar, row 1",
    ]  # fmt: skip


@given(st.data())
def test_standings_of_any_shards_add_up_to_that_of_all(data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 12))
    draw = np.random.default_rng(data.draw(st.integers(0, 999)))
    value, kept = draw.integers(0, 3, n).astype(np.float32), draw.random(n) < 0.5
    group, uids = draw.integers(-1, 3, n), np.zeros(n, UID)
    edges = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    parts = [Ranking(*(x[a:b] for x in (value, group, kept))) for a, b in itertools.pairwise([0, *edges, n])]
    standing = Standings.empty()
    seen = [PartStandings.of(part, uids[: len(part.value)], i) for i, part in enumerate(parts)]
    for part in (merge_standings(seen[:2]), *seen[2:]):
        standing.take(part)
    standing = standing.whole()
    assert standing.size.tolist() == [(group == g).sum() for g in range(len(standing.size))]
    assert standing.kept.tolist() == [((group == g) & kept).sum() for g in range(len(standing.size))]
    for g in range(len(standing.size)):  # equal uids: of equal values the first place is the best
        order = sorted(np.flatnonzero(group == g), key=lambda at: (-value[at], at))
        stays = kept[order].tolist()
        assert (standing.last[g] > standing.first[g]) == (stays != sorted(stays, reverse=True))


def test_the_standings_of_three_rows_say_little_of_50_000_groups() -> None:
    ranking = Ranking(np.array([0.5, 0.7, 0.1], np.float32), np.array([49_999, 7, 7]), np.array([True, True, False]))
    part = PartStandings.of(ranking, np.zeros(3, UID), 0)
    assert part.group.tolist() == [7, 49_999]
    assert len(pickle.dumps(part)) < 2_000


def test_what_the_record_and_reports_count_is_held_against_the_files(tars: Done) -> None:
    record = tars.store / "jobs/planted.json"
    record.write_text(record.read_text().replace('"kept": 33', '"kept": 34'))
    assert "the counts of the record must be" in tars.told("ledger")
    report = Path(tars.artifact("similarity").meta("_done.json"))
    report.write_text(report.read_text().replace('"dropped": ', '"dropped": 1'))
    assert f"{tars.artifact('similarity').name}: its report must be" in tars.told("ledger")
    url = tars.artifact("rules").shard(0)
    brought_back = pq.read_table(tars.artifact("rules").shard(0))["kept"].to_pylist().index(False)
    edit(tars.artifact("similarity").shard(0), "kept", brought_back)
    said = tars.told("ledger")
    assert "similarity must only drop, but brought it back" in said
    assert f"{tars.artifact('similarity').name} must sum up" in said
    table = pq.read_table(url)
    summary = table.schema.metadata[b"winnow"].replace(b'"kept":', b'"kept":1')
    pq.write_table(table.replace_schema_metadata({b"winnow": summary}), url)
    assert f"{tars.artifact('rules').name} must sum up" in tars.told("ledger")
    url = tars.artifact("samples").shard(0)
    table = pq.read_table(url)
    summary = table.schema.metadata[b"winnow"].replace(b"image-decode", b"image-encode")
    pq.write_table(table.replace_schema_metadata({b"winnow": summary}), url)
    assert "the samples file must sum up" in tars.told("ledger")
    record.write_text("{}")
    with pytest.raises(Exception, match=r"planted\.json must be as its job wrote it"):
        tars.lines()


def test_a_job_that_never_ended_is_no_job(tar_job: Done, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"must have finished .* called 'other'; it has planted$"):
        list(verify_job(str(tar_job.store), "other", LocalExecutor(1), EVERY))
    with pytest.raises(JobError, match=r"it has no finished job$"):
        list(verify_job(str(tmp_path), "other", LocalExecutor(1), EVERY))


def test_the_page_names_every_check() -> None:
    page = Path(__file__).parents[3] / "docs/formats.md"
    table = page.read_text().partition("| check | what must hold |\n|---|---|\n")[2].split("\n\n")[0]
    assert [row.split("`")[1] for row in table.splitlines()] == list(CHECKS)


def test_the_command_and_its_exit_codes(
    vectors: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["verify", str(vectors.store), "all", "--executor", "local", "--workers", "1"]
    assert called(monkeypatch, *words, "--sample", "50") == 0
    out, err = capsys.readouterr()
    assert [line[:5].strip() for line in out.splitlines() if line[:1] != " "] == [*["ok"] * 5, *["–"] * 3, *["ok"] * 10]
    assert err == ""
    edit(vectors.artifact("manifest").shard(0), "weight", 7)
    assert called(monkeypatch, *words, "--all") == 1
    out, err = capsys.readouterr()
    assert "NOT  manifest: 4 shards, 240 rows, 42 columns; 1 violation\n" in out
    assert "\n       " in out
    assert err == "winnow: a finished job must be as it was left, but all fails ledger, manifest; see above\n"
    assert called(monkeypatch, *words[:2], "other", *words[3:]) == 2
    assert called(monkeypatch, *words, "--sample", "0") == 2
