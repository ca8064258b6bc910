"""Cuts on the vectors of captions: what `tower: text` gives is what the images give where the two are exchanged."""

from dataclasses import replace

import numpy as np
import pytest

from tests.pools import Samples, filtered, normed, unit
from winnow.pipeline.errors import JobError
from winnow.pipeline.fingerprint import fingerprinted
from winnow.stages.clusters.clusters import clusters_of
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.cut import Cut
from winnow.stages.cuts.density import Density
from winnow.stages.cuts.duplicates import Duplicates
from winnow.stages.cuts.prototypes import Prototypes

CUTS = [
    Density(by="clip", clusters=5, fraction=0.5),
    Prototypes(by="clip", clusters=4, fraction=0.6, balance=0.5),
    Duplicates(by="clip", exact=False, epsilon=0.2, clusters=3),
    Duplicates(by="clip", exact=False, epsilon=0.2, clusters=3, method="semdedup"),
]


def crowds() -> Samples:
    """Samples whose images and captions lie around different directions."""
    rng = np.random.default_rng(4)
    image, text = (unit(12, seed=seed)[rng.integers(0, 12, 120)] + 0.2 * unit(120, seed=seed + 9) for seed in (1, 2))
    return Samples.drawn(120, image=normed(image), text=normed(text))


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: f"{cut.kind}-{getattr(cut, 'method', '')}")
def test_text_is_what_images_give_where_they_are_exchanged(cut: Cut) -> None:
    samples = crowds()
    turned = replace(samples, image=samples.text, text=samples.image)
    found = filtered(samples, replace(cut, tower="text"), shards=3)  # type: ignore[call-arg]  # each has the option
    assert found.rows == filtered(turned, cut, shards=3).rows
    assert found.kept != filtered(samples, cut, shards=3).kept


@pytest.mark.parametrize("cut", CUTS[:3], ids=lambda cut: cut.kind)
def test_captions_need_an_encoder_of_captions(cut: Cut) -> None:
    given = Given({"clip": False}, images=True)
    cut.check(given)
    with pytest.raises(JobError, match=f"{cut.kind}.by must name an encoder with text vectors"):
        replace(cut, tower="text").check(given)  # type: ignore[call-arg]


def test_images_are_not_in_the_fingerprint() -> None:
    survivors = filtered(Samples.drawn(4)).survivors
    assert "tower" not in fingerprinted(clusters_of(survivors, "clip", 2, 5, 256, 0))
    assert "tower" in fingerprinted(clusters_of(survivors, "clip", 2, 5, 256, 0, tower="text"))
