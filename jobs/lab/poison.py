"""Copies captioned tars and gives a random share of the pictures another picture's captions."""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from winnow.jobs.filter_network.training import claim
from winnow.jobs.filter_network.training_pairs import add_member
from winnow.pipeline import storage
from winnow.pipeline.artifact import DONE, shard_name, write_json
from winnow.pipeline.fingerprint import fingerprint
from winnow.stages.pools.labelled import captioned_images
from winnow.stages.pools.sample import Reject


def poisoned(urls: Sequence[str], captions: str, share: float, seed: int, out: Path) -> str:
    """Copy each tar, with jpg and json (`captions`, a list) members; return the pattern of the copies.

    share: of each tar's pictures, rounded. Unless it is rounded to 0, at least two are chosen, because one alone would
    keep its captions. The chosen pictures pass their captions on in a circle: each gets those of another, none is lost.
    Unreadable samples are left out and counted in `_done.json`. Memory: the pictures of one tar.
    Raises ModelError if `out` has copies of other tars or with another share.
    """
    files = fingerprint(storage.identify(urls), digits=32)
    asked = {"files": files, "captions": captions, "share": share, "seed": seed}
    claim(out / "copies.json", asked, "one set of copies")
    pattern = str(out / "*.tar")
    if (out / DONE).is_file():
        return pattern
    rejected = 0
    for index, url in enumerate(urls):
        pairs = list(captioned_images(url, captions))
        found = [pair for pair in pairs if not isinstance(pair, Reject)]
        rejected += len(pairs) - len(found)
        texts = exchanged([own for _, own in found], share, [seed, index])
        with (
            storage.committing(str(out / shard_name(index, ".tar"))) as file,
            tarfile.open(fileobj=file, mode="w|") as tar,
        ):
            for number, ((sample, _), own) in enumerate(zip(found, texts, strict=True)):
                add_member(tar, f"{number:09d}.jpg", bytes(sample.image))
                add_member(tar, f"{number:09d}.json", json.dumps({"captions": list(own)}).encode())
    write_json(str(out / DONE), {"share": share, "seed": seed, "tars": len(urls), "rejected": rejected})
    return pattern


def exchanged(captions: Sequence[tuple[str, ...]], share: float, seed: int | Sequence[int]) -> list[tuple[str, ...]]:
    """The captions of n pictures after int(share · n + 1/2) of them, drawn by seed, passed theirs on in a circle."""
    count = int(share * len(captions) + 0.5)
    chosen = np.random.default_rng(seed).permutation(len(captions))[: max(count, 2) if count else 0]
    after = list(captions)
    # each chosen picture takes the captions of the next; the last one takes those of the first
    for giver, taker in zip(chosen, np.roll(chosen, 1), strict=True):
        after[int(taker)] = captions[int(giver)]
    return after
