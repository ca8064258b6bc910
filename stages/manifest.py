"""Leaves `manifest-…/`: the verdict on every sample of the pool, its reason and values; uids.npy of the kept."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, ClassVar, cast

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.artifact import Artifact
from pipeline.columns import column
from pipeline.errors import AccountingError
from pipeline.stage import Run, ShardItem, Summary, total
from pipeline.uid import UID, uids_from_bytes, uids_from_hex, uids_to_hex
from stages.embeddings import read_rejects

UIDS = "uids.npy"
_RANGE_UIDS = 20_000_000  # kept uids that the driver sorts at once: 320 MB


@dataclass(frozen=True)
class Manifest:
    """Joins the embeddings, their rejects and every cut, row by row.

    cuts: (name, artifact) in the order of the policy; each artifact has `kept` and its values beside every row.
    """

    embeddings: Artifact
    cuts: tuple[tuple[str, Artifact], ...]
    name: ClassVar[str] = "manifest"
    version: ClassVar[int] = 1

    def run(self, run: Run, out: Artifact) -> Summary:
        """One manifest file per input shard, then uids.npy."""
        summaries = run.fill(_Join(self, out), out, self.name)
        counts = add_up(summaries, [name for name, _ in self.cuts])
        kept = cast(int, counts["kept"])
        ranges = max(1, -(-kept // _RANGE_UIDS))
        with storage.committing(out.file(UIDS)) as file:
            _write_header(file, kept)
            written = 0
            for number in range(ranges):
                parts = run.each(_Kept(out, number, ranges), run.items, f"uids ({number + 1} of {ranges})")
                uids = np.sort(np.concatenate([part for _, part in parts]))
                file.write(uids.tobytes())
                written += len(uids)
            if written != kept:
                raise AccountingError(f"{UIDS} must name {kept} kept samples, but {written} were found")
        return counts


def add_up(summaries: Sequence[Summary], cuts: Sequence[str]) -> Summary:
    """Counts of the pool: pool, kept, dropped by cut, rejected by kind; AccountingError where they do not add up."""
    dropped = Counter[str](dict.fromkeys(cuts, 0))
    rejected = Counter[str]()
    for summary in summaries:
        dropped.update(cast(dict[str, int], summary["dropped"]))
        rejected.update(cast(dict[str, int], summary["rejected"]))
    pool, kept = total(summaries, "rows"), total(summaries, "kept")
    if pool != kept + dropped.total() + rejected.total():
        raise AccountingError(
            f"pool = kept + dropped + rejected must hold, but {pool} != {kept} + {dropped.total()} + {rejected.total()}"
        )
    return {"pool": pool, "kept": kept, "dropped": dict(dropped), "rejected": dict(sorted(rejected.items()))}


@dataclass(frozen=True)
class _Join:
    stage: Manifest
    out: Artifact

    def open(self) -> None:
        return None

    def run(self, state: None, item: ShardItem) -> Summary:
        table = join(self.stage, item)
        reason = table["reason"].to_pylist()
        rejected = Counter(r.removeprefix("reject:") for r in reason if r and r.startswith("reject:"))
        dropped = Counter(r for r in reason if r and not r.startswith("reject:"))
        kept = sum(column(table, "kept").tolist())
        if len(reason) != kept + dropped.total() + rejected.total():
            raise AccountingError(
                f"{item.url}: its {len(reason)} samples must each be kept, dropped or rejected, but {kept} + "
                f"{dropped.total()} + {rejected.total()} are"
            )
        summary = {"rows": len(reason), "kept": kept, "dropped": dict(dropped), "rejected": dict(rejected)}
        self.out.write(item.index, table, summary)
        return summary


def join(stage: Manifest, item: ShardItem) -> pa.Table:
    """The manifest of one shard: one row per sample, readable or not, in the order of the shard.

    Columns: uid (32 hex digits, null for a reject), shard (url), key, kept, reason (null, a cut's name, or
    reject:<kind>), weight (float32, 1 for kept and 0 otherwise), then <cut>.<value> of every cut.
    """
    table = stage.embeddings.read(item.index, ["position", "key", "uid"])
    n = table.num_rows
    inside = np.ones(n, bool)
    reason = np.full(n, -1)
    values: dict[str, pa.Array | pa.ChunkedArray] = {}
    for number, (name, cut) in enumerate(stage.cuts):
        verdict = cut.read(item.index)
        if verdict.num_rows != n:
            raise AccountingError(f"{cut.name}: shard {item.url} must have {n} rows, but has {verdict.num_rows}")
        kept = column(verdict, "kept")
        reason[inside & ~kept] = number
        inside &= kept
        for value in verdict.column_names:
            if value != "kept":
                values[f"{name}.{value}"] = _readable(verdict[value])
    names = pa.array([*(name for name, _ in stage.cuts), None], pa.string())
    readable = pa.table(
        {
            "position": table["position"],
            "uid": pa.array(uids_to_hex(uids_from_bytes(table["uid"])), pa.string()),
            "key": table["key"],
            "kept": pa.array(inside),
            "reason": names.take(pa.array(reason, mask=reason < 0)),
            "weight": pa.array(inside.astype(np.float32)),
            **values,
        }
    )
    every = pa.concat_tables([readable, _rejected(stage.embeddings, item.index)], promote_options="default")
    every = every.sort_by("position").drop_columns("position")
    return every.add_column(1, "shard", pa.array([item.url] * every.num_rows, pa.string()))


def _rejected(embeddings: Artifact, index: int) -> pa.Table:
    rejects = read_rejects(embeddings, index)
    n = rejects.num_rows
    return pa.table(
        {
            "position": rejects["position"],
            "uid": pa.nulls(n, pa.string()),
            "key": rejects["key"],
            "kept": pa.array(np.zeros(n, bool)),
            "reason": pa.array([f"reject:{kind}" for kind in rejects["kind"].to_pylist()], pa.string()),
            "weight": pa.array(np.zeros(n, np.float32)),
        }
    )


def _readable(values: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A uid column as hex text, any other as it is."""
    if not pa.types.is_fixed_size_binary(values.type):
        return values
    return pa.array([None if uid is None else uid.hex() for uid in values.to_pylist()], pa.string())


@dataclass(frozen=True)
class _Kept:
    """Kept uids of one shard in one of `ranges` equal ranges of the high 64 bits: (m,) of dtype UID."""

    out: Artifact
    number: int
    ranges: int

    def open(self) -> None:
        return None

    def run(self, state: None, item: ShardItem) -> np.ndarray:
        table = self.out.read(item.index, ["uid", "kept"])
        uids = uids_from_hex(table["uid"].filter(table["kept"]).to_pylist())
        if self.ranges == 1:
            return uids
        width = np.uint64((1 << 64) // self.ranges + 1)
        inside: np.ndarray = uids[uids["f0"] // width == self.number]
        return inside


def _write_header(file: BinaryIO, count: int) -> None:
    """The .npy header of an array of `count` uids: the DataComp subset format."""
    header = {"descr": np.lib.format.dtype_to_descr(UID), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)
