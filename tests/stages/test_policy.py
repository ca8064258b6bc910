"""The table of cuts and the stages a job is made of: names, order, and which artifacts two jobs share."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.pools import READER, tiny_clip, write_parquet
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.stage import artifact_of
from winnow.pipeline.storage import Identity
from winnow.stages.cuts.cut import Cut
from winnow.stages.cuts.density import Density
from winnow.stages.cuts.duplicates import Duplicates
from winnow.stages.cuts.kinds import CUTS
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules
from winnow.stages.cuts.score import Score
from winnow.stages.cuts.similarity import Similarity
from winnow.stages.cuts.targets.image_based import ImageBased
from winnow.stages.encoders import Encoding, Timm
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.policy import Path as Stages
from winnow.stages.policy import lay_out
from winnow.stages.pools.datacomp import Datacomp
from winnow.stages.pools.pool import Pool, PoolStage
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.webdataset import Webdataset

SHARDS = (Identity("a.parquet", 3, "x"), Identity("b.parquet", 4, "y"))
LISTING = PoolStage(SHARDS)
KNOWN = ("pool", "samples", "vectors.clip", "distinct")


def laid_out(*policy: Cut, shards: tuple[Identity, ...] = SHARDS) -> Stages:
    return lay_out("s", Pool(("*",), READER), PoolStage(shards), {}, Encoding(), Needs(), policy, None)


def names(path: Stages) -> dict[str, str]:
    return {label: artifact_of(stage, "s").name for label, stage in path.stages}


def test_every_cut_is_in_the_table_by_its_name() -> None:
    others = "cap rules duplicates similarity negclip density prototypes coverage random score mix subset any epochs"
    assert set(CUTS) == {*others.split(), "normsim", "image_based", "feature_mapping"}
    assert all(name == cut.kind for name, cut in CUTS.items())


def test_a_second_cut_of_a_kind_is_numbered() -> None:
    cut = Similarity(by="clip", fraction=0.5)
    path = laid_out(cut, Random(fraction=0.5), cut, Similarity(by="clip", count=3))
    assert [name for name, _ in path.cuts] == ["similarity", "random", "similarity_2", "similarity_3"]
    labels = [
        "pool",
        "samples",
        "vectors.clip",
        "distinct",
        "similarity",
        "random",
        "similarity_2",
        "similarity_3",
        "manifest",
    ]
    assert [label for label, _ in path.stages] == labels
    assert len(set(names(path).values())) == 9


def test_a_name_of_two_words_is_numbered_too(tmp_path: Path) -> None:
    np.save(tmp_path / "target.npy", np.eye(16, dtype=np.float16))
    cut = ImageBased(by="clip", target=str(tmp_path / "target.npy"), clusters=2)
    assert [name for name, _ in laid_out(cut, cut).cuts] == ["image_based", "image_based_2"]


def test_stages_that_prepare_a_cut_carry_its_name(tmp_path: Path) -> None:
    url = write_parquet(str(tmp_path / "s.parquet"), pa.table({"uid": [], "v": []}))
    score = Score(column="v", count=1, **{"from": url})
    near = Duplicates(by="clip", exact=False, epsilon=0.1, clusters=2)
    path = laid_out(near, Density(by="clip", clusters=2, count=3), score)
    labels = ["duplicates.clusters", "duplicates", "density.clusters", "density", "score.scores", "score"]
    assert [label for label, _ in path.stages] == [*KNOWN, *labels, "manifest"]
    assert [name for name, _ in path.cuts] == ["duplicates", "density", "score"]


def test_a_pool_of_images_embeds_and_may_write_shards(tmp_path: Path) -> None:
    def of(samples_per_shard: int | None) -> Stages:
        encoders = {"clip": tiny_clip(tmp_path)}
        pool = Pool(("*",), Webdataset())
        return lay_out("s", pool, LISTING, encoders, Encoding(), Needs(), [Rules(min_words=2)], samples_per_shard)

    assert [label for label, _ in of(None).stages] == [
        "pool",
        "samples",
        "vectors.clip",
        "distinct",
        "rules",
        "manifest",
    ]
    assert of(None).shards is None
    with_shards = of(5)
    assert [label for label, _ in with_shards.stages][-1] == "shards"
    assert with_shards.shards is not None
    assert with_shards.shards.stage == "shards"
    exact = lay_out(
        "s",
        Pool(("*",), Webdataset()),
        LISTING,
        {"clip": tiny_clip(tmp_path)},
        Encoding(),
        Needs(),
        [Duplicates(by="clip", epsilon=0.1, clusters=2)],
        None,
    )
    assert [label for label, _ in exact.stages][4:7] == [
        "duplicates.exact",
        "duplicates.clusters",
        "duplicates",
    ]


def test_a_change_moves_only_what_follows_it() -> None:
    def of(fraction: float) -> dict[str, str]:
        cuts = (
            Rules(min_words=2),
            Similarity(by="clip", fraction=fraction),
            Density(by="clip", clusters=2, count=9),
        )
        return names(laid_out(*cuts))

    one, two = of(0.5), of(0.6)
    assert {label for label in one if one[label] == two[label]} == {
        "pool",
        "samples",
        "vectors.clip",
        "distinct",
        "rules",
    }


def test_only_the_vectors_that_a_cut_names_are_checked() -> None:
    def labels(*policy: Cut, embeddings: Mapping[str, Encoder] | None = None, reader: Reader = Datacomp()) -> list[str]:  # noqa: B008  # frozen
        path = lay_out("s", Pool(("*",), reader), LISTING, embeddings or {}, Encoding(), Needs(), policy, None)
        return [label for label, _ in path.stages][:-1]

    none = ["pool", "samples", "distinct"]
    assert labels(Rules(min_words=2)) == [*none, "rules"]
    one = [*none[:2], "vectors.l14", "distinct", "rules", "similarity"]
    assert labels(Rules(min_words=2), Similarity(by="l14", count=1)) == one
    assert labels(Rules(min_words=2), reader=Webdataset()) == [*none, "rules"]


def test_names_of_encoders_are_in_no_vectors_and_no_samples(tmp_path: Path) -> None:
    def of(**encoders: Encoder) -> dict[str, str]:
        pool = Pool(("*",), Webdataset())
        return names(lay_out("s", pool, LISTING, encoders, Encoding(), Needs(), [], None))

    clip, dino = tiny_clip(tmp_path), Timm("test_vit", "random")
    one, other, both = of(clip=clip), of(named=clip), of(clip=clip, dino=dino)
    assert one["vectors.clip"] == other["vectors.named"] == both["vectors.clip"]
    assert one["samples"] == both["samples"]
    assert one["distinct"] == other["distinct"] != both["distinct"]
    assert of()["samples"] != one["samples"]


def test_a_changed_shard_moves_everything() -> None:
    cuts = (Rules(min_words=2), Random(fraction=0.5))
    one = names(laid_out(*cuts))
    two = names(laid_out(*cuts, shards=(SHARDS[0], Identity("b.parquet", 4, "z"))))
    assert not {label for label in one if one[label] == two[label]}


@pytest.mark.parametrize("policy", [(), (Random(count=0),)])
def test_a_manifest_is_always_made(policy: tuple[Cut, ...]) -> None:
    path = laid_out(*policy)
    assert path.manifest.stage == "manifest"
    assert len(path.cuts) == len(policy)


def test_the_list_of_shards_is_hashed_once_for_all_policies() -> None:
    class Counted(tuple[Identity, ...]):
        """Counts how often it is gone through."""

        times = 0

        def __iter__(self) -> Iterator[Identity]:
            Counted.times += 1
            return super().__iter__()

    listing = PoolStage(Counted(SHARDS))
    pool = Pool(("*",), READER)
    paths = [lay_out("s", pool, listing, {}, Encoding(), Needs(), [Rules(min_words=n)], None) for n in (1, 2, 3)]
    assert len({path.manifest.name for path in paths}) == 3
    assert Counted.times == 1
    assert artifact_of(listing, "s") == artifact_of(LISTING, "s")
