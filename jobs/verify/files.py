"""Whether every file of a finished job is there, no other lies among them, and the pool is the one it was made from."""

from collections.abc import Iterator

from winnow.jobs.verify.findings import Findings, looked, violated
from winnow.jobs.verify.finished import Finished
from winnow.pipeline import storage
from winnow.pipeline.adoption import PARTS
from winnow.pipeline.artifact import DONE, Artifact
from winnow.pipeline.stage import Run
from winnow.stages.clusters.centroids import CENTROIDS
from winnow.stages.clusters.clusters import SIZES as CLUSTER_SIZES
from winnow.stages.cuts.epochs import epoch_name
from winnow.stages.cuts.target import VECTORS
from winnow.stages.pools.pool import as_one
from winnow.stages.results.manifest import UIDS
from winnow.stages.results.shards import SIZES

_ALONE = {"pool": ("shards.parquet",), "target": (VECTORS,)}
"""The data of stages that have no file for each shard."""

_OF_A_STAGE = {
    "embeddings": (PARTS,),
    "clusters": (CENTROIDS, CLUSTER_SIZES),
    "density": ("density.parquet",),
    "coverage": ("strata.parquet",),
    "image_based": ("votes.parquet",),
    "feature_mapping": ("votes.parquet",),
    "manifest": (UIDS,),
    "shards": (SIZES,),
}
"""Files of a stage as a whole, beside its data."""

_NOT_BY_SHARD = ("pool", "target", "shards")
"""Stages without a file for each input shard; the tars of `shards` have a check of their own."""


def pool(job: Finished, run: Run) -> Findings:
    """Every input shard has the size and the etag or time that the artifacts were made from."""
    files = {shard: [shard.url, *job.job.pool.reader.companions(shard.url)] for shard in run.shards}
    there = storage.present(url for urls in files.values() for url in urls)
    found = looked(shards=len(files))
    for shard, urls in files.items():
        if missing := [url for url in urls if url not in there]:
            found += violated(f"{', '.join(missing)}: an input shard must stay, but it is not there")
            continue
        now = as_one([there[url] for url in urls])
        if now != shard:
            found += violated(
                f"{shard.url}: an input shard must stay as it was, of {shard.size} bytes and mark {shard.stamp}, but "
                f"it has {now.size} bytes and mark {now.stamp}"
            )
    return found


def files(job: Finished, run: Run) -> Findings:
    """Every artifact has `_done.json`, one file for each input shard and those of its stage, and no other table."""
    found = Findings()
    for label, artifact in job.artifacts.items():
        wanted = set(_wanted(job, label, artifact, len(run.shards)))
        there = {file.url for folder in (artifact.folder, artifact.meta_folder) for file in storage.listing(folder)}
        by_shard = {url for url in there if url.startswith(f"{artifact.folder}/") and url.endswith(".parquet")}
        missing, strange = sorted(wanted - there), sorted(by_shard - wanted)
        found += looked(artifacts=1, files=len(wanted))
        found += violated(*(f"{url} must be there, but is not" for url in missing))
        found += violated(*(f"{url} is of none of {len(run.shards)} input shards" for url in strange))
    return found


def _wanted(job: Finished, label: str, artifact: Artifact, shards: int) -> Iterator[str]:
    yield artifact.meta(DONE)
    yield from (artifact.file(name) for name in _ALONE.get(artifact.stage, ()))
    yield from (artifact.meta(name) for name in _OF_A_STAGE.get(artifact.stage, ()))
    if artifact.stage not in _NOT_BY_SHARD:
        yield from (artifact.shard(index) for index in range(shards))
    for cut in job.cuts:
        if cut.name == label and cut.kind == "epochs":
            yield from (artifact.meta(f"{epoch_name(epoch)}.npy") for epoch in range(cut.options.epochs))
