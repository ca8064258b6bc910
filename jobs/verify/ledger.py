"""Checks pool = kept + dropped + rejected in every shard, and the manifest against the files of the cuts."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pyarrow as pa

from winnow.jobs.verify.finished import VECTORS, Finished
from winnow.pipeline.columns import column
from winnow.pipeline.stage import Run, ShardItem
from winnow.stages.cuts.contract.findings import Findings, looked, of_shard, over, unless_equal, violated_rows
from winnow.stages.rejects import read_rejects
from winnow.stages.results.manifest import Manifest, manifest_rows

_REJECT = "reject:"
_UNREAD, _OUT = "unread:", "out:"  # rejects of the samples, and of `distinct`, by kind


def ledger(job: Finished, run: Run) -> Findings:
    """pool = kept + dropped + rejected in each shard and in total; the record and all reports have the same numbers."""
    found = over(run, partial(_ledger_of, job), run.items, "ledger")
    sums = found.sums
    rejected = {name.removeprefix(_REJECT): n for name, n in sorted(sums.items()) if name.startswith(_REJECT)}
    counts = {
        "pool": sums.get("pool", 0),
        "kept": sums.get("kept", 0),
        "dropped": {cut.name: sums.get(f"dropped {cut.name}", 0) for cut in job.cuts},
        "rejected": rejected,
    }
    found += unless_equal("the counts of the record", counts, {name: job.counts.get(name) for name in counts})
    for label, expected in _reports(job, counts, sums):
        report = job.artifacts[label].done() or {}
        what = f"{job.artifacts[label].name}: its report"
        found += unless_equal(what, expected, {name: report.get(name) for name in expected})
    return found


def _reports(
    job: Finished, counts: Mapping[str, object], sums: Mapping[str, int]
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(label, what its `_done.json` must say) for each artifact whose report has counts."""
    unreadable, out = (
        {name.removeprefix(prefix): n for name, n in sorted(sums.items()) if name.startswith(prefix)}
        for prefix in (_UNREAD, _OUT)
    )
    readable, gone = sums.get("readable", 0), sum(out.values())
    yield "samples", {"kept": readable, "rejected": sums.get("pool", 0) - readable, "rejects": unreadable}
    for name, _ in job.encoded:
        kept = sums.get(f"kept {VECTORS}.{name}", 0)
        yield f"{VECTORS}.{name}", {"kept": kept, "rejected": readable - kept}
    yield "distinct", {"kept": readable - gone, "rejected": gone, "rejects": out}
    for cut in job.judged:
        dropped = sums.get(f"dropped {cut.name}", 0)
        came = sums.get(f"in {cut.name}", 0)
        yield cut.name, {"in": came, "kept": came - dropped, "dropped": dropped}
    yield "manifest", counts
    if "shards" in job.artifacts:
        yield "shards", {"samples": counts["kept"]}


def _ledger_of(job: Finished, item: ShardItem) -> Findings:
    position = column(job.places.read(item.index, ["position"]), "position")
    rejects = read_rejects(job.places, item.index)
    n, size = len(position), len(position) + len(rejects)
    found = looked(shards=1, samples=size)
    places = np.sort(np.concatenate([position, column(rejects, "position")]))
    wrong = np.flatnonzero(places != np.arange(size))
    if len(wrong):
        found += of_shard(
            item,
            f"positions of samples and rejects must be 0 to {size - 1}, once each, but at {wrong[0]} is "
            f"{places[wrong[0]]}",
        )
    kinds = Counter(rejects["kind"].to_pylist())
    summary = job.places.summary(item.index)
    if (summary["rows"], summary["rejects"]) != (n, dict(kinds)):
        found += of_shard(item, f"the samples file must sum up {n} rows and {dict(kinds)}, but says {summary}")
    more, inside = _cut_of(job, item, "distinct", np.ones(n, bool))
    found += more + _vectors_of(job, item, inside)
    more, out = _out_of(job, item, inside)
    found += more + Findings(sums={f"{_UNREAD}{kind}": count for kind, count in kinds.items()})
    found += Findings(sums={f"{_OUT}{kind}": count for kind, count in out.items()})
    kinds = Counter({f"{_REJECT}{kind}": count for kind, count in (kinds + out).items()})
    expected = Counter(kinds)
    for cut in job.judged:
        came = int(inside.sum())
        more, stay = _cut_of(job, item, cut.name, inside)
        lost = came - int(stay.sum())
        found += more + Findings(sums={f"in {cut.name}": came, f"dropped {cut.name}": lost})
        if cut.part_of is None:
            inside, expected[cut.name] = stay, lost
    expected["kept"] = int(inside.sum())
    found += Findings(sums={"pool": size, "readable": n, "kept": expected["kept"], **kinds})
    return found + _verdicts_of(job, item, size, expected)


def _vectors_of(job: Finished, item: ShardItem, inside: np.ndarray) -> Findings:
    """Check the vectors of every encoder in one shard: a row for each sample, and none that is in without a vector."""
    found = Findings()
    for name, artifact in job.encoded:
        kept = column(artifact.read(item.index, ["kept"]), "kept")
        if len(kept) != len(inside):
            found += of_shard(item, f"{artifact.name} must have {len(inside)} rows, but has {len(kept)}")
            continue
        lacking = np.flatnonzero(inside & ~kept)
        found += violated_rows(item, lacking, partial(_without, job, item, name))
        summary, expected = artifact.summary(item.index), {"rows": len(kept), "kept": int(kept.sum())}
        if any(summary.get(field) != count for field, count in expected.items()):
            found += of_shard(item, f"{artifact.name} must sum up {expected}, but says {summary}")
        found += Findings(sums={f"kept {VECTORS}.{name}": int(kept.sum())})
    return found


def _without(job: Finished, item: ShardItem, name: str, row: int) -> str:
    return f"{job.samples.who(item, row)}: it must have a vector of {name}, but has none"


def _out_of(job: Finished, item: ShardItem, inside: np.ndarray) -> tuple[Findings, Counter[str]]:
    """Check that the rejects of `distinct` in one shard are the rows that it does not keep; their number by kind."""
    position = column(job.places.read(item.index, ["position"]), "position")[~inside]
    rejects = read_rejects(job.distinct, item.index)
    kinds = Counter(rejects["kind"].to_pylist())
    if np.array_equal(position, np.sort(column(rejects, "position"))):
        return Findings(), kinds
    sentence = f"{job.distinct.name} must have a reject for each of {len(position)} rows out, but has {len(rejects)}"
    return of_shard(item, sentence), kinds


def _cut_of(job: Finished, item: ShardItem, name: str, inside: np.ndarray) -> tuple[Findings, np.ndarray]:
    """Check one cut's file of one shard: rows, summary, and that it only drops; with what it keeps, bool (n,)."""
    artifact = job.artifacts[name]
    kept = column(artifact.read(item.index, ["kept"]), "kept")
    if len(kept) != len(inside) or kept.dtype != np.bool_:
        sentence = f"{artifact.name} must have {len(inside)} rows of bool, but has {len(kept)} of {kept.dtype}"
        return of_shard(item, sentence), np.zeros(len(inside), bool)
    back = np.flatnonzero(kept & ~inside)
    found = violated_rows(
        item, back, lambda row: f"{job.samples.who(item, row)}: {name} must only drop, but brought it back"
    )
    summary = artifact.summary(item.index)
    expected = {"rows": len(kept), "in": int(inside.sum()), "kept": int(kept.sum())}
    if any(summary.get(field) != count for field, count in expected.items()):
        found += of_shard(item, f"{artifact.name} must sum up {expected}, but says {summary}")
    return found, kept & inside


def _verdicts_of(job: Finished, item: ShardItem, size: int, expected: Mapping[str, int]) -> Findings:
    """Check the manifest's verdicts on one shard: one for each sample, in the same numbers as in the cuts' files."""
    table = job.manifest.read(item.index, ["uid", "key", "kept", "reason", "weight"])
    kept, weight = column(table, "kept"), column(table, "weight")
    reasoned = np.asarray(table["reason"].is_valid())
    unclear = np.flatnonzero((kept == reasoned) | (weight != kept))
    found = violated_rows(
        item,
        unclear,
        lambda row: (
            f"{_named(table, row)} must be kept with weight 1 or have a reason with weight 0, but kept is {kept[row]}, "
            f"reason {table['reason'][row].as_py()!r} and weight {weight[row]}"
        ),
    )
    came = Counter(table["reason"].filter(table["reason"].is_valid()).to_pylist())
    came["kept"] = int(kept.sum())
    if len(table) != size or +came != +Counter(expected):
        found += of_shard(
            item,
            f"its {size} samples must be {_terms(expected)}, as the cuts and rejects say, but the manifest has "
            f"{len(table)}: {_terms(came)}",
        )
    if job.manifest.summary(item.index).get("rows") != len(table):
        found += of_shard(item, f"{job.manifest.name} must sum up its {len(table)} rows, but says another number")
    return found


def _terms(counts: Mapping[str, int]) -> str:
    return " + ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count) or "none"


def _named(table: pa.Table, row: int) -> str:
    return f"row {row}, key {table['key'][row].as_py()!r}, uid {table['uid'][row].as_py()}"


def manifest(job: Finished, run: Run) -> Findings:
    """Every row and column of the manifest agrees with the samples, their rejects and the cuts' files."""
    return over(run, partial(_manifest_of, job), run.items, "manifest")


def _manifest_of(job: Finished, item: ShardItem) -> Findings:
    stage = Manifest(job.places, job.distinct, tuple((cut.name, cut.artifact) for cut in job.cuts), job.fields)
    expected, came = manifest_rows(stage, item), job.manifest.read(item.index)
    found = looked(shards=1, rows=len(came), columns=len(came.column_names) if not item.index else 0)
    if came.schema != expected.schema.remove_metadata():
        return found + of_shard(item, f"the manifest must have columns {_types(expected)}, but has {_types(came)}")
    if len(came) != len(expected):
        row = _first_difference(expected, came)
        of, at = (expected, row) if row < len(expected) else (came, row)
        sentence = f"the manifest must have {len(expected)} rows, but has {len(came)}; they part at {_named(of, at)}"
        return found + of_shard(item, sentence)
    for name in expected.column_names:
        wanted, seen = expected[name].combine_chunks(), came[name].combine_chunks()
        if wanted.equals(seen):
            continue
        rows = [row for row in range(len(wanted)) if wanted[row].as_py() != seen[row].as_py()]
        found += violated_rows(item, rows, partial(_said, expected, name, wanted, seen))
    return found


def _said(table: pa.Table, name: str, wanted: pa.Array, seen: pa.Array, row: int) -> str:
    return f"{_named(table, row)}: {name} must be {wanted[row].as_py()!r}, but the manifest has {seen[row].as_py()!r}"


def _types(table: pa.Table) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in table.schema)


def _first_difference(expected: pa.Table, came: pa.Table) -> int:
    """The first row whose key or uid is wrong."""
    shared = min(len(expected), len(came))
    for row in range(shared):
        if any(expected[name][row].as_py() != came[name][row].as_py() for name in ("key", "uid")):
            return row
    return shared
