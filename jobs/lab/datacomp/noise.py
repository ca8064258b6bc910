"""Builds a noisy pool, a clean set and a validation set from labelled images; truth.parquet says which is which.

The clean set is held out from the pool. It trains the filter network, and settings may be tuned on its pictures.
The same pictures and the same Noise give the same bytes.
"""

import itertools
import json
import math
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from winnow.jobs.filter_network.training_pairs import add_member
from winnow.jobs.lab.datacomp.damage import (
    CAPTION_TEMPLATES,
    IRRELEVANT,
    NEAR_CHANGES,
    caption_of,
    irrelevant_picture,
    near_copy,
    size_of,
    suffix_of,
    useless_caption,
    wrong_caption,
)
from winnow.jobs.lab.datacomp.labelled import Pictures
from winnow.pipeline import storage
from winnow.pipeline.artifact import read_table
from winnow.pipeline.errors import JobError

NOISE_TRUTH = pa.schema(
    {
        "shard": pa.string(),
        "key": pa.string(),
        "uid": pa.string(),
        "what": pa.string(),
        "how": pa.string(),
        "source": pa.string(),
        "label": pa.int64(),
    }
)
"""One row per pool sample. how: kind of copy or picture, else "". source: uid of the copied sample, or null. label:
class of the picture, -1 if it shows nothing."""

TRUTH_FILE = "truth.parquet"
COPIES_A_SOURCE = 8
"""Mean number of copies of each copied picture. The first picture has hundreds of copies, the last has one or none."""

TarMembers = dict[str, bytes]


@dataclass(frozen=True)
class Noise:
    """The flaws of the pool, as shares of its samples. All other samples are clean.

    wrong: another class's caption. near, exact: copies of clean pictures, Zipf-distributed over few of them.
    uninformative: captions that say nothing. irrelevant: pictures that show nothing.
    zipf: the class of rank r has r^-zipf times the pictures of the first; 0 is even, 1 gives rank 10 a tenth.
    held_out: share of the images of each class for the clean set. captions: number of captions of each clean picture.
    """

    wrong: float = 0.38
    near: float = 0.12
    exact: float = 0.05
    uninformative: float = 0.05
    irrelevant: float = 0.05
    zipf: float = 0.6
    held_out: float = 0.1
    captions: int = 4
    samples_per_shard: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        shares = self.shares()
        if min(shares.values()) < 0 or shares["clean"] <= 0:
            raise JobError(f"noise needs shares of 0 or more that leave something clean, got {shares}; lower one")
        if not 0 < self.held_out < 1 or not 1 <= self.captions <= len(CAPTION_TEMPLATES) or self.samples_per_shard < 1:
            raise JobError(
                f"noise needs 0 < held_out < 1, captions from 1 to {len(CAPTION_TEMPLATES)} and "
                f"samples_per_shard >= 1, got {self}"
            )
        if not 0 <= self.zipf <= 3:
            raise JobError(f"noise needs 0 <= zipf <= 3, got {self.zipf}")

    def shares(self) -> dict[str, float]:
        """Share of the pool of each `what`; they sum to 1."""
        shares = {
            "wrong_caption": self.wrong,
            "near_duplicate": self.near,
            "exact_duplicate": self.exact,
            "uninformative": self.uninformative,
            "irrelevant": self.irrelevant,
        }
        return {"clean": 1 - sum(shares.values()), **shares}


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """The plan of one pool sample. picture: position of its image, -1 for none. source: position in the pool of the
    sample that it copies, or -1."""

    what: str
    how: str
    label: int
    picture: int
    source: int
    uid: str


def build(pictures: Pictures, noise: Noise, folder: Path) -> pa.Table:
    """Write pool and clean set under `folder`; return the truth (schema NOISE_TRUTH), which is written last.

    A folder whose truth.parquet is there is done: that is read. Some 10,000 samples a second.
    """
    truth = folder / TRUTH_FILE
    if truth.exists():
        return read_table(str(truth))
    rng = Random(f"{noise.seed}/deal")
    clean, rest = _held_out(pictures, noise, rng)
    _write_clean(pictures, clean, noise, folder)
    plans = plan_samples(pictures, rest, noise)
    rows = []
    samples = ((f"{at:08d}", _members(pictures, plans, at, noise)) for at in range(len(plans)))
    for at, shard in enumerate(_write_shards(folder / "pool", samples, noise.samples_per_shard)):
        rows.append(_truth_row(plans, at, shard))
    table = pa.Table.from_pylist(rows, NOISE_TRUTH)
    with storage.committing(str(truth)) as file:
        pq.write_table(table, file)
    return table


def plan_samples(pictures: Pictures, rest: np.ndarray, noise: Noise) -> list[PlannedSample]:
    """One PlannedSample for each sample of the pool, in the pool's order.

    rest: int64 positions of the images that may be in the pool; those that the tail has no room for are left out. An
    image is in the pool once, but for copies; copies have a clean source.
    """
    rng = Random(f"{noise.seed}/plan")
    chosen = _tail(pictures, rest, noise, rng)
    counts = planted_counts(noise, len(chosen))
    whats = [what for what in ("clean", "wrong_caption", "uninformative") for _ in range(counts[what])]
    plans = [
        PlannedSample(what, "", int(pictures.labels[picture]), picture, -1, _uid(rng))
        for what, picture in zip(whats, chosen, strict=True)
    ]
    clean = rng.sample(range(counts["clean"]), counts["clean"])
    for what, hows in (("near_duplicate", NEAR_CHANGES), ("exact_duplicate", ("",))):
        few = [clean.pop() for _ in range(min(len(clean), math.ceil(counts[what] / COPIES_A_SOURCE)))]
        weights = [1 / rank for rank in range(1, len(few) + 1)]
        for at, source in enumerate(rng.choices(few, weights, k=counts[what]) if counts[what] else []):
            copied = plans[source]
            plans.append(PlannedSample(what, hows[at % len(hows)], copied.label, copied.picture, source, _uid(rng)))
    for at in range(counts["irrelevant"]):
        plans.append(PlannedSample("irrelevant", IRRELEVANT[at % len(IRRELEVANT)], -1, -1, -1, _uid(rng)))
    order = rng.sample(range(len(plans)), len(plans))
    place = {old: new for new, old in enumerate(order)}
    placed = [plans[old] for old in order]
    return [_moved(one, place) for one in placed]


def planted_counts(noise: Noise, pictures: int) -> dict[str, int]:
    """Number of samples of each `what` in a pool of `pictures` different pictures. Clean, wrong and uninformative
    samples show a different picture each."""
    shares = noise.shares()
    shown = shares["clean"] + shares["wrong_caption"] + shares["uninformative"]
    counts = {what: round(pictures * share / shown) for what, share in shares.items()}
    counts["clean"] = pictures - counts["wrong_caption"] - counts["uninformative"]
    if counts["clean"] < 2:
        raise JobError(f"a pool needs two clean pictures or more, but {pictures} pictures leave {counts['clean']}")
    return counts


def _moved(one: PlannedSample, place: dict[int, int]) -> PlannedSample:
    source = one.source if one.source < 0 else place[one.source]
    return PlannedSample(one.what, one.how, one.label, one.picture, source, one.uid)


def _held_out(pictures: Pictures, noise: Noise, rng: Random) -> tuple[list[int], np.ndarray]:
    """Positions of the clean set, evenly from each class, and of all other images."""
    clean: list[int] = []
    for label in range(len(pictures.classnames)):
        members = np.flatnonzero(pictures.labels == label).tolist()
        clean += rng.sample(members, round(noise.held_out * len(members)))
    rest = np.setdiff1d(np.arange(len(pictures.labels)), clean)
    return rng.sample(clean, len(clean)), rest


def _tail(pictures: Pictures, rest: np.ndarray, noise: Noise, rng: Random) -> list[int]:
    """Images in random order, with class sizes by Zipf and classes ranked at random."""
    sizes = class_sizes(len(pictures.classnames), noise)
    chosen: list[int] = []
    for label, size in enumerate(sizes):
        members = rest[pictures.labels[rest] == label].tolist()
        chosen += rng.sample(members, min(len(members), math.ceil(size * len(members))))
    return rng.sample(chosen, len(chosen))


def class_sizes(classes: int, noise: Noise) -> list[float]:
    """Size of each class, by label, as a share of the largest."""
    ranks = Random(f"{noise.seed}/ranks").sample(range(classes), classes)
    return [(rank + 1) ** -noise.zipf for rank in ranks]


def _members(pictures: Pictures, plans: list[PlannedSample], at: int, noise: Noise) -> TarMembers:
    """The files of one pool sample."""
    one = plans[at]
    rng = Random(f"{noise.seed}/pool/{at}")
    names = pictures.classnames
    sizes = class_sizes(len(names), noise)
    if one.what == "irrelevant":
        image = irrelevant_picture(one.how, size_of(pictures.images[0]), rng)
        caption = caption_of(rng.choices(names, sizes)[0], rng)
    else:
        image = pictures.images[one.picture]
        caption = caption_of(names[one.label], rng)
    if one.what == "near_duplicate":
        image = near_copy(image, one.how, rng)
    elif one.what == "exact_duplicate" and rng.random() < 0.5:
        caption = caption_of(names[one.label], Random(f"{noise.seed}/pool/{one.source}"))
    elif one.what == "wrong_caption":
        caption = wrong_caption(one.label, names, sizes, rng)
    elif one.what == "uninformative":
        caption = useless_caption(rng)
    # a hash of the content alone would give an exact copy the uid of its source
    return {suffix_of(image): image, "txt": caption.encode(), "json": json.dumps({"uid": one.uid}).encode()}


def _write_clean(pictures: Pictures, clean: list[int], noise: Noise, folder: Path) -> None:
    """Write the clean pairs, one sample per caption of a picture, and the same pictures with their labels."""
    rng = Random(f"{noise.seed}/captions")
    pairs = [(picture, template) for picture in clean for template in rng.sample(CAPTION_TEMPLATES, noise.captions)]
    rng.shuffle(pairs)
    names = pictures.classnames
    samples = (
        (
            f"{at:08d}",
            {
                suffix_of(pictures.images[picture]): pictures.images[picture],
                "txt": template.format(names[pictures.labels[picture]]).encode(),
            },
        )
        for at, (picture, template) in enumerate(pairs)
    )
    for _ in _write_shards(folder / "clean", samples, noise.samples_per_shard):
        pass
    held_out = {"image": [pictures.images[at] for at in clean], "label": pictures.labels[clean]}
    pq.write_table(pa.table(held_out), folder / "validation.parquet")


def _write_shards(folder: Path, samples: Iterable[tuple[str, TarMembers]], each: int) -> Iterator[str]:
    """Write tars of `each` samples and sizes.json; yield the name of the tar of every sample."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    left = iter(samples)
    for number in itertools.count():
        if not (part := list(itertools.islice(left, each))):
            break
        name = f"{number:05d}.tar"
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, members in part:
                for suffix, data in members.items():
                    add_member(tar, f"{key}.{suffix}", data)
        sizes[name] = len(part)
        yield from [name] * len(part)
    (folder / "sizes.json").write_text(json.dumps(sizes))


def _truth_row(plans: list[PlannedSample], at: int, shard: str) -> dict[str, object]:
    one = plans[at]
    return {
        "shard": shard,
        "key": f"{at:08d}",
        "uid": one.uid,
        "what": one.what,
        "how": one.how,
        "source": plans[one.source].uid if one.source >= 0 else None,
        "label": one.label,
    }


def _uid(rng: Random) -> str:
    return f"{rng.getrandbits(128):032x}"
