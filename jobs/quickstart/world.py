"""Renders the quickstart's data: a clean set, and a noisy pool whose flaws are listed in truth.parquet.

The clean pairs train a filter network. The pool has img2dataset's layout. It contains pairs with another concept's
caption, near and exact duplicates, useless captions, and files that cannot be read; truth.parquet says which is
which. The same World gives the same bytes.
"""

import io
import itertools
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance

from winnow.jobs.quickstart.drawing import draw
from winnow.jobs.quickstart.scenes import SUBJECTS, Subject, describe, imagine
from winnow.pipeline.errors import JobError

FLAWS = {
    # what: share of the pool's samples
    "mismatched": 0.25,
    "near_duplicate": 0.08,
    "exact_duplicate": 0.02,
    "useless_caption": 0.03,
    "unreadable": 0.01,
}
USELESS_CAPTIONS = ("IMG_{:04d}.jpg", "untitled", "DSC{:05d}", "photo {:d}", "image")
UNREADABLE_FLAWS = ("truncated", "empty", "html", "no caption", "no image")
NEAR_COPIES = ("recompressed", "resized", "cropped", "contrast")
JPEG_QUALITY = 85
WORLD_TRUTH = pa.schema(
    {
        "shard": pa.string(),
        "key": pa.string(),
        "uid": pa.string(),
        "what": pa.string(),
        "how": pa.string(),
        "source": pa.string(),
        "concept": pa.string(),
    }
)
"""One row per pool sample. how: kind of copy or of damage, else "". source: uid of the copied sample, else null."""

TruthRow = dict[str, str | None]
TarMembers = dict[str, bytes]


@dataclass(frozen=True)
class World:
    """The sizes and the seed of a world. They determine every byte of it.

    clean_pairs: number of training pairs, evenly over the concepts. pool_samples: samples of the noisy pool, with
    concepts of Zipf sizes. zipf: exponent of these sizes, 0 (even) to about 1.5.
    """

    clean_pairs: int = 6000
    clean_shards: int = 4
    pool_samples: int = 3000
    pool_shards: int = 7
    zipf: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if not (1 <= self.clean_shards <= self.clean_pairs and 1 <= self.pool_shards <= self.pool_samples):
            raise JobError(f"a world needs at least one sample per shard, got {self}; lower the shard counts")
        if self.pool_samples < 100:
            raise JobError(f"a world needs 100 pool samples to hold every flaw, got {self.pool_samples}")


@dataclass(frozen=True, slots=True)
class PlannedScene:
    """The plan of one pool sample, made before anything is drawn. source: position of the copied sample, or -1."""

    what: str
    how: str
    concept: Subject
    uid: str
    source: int


def planted_counts(world: World) -> dict[str, int]:
    """Number of pool samples of each `what`; the rest are clean."""
    counts = {what: round(share * world.pool_samples) for what, share in FLAWS.items()}
    return {"clean": world.pool_samples - sum(counts.values()), **counts}


def render_world(world: World, folder: Path) -> pa.Table:
    """Write the world into `folder` and return its truth table (schema WORLD_TRUTH), one row per pool sample.

    clean/00000.tar… with sizes.json beside them, pool/00000.tar…, truth.parquet. About 1.5 ms a picture.
    Raises: JobError when the folder already holds a world; nothing is overwritten.
    """
    if (folder / "truth.parquet").exists():
        raise JobError(
            f"a world must be rendered into a new folder, but {folder} holds one already; name another folder"
        )
    sizes = {}
    for shard, positions in enumerate(_split(world.clean_pairs, world.clean_shards)):
        path = folder / "clean" / f"{shard:05d}.tar"
        _write_tar(path, (_clean_pair(world, shard, row, at) for row, at in enumerate(positions)))
        sizes[path.name] = len(positions)
    (folder / "clean" / "sizes.json").write_text(json.dumps(sizes))
    plans = _plan_pool(world)
    rows: list[TruthRow] = []
    for shard, positions in enumerate(_split(world.pool_samples, world.pool_shards)):
        name = f"{shard:05d}.tar"
        keys = [f"{shard:05d}{row:04d}" for row in range(len(positions))]
        samples = ((key, _members(world, plans, at, key)) for key, at in zip(keys, positions, strict=True))
        _write_tar(folder / "pool" / name, samples)
        rows += [_truth_row(plans, at, name, key) for key, at in zip(keys, positions, strict=True)]
    truth = pa.Table.from_pylist(rows, WORLD_TRUTH)
    pq.write_table(truth, folder / "truth.parquet")
    return truth


def _split(total: int, parts: int) -> list[range]:
    """Contiguous ranges of 0…total, whose sizes differ by at most one."""
    edges = [total * part // parts for part in range(parts + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(edges)]


def _rng(world: World, *place: object) -> Random:
    """A random generator for each place in the world, so that shards can be drawn in any order."""
    return Random("/".join(map(str, (world.seed, *place))))


def _plan_pool(world: World) -> list[PlannedScene]:
    """One PlannedScene for each pool position. Every copy has a clean source; no source serves both kinds of copy."""
    rng = _rng(world, "plan")
    counts = planted_counts(world)
    whats = [what for what, count in counts.items() for _ in range(count)]
    rng.shuffle(whats)
    sizes = [1 / (rank + 1) ** world.zipf for rank in range(len(SUBJECTS))]
    ranked = rng.sample(SUBJECTS, len(SUBJECTS))
    concepts = rng.choices(ranked, sizes, k=world.pool_samples)
    clean = [position for position, what in enumerate(whats) if what == "clean"]
    near, exact = counts["near_duplicate"], counts["exact_duplicate"]
    chosen = rng.sample(clean, near + exact)
    sources = {
        "near_duplicate": iter(chosen[:near]),
        # the first two copies share a source, so one set has three samples
        "exact_duplicate": iter([chosen[near], *chosen[near:-1]]),
    }
    hows = {"near_duplicate": NEAR_COPIES, "unreadable": UNREADABLE_FLAWS}
    seen = dict.fromkeys(counts, 0)
    plans = []
    for what, concept in zip(whats, concepts, strict=True):
        source = next(sources[what]) if what in sources else -1
        how = hows[what][seen[what] % len(hows[what])] if what in hows else ""
        seen[what] += 1
        uid = f"{rng.getrandbits(128):032x}"
        plans.append(PlannedScene(what, how, concepts[source] if source >= 0 else concept, uid, source))
    return plans


def _truth_row(plans: list[PlannedScene], at: int, shard: str, key: str) -> TruthRow:
    plan = plans[at]
    source = plans[plan.source].uid if plan.source >= 0 else None
    return {
        "shard": shard,
        "key": key,
        "uid": plan.uid,
        "what": plan.what,
        "how": plan.how,
        "source": source,
        "concept": plan.concept.name,
    }


def _clean_pair(world: World, shard: int, row: int, at: int) -> tuple[str, TarMembers]:
    rng = _rng(world, "clean", at)
    key = f"{shard:05d}{row:04d}"
    scene = imagine(SUBJECTS[at % len(SUBJECTS)], rng)
    picture, caption = draw(scene, rng), describe(scene, rng)
    uid = f"{rng.getrandbits(128):032x}"
    return key, _sample(_jpeg(picture, JPEG_QUALITY), caption, _facts(key, uid, picture.size, caption))


def _members(world: World, plans: list[PlannedScene], at: int, key: str) -> TarMembers:
    """The files of one pool sample."""
    plan = plans[at]
    rng = _rng(world, "flaw", at)
    image, caption, size = _picture(world, plan.concept, at if plan.source < 0 else plan.source)
    if plan.what == "near_duplicate":
        image, size = _alter(image, plan.how, rng)
    elif plan.what == "mismatched":
        caption = _foreign_caption(plan.concept, rng)
    elif plan.what == "useless_caption":
        caption = rng.choice(USELESS_CAPTIONS).format(rng.randint(1, 9999))
    members = _sample(image, caption, _facts(key, plan.uid, size, caption))
    return _spoil(members, plan.how) if plan.what == "unreadable" else members


def _picture(world: World, concept: Subject, at: int) -> tuple[bytes, str, tuple[int, int]]:
    """JPEG bytes, true caption and (width, height) of the pool's picture at this position."""
    rng = _rng(world, "pool", at)
    scene = imagine(concept, rng)
    picture = draw(scene, rng)
    return _jpeg(picture, JPEG_QUALITY), describe(scene, rng), picture.size


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _alter(image: bytes, how: str, rng: Random) -> tuple[bytes, tuple[int, int]]:
    """A near duplicate, which people call the same picture: bytes and (width, height)."""
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    width, height = picture.size
    quality = JPEG_QUALITY
    if how == "recompressed":
        quality = rng.randint(40, 60)
    elif how == "resized":
        scale = rng.uniform(0.75, 0.9) if rng.random() < 0.5 else rng.uniform(1.1, 1.3)
        picture = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    elif how == "cropped":
        left, top = rng.randint(0, 2), rng.randint(0, 2)
        picture = picture.crop((left, top, width - 2 + left, height - 2 + top))
    else:
        picture = ImageEnhance.Contrast(picture).enhance(rng.choice((0.95, 1.05)))
    return _jpeg(picture, quality), picture.size


def _foreign_caption(concept: Subject, rng: Random) -> str:
    """A caption with another noun on another ground, so that it is wrong for any colours."""
    others = [c for c in SUBJECTS if c.noun != concept.noun and c.ground != concept.ground]
    return describe(imagine(rng.choice(others), rng), rng)


def _facts(key: str, uid: str, size: tuple[int, int], caption: str) -> bytes:
    """The json member, with the fields that img2dataset writes and this project reads."""
    facts = {
        "caption": caption,
        "key": key,
        "status": "success",
        "width": size[0],
        "height": size[1],
        "original_width": size[0],
        "original_height": size[1],
        "uid": uid,
    }
    return json.dumps(facts).encode()


def _sample(image: bytes, caption: str, facts: bytes) -> TarMembers:
    return {"jpg": image, "txt": caption.encode(), "json": facts}


def _spoil(members: TarMembers, how: str) -> TarMembers:
    """The sample with the damage of a broken download. how: one of UNREADABLE."""
    if how in ("no caption", "no image"):
        missing = "txt" if how == "no caption" else "jpg"
        return {name: data for name, data in members.items() if name != missing}
    image = members["jpg"]
    page = b"<html><head><title>404 Not Found</title></head><body>gone</body></html>"
    broken = {"truncated": image[: len(image) // 2], "empty": b"", "html": page}[how]
    return {**members, "jpg": broken}


def _write_tar(path: Path, samples: Iterable[tuple[str, TarMembers]]) -> None:
    """Write a webdataset shard. Members of a sample are adjacent; headers have no time and no owner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for extension, data in members.items():
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
