"""The stages of a whole job in order: pool, embeddings, each cut of the policy, and what is written at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.stage import Stage, artifact_of
from winnow.stages.cuts.cut import Cut
from winnow.stages.distinct import Distinct
from winnow.stages.embeddings import Embeddings, Precomputed
from winnow.stages.encoders import Encoding
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.fields import field_stages
from winnow.stages.pool_field import FIELD
from winnow.stages.pools.pool import Pool, PoolStage
from winnow.stages.results.manifest import Manifest
from winnow.stages.results.shards import Shards
from winnow.stages.survivors import Survivors


@dataclass(frozen=True)
class Path:
    """The stages of a job in order, and the artifact of each cut.

    stages: (label, stage) each. A stage that prepares a cut has the label `<cut>.<stage>`, such as `density.clusters`,
    and that of a field `field.<name>`.
    cuts: (name, artifact) of each cut of the policy. A second cut of the same kind is named `<kind>_2`.
    """

    stages: tuple[tuple[str, Stage], ...]
    cuts: tuple[tuple[str, Artifact], ...]
    manifest: Artifact
    shards: Artifact | None

    @property
    def deciding(self) -> tuple[tuple[str, Stage], ...]:
        """The stages that decide. Manifest and shards only write what was decided."""
        return tuple(step for step in self.stages if not isinstance(step[1], Manifest | Shards))


def names_of(policy: Sequence[Cut]) -> list[str]:
    """The name of each cut in a job: its kind, and `<kind>_2` for the second cut of that kind."""
    kinds = [cut.kind for cut in policy]
    again = [kinds[:number].count(kind) for number, kind in enumerate(kinds)]
    return [f"{kind}_{times + 1}" if times else kind for kind, times in zip(kinds, again, strict=True)]


def lay_out(
    store: str,
    pool: Pool,
    listing: PoolStage,
    embeddings: Mapping[str, Encoder],
    encoding: Encoding,
    needs: Needs,
    policy: Sequence[Cut],
    samples_per_shard: int | None,
) -> Path:
    """Lay out every stage of a job. Computes fingerprints but runs nothing; O(shards), for their identities."""
    listed = artifact_of(listing, store)
    first: Embeddings | Precomputed
    if pool.reader.has_images:
        first = Embeddings.of(listed, pool.reader, embeddings, encoding, needs)
    else:
        first = Precomputed(listed, pool.reader)
    embedded = artifact_of(first, store)
    distinct = Distinct(embedded)
    reading, fields = field_stages(pool.fields, embedded, pool.reader, first.recipe, store)
    stages: list[tuple[str, Stage]] = [(stage.name, stage) for stage in (listing, first)]
    stages += [(f"{FIELD}.{field.name}", stage) for field, stage in zip(fields, reading, strict=True)]
    stages.append((distinct.name, distinct))
    embedder = first if isinstance(first, Embeddings) else None
    survivors = Survivors(embedded, artifact_of(distinct, store), pool.reader, embedder, fields)
    cuts: list[tuple[str, Artifact]] = []
    for name, cut in zip(names_of(policy), policy, strict=True):
        *before, last = cut.stages(survivors, store)
        made = artifact_of(last, store)
        stages += [*[(f"{name}.{stage.name}", stage) for stage in before], (name, last)]
        cuts.append((name, made))
        survivors = replace(survivors, last=made)
    manifest = Manifest(embedded, artifact_of(distinct, store), tuple(cuts), fields)
    stages.append((manifest.name, manifest))
    written: Artifact | None = None
    if samples_per_shard is not None and pool.reader.has_images:
        shards_stage = Shards(survivors, pool.reader, samples_per_shard)
        stages.append((shards_stage.name, shards_stage))
        written = artifact_of(shards_stage, store)
    return Path(tuple(stages), tuple(cuts), artifact_of(manifest, store), written)
