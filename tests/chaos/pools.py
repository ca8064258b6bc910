"""Lands two small pools, with images and with vectors, and their jobs; tells the bytes of what a job left."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from tests.pools import Samples, members, normed, pair, tiny_clip, unit, write_tar, write_vectors
from winnow.jobs.run import job_url
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_json

_CUTS: list[dict[str, Any]] = [
    {"rules": {"min_words": 3}},
    {"duplicates": {"by": "clip", "exact": False, "epsilon": 0.002, "clusters": 3}},
    {"similarity": {"by": "clip", "fraction": 0.8}},
    {"density": {"by": "clip", "fraction": 0.5, "clusters": 4}},
]


@dataclass(frozen=True)
class Chaos:
    """One job over one pool; the store is chosen for each run.

    samples: in the pool. values: of the job file, without its store.
    """

    name: str
    samples: int
    values: dict[str, Any]

    def file(self, folder: Path, store: str) -> Path:
        """A job file for this store."""
        path = folder / f"{self.name}-{storage.name_of(store)}.yaml"
        path.write_text(yaml.safe_dump({**self.values, "name": self.name, "store": store}))
        return path


def with_images(folder: Path, shards: int, samples: int) -> Chaos:
    """A pool of tars for a tiny CLIP, every seventh caption useless, every ninth image broken; it writes shards too."""
    for shard in range(shards):
        found = []
        for n in range(shard * samples, (shard + 1) * samples):
            parts = pair(n, f"IMG_{n}" if n % 7 == 0 else f"a picture of thing {n}")
            found.append((f"{n:05d}", {**parts, "jpg": parts["jpg"][:150]} if n % 9 == 0 else parts))
        write_tar(folder / f"images/{shard:05d}.tar", members(found))
    clip = tiny_clip(folder)
    values = {
        "pool": {"shards": f"{folder}/images/*.tar"},
        "embeddings": {"clip": {"model": clip.model, "pretrained": clip.pretrained}},
        "policy": _CUTS,
        "shards": {"samples_per_shard": 20},
        "limits": {"max_reject_fraction": 0.2},
        # the last shards are few, and whichever worker is killed has one of them
        "resources": {"retries": 5},
    }
    return Chaos("images", shards * samples, values)


def with_vectors(root: str, shards: int, samples: int) -> Chaos:
    """A pool of precomputed vectors at any URL, a third of them near duplicates."""
    rows = shards * samples
    distinct = unit(rows - rows // 3)
    noise = 0.002 * np.random.default_rng(1).normal(size=(rows, distinct.shape[1]))
    image = normed(np.concatenate([distinct, distinct[: rows // 3]]) + noise)
    text = normed(image + 100 * noise)
    urls = write_vectors(root, Samples.drawn(rows, image=image, text=text), shards)
    values = {
        "pool": {"shards": list(urls), "format": "vectors", "text": "text", "encoder": "clip"},
        "policy": _CUTS,
    }
    return Chaos("vectors", rows, values)


@dataclass(frozen=True)
class Left:
    """What a finished job left: sha256 by file of manifest and shards, and how many samples it accounts for."""

    digests: dict[str, str]
    accounted: int


def left(chaos: Chaos, store: str) -> Left:
    """What the job left in a store; raises StorageError where it never finished."""
    record = read_json(job_url(store, chaos.name))
    digests = {}
    for stage, name in cast(dict[str, str], record["artifacts"]).items():
        if stage in ("manifest", "shards"):
            made = Artifact.named(store, name)
            for found in [*storage.listing(made.folder), *storage.listing(made.meta_folder)]:
                file = storage.name_of(found.url)
                if file != "_done.json":
                    digests[f"{stage}/{file}"] = hashlib.sha256(storage.read_bytes(found.url)).hexdigest()
    counts = cast(dict[str, Any], record["counts"])
    accounted = counts["kept"] + sum(counts["dropped"].values()) + sum(counts["rejected"].values())
    return Left(digests, accounted)
