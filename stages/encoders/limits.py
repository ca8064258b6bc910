"""Measures the limits of embedding on this machine: the speed of decoding alone, and of the models alone.

Benchmarks compare the stage `vectors` with these, on the same threads and data.
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
    """The bank of one encoder, opened once per process, so that repeated measurements do not load the model again."""
    return Bank.open({"clip": encoder}, encoding)


def device_name(device: str) -> str:
    """The product name of a GPU; for other devices, the device itself."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def decode_only(bank: Bank, samples: Iterable[Sample | Reject]) -> int:
    """Read, decode and resize every sample for every encoder, and throw the pixels away. Returns their number."""
    return sum(1 for _ in bank.decoded(samples))


def forward_only(bank: Bank, samples: Iterable[Sample | Reject]) -> tuple[int, float]:
    """Decode and tokenize first, then run the models alone. Returns the samples, and the seconds of the models."""
    ready = list(bank.batches(bank.decoded(samples)))
    started = time.perf_counter()
    count = sum(len(batch.samples) for batch in bank.forwarded(ready))
    return count, time.perf_counter() - started


def own_transform(model: str) -> tuple[Callable[[bytes], object], Preprocess]:
    """open_clip's transform from a file to float32 (3, h, w), and winnow's preprocessing of the same model.

    From here on torch runs each operation on one thread. Other threads would spin, and that would count as work.
    """
    torch.set_num_threads(1)
    made, _, transform = open_clip.create_model_and_transforms(model, pretrained=None)

    def own(data: bytes) -> object:
        with Image.open(io.BytesIO(data)) as image:
            return transform(image)

    return own, clip._preprocess(made)
