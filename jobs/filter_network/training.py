"""One training by open_clip's trainer in a folder of its own; resumes from its last checkpoint.

The trainer runs in its own process: one Python, or torchrun with several. It ends with the process that started it and
resumes from its last complete checkpoint. A finished training is used again, and a folder takes one recipe only.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from winnow.jobs.filter_network.precision import settled
from winnow.pipeline.artifact import DONE, json_if_whole, write_json
from winnow.pipeline.errors import ModelError, TrainingError
from winnow.pipeline.fingerprint import canonical
from winnow.pipeline.lifeline import WATCHED
from winnow.pipeline.storage import home
from winnow.stages.encoders.clip_model import Model
from winnow.stages.encoders.weights import Weights

LOG = "train.log"
"""The log file of a training: all output of its trainer, over all calls."""

RECIPE = "recipe.json"
MODEL = "model.json"
_BY_NAME = "-"
_TAIL_LINES = 15
_TAIL_BYTES = 64 << 10
_GRACE_S = 45.0  # torchrun gives its processes 30 s
_HOW = {"fingerprint": False}  # settings that do not change what is learned

Plain = bool | int | float | str
Augmentation = Mapping[str, Plain | tuple[float, ...] | None]
TrainerPrecision = Literal["auto", "fp32", "amp", "amp_bf16", "amp_bfloat16", "bf16", "fp16", "pure_bf16", "pure_fp16"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """How to train a CLIP; names are those of open_clip_train, sizes are for the whole training.

    model: a name of open_clip or a model configuration `.json`.
    pretrained: initial weights, a checkpoint file or a tag of open_clip; None for random weights.
    epochs: number of checkpoints; an epoch is samples_per_epoch pairs, or every pair of sizes.json once.
    batch_size: pairs per step over all processes, so each image is contrasted with this many captions.
    learning_rate: peak of the cosine schedule, after warmup_steps of linear rise.
    augmentation: fields of open_clip's AugmentationCfg, such as scale, color_jitter with color_jitter_prob.
    seed: of the initial weights and the order of the shards. The order in the trainer's shuffle buffer depends on the
        clock, so two runs differ a little.
    precision: a precision of open_clip_train, or `auto`: amp_bf16 if the GPU has it or if it is measured to be faster
        on this CPU, else amp on a GPU and fp32 on a CPU. recipe.json records the choice, and a resumed training keeps
        it.
    processes: trainers side by side, one per GPU; torchrun starts more than one on this machine.
    workers: decoding processes per trainer. threads: of each trainer (OMP_NUM_THREADS); None leaves it as set.
    timeout_s: of one call of `train`, in seconds.
    """

    model: Model
    pretrained: Weights | None = None
    epochs: int = Field(default=8, ge=1)
    samples_per_epoch: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=256, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.2, ge=0)
    augmentation: Augmentation = field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    precision: TrainerPrecision = "auto"
    device: str = "cpu"
    processes: int = Field(default=1, ge=1)
    workers: int = field(default=1, metadata=_HOW)
    threads: int | None = field(default=None, metadata=_HOW)
    timeout_s: float = field(default=86_400.0, metadata=_HOW)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", home(self.model))
        object.__setattr__(self, "pretrained", self.pretrained and home(self.pretrained))
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size must be a multiple of processes, got {self.batch_size} pairs for {self.processes} "
                "processes"
            )


def run_training(shards: str, out: Path, recipe: Recipe, say: Callable[[str], None] | None = None) -> Path:
    """Train to the end of a recipe; return the path of the last checkpoint, `out/checkpoints/epoch_<epochs>.pt`.

    shards: tars of jpg and txt as open_clip takes them: a path, a brace pattern, several joined by `::`, or `pipe:`.
        Without samples_per_epoch in the recipe, sizes.json (samples by tar name) must be beside them.
    out: the folder of this training alone. The call resumes an earlier one there, or returns its result if finished.
    say: is called with the chosen precision and the reason.
    Only the last checkpoint is kept.
    Raises: ModelError if this machine lacks the recipe's GPU, or if `out` has a training of another recipe, another
        model under the same name, or other shards. TrainingError if another call still trains there; also, with the
        end of the log, if the trainer fails, writes no checkpoint or exceeds timeout_s.
    """
    out = out.absolute()
    recipe = settled(recipe, out / RECIPE, say)
    log = out / LOG
    checkpoint = out / "checkpoints" / f"epoch_{recipe.epochs}.pt"
    claim(out / RECIPE, {"shards": shards, **_plain(recipe)}, "the training of one recipe")
    claim_model(out, recipe.model)
    if (out / DONE).is_file() and checkpoint.is_file():
        return checkpoint
    started = time.monotonic()
    with log.open("ab") as sink:
        try:
            # the trainer inherits the lock and holds it until it ends, even if this process is killed
            fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"a folder must have one trainer at a time, but another one writes {log}; wait for it or stop it"
            ) from error
        _remove_torn(checkpoint.parent)
        try:
            code = _run(_command(shards, out, recipe), sink.fileno(), recipe)
        except subprocess.TimeoutExpired as error:
            raise TrainingError(_failure(f"took longer than {recipe.timeout_s:g} s", shards, log)) from error
    if code != 0:
        raise TrainingError(_failure(f"ended with exit code {code}", shards, log))
    if not checkpoint.is_file():
        raise TrainingError(_failure(f"left no {checkpoint}", shards, log))
    write_json(str(out / DONE), {"checkpoint": checkpoint.name, "seconds": round(time.monotonic() - started, 1)})
    return checkpoint


def claim(path: Path, asked: Mapping[str, object], what: str) -> None:
    """Record what a folder is for, as plain JSON. Raises ModelError if the folder has another record already."""
    found = json_if_whole(str(path))
    if found is None:
        write_json(str(path), asked)
    elif changed := [key for key in {**found, **asked} if not _same(found.get(key), asked.get(key))]:
        told = "; ".join(f"{key} was {found.get(key)!r} and is {asked.get(key)!r}" for key in changed)
        raise ModelError(f"a folder must hold {what}, but in {path.parent} {told}; use another folder")


def _same(before: object, now: object) -> bool:
    """Whether two values of a recipe mean the same.

    For a model configuration only the file name counts, because claim_model compares the content. A relative name of
    weights equals an absolute name that ends in it.
    """
    if not isinstance(before, str) or not isinstance(now, str):
        return before == now
    if before.endswith(".json"):
        return Path(before).name == Path(now).name
    return before == now or (not before.startswith("/") and now.endswith(f"/{before}"))


def claim_model(folder: Path, model: str) -> None:
    """Keep a copy of a model configuration `.json` in a folder. Raises ModelError if the folder has another one."""
    if not model.endswith(".json"):
        return
    try:
        config = json.loads(Path(model).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"a model must be a name of open_clip or a configuration .json, got {model}: {error}"
        ) from error
    claim(folder / MODEL, config, "trainings of one model")


def _plain(recipe: Recipe) -> dict[str, object]:
    plain = canonical(recipe)
    return {key: value for key, value in plain.items() if key != "class"} if isinstance(plain, dict) else {}


def _command(shards: str, out: Path, recipe: Recipe) -> list[str]:
    config = recipe.model if recipe.model.endswith(".json") else _BY_NAME
    options = {
        "model": recipe.model if config == _BY_NAME else Path(config).stem,
        "train-data": shards,
        "dataset-type": "webdataset",
        "logs": out.parent,
        "name": out.name,
        "resume": "latest",
        "epochs": recipe.epochs,
        "batch-size": recipe.batch_size // recipe.processes,
        "lr": recipe.learning_rate,
        "warmup": recipe.warmup_steps,
        "wd": recipe.weight_decay,
        "precision": recipe.precision,
        "device": recipe.device,
        "workers": recipe.workers,
        "save-frequency": 1,
        "log-every-n-steps": 20,
        "seed": recipe.seed,
    }
    if recipe.pretrained is not None:
        options["pretrained"] = recipe.pretrained
    if recipe.samples_per_epoch is not None:
        options["train-num-samples"] = recipe.samples_per_epoch
    words = [f"--{name}={value}" for name, value in options.items()] + ["--delete-previous-checkpoint"]
    if recipe.processes > 1:
        words += ["--local-loss", "--gather-with-grad"]  # the whole batch's loss, without its matrix in each process
    if recipe.augmentation:
        words += ["--aug-cfg", *(f"{name}={value!r}" for name, value in recipe.augmentation.items())]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={recipe.processes}"]
    launch = [sys.executable, *(torchrun if recipe.processes > 1 else []), "-m", "winnow.stages.encoders.trainer"]
    return [*launch, config, WATCHED, "--", *words]


def _run(command: Sequence[str], sink: int, recipe: Recipe) -> int:
    """Run a command, end all processes that it started, and return its exit code. Raises TimeoutExpired."""
    # threads that spin while they wait would take the core that decodes the next batch
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    if recipe.threads is not None:
        environment["OMP_NUM_THREADS"] = str(recipe.threads)
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # for WATCHED: the kernel closes it if this process is killed
        stdout=sink,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    ) as trainer:
        try:
            return trainer.wait(recipe.timeout_s)
        except BaseException:
            os.killpg(trainer.pid, signal.SIGTERM)
            try:
                trainer.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(trainer.pid, signal.SIGKILL)
            raise


def _remove_torn(checkpoints: Path) -> None:
    """Delete incomplete checkpoints. torch.save is not atomic, and a trainer would resume from half a file."""
    for path in checkpoints.glob("*.pt"):
        if not zipfile.is_zipfile(path):
            path.unlink()


def _failure(what: str, shards: str, log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        tail = "\n".join(file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])
    return (
        f"open_clip's trainer must write a checkpoint of {shards}, but it {what}; fix the error at the end of its log "
        f"({log}), and run the same command again to resume:\n{tail}"
    )
