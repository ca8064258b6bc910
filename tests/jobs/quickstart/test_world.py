"""Refuses a world whose truth does not match its tars, or that differs between two runs of one seed."""

import io
import json
import re
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, UnidentifiedImageError

from winnow.jobs.quickstart.drawing import draw
from winnow.jobs.quickstart.scenes import GROUNDS, NOUNS, SUBJECTS, Subject, describe, imagine
from winnow.jobs.quickstart.world import FLAWS, WORLD_TRUTH, World, planted_counts, render_world
from winnow.pipeline.errors import JobError
from winnow.pipeline.uid import is_uid_hex

SMALL = World(clean_pairs=40, clean_shards=2, pool_samples=400, pool_shards=3)
Samples = dict[tuple[str, str], dict[str, bytes]]


def _read(folder: Path) -> Samples:
    """{(shard, key): {extension: bytes}} of every tar in the folder."""
    samples: Samples = defaultdict(dict)
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                key, extension = entry.name.split(".")
                member = tar.extractfile(entry)
                samples[path.name, key][extension] = member.read() if member else b""
    return dict(samples)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table, Samples]:
    folder = tmp_path_factory.mktemp("world")
    truth = render_world(SMALL, folder)
    return folder, truth, _read(folder / "pool")


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    small = World(clean_pairs=20, clean_shards=2, pool_samples=100, pool_shards=2)
    for name, world in (("one", small), ("two", small), ("other", World(20, 2, 100, 2, seed=1))):
        render_world(world, tmp_path / name)
    one, two, other = (_bytes(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one if name.endswith((".tar", ".parquet")))


def test_planted_counts_are_exact(rendered: tuple[Path, pa.Table, Samples]) -> None:
    _, truth, _ = rendered
    counts = Counter(truth["what"].to_pylist())
    assert counts == planted_counts(SMALL)
    assert counts == {"clean": 244, **{what: round(400 * share) for what, share in FLAWS.items()}}


def test_truth_names_every_sample_of_the_tars_in_order(rendered: tuple[Path, pa.Table, Samples]) -> None:
    folder, truth, samples = rendered
    assert truth.schema == WORLD_TRUTH
    assert pq.read_table(folder / "truth.parquet").equals(truth)
    assert list(zip(truth["shard"].to_pylist(), truth["key"].to_pylist(), strict=True)) == list(samples)
    uids = truth["uid"].to_pylist()
    assert len(set(uids)) == len(uids)
    assert all(is_uid_hex(uid) for uid in uids)
    for row in truth.to_pylist():
        facts = json.loads(samples[row["shard"], row["key"]]["json"])
        assert (facts["uid"], facts["key"]) == (row["uid"], row["key"])


def test_every_readable_picture_opens_with_the_size_its_json_names(
    rendered: tuple[Path, pa.Table, Samples],
) -> None:
    _, truth, samples = rendered
    for row in truth.to_pylist():
        if row["what"] == "unreadable":
            continue
        members = samples[row["shard"], row["key"]]
        facts = json.loads(members["json"])
        with Image.open(io.BytesIO(members["jpg"])) as picture:
            picture.load()
            assert picture.size == (facts["width"], facts["height"])
        assert members["txt"].decode() == facts["caption"]
        assert (len(facts["caption"].split()) >= 5) == (row["what"] != "useless_caption")


def test_unreadable_samples_are_broken_each_in_its_way(rendered: tuple[Path, pa.Table, Samples]) -> None:
    _, truth, samples = rendered
    broken = {row["how"]: samples[row["shard"], row["key"]] for row in truth.to_pylist() if row["what"] == "unreadable"}
    assert set(broken) <= {"truncated", "empty", "html", "no caption", "no image"}
    assert len(broken) == 4
    assert broken["empty"]["jpg"] == b""
    assert "txt" not in broken["no caption"]
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(broken["truncated"]["jpg"])).load()
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(broken["html"]["jpg"]))


def test_copies_have_a_clean_source_and_keep_its_caption(rendered: tuple[Path, pa.Table, Samples]) -> None:
    _, truth, samples = rendered
    rows = {row["uid"]: row for row in truth.to_pylist()}
    sources: dict[str, list[str]] = defaultdict(list)
    for row in rows.values():
        if row["source"] is None:
            assert not row["what"].endswith("duplicate")
            continue
        source = rows[row["source"]]
        sources[row["what"]].append(row["source"])
        assert (source["what"], source["concept"]) == ("clean", row["concept"])
        copy, original = (samples[r["shard"], r["key"]] for r in (row, source))
        assert copy["txt"] == original["txt"]
        assert (copy["jpg"] == original["jpg"]) == (row["what"] == "exact_duplicate")
    assert not set(sources["near_duplicate"]) & set(sources["exact_duplicate"])
    assert set(Counter(sources["near_duplicate"]).values()) == {1}
    assert max(Counter(sources["exact_duplicate"]).values()) == 2


def test_true_captions_name_the_ground_and_mismatched_ones_another(
    rendered: tuple[Path, pa.Table, Samples],
) -> None:
    _, truth, samples = rendered
    seen = Counter()
    for row in truth.to_pylist():
        if row["what"] not in ("clean", "mismatched"):
            continue
        noun, ground = row["concept"].split()
        caption = samples[row["shard"], row["key"]]["txt"].decode()
        told = re.search(GROUNDS[ground].format(r"\w+"), caption) is not None
        assert told == (row["what"] == "clean")
        assert row["what"] == "mismatched" or noun in caption
        seen[row["what"], caption] += 1
    assert len(seen) > 0.9 * sum(seen.values())


def test_clean_shards_carry_their_sizes(rendered: tuple[Path, pa.Table, Samples]) -> None:
    folder, _, _ = rendered
    samples = _read(folder / "clean")
    sizes = json.loads((folder / "clean" / "sizes.json").read_text())
    assert sizes == Counter(shard for shard, _ in samples)
    assert sum(sizes.values()) == SMALL.clean_pairs
    assert all(set(members) == {"jpg", "txt", "json"} for members in samples.values())


def test_concepts_differ_in_size_and_in_variety() -> None:
    assert len({concept.name for concept in SUBJECTS}) == len(SUBJECTS) == 32
    assert Counter(concept.noun for concept in SUBJECTS) == dict.fromkeys(NOUNS, 2)
    lengths = []
    for variety in (0, 1, 2):
        rng = Random(variety)
        concept = next(concept for concept in SUBJECTS if concept.variety == variety)
        captions = [describe(imagine(concept, rng), rng) for _ in range(200)]
        lengths.append(sum(len(caption.split()) for caption in captions))
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("concept", SUBJECTS, ids=lambda concept: concept.name)
def test_every_concept_draws_a_picture_of_many_colours(concept: Subject) -> None:
    rng = Random("draw")
    picture = draw(imagine(concept, rng), rng)
    assert picture.mode == "RGB"
    assert 96 <= min(picture.size) <= max(picture.size) <= 160
    assert len(picture.getcolors(1 << 16) or []) >= 2


def test_a_folder_that_holds_a_world_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "truth.parquet").write_bytes(b"kept")
    with pytest.raises(JobError, match="rendered into a new folder"):
        render_world(SMALL, tmp_path)
    assert (tmp_path / "truth.parquet").read_bytes() == b"kept"


@pytest.mark.parametrize("wrong", [{"pool_samples": 50}, {"pool_shards": 0}, {"clean_shards": 41}])
def test_impossible_worlds_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(JobError, match="a world needs"):
        World(**{"clean_pairs": 40, "clean_shards": 2, "pool_samples": 400, "pool_shards": 3, **wrong})
