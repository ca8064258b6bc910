"""Embeds the same tars by winnow, by clip-retrieval or by a plain webdataset loop, each as a timed process."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from winnow.pipeline.artifact import Artifact, read_table
from winnow.pipeline.columns import matrix
from winnow.pipeline.errors import ModelError
from winnow.pipeline.store.events import EventReader

_TAIL = 2000  # characters of a log that an error shows


WEIGHTS = """
import sys, open_clip, torch
model, file = sys.argv[1:]
if model.endswith(".json"):
    open_clip.add_model_config(model)
    model = model.rpartition("/")[2].removesuffix(".json")
torch.manual_seed(0)
torch.save({"state_dict": open_clip.create_model(model).state_dict()}, file)
"""
"""A program that writes random weights of a model to a file, the same each time."""


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
"""clip-retrieval's command line, patched for a model configuration of one's own. Models of open_clip run without this.

`--clip_model` takes a checkpoint file, but no configuration file. It also leaves models in training mode, as open_clip
makes them: a ResNet then normalises by the statistics of its batch, so a vector depends on the other pictures of it.
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
"""A plain webdataset loop, for comparison: a program of its own that imports nothing of winnow."""


@dataclass(frozen=True)
class Workload:
    """The work of every way: embed the images and captions of `shards` by one CLIP.

    model: a name of open_clip or a configuration `.json`. folder: scratch space.
    """

    folder: Path
    shards: tuple[Path, ...]
    model: str
    checkpoint: Path
    cores: int
    batch_size: int


@dataclass(frozen=True)
class PairVectors:
    """keys: (n,) text, sorted. image, text: float32 (n, d), of unit length up to the rounding of float16."""

    keys: np.ndarray
    image: np.ndarray
    text: np.ndarray


@dataclass(frozen=True)
class Ran:
    """One process. Seconds: embedding (first to last sample), the stage (None for a peer), the whole process, CPU."""

    vectors: PairVectors
    embedding: float
    stage: float | None
    whole: float
    cpu: float


def winnow(work: Workload, preprocess: str, executor: str) -> Ran:
    """Run a job that embeds and keeps everything, with an empty store, as `winnow run` does."""
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
    whole, cpu = timed(words, {}, work.folder / "winnow.log")
    done = [event for event in EventReader(str(store)).more() if event["event"] == "shard"]
    done = [event for event in done if event["stage"] == "samples"]
    embedding = max(event["t"] for event in done) - min(event["t"] - event["seconds"] for event in done)
    record = json.loads((store / "jobs/peer.json").read_bytes())
    samples, vectors = (Artifact.named(str(store), record["artifacts"][label]) for label in ("samples", "vectors.clip"))
    return Ran(_stored(samples, vectors), embedding, record["seconds"]["samples"], whole, cpu)


def _stored(samples: Artifact, vectors: Artifact) -> PairVectors:
    shards = sorted(samples.present())
    keys = np.concatenate([np.array(samples.read(index, ["key"])["key"].to_pylist()) for index in shards])
    tables = [vectors.read(index) for index in shards]
    towers = [np.concatenate([matrix(table[tower]) for table in tables]) for tower in ("image", "text")]
    return sorted_vectors(keys, *towers)


def clip_retrieval(work: Workload, python: str, threads: int) -> Ran:
    """Run `clip-retrieval inference` over the same tars, with the Python of an environment that has it."""
    out = work.folder / "clip-retrieval"
    shutil.rmtree(out, ignore_errors=True)
    own = work.model.endswith(".json")
    program = [_REGISTERED, work.model] if own else ["from clip_retrieval.cli import main; main()"]
    name = Path(work.model).stem if own else work.model
    # its command line takes a brace pattern for several tars; these are numbered without gaps
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
    whole, cpu = timed(words, {"OMP_NUM_THREADS": str(threads)}, work.folder / "clip-retrieval.log")
    told = [json.loads(file.read_bytes()) for file in (out / "stats").glob("*.json")]
    tables = [read_table(str(file), ["image_path"]) for file in sorted((out / "metadata").glob("*.parquet"))]
    keys = np.concatenate([np.array(table["image_path"].to_pylist()) for table in tables])
    towers = [
        np.concatenate([np.load(file) for file in sorted((out / f"{tower}_emb").glob("*.npy"))])
        for tower in ("img", "text")
    ]
    # the rate that it prints divides by a sum of clocks; total_duration is its loop, without loading and warm-up
    return Ran(sorted_vectors(keys, *towers), sum(one["total_duration"] for one in told), None, whole, cpu)


def plain_loop(work: Workload, threads: int) -> Ran:
    """Run the plain loop of webdataset and open_clip."""
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
    whole, cpu = timed(words, {"OMP_NUM_THREADS": str(threads)}, work.folder / "plain.log")
    with np.load(out) as found:
        return Ran(
            sorted_vectors(found["keys"], found["image"], found["text"]), float(found["seconds"]), None, whole, cpu
        )


def sorted_vectors(keys: np.ndarray, image: np.ndarray, text: np.ndarray) -> PairVectors:
    """The vectors in the order of their keys, as float32."""
    order = np.argsort(keys)
    return PairVectors(keys[order], image[order].astype(np.float32), text[order].astype(np.float32))


def timed(words: list[str], environment: Mapping[str, str], log: Path) -> tuple[float, float]:
    """Wall seconds of a process, and CPU seconds of it and of the children that it waited for."""
    started = time.perf_counter()
    with log.open("wb") as sink:
        child = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
        process = subprocess.Popen(words, stdout=sink, stderr=subprocess.STDOUT, env=child)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # such as Ctrl-C: a process that goes on would disturb the next measurement
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)  # os.wait4 has reaped it already
    if process.returncode != 0:
        raise ModelError(f"a process must exit with 0, but {log} ends with: {log.read_text(errors='replace')[-_TAIL:]}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime
