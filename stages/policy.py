"""The stages of a whole job in order: pool, samples, vectors, the cuts of the policy, and what it writes at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.stage import Stage, artifact_of
from winnow.stages.columns.column import Column
from winnow.stages.columns.laying import column_stages
from winnow.stages.cuts.cut import Cut, names_of
from winnow.stages.distinct import Distinct
from winnow.stages.encoders import Encoding
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.fields import field_stages
from winnow.stages.one_decode import EmbedShards, Encoded
from winnow.stages.pools.pool import Pool, PoolStage
from winnow.stages.results.manifest import Manifest
from winnow.stages.results.shards import Shards
from winnow.stages.samples import HEADER, Samples
from winnow.stages.survivors import Survivors
from winnow.stages.vectors import PIXELS, StoredVectors, Vectors, resolved


@dataclass(frozen=True)
class Path:
    """The stages of a job in order, and the artifact of each cut.

    stages: (label, stage) each. The vectors of an encoder have the label `vectors.<encoder>`, a field `field.<name>`,
    a column `column.<name>`, and a stage that prepares a cut `<cut>.<stage>`, such as `density.clusters`. In a union,
    the stages of each cut have the union's name before theirs: `any.density.clusters`, `any.density`.
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


@dataclass(frozen=True)
class Known:
    """The stages that find out what is known of every sample, and the samples that the first cut sees."""

    stages: tuple[tuple[str, Stage], ...]
    survivors: Survivors


def known_of(
    store: str,
    pool: Pool,
    listed: Artifact,
    embeddings: Mapping[str, Encoder],
    encoding: Encoding,
    needs: Needs,
    policy: Sequence[Cut],
    columns: Mapping[str, Column] | None = None,
) -> Known:
    """Samples, the vectors of each encoder, fields, columns, and `distinct`.

    Of vectors that the pool brings, those that a cut or a column reads.
    """
    columns = columns or {}
    reader, encoding = pool.reader, resolved(encoding, needs)
    made: list[tuple[str, Vectors]] = []
    vectors: list[tuple[str, Stage]]
    if reader.has_images:
        models = {name: one for name, one in embeddings.items() if one.has_model}
        samples = Samples(listed, reader, PIXELS[encoding.preprocess] if models else HEADER)
        out = artifact_of(samples, store)
        made = [
            (name, Vectors.of(out, reader, samples.recipe, name, one, encoding, needs)) for name, one in models.items()
        ]
        beside = tuple(Encoded(name, one.encoder, artifact_of(one, store), one.recipe) for name, one in made)
        if made:  # what the first stage makes whose artifact is missing, the later ones find
            embedding = EmbedShards(reader, out, beside, encoding)
            samples = replace(samples, embedding=embedding, needs=needs)
            made = [(name, replace(one, beside=beside[number + 1 :])) for number, (name, one) in enumerate(made)]
        joined = {name: one.joined(out, reader, name) for name, one in embeddings.items() if not one.has_model}
        each: dict[str, Stage] = {**joined, **dict(made)}
        vectors = [(name, each[name]) for name in embeddings]
    else:
        samples = Samples(listed, reader, None)
        out = artifact_of(samples, store)
        read = {name for cut in policy for name in cut.encoders()}
        read |= {name for column in columns.values() for name in column.encoders()}
        vectors = [
            (name, StoredVectors(out, reader, samples.recipe, name)) for name in reader.encoders() if name in read
        ]
    encoded = tuple((name, artifact_of(stage, store)) for name, stage in vectors)
    distinct = Distinct(out, tuple(artifact for _, artifact in encoded))
    reading, fields = field_stages(pool.fields, out, reader, samples.recipe, store)
    steps: list[tuple[str, Stage]] = [
        (samples.name, samples),
        *((f"{stage.name}.{name}", stage) for name, stage in vectors),
    ]
    # a stage without a recipe takes no files over, so what is made from it does not either
    recipes = {name: getattr(stage, "recipe", artifact_of(stage, store).name) for name, stage in vectors}
    everyone = Survivors(out, None, reader, encoded)
    computing, computed = column_stages(columns, everyone, samples.recipe, recipes, store)
    fields = (*fields, *computed)
    steps += [(field.label, stage) for field, stage in zip(fields, [*reading, *computing], strict=True)]
    survivors = Survivors(out, artifact_of(distinct, store), reader, encoded, tuple(made), fields)
    return Known((*steps, (distinct.name, distinct)), survivors)


def lay_out(
    store: str,
    pool: Pool,
    listing: PoolStage,
    embeddings: Mapping[str, Encoder],
    encoding: Encoding,
    needs: Needs,
    policy: Sequence[Cut],
    samples_per_shard: int | None,
    columns: Mapping[str, Column] | None = None,
) -> Path:
    """Lay out every stage of a job. Computes fingerprints but runs nothing; O(shards), for their identities."""
    listed = artifact_of(listing, store)
    known = known_of(store, pool, listed, embeddings, encoding, needs, policy, columns)
    stages: list[tuple[str, Stage]] = [(listing.name, listing), *known.stages]
    survivors = known.survivors
    distinct = survivors.source
    cuts: list[tuple[str, Artifact]] = []
    for name, cut in zip(names_of(policy), policy, strict=True):
        *before, (_, last) = cut.steps(survivors, store)
        made = artifact_of(last, store)
        stages += [*[(f"{name}.{label}", stage) for label, stage in before], (name, last)]
        cuts.append((name, made))
        survivors = replace(survivors, last=made)
    manifest = Manifest(survivors.samples, distinct, tuple(cuts), survivors.fields)
    stages.append((manifest.name, manifest))
    written: Artifact | None = None
    if samples_per_shard is not None and pool.reader.has_images:
        shards_stage = Shards(survivors, pool.reader, samples_per_shard)
        stages.append((shards_stage.name, shards_stage))
        written = artifact_of(shards_stage, store)
    return Path(tuple(stages), tuple(cuts), artifact_of(manifest, store), written)
