"""Reads training shards by open_clip's own loader: the pairs that it hands to its trainer."""

import gc
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import open_clip_train.data as trainer
from PIL import Image

Seen = TypeVar("Seen")


def loaded(shards: str, samples: int, seen: Callable[[Image.Image], Seen], *, train: bool) -> list[tuple[Seen, str]]:
    """(what `seen` makes of the picture, caption) of every sample; in the order of the shards unless train.

    shards: as webdataset names them, with braces. samples: how many the trainer is told that there are.
    """
    args = Namespace(
        train_data=shards,
        val_data=shards,
        train_num_samples=samples,
        val_num_samples=samples,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=1,
        workers=0,
        world_size=1,
    )
    with left_open():
        data = trainer.get_wds_dataset(args, seen, is_train=train, tokenizer=lambda text: [text])
        assert data.dataloader.num_samples == samples
        return [pair for images, texts in data.dataloader for pair in zip(images, texts, strict=True)]


@contextmanager
def left_open() -> Iterator[None]:
    """webdataset leaves its files to the garbage collector: they are collected in here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()
