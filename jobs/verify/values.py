"""Checks stored scores against the stored vectors, and the values of each cut against the scores.

Each row is computed independently in float64, so stored numbers must be equal to the last bit.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.jobs.verify.finished import Finished
from winnow.pipeline.columns import column
from winnow.pipeline.stage import Run, ShardItem
from winnow.stages.cuts.contract.findings import Findings, looked, over, unequal, violated_rows
from winnow.stages.cuts.contract.finished import FinishedCut
from winnow.stages.survivors import SIMILARITY


def similarity(job: Finished, run: Run) -> Findings | None:
    """Stored image-text cosines equal those of the stored vectors, for a sample of the pool."""
    names = [name for name, made in job.encoded if run.items and SIMILARITY in made.columns(0)]
    return over(run, partial(_similarity_of, job, names), run.items, "similarity") if names else None


def _similarity_of(job: Finished, names: Sequence[str], item: ShardItem) -> Findings:
    drawn = job.samples.sampled(item.index)
    found = looked(samples=len(drawn))
    for name in names:
        made_of = dict(job.encoded)[name].read(item.index, ["kept", SIMILARITY])
        rows = drawn[column(made_of, "kept")[drawn]]
        towers = [
            job.survivors.vectors(item.index, item.url, name, tower, rows).astype(np.float64)
            for tower in ("image", "text")
        ]
        # (m, d) * (m, d), summed over d: float16 products, and sums of them over unit vectors, are exact in float64
        made = (towers[0] * towers[1]).sum(axis=1).astype(np.float32)
        stored = column(made_of, SIMILARITY)[rows]
        found += unequal(item, f"{name}.{SIMILARITY}", rows, made, stored, job.samples.who)
    return found


def brought(job: Finished, run: Run) -> Findings | None:
    """Vectors that another program made are those of its files, for a sample of the pool."""
    made, found = dict(job.encoded), list[Findings]()
    for name, encoder in job.job.embeddings.items():
        if (one := encoder.check_joined(made[name], job.samples, job.job.pool.reader, run)) is not None:
            found.append(one)
    return sum(found, Findings()) if found else None


def values(job: Finished, run: Run) -> Findings | None:
    """Every column of every cut follows from its scores, clusters, hash or rules; rules keep what breaks none."""
    found = over(run, partial(_values_of, job.judged), run.items, "values")
    return None if found == Findings() else found


def _values_of(cuts: tuple[FinishedCut, ...], item: ShardItem) -> Findings:
    found = Findings()
    for cut in cuts:
        made_again = cut.options.made_again(cut, item)
        if made_again is None:
            note = f"{cut.name}: the cut does not say how its columns are made, so they are not checked"
            found += Findings(notes=(note,))
        elif made_again:
            found += _columns_of(cut, item, made_again)
    return found


def _columns_of(cut: FinishedCut, item: ShardItem, made_again: Mapping[str, pa.Array]) -> Findings:
    """Check that each column equals the recomputed one in rows that reached the cut, and is empty in all others."""
    found, table, before = Findings(), cut.artifact.read(item.index), pa.array(cut.before.mask(item.index))
    for name, made in made_again.items():
        out = pa.scalar(False if name == "kept" else None, made.type)
        wanted, seen = pc.if_else(before, made, out), table[name]
        wanted = pa.chunked_array([wanted]) if isinstance(wanted, pa.Array) else wanted
        found += looked(values=len(wanted))
        if not wanted.equals(seen):
            rows = [row for row in range(len(seen)) if wanted[row].as_py() != seen[row].as_py()]
            found += violated_rows(item, rows, partial(_said, cut, item, name, wanted, seen))
    return found


def _said(
    cut: FinishedCut, item: ShardItem, name: str, wanted: pa.ChunkedArray, seen: pa.ChunkedArray, row: int
) -> str:
    who, must, came = cut.pool.who(item, row), wanted[row].as_py(), seen[row].as_py()
    return f"{who}: {cut.name}.{name} must be {must!r}, but is {came!r}"
