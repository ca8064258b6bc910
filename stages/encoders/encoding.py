"""How encoders run: batch size, preprocessing, precision, device; nothing here imports torch."""

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Encoding:
    """How encoders run; of these only `preprocess`, `precision` and `batch_size` may move a vector.

    batch_size: samples a forward pass. On CPU the last bits of a vector follow it (matrix kernels differ by
        shape: up to 4e-6 in float32), so it belongs to what an artifact was made with.
    preprocess: `exact` is the model's own transform, bit for bit; `fast` lets JPEG decode at 1/2, 1/4 or 1/8
        where at least 1.125 times the wanted size is left, and resizes with torch in place of PIL.
    precision: `auto` is bf16 on a GPU and fp32 elsewhere; fp16 needs a GPU. On a CPU with avx512_bf16, bf16 runs
        the image tower of a ViT-B/32 in 0.3 of fp32's time; on one without such units it is slower. `auto` never looks
        at the machine, for a vector's name must not depend on it.
    device: `auto`, or a name that torch knows, such as `cuda:0`.
    decode_threads: threads that decode, and on CPU also run the models, a batch each; 0 is
        OMP_NUM_THREADS where that is set (Ray sets it to an actor's num_cpus), else the cores there are.
    """

    batch_size: int = Field(default=64, ge=1)
    preprocess: Literal["fast", "exact"] = "exact"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    decode_threads: int = Field(default=0, ge=0)
