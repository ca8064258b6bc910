"""Measures whether bfloat16 is faster on this machine's processor, and names the best precision.

`python -m winnow.stages.encoders.bf16 DEVICE` prints one line of JSON, `precision` and `why`. It is a separate process,
so that the calling process does not hold memory of a GPU.
"""

import functools
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch

GAIN = 1.1
"""The speedup over fp32 at which bf16 is chosen. On a processor without bf16 units it was measured at 0.03 to 0.3."""

_ROWS, _WIDTH = 1024, 256
_ROUNDS = 7


def fastest_precision(device: str) -> tuple[str, str]:
    """The precision that trains fastest on a device of this machine, as open_clip_train names it, and why.

    GPU: `amp_bf16` if it supports bfloat16 natively, else `amp`. CPU: `amp_bf16` if a layer in bf16 is measured at
    least GAIN times as fast as in fp32, else `fp32`; the processor's flags do not count. Other devices: `fp32`.
    Raises ValueError if the device is a GPU and torch finds none.
    """
    kind = device.partition(":")[0]
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"device {device} needs a GPU that torch can use, but this machine has none; set device: cpu"
            )
        with torch.cuda.device(device if ":" in device else "cuda:0"):
            own = torch.cuda.is_bf16_supported(including_emulation=False)
            name = torch.cuda.get_device_name()
        return ("amp_bf16", f"{name} has bf16") if own else ("amp", f"{name} has no bf16")
    if kind != "cpu":
        return "fp32", f"{device} is not known to gain by less"
    found = gain()
    return "amp_bf16" if found >= GAIN else "fp32", gain_in_words(found)


@functools.cache
def gain() -> float:
    """Seconds of a layer of 256 x 1,024 in fp32 over those in bf16, 1,024 rows, on one core of this processor.

    Both are measured in turns in processor time, and the least of each counts, so other load on the machine changes
    little. The first call takes 0.2 to 2 s.
    """
    with ThreadPoolExecutor(1, "bf16", torch.set_num_threads, (1,)) as apart:  # torch counts threads by the caller
        return apart.submit(_timed).result()


def gain_in_words(found: float) -> str:
    """A sentence about a measured gain."""
    return f"a layer in bf16 takes {1 / found:.2g} times as long as in fp32 on this machine's processor"


def _timed() -> float:
    rounds = [(_seconds(low=False), _seconds(low=True)) for _ in range(1 + _ROUNDS)][1:]  # the first makes the kernels
    return min(full for full, _ in rounds) / min(low for _, low in rounds)


def _seconds(low: bool) -> float:
    rows, weights = torch.ones(_ROWS, _WIDTH), torch.ones(4 * _WIDTH, _WIDTH)  # nothing drawn: a model's seed stays
    started = time.thread_time()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low):
        torch.nn.functional.linear(rows, weights)
    return time.thread_time() - started


if __name__ == "__main__":
    try:
        chosen, because = fastest_precision(sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps({"precision": chosen, "why": because}))
