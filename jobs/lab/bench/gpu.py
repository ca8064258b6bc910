"""Benchmark: embedding on one GPU, compared with decoding alone and the models alone; how busy the GPU is.

python -m winnow.jobs.lab.bench.gpu --pool GLOB [--model ViT-L-14]. Without Ray: one worker in this process.
"""

import itertools
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from winnow.jobs.lab.bench.decode import photos
from winnow.jobs.lab.bench.embedding import Timed, enlarged_tars, rate
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.machine import cores
from winnow.stages.encoders import Encoding, OpenClip
from winnow.stages.encoders.limits import device_name, kept_bank

_TARS = 8  # times that one tar of each size is embedded in a round
_ROUNDS = 3
_SIDES = (224, 512)  # pixels
_LOOKS_MS = "100"
_FLOOR = 3 * 112
"""Images/s that a ViT-L/14 should reach: three times what NVIDIA's test of its own image pipeline asks of an H100."""


@contextmanager
def busy_shares(device: str) -> Iterator[list[float]]:
    """Shares of time in which kernels ran, by the GPU driver, ten per second of the block; none without a GPU."""
    found: list[float] = []
    if not device.startswith("cuda"):
        yield found
        return
    asked = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", _LOOKS_MS, "-i"]
    with subprocess.Popen([*asked, device.partition(":")[2] or "0"], stdout=subprocess.PIPE, text=True) as looking:
        lines = looking.stdout or ()
        reading = threading.Thread(target=lambda: found.extend(int(line) / 100 for line in lines))
        reading.start()
        try:
            yield found
        finally:
            looking.terminate()
            reading.join()


def bench_model(table: Table, model: str, task: Timed, pools: Mapping[int, str], samples: int) -> None:
    """Add the rows of one model: samples/s of the stage (medians of rounds), and the share of the slower limit."""
    executor = LocalExecutor(1)
    for side, url in pools.items():
        ways: dict[str, list[float]] = {"decode": [], "models": [], "embed": []}
        busy: list[float] = []
        rate(task, executor, [url], samples)  # warms up
        for _ in range(_ROUNDS):
            for way in ("decode", "models"):
                ways[way].append(rate(Timed(task.encoder, task.encoding, task.out, way), executor, [url], samples))
            with busy_shares(task.encoding.device) as shares:
                ways["embed"].append(rate(task, executor, [url] * _TARS, samples))
            busy += shares
        decode, models, embed = (median(ways[way]) for way in ("decode", "models", "embed"))
        said = [f"{embed / min(decode, models):.2f} of the slower (decode {decode:,.0f}, models {models:,.0f})"]
        said += [f"busy {mean(busy):.2f} of the time"] if busy else []
        said += [f"{embed / _FLOOR:.1f} times {_FLOOR}"] if model == "ViT-L-14" else []
        table.add_row(f"{model}, {side} px", f"{embed:,.0f} samples/s", ", ".join(said))


def main(
    pool: Annotated[str, typer.Option(help="tars of photos with captions; the benchmark enlarges them_tars")],
    folder: Annotated[Path, typer.Option(help="scratch space, 1 GB")] = Path("out/bench-gpu"),
    model: Annotated[list[str] | None, typer.Option(help="model of open_clip, with random weights")] = None,
    device: Annotated[str, typer.Option(help="device, as torch names it")] = "cuda",
    fast: Annotated[bool, typer.Option("--fast/--exact", help="decoding of the pictures")] = True,
    batch_size: Annotated[int, typer.Option(help="samples per forward pass")] = 256,
    samples: Annotated[int, typer.Option(help="samples per tar")] = 2048,
) -> None:
    """Print every rate and its limits."""
    preprocess: Literal["exact", "fast"] = "fast" if fast else "exact"
    encoding = Encoding(batch_size=batch_size, preprocess=preprocess, device=device)
    found = photos(storage.expand([pool]), samples)
    made = folder / f"pictures-{fingerprint([pool, samples])}"
    pools = {side: enlarged_tars(itertools.cycle(found), made / f"{side}", side, samples, 1)[0] for side in _SIDES}
    title = f"{device_name(device)}, {cores()} cores, {preprocess}, batches of {batch_size}"
    table = Table("what", "rate", "share", title=title)
    for each in model or ["ViT-B-32", "ViT-L-14"]:
        out = Artifact(str(folder / "store"), "vectors", fingerprint([each, device, preprocess]))
        bench_model(table, Path(each).stem, Timed(OpenClip(each, "random"), encoding, out), pools, samples)
        kept_bank.cache_clear()  # frees memory for the next model
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
