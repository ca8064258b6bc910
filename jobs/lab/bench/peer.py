"""Benchmark: embedding by winnow, clip-retrieval and a plain webdataset loop, as whole processes.

python -m winnow.jobs.lab.bench.peer [--clip-retrieval ITS_PYTHON] [--pool GLOB] [--model CONFIG --checkpoint FILE].
All of them read the same tars with the same weights on the same cores, in turn, and must come to the same
vectors; no GPU is used. Absolute rates are this machine's; read the ratios.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from winnow.jobs.quickstart import scenes
from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, read_table
from winnow.pipeline.columns import matrix
from winnow.pipeline.errors import ModelError, ShardError
from winnow.pipeline.events import EventReader
from winnow.stages.pools.sample import Sample
from winnow.stages.pools.webdataset import Webdataset
from winnow.stages.results.tar_shard import TarShard

PLAIN = "webdataset"
CLIP_RETRIEVAL = "clip-retrieval"
_LEAST_COSINE = 0.99
_POCKET = Path(__file__).parents[2] / "pocket_filter.json"
_PICTURES = 64  # that are drawn
_TAIL = 2000  # characters of a log that an error shows

_WEIGHTS = """
import sys, open_clip, torch
model, file = sys.argv[1:]
if model.endswith(".json"):
    open_clip.add_model_config(model)
    model = model.rpartition("/")[2].removesuffix(".json")
torch.manual_seed(0)
torch.save({"state_dict": open_clip.create_model(model).state_dict()}, file)
"""

_REGISTERED = """
import sys, open_clip
open_clip.add_model_config(sys.argv.pop(1))
made = open_clip.create_model_and_transforms
def evaluated(*args, **options):
    model, *transforms = made(*args, **options)
    return model.eval(), *transforms
open_clip.create_model_and_transforms = evaluated
from clip_retrieval.cli import main
main()
"""
"""Its command line, made fit for a model's shape of one's own; a model that open_clip has by name runs without.

`--clip_model` takes a checkpoint file, but no file of a shape. And it leaves models as open_clip makes them, to be
trained: a ResNet then normalises by the statistics of its batch, and a picture's vector follows its neighbours.
"""

_LOOP = """
import json, sys, time
import numpy as np, open_clip, torch, webdataset as wds

work = json.loads(sys.argv[1])
torch.set_num_threads(work["threads"])
name = work["model"]
if name.endswith(".json"):
    open_clip.add_model_config(name)
    name = name.rpartition("/")[2].removesuffix(".json")
model, _, transform = open_clip.create_model_and_transforms(name, pretrained=work["checkpoint"])
model.eval()
tokenizer = open_clip.get_tokenizer(name)

def ready(sample):
    return sample["__key__"], transform(sample["jpg"]), tokenizer([sample["txt"]])[0]

# as its documentation says: shards are split over the workers, each worker decodes, tokenizes and makes whole batches
data = (
    wds.WebDataset(work["shards"], shardshuffle=False)
    .decode("pil")
    .map(ready)
    .batched(work["batch_size"])
)
loader = wds.WebLoader(data, batch_size=None, shuffle=False, num_workers=work["workers"])
keys, images, texts = [], [], []
started = time.perf_counter()
with torch.inference_mode():
    for names, pixels, tokens in loader:
        keys += names
        images.append(torch.nn.functional.normalize(model.encode_image(pixels), dim=-1).half().numpy())
        texts.append(torch.nn.functional.normalize(model.encode_text(tokens), dim=-1).half().numpy())
seconds = time.perf_counter() - started
np.savez(work["out"], keys=np.array(keys), image=np.concatenate(images), text=np.concatenate(texts), seconds=seconds)
"""
"""What one writes who has neither: a program of its own, which imports nothing of winnow's."""


@dataclass(frozen=True)
class Work:
    """What each of them has to do: embed the images and captions of `shards` by one CLIP.

    model: a name of open_clip or a configuration `.json`. folder: scratch space.
    """

    folder: Path
    shards: tuple[Path, ...]
    model: str
    checkpoint: Path
    cores: int
    batch_size: int


@dataclass(frozen=True)
class Vectors:
    """keys: (n,) text, sorted. image, text: float32 (n, d), of unit length but for the last bits of float16."""

    keys: np.ndarray
    image: np.ndarray
    text: np.ndarray


@dataclass(frozen=True)
class Ran:
    """One process. Seconds: embedding from the first sample to the last, the stage (None of a peer), the whole, CPU."""

    vectors: Vectors
    embedding: float
    stage: float | None
    whole: float
    cpu: float


def winnow(work: Work, preprocess: str, executor: str) -> Ran:
    """Run a job that embeds and keeps everything; into an empty store, as `winnow run` does."""
    store, file = work.folder / "store", work.folder / "job.yaml"
    shutil.rmtree(store, ignore_errors=True)
    job = {
        "name": "peer",
        "store": str(store),
        "pool": {"shards": [str(shard) for shard in work.shards]},
        "embeddings": {"clip": {"model": work.model, "pretrained": str(work.checkpoint)}},
        "encoding": {"preprocess": preprocess},
    }
    file.write_text(json.dumps(job))
    words = [
        sys.executable,
        "-m",
        "winnow.jobs",
        "run",
        str(file),
        "--executor",
        executor,
        "--workers",
        str(work.cores),
    ]
    whole, cpu = _timed(words, {}, work.folder / "winnow.log")
    done = [event for event in EventReader(str(store)).more() if event["event"] == "shard"]
    done = [event for event in done if event["stage"] == "embeddings"]
    embedding = max(event["t"] for event in done) - min(event["t"] - event["seconds"] for event in done)
    record = json.loads((store / "jobs/peer.json").read_bytes())
    artifact = Artifact.named(str(store), record["artifacts"]["embeddings"])
    return Ran(_stored(artifact), embedding, record["seconds"]["embeddings"], whole, cpu)


def _stored(artifact: Artifact) -> Vectors:
    tables = [artifact.read(index) for index in sorted(artifact.present())]
    keys = np.concatenate([np.array(table["key"].to_pylist()) for table in tables])
    towers = [np.concatenate([matrix(table[f"clip.{tower}"]) for table in tables]) for tower in ("image", "text")]
    return _sorted(keys, *towers)


def clip_retrieval(work: Work, python: str, threads: int) -> Ran:
    """Run `clip-retrieval inference` over the same tars, by the Python of an environment that has it."""
    out = work.folder / "clip-retrieval"
    shutil.rmtree(out, ignore_errors=True)
    own = work.model.endswith(".json")
    program = [_REGISTERED, work.model] if own else ["from clip_retrieval.cli import main; main()"]
    name = Path(work.model).stem if own else work.model
    # its command line takes braces for a list of tars; ours are numbered without a gap
    first, last = (shard.stem for shard in (work.shards[0], work.shards[-1]))
    options = {
        "input_dataset": f"{work.shards[0].parent}/{{{first}..{last}}}.tar",
        "output_folder": out,
        "input_format": "webdataset",
        "clip_model": f"open_clip:{name}/{work.checkpoint}",
        "batch_size": work.batch_size,
        "num_prepro_workers": work.cores,
        "enable_wandb": False,
    }
    words = [python, "-c", *program, "inference", *(f"--{key}={value}" for key, value in options.items())]
    whole, cpu = _timed(words, {"OMP_NUM_THREADS": str(threads)}, work.folder / "clip-retrieval.log")
    told = [json.loads(file.read_bytes()) for file in (out / "stats").glob("*.json")]
    tables = [read_table(str(file), ["image_path"]) for file in sorted((out / "metadata").glob("*.parquet"))]
    keys = np.concatenate([np.array(table["image_path"].to_pylist()) for table in tables])
    towers = [
        np.concatenate([np.load(file) for file in sorted((out / f"{tower}_emb").glob("*.npy"))])
        for tower in ("img", "text")
    ]
    # what it prints as a rate divides by a sum of clocks; total_duration adds up its loop, loading and warming up apart
    return Ran(_sorted(keys, *towers), sum(one["total_duration"] for one in told), None, whole, cpu)


def plain(work: Work, threads: int) -> Ran:
    """Run the loop that one writes with webdataset and open_clip alone."""
    out = work.folder / "plain.npz"
    values = {
        "shards": [str(shard) for shard in work.shards],
        "model": work.model,
        "checkpoint": str(work.checkpoint),
        "batch_size": work.batch_size,
        "workers": work.cores,
        "threads": threads,
        "out": str(out),
    }
    words = [sys.executable, "-c", _LOOP, json.dumps(values)]
    whole, cpu = _timed(words, {"OMP_NUM_THREADS": str(threads)}, work.folder / "plain.log")
    with np.load(out) as found:
        return Ran(_sorted(found["keys"], found["image"], found["text"]), float(found["seconds"]), None, whole, cpu)


def _sorted(keys: np.ndarray, image: np.ndarray, text: np.ndarray) -> Vectors:
    order = np.argsort(keys)
    return Vectors(keys[order], image[order].astype(np.float32), text[order].astype(np.float32))


def _timed(words: list[str], environment: Mapping[str, str], log: Path) -> tuple[float, float]:
    """Seconds of a process, and those that cores worked for it and for those of its children that it waited for."""
    started = time.perf_counter()
    with log.open("wb") as sink:
        child = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
        process = subprocess.Popen(words, stdout=sink, stderr=subprocess.STDOUT, env=child)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # of Ctrl-C, say: what goes on alone would disturb the next measurement
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)  # it was waited for behind its back
    if process.returncode != 0:
        raise ModelError(f"a process must end well, but {log} ends so: {log.read_text(errors='replace')[-_TAIL:]}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def least_cosines(ours: Vectors, theirs: Vectors) -> tuple[float, float]:
    """Lowest cosine and first percentile over images and captions of the same keys.

    Raises: ShardError where the keys are not the same or the percentile is below 0.99, for then it was other work.
    """
    if not np.array_equal(ours.keys, theirs.keys):
        raise ShardError(f"both must embed the same samples, got {len(ours.keys)} and {len(theirs.keys)}")
    pairs = ((ours.image, theirs.image), (ours.text, theirs.text))
    cosines = np.concatenate([(left * right).sum(axis=1, dtype=np.float64) for left, right in pairs])
    least, first = float(cosines.min()), float(np.quantile(cosines, 0.01))
    if first < _LEAST_COSINE:
        raise ShardError(
            f"vectors of the same sample must have a cosine of {_LEAST_COSINE}, but 1 % are below {first:.4f}"
        )
    return least, first


def compare(work: Work, python: str | None, executor: str, rounds: int, title: str) -> Table:
    """Every way in turn, `rounds` times; a peer with 1 torch thread or one a core, whichever a first try likes better.

    CPU s: of a process and those that it waited for; not told with Ray, whose workers are nobody's to wait for.
    """
    peers: dict[str, Callable[[int], Ran]] = {PLAIN: partial(plain, work)}
    if python is not None:
        peers = {CLIP_RETRIEVAL: partial(clip_retrieval, work, python), **peers}
    ways: dict[str, Callable[[], Ran]] = {
        f"winnow, {preprocess}": partial(winnow, work, preprocess, executor) for preprocess in ("exact", "fast")
    }
    ours = list(ways)
    for name, peer in peers.items():
        tried = {threads: peer(threads).embedding for threads in sorted({1, work.cores})}
        best = min(tried, key=lambda threads: tried[threads])
        ways[f"{name}, threads: {best}"] = partial(peer, best)
    runs: dict[str, list[Ran]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            runs[name].append(way())
    theirs = [name for name in ways if name not in ours]
    heads = [f"x {name.partition(',')[0]}: embedding, whole" for name in theirs]
    table = Table("samples/s", "embedding", "stage", "whole", "CPU s", *heads, "least cosine, 1 %", title=title)
    for name, ran in runs.items():
        ratios = [_ratios(ran, runs[their]) if name in ours else "" for their in theirs]
        cosines = least_cosines(ran[0].vectors, runs[theirs[0]][0].vectors)
        told = name not in ours or executor == "local"
        table.add_row(name, *_rates(ran, told), *ratios, "{:.4f}, {:.4f}".format(*cosines))
    return table


def _rates(ran: list[Ran], told: bool) -> list[str]:
    """Cells: samples a second of the embedding, of the stage and of the whole process; CPU seconds if `told`."""
    samples = len(ran[0].vectors.keys)
    stages = [one.stage for one in ran if one.stage is not None]
    seconds = [[one.embedding for one in ran], stages, [one.whole for one in ran]]
    cells = [f"{samples / median(some):,.0f}" if some else "" for some in seconds]
    return [*cells, f"{median(one.cpu for one in ran):.1f}" if told else ""]


def _ratios(ours: list[Ran], theirs: list[Ran]) -> str:
    """Of the rates, round by round: median (least to most) of the embedding, median of the whole process."""
    pairs = list(zip(ours, theirs, strict=True))
    embedding = [their.embedding / our.embedding for our, their in pairs]
    whole = median(their.whole / our.whole for our, their in pairs)
    return f"{median(embedding):.2f} ({min(embedding):.2f} to {max(embedding):.2f}), {whole:.2f}"


def make_shards(samples: Iterator[tuple[bytes, str]], wanted: int, shards: int, folder: Path) -> tuple[Path, ...]:
    """Land `wanted` pairs of a JPEG and its caption in tars of one size, numbered without a gap."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pairs = list(islice(samples, wanted // shards * shards))
    if len(pairs) < shards:
        raise ShardError(f"{shards} shards need a JPEG with a caption each, got {len(pairs)}")
    paths = tuple(folder / f"{number:05d}.tar" for number in range(shards))
    for number, path in enumerate(paths):
        with open(path, "wb") as file:
            tar = TarShard(file)
            for row, (image, caption) in enumerate(pairs[number::shards]):
                tar.add_members(f"{number:05d}{row:06d}", [("jpg", image), ("txt", caption.encode())])
            tar.finish()
    return paths


def _photos(pool: str) -> Iterator[tuple[bytes, str]]:
    found = (sample for url in storage.expand([pool]) for sample in Webdataset().samples(url))
    readable = (sample for sample in found if isinstance(sample, Sample))
    return ((bytes(s.image), s.caption) for s in readable if bytes(s.image[:2]) == b"\xff\xd8")


def _drawn(side: int) -> Iterator[tuple[bytes, str]]:
    """Scenes of side x side pixels, roughened until their JPEG files weigh what photos do; pictures come again."""
    rng = Random(0)
    drawn = []
    for _ in range(_PICTURES):
        scene, buffer = scenes.imagine(rng.choice(scenes.CONCEPTS), rng), io.BytesIO()
        scenes.draw(scene, rng).resize((side, side)).effect_spread(8).save(buffer, "JPEG", quality=90)
        drawn.append((scene, buffer.getvalue()))
    for number in count():  # told, for a picture with a caption that was there before has the uid of that sample
        scene, image = drawn[number % _PICTURES]
        yield image, f"{scenes.describe(scene, rng)}, picture {number}"


def main(
    folder: Annotated[Path, typer.Option(help="scratch space, 1 GB")] = Path("out/bench-peer"),
    clip_retrieval: Annotated[
        str | None, typer.Option(metavar="PYTHON", help="the python of an environment that has it; else it is left out")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="tars whose JPEGs are embedded, instead of drawn pictures")] = None,
    model: Annotated[
        str | None, typer.Option(help="of open_clip, or its .json; without it the pocket filter's, then ViT-B-32")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="of --model; random weights by default")] = None,
    samples: Annotated[int, typer.Option(min=1, help="to embed, of ViT-B-32 a sixteenth")] = 2048,
    side: Annotated[int, typer.Option(min=1, help="pixels of a drawn picture")] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="of the peers")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="of which medians are told")] = 3,
    executor: Annotated[str, typer.Option(help="ray or local")] = "ray",
) -> None:
    """Print samples a second of every way, and winnow's ratio to each peer; one table a model."""
    folder = folder.absolute()
    cores = len(os.sched_getaffinity(0))
    both = {str(_POCKET): samples, "ViT-B-32": samples // 16}  # the second computes as much more for each
    for name, wanted in (both if model is None else {model: samples}).items():
        pairs = _drawn(side) if pool is None else _photos(pool)
        shards = make_shards(pairs, wanted, 2 * cores, folder / "shards")
        own = str(Path(name).absolute()) if name.endswith(".json") else name
        weights = checkpoint or folder / "random.pt"
        if checkpoint is None:
            _timed([sys.executable, "-c", _WEIGHTS, own, str(weights)], {}, folder / "weights.log")
        work = Work(folder, shards, own, weights.absolute(), cores, batch_size)
        title = f"{Path(name).stem}, {wanted // len(shards) * len(shards)} samples, {cores} cores, {executor}"
        Console().print(compare(work, clip_retrieval, executor, rounds, title))


if __name__ == "__main__":
    typer.run(main)
