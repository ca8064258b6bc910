"""Checks that every file of a finished job is there, that there are no others, and that the pool is unchanged."""

from collections.abc import Iterator, Mapping

from winnow.jobs.verify.finished import VECTORS, Finished
from winnow.pipeline import storage
from winnow.pipeline.adoption import PARTS
from winnow.pipeline.artifact import DONE, Artifact, shard_name
from winnow.pipeline.stage import Run
from winnow.pipeline.store.shard_files import FILES
from winnow.stages.columns.column import COLUMN
from winnow.stages.cuts.contract.findings import Findings, looked, violated
from winnow.stages.cuts.contract.finished import Contents
from winnow.stages.cuts.cut import Cut
from winnow.stages.pool_field import FIELD
from winnow.stages.pools.pool import as_one
from winnow.stages.results.manifest import UIDS
from winnow.stages.results.shards import SHARD_SIZES

_OF_A_STEP = {
    "pool": Contents(by_shard=False, data=("shards.parquet",)),
    "samples": Contents(beside=(PARTS, FILES)),
    VECTORS: Contents(beside=(PARTS, FILES)),
    FIELD: Contents(beside=(PARTS, FILES)),
    "manifest": Contents(beside=(UIDS,)),
    "shards": Contents(by_shard=False, beside=(SHARD_SIZES,)),  # its tars have a check of their own
}
"""Files of the steps that are not cuts, for steps that leave more than one table for each shard."""


def pool(job: Finished, run: Run) -> Findings:
    """Every input shard still has the size and the etag or time that it had when the artifacts were made."""
    files = {shard: [shard.url, *job.job.pool.reader.companions(shard.url)] for shard in run.shards}
    there = storage.present(url for urls in files.values() for url in urls)
    found = looked(shards=len(files))
    for shard, urls in files.items():
        if missing := [url for url in urls if url not in there]:
            found += violated(f"{', '.join(missing)}: an input shard must still exist, but it does not")
            continue
        now = as_one([there[url] for url in urls])
        if now != shard:
            found += violated(
                f"{shard.url}: an input shard must stay as it was, of {shard.size} bytes and mark {shard.stamp}, but "
                f"it has {now.size} bytes and mark {now.stamp}"
            )
    return found


def files(job: Finished, run: Run) -> Findings:
    """Every artifact has `_done.json`, one file for each input shard, the stage's own files, and no other table.

    The file of a shard may lie in another artifact's folder; see pipeline/store/shard_files.py.
    """
    found, cuts = Findings(), {cut.name: cut.options for cut in job.judged}
    joined = {f"{VECTORS}.{name}" for name, encoder in job.job.embeddings.items() if not encoder.has_model}
    own = dict.fromkeys(joined, Contents())
    own |= {f"{COLUMN}.{name}": column.contents() for name, column in job.job.columns.items()}
    for label, artifact in job.artifacts.items():
        known = own[label] if label in own else _contents(label, artifact, cuts)
        wanted = set(_wanted(artifact, known, len(run.shards)))
        there = {file.url for folder in (artifact.folder, artifact.meta_folder) for file in storage.listing(folder)}
        by_shard = {url for url in there if url.startswith(f"{artifact.folder}/") and url.endswith(".parquet")}
        # two runs at once may both have made a file that one of them takes over
        mine = {artifact.file(shard_name(index)) for index in range(len(run.shards) if artifact.shard_files else 0)}
        there |= {artifact.shard(index) for index in artifact.present()}
        missing, strange = sorted(wanted - there), sorted(by_shard - wanted - mine)
        found += looked(artifacts=1, files=len(wanted))
        found += violated(*(f"{url} must exist, but does not" for url in missing))
        found += violated(*(f"{url} belongs to none of the {len(run.shards)} input shards" for url in strange))
    return found


def _contents(label: str, artifact: Artifact, cuts: Mapping[str, Cut]) -> Contents:
    """What one step leaves. cuts: by name, which is the step's label, or its label up to the last dot."""
    step, within = label.partition(".")[0], label.rpartition(".")[0]
    cut = cuts.get(label) or cuts.get(within)  # the cut that decides there, or the one that the step prepares
    known = _OF_A_STEP.get(step) if cut is None else cut.contents().get(artifact.stage)
    return known or Contents()


def _wanted(artifact: Artifact, files: Contents, shards: int) -> Iterator[str]:
    """The files of one step."""
    yield artifact.meta(DONE)
    yield from (artifact.file(name) for name in files.data)
    yield from (artifact.meta(name) for name in files.beside)
    if files.by_shard:
        yield from (artifact.shard(index) for index in range(shards))
