"""Planted duplicates: of every set the best stays, the others name it; the same for any shards and order of rows."""

from pathlib import Path

import numpy as np
import pytest

from tests import pools
from tests.pools import (
    Filtered,
    Samples,
    answers,
    filtered,
    jpeg,
    members,
    normed,
    pair,
    tiny_clip,
    unit,
    write_tar,
)
from winnow.pipeline.errors import JobError
from winnow.pipeline.stage import Run
from winnow.stages.cuts import duplicates
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.duplicates import Duplicates
from winnow.stages.cuts.random import Random
from winnow.stages.cuts.rules import Rules
from winnow.stages.cuts.semantic import fixpoint

SETS = 12
NEAR = Duplicates(by="clip", exact=False, epsilon=0.05, clusters=4)


def planted(sets: int = SETS, copies: int = 3, seed: int = 0) -> Samples:
    """Sets of near copies (cosine > 0.99) around directions that are far apart, rows shuffled."""
    rng = np.random.default_rng(seed)
    centre = np.linalg.qr(rng.normal(size=(16, 16)))[0][:sets].repeat(copies, axis=0)
    order = rng.permutation(sets * copies)
    image = normed(centre + 0.01 * rng.normal(size=centre.shape))
    samples = Samples.drawn(
        sets * copies, seed=seed, image=image, caption=[str(i // copies) for i in range(len(image))]
    )
    return samples.take(order)


def best_of_sets(samples: Samples) -> dict[str, str]:
    """caption (the set's name) -> uid of highest cosine, then smallest uid."""
    cosine = samples.cosine.astype(np.float32)
    order = sorted(range(len(samples)), key=lambda i: (-cosine[i], samples.uid[i]))
    return {samples.caption[i]: samples.uid[i] for i in reversed(order)}


def check_sets(found: Filtered, samples: Samples) -> None:
    """Who stays and whom the others name."""
    best = best_of_sets(samples)
    assert sorted(found.kept) == sorted(best.values())
    set_of = dict(zip(samples.uid, samples.caption, strict=True))
    for row in found.rows:
        named = None if row["kept"] else best[set_of[row["uid"]]]
        assert row["duplicate_of"] == named
        assert (row["cosine"] is None) == row["kept"]


def test_near_sets_leave_their_best() -> None:
    samples = planted()
    found = filtered(samples, NEAR, shards=5)
    check_sets(found, samples)
    report = found.step("duplicates").report
    assert (report["in"], report["kept"], report["dropped"]) == (36, SETS, 36 - SETS)
    assert min(row["cosine"] for row in found.rows if not row["kept"]) > 0.95


@pytest.mark.parametrize("method", ["greedy", "semdedup"])
def test_one_answer_for_any_shards_and_order(method: str) -> None:
    cut = Duplicates(by="clip", exact=False, epsilon=0.2, clusters=3, method=method)
    samples = Samples.drawn(60, image=normed(unit(20).repeat(3, axis=0) + 0.1 * unit(60, seed=8)))
    found = answers(samples, cut)
    assert 0 < len(found[0]) < 60
    assert all(answer == found[0] for answer in found)


def test_any_number_of_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = planted()
    whole = filtered(samples, NEAR, shards=3)
    monkeypatch.setattr(fixpoint, "_PART_BYTES", 300)
    split = filtered(samples, NEAR, shards=3)
    assert split.rows == whole.rows


def test_without_text_the_smallest_uid_stays() -> None:
    samples = planted()
    samples.text[:] = samples.text[0]
    tied = Samples.drawn(36, image=samples.image, text=samples.image, caption=samples.caption, uid=samples.uid)
    tied.image[:] = normed(np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0])[
        [int(c) for c in tied.caption]
    ]
    found = filtered(tied, NEAR, shards=4)
    smallest = {c: min(u for u, d in zip(tied.uid, tied.caption, strict=True) if d == c) for c in set(tied.caption)}
    assert sorted(found.kept) == sorted(smallest.values())


def test_what_is_out_removes_nobody() -> None:
    samples = planted()
    best = set(best_of_sets(samples).values())
    samples.caption[:] = ["" if uid in best else "in" for uid in samples.uid]
    found = filtered(samples, Rules(min_chars=1), NEAR, shards=3)
    assert len(found.kept) == SETS
    assert not best & set(found.kept)


def test_no_survivors_no_duplicates() -> None:
    found = filtered(
        Samples.drawn(10),
        Random(count=1),
        Duplicates(by="clip", exact=False, epsilon=0.1, clusters=1),
        shards=4,
    )
    assert len(found.kept) == 1


def tars(folder: Path, shards: int = 3) -> tuple[str, ...]:
    """24 samples; 0-3 are one picture, 4-5 another, 6 the picture of 4 with other bytes; the rest are their own."""
    pictures = {0: 0, 1: 0, 2: 0, 3: 0, 4: 4, 5: 4}
    samples = [(f"{i:03d}", pair(i, f"caption {i}") | {"jpg": jpeg(pictures.get(i, i))}) for i in range(24)]
    samples[6] = ("006", pair(6, "caption 6") | {"jpg": jpeg(4, quality=70)})
    order = np.random.default_rng(2).permutation(24)
    parts = np.array_split(order, shards)
    return tuple(write_tar(folder / f"{n}.tar", members([samples[i] for i in part])) for n, part in enumerate(parts))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Filtered:
    """The tars, embedded by a tiny CLIP."""
    folder = tmp_path_factory.mktemp("duplicates")
    return pools.embedded(tars(folder / "pool"), str(folder / "store"), {"clip": tiny_clip(folder)})


def cosines(pool: Filtered) -> dict[int, object]:
    """The image-text cosine by sample number."""
    found: dict[int, object] = {}
    for item in pool.run.items:
        uids = pool.survivors.table(item.index, ["uid"])["uid"].to_pylist()
        cosine = pool.survivors.similarity(item.index, "clip")
        assert cosine is not None
        found |= {int(uid, 16) - 1: value for uid, value in zip(uids, cosine.tolist(), strict=True)}
    return found


def number(uid: str) -> int:
    return int(uid, 16) - 1


@pytest.mark.parametrize("by", ["clip", None])
def test_exact_sets_leave_the_best_then_the_smallest_uid(embedded: Filtered, by: str | None) -> None:
    found = embedded.through(Duplicates(by=by))
    cosine = cosines(embedded) if by else dict.fromkeys(range(24), 0.0)
    best = {group: min(group, key=lambda i: (-cosine[i], i)) for group in ((0, 1, 2, 3), (4, 5))}
    lost = {i: best[group] for group in best for i in group if i != best[group]}
    assert {number(uid) for uid in found.kept} == set(range(24)) - set(lost)
    named = {number(row["uid"]): number(row["duplicate_of"]) for row in found.rows if not row["kept"]}
    assert named == lost
    assert {row["cosine"] for row in found.rows if not row["kept"]} == {1.0}


def test_exact_parts_change_nothing(embedded: Filtered, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embedded.through(Duplicates()).rows
    monkeypatch.setattr(duplicates, "_PART_ROWS", 5)
    again = Filtered(
        Run(embedded.run.store + "-parts", embedded.run.executor, embedded.run.shards),
        embedded.survivors,
        embedded.steps,
    )
    assert again.through(Duplicates()).rows == whole


def test_exact_and_near_in_one_cut(embedded: Filtered) -> None:
    """The near stage carries the exact verdicts on, and every dropped sample names one that stays."""
    found = embedded.through(Duplicates(by="clip", epsilon=0.002, clusters=1))
    assert [step.stage for step in found.steps[3:]] == ["exact", "clusters", "duplicates"]
    assert found.step("clusters").report["rows"] == 20
    exact = embedded.through(Duplicates(by="clip"))
    assert set(found.kept) <= set(exact.kept)
    rows = {row["uid"]: row for row in found.rows}
    for row in exact.rows:
        first = row["duplicate_of"]
        if first and not rows[first]["kept"]:  # the one it repeats has gone: it names whom that one repeats
            assert rows[row["uid"]] == rows[first] | {"uid": row["uid"]}
        elif first:
            assert rows[row["uid"]] == row
    report = found.step("duplicates").report
    assert (report["in"], report["kept"]) == (24, len(found.kept))
    vectors = {
        uid: vector
        for item in embedded.run.items
        for uids in [embedded.survivors.samples.read(item.index, ["uid"])["uid"].to_pylist()]
        for uid, vector in zip(
            uids,
            embedded.survivors.vectors(item.index, item.url, "clip", "image", np.arange(len(uids))).astype(np.float64),
            strict=True,
        )
    }
    for row in found.rows:
        if not row["kept"]:
            assert rows[row["duplicate_of"]]["kept"]
            assert vectors[row["uid"]] @ vectors[row["duplicate_of"]] == pytest.approx(row["cosine"], abs=2e-3)


def test_exact_duplicates_of_one_that_goes_name_the_one_that_stays(embedded: Filtered) -> None:
    """Limits so wide that nearly all go: the chain from bytes to meaning must be followed for some."""
    exact, found = (embedded.through(cut) for cut in (Duplicates(), Duplicates(by="clip", epsilon=0.6, clusters=1)))
    kept = set(found.kept)
    named = {row["uid"]: row["duplicate_of"] for row in found.rows if not row["kept"]}
    first = {row["uid"]: row["duplicate_of"] for row in exact.rows if not row["kept"]}
    assert any(first[uid] not in kept for uid in first)
    assert set(named.values()) <= kept
    assert all(named[uid] == named.get(first[uid], first[uid]) for uid in first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exact": False}, "must compare something: set exact: true or caption, or an epsilon"),
        ({"epsilon": 0.1}, r"set by \(an encoder\) and clusters \(k\) too"),
        ({"epsilon": 0.1, "by": "clip"}, r"set by \(an encoder\) and clusters \(k\) too"),
        ({"epsilon": 1.5, "by": "clip", "clusters": 3}, "epsilon must be between 0 and 1, got 1.5"),
        (
            {"epsilon": 0.1, "by": "clip", "clusters": 3, "method": "semdedup", "probes": 1},
            "method semdedup compares inside one cluster, got probes: 1",
        ),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(JobError, match=message):
        Duplicates(**options)  # type: ignore[arg-type]  # wrong on purpose


def by_caption(samples: Samples) -> dict[str, str | None]:
    """uid -> the uid of the better sample with its caption, None for the best."""
    best = best_of_sets(samples)
    pairs = zip(samples.uid, samples.caption, strict=True)
    return {uid: None if best[caption] == uid else best[caption] for uid, caption in pairs}


@pytest.mark.parametrize("shards", [1, 7])
def test_equal_captions_leave_their_best(shards: int) -> None:
    rng = np.random.default_rng(2)
    words = ["", " ", "a dog", "a dog ", "A dog", "héllo", "he\u0301llo"]  # each is a caption of its own
    samples = Samples.drawn(80, caption=[words[i] for i in rng.integers(0, len(words), 80)])
    found = filtered(samples, Duplicates(by="clip", exact="caption"), shards=shards)
    assert len(found.kept) == len(words)
    assert {row["uid"]: row["duplicate_of"] for row in found.rows} == by_caption(samples)


def test_captions_first_then_their_vectors() -> None:
    samples = planted()
    captions = [f"{name} {n % 2}" for n, name in enumerate(samples.caption)]  # two captions in each set
    turned = Samples.drawn(36, image=samples.text, text=samples.image, caption=captions, uid=samples.uid)
    found = filtered(turned, Duplicates(by="clip", exact="caption", epsilon=0.05, clusters=4, tower="text"), shards=5)
    assert sorted(found.kept) == sorted(best_of_sets(samples).values())
    assert all(row["kept"] == (row["duplicate_of"] is None) for row in found.rows)


def test_captions_of_a_pool_of_vectors_may_be_compared_but_bytes_may_not() -> None:
    given = Given({"clip": True, "dino": False}, images=False)
    Duplicates(exact="caption").check(given)
    with pytest.raises(JobError, match="or exact: caption"):
        Duplicates().check(given)
    with pytest.raises(JobError, match="text vectors, but dino has none"):
        Duplicates(by="dino", exact=False, epsilon=0.1, clusters=2, tower="text").check(given)
