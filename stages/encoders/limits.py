"""Measures the limits of embedding on this machine: decoding alone, and the models alone.

The embed stage is measured against these, on the same threads and data.
"""

import io
import time
from collections.abc import Callable, Iterable
from functools import lru_cache

import open_clip
import torch
from PIL import Image

from winnow.stages.encoders import clip
from winnow.stages.encoders.bank import Bank
from winnow.stages.encoders.clip_model import OpenClip
from winnow.stages.encoders.encoding import Encoding
from winnow.stages.encoders.pixels.decoding import Preprocess
from winnow.stages.pools.sample import Reject, Sample


@lru_cache(maxsize=1)
def kept_bank(encoder: OpenClip, encoding: Encoding) -> Bank:
    """The bank of one encoder, opened once per process: what is measured in turn, again and again, loads no model."""
    return Bank.open({"clip": encoder}, encoding)


def device_name(device: str) -> str:
    """What its maker calls a GPU; other devices have no name of their own."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def decode_only(bank: Bank, samples: Iterable[Sample | Reject]) -> int:
    """Read, decode and resize every sample for every encoder and throw the pixels away; how many there were."""
    return sum(1 for _ in bank.decoded(samples))


def forward_only(bank: Bank, samples: Iterable[Sample | Reject]) -> tuple[int, float]:
    """Decode and tokenize first, then run the models alone: samples, and seconds that the models took."""
    ready = list(bank.batches(bank.decoded(samples)))
    started = time.perf_counter()
    count = sum(len(batch.samples) for batch in bank.forwarded(ready))
    return count, time.perf_counter() - started


def own_transform(model: str) -> tuple[Callable[[bytes], object], Preprocess]:
    """What a user of open_clip runs on each file, to a float32 (3, h, w), and the preprocessing of the same model.

    From here on torch runs each operation on one thread: its other threads would spin, and be counted as work.
    """
    torch.set_num_threads(1)
    made, _, transform = open_clip.create_model_and_transforms(model, pretrained=None)

    def own(data: bytes) -> object:
        with Image.open(io.BytesIO(data)) as image:
            return transform(image)

    return own, clip._preprocess(made)
