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
    """Write each tar again with jpg and json (`captions`, a list); returns their pattern.

    share: of each tar's pictures, rounded, at least two of them where it is not 0, for one alone keeps its own. Those
    chosen hand their captions on in a circle, so each of them gets captions that are another's and none are lost.
    What cannot be read is left out, and counted in `_done.json`. Memory: the pictures of one tar.
    Raises ModelError where `out` holds copies of other tars, or with another share.
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
    """The captions of n pictures after int(share · n + 1/2) of them, drawn by seed, handed theirs on in a circle."""
    count = int(share * len(captions) + 0.5)
    chosen = np.random.default_rng(seed).permutation(len(captions))[: max(count, 2) if count else 0]
    after = list(captions)
    for giver, taker in zip(chosen, np.roll(chosen, 1), strict=True):
        after[int(taker)] = captions[int(giver)]
    return after
