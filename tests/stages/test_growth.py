"""How stages say that their passes grow."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.storage import Identity
from winnow.stages.clusters.centroids import KMeans
from winnow.stages.clusters.clusters import Clusters
from winnow.stages.cuts.semantic.fixpoint import SemanticStage
from winnow.stages.growth import Embedding, Growing, Growth, KMeansFit, NearestOfK, Once, PairsInCells, ReadsPool
from winnow.stages.one_decode import EmbedShards
from winnow.stages.results.shards import Shards
from winnow.stages.samples import Samples
from winnow.stages.vectors import StoredVectors, Vectors

NOTHING: Any = None
CLUSTERS = Clusters(NOTHING, "clip", KMeans(500, 10, 256, 0), probes=2)
SEMANTIC = SemanticStage(NOTHING, None, Artifact("store", "clusters", "0" * 16), "clip", 0.1, "greedy", 2, 500)


@pytest.mark.parametrize(
    ("stage", "label", "step", "growth"),
    [
        (CLUSTERS, "clusters: k-means, k = 4", "run", KMeansFit(500, 10, 256)),
        (CLUSTERS, "clusters: assign", "run", NearestOfK(500, 2)),
        (CLUSTERS, "clusters: look at width and memory", "run", Once()),
        (CLUSTERS, "clusters: sizes", "run", None),
        (replace(CLUSTERS, centroids=Identity("known.npy", 1, "")), "clusters: assign", "run", None),
        (SEMANTIC, "duplicates: compare (step 3)", "decide", PairsInCells(500, 2)),
        (SEMANTIC, "duplicates: compare (step 3)", "scatter", None),
        (SEMANTIC, "duplicates: decide (step 4)", "decide", None),
    ],
)
def test_a_stage_tells_the_passes_that_grow_otherwise(
    stage: Growing, label: str, step: str, growth: Growth | None
) -> None:
    assert isinstance(stage, Growing)
    assert stage.growth(label, step) == growth


def test_a_stage_says_what_it_reads_of_the_pool_and_whether_it_embeds() -> None:
    embedding = EmbedShards(NOTHING, NOTHING, (), NOTHING)
    reading = [
        Samples(NOTHING, NOTHING, "exact", embedding),
        Samples(NOTHING, NOTHING, None),
        Vectors(NOTHING, NOTHING, {}, 1, "", "", "", "", "clip", NOTHING, NOTHING, NOTHING),
        StoredVectors(NOTHING, NOTHING, "", "clip"),
        Shards(NOTHING, NOTHING, 10),
    ]
    parts = [isinstance(stage, ReadsPool) and stage.reads_pool for stage in reading]
    assert parts == ["whole", "whole", "whole", "whole", "kept"]
    embeds = [isinstance(stage, Embedding) and stage.embeds for stage in reading]
    assert embeds == [True, False, True, False, False]
    assert not isinstance(CLUSTERS, ReadsPool | Embedding)


@given(st.integers(1, 40), st.integers(2, 50), st.integers(0, 3))
def test_pairs_are_those_of_equal_cells(k: int, size: int, probes: int) -> None:
    """k cells of so many rows: each with each, and each with the rows that visit its cell."""
    within, visits = k * size * (size - 1) / 2, k * size * size * probes
    assert within + visits <= PairsInCells(k, probes).pairs(k * size) <= within + visits + k * size
