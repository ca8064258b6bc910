"""How encoders run: batch size, preprocessing, precision, device; nothing here imports torch."""

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Encoding:
    """How encoders run. Only `preprocess`, `precision` and `batch_size` may change a vector.

    batch_size: samples in a forward pass. On a CPU the last bits of a vector depend on it (matrix kernels differ by
        shape: up to 4e-6 in float32), so it is part of an artifact's fingerprint.
    preprocess: `exact` is the model's own transform, bit for bit. `fast` decodes JPEG at 1/2, 1/4 or 1/8 if at least
        1.125 times the wanted size is left, and resizes with torch in place of PIL.
    precision: `auto` is bf16 on a GPU and fp32 elsewhere; fp16 needs a GPU. On a CPU with avx512_bf16, bf16 runs
        the image tower of a ViT-B/32 in 0.3 of fp32's time; without such units it is slower. `auto` never looks at the
        machine, because the name of an artifact must not depend on it.
    device: `auto`, or a name that torch knows, such as `cuda:0`.
    decode_threads: threads that decode, and on a CPU also run the models, one batch each. 0 means OMP_NUM_THREADS if it
        is set (Ray sets it to an actor's num_cpus), else the number of cores.
    """

    batch_size: int = Field(default=64, ge=1)
    preprocess: Literal["fast", "exact"] = "exact"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    decode_threads: int = Field(default=0, ge=0)
