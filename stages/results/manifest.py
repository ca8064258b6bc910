"""The stage `manifest`: the verdict on every sample of the pool, with reason and values, and uids.npy."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.fingerprint import IF_GIVEN
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.totals import Totals
from winnow.pipeline.uid import bytes_of
from winnow.stages.pool_field import Field
from winnow.stages.rejects import REPEATED, read_rejects
from winnow.stages.results.subset import Subset, write_subsets

UIDS = "uids.npy"


@dataclass(frozen=True)
class Manifest:
    """Joins the samples, the rejects and every cut, row by row.

    distinct: artifact that rejects samples without a vector, and those that repeat the uid of another. cuts: (name,
    artifact) in the order of the policy; each artifact has `kept` and the cut's values for every row. fields: of the
    pool, and computed columns, as the job names them.
    """

    samples: Artifact
    distinct: Artifact
    cuts: tuple[tuple[str, Artifact], ...]
    fields: tuple[Field, ...] = field(default=(), metadata=IF_GIVEN)
    name: ClassVar[str] = "manifest"
    version: ClassVar[int] = 3

    def make(self, run: Run, out: Artifact) -> Summary:
        """One manifest file per input shard, then uids.npy."""
        totals = run.fill(_JoinVerdicts(self, out), out, self.name)
        counts = add_up(totals, [name for name, _ in self.cuts])
        subset = Subset(UIDS.removesuffix(".npy"), cast(int, counts["kept"]))
        write_subsets(run, out, _KeptUids(out), [subset], "uids")
        return counts


def add_up(totals: Totals, cuts: Sequence[str]) -> Summary:
    """Counts of the pool: pool, kept, dropped by cut, rejected by kind; AccountingError if they do not add up."""
    dropped = Counter[str](dict.fromkeys(cuts, 0))
    dropped.update(totals.by_name("dropped"))
    rejected = totals.by_name("rejected")
    pool, kept = totals.number("rows"), totals.number("kept")
    if pool != kept + dropped.total() + rejected.total():
        raise AccountingError(
            f"pool = kept + dropped + rejected must hold, but {pool} != {kept} + {dropped.total()} + {rejected.total()}"
        )
    return {"pool": pool, "kept": kept, "dropped": dict(dropped), "rejected": dict(sorted(rejected.items()))}


@dataclass(frozen=True)
class _JoinVerdicts:
    stage: Manifest
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        table = manifest_rows(self.stage, item)
        counts = {found["values"]: found["counts"] for found in pc.value_counts(table["reason"]).to_pylist()}
        counts.pop(None, 0)
        rejected = {r.removeprefix("reject:"): n for r, n in counts.items() if r.startswith("reject:")}
        dropped = {r: n for r, n in counts.items() if not r.startswith("reject:")}
        kept = int(column(table, "kept").sum())
        if table.num_rows != kept + sum(counts.values()):
            raise AccountingError(
                f"{item.url}: its {table.num_rows} samples must each be kept, dropped or rejected, but {kept} + "
                f"{sum(dropped.values())} + {sum(rejected.values())} are"
            )
        summary = {"rows": table.num_rows, "kept": kept, "dropped": dropped, "rejected": rejected}
        self.out.write(item.index, table, summary)
        return summary


def manifest_rows(stage: Manifest, item: ShardItem) -> pa.Table:
    """The manifest of one shard: one row per sample, readable or not, in the order of the shard.

    Columns: uid (32 hex digits, null for a reject), shard (url), key, caption (null if it was not read), kept,
    reason (null, a cut's name, or reject:<kind>), weight (float32, 1 for kept and 0 otherwise), then <cut>.<value> of
    every cut, field.<name> of every field and column.<name> of every computed column (null for a reject).
    """
    table = stage.samples.read(item.index, ["position", "key", "uid", "caption"])
    n = table.num_rows
    named = column(stage.distinct.read(item.index, ["kept"]), "kept")
    inside = named.copy()
    reason = np.full(n, -1)
    values: dict[str, pa.ChunkedArray] = {}
    for number, (name, cut) in enumerate(stage.cuts):
        verdict = cut.read(item.index)
        if verdict.num_rows != n:
            raise AccountingError(f"{cut.name}: shard {item.url} must have {n} rows, but has {verdict.num_rows}")
        kept = column(verdict, "kept")
        reason[inside & ~kept] = number  # the first cut that drops a sample is its reason
        inside &= kept
        for value in verdict.column_names:
            if value != "kept":
                values[f"{name}.{value}"] = verdict[value]
    values |= {field.label: field.read(item.index) for field in stage.fields}
    names = pa.array([*(name for name, _ in stage.cuts), None], pa.string())
    readable = pa.table(
        {
            "position": table["position"],
            "uid": table["uid"],
            "key": table["key"],
            "caption": table["caption"],
            "kept": pa.array(inside),
            "reason": names.take(pa.array(reason, mask=reason < 0)),
            "weight": pa.array(inside.astype(np.float32)),
            **values,
        }
    )
    if not named.all():  # rows without a vector or with a repeated uid come back below, as rejects
        readable = readable.filter(pa.array(named))
    unread, out = (read_rejects(artifact, item.index) for artifact in (stage.samples, stage.distinct))
    rejected = [
        _rejected(unread, pa.nulls(len(unread), pa.string())),
        _rejected(out, _captions(out, table["caption"].filter(pa.array(~named)))),  # both in the order of the shard
    ]
    every = pa.concat_tables([readable, *rejected], promote_options="default")
    if (np.diff(column(every, "position")) < 0).any():
        every = every.sort_by("position")
    every = every.drop_columns("position")
    return every.add_column(1, "shard", pa.repeat(pa.scalar(item.url, pa.string()), every.num_rows))


def _captions(rejects: pa.Table, captions: pa.ChunkedArray) -> pa.ChunkedArray:
    """Only a sample that repeats another one's uid is told with its caption."""
    return pc.if_else(pc.equal(rejects["kind"], REPEATED), captions, pa.scalar(None, pa.string()))


def _rejected(rejects: pa.Table, captions: pa.Array | pa.ChunkedArray) -> pa.Table:
    n = rejects.num_rows
    return pa.table(
        {
            "position": rejects["position"],
            "uid": pa.nulls(n, pa.string()),
            "key": rejects["key"],
            "caption": captions,
            "kept": pa.array(np.zeros(n, bool)),
            "reason": pc.binary_join_element_wise("reject", rejects["kind"], ":"),
            "weight": pa.array(np.zeros(n, np.float32)),
        }
    )


@dataclass(frozen=True)
class _KeptUids:
    """The kept uids of the manifest's files."""

    out: Artifact

    def uids(self, item: ShardItem, subsets: Sequence[int]) -> Iterator[pa.Array]:
        """See Chosen.uids; there is one subset."""
        table = self.out.read(item.index, ["uid", "kept"])
        yield bytes_of(table["uid"].filter(table["kept"]))
