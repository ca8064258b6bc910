"""Lands one checkpoint: a small CLIP that open_clip's own trainer fits to the rendered world's clean pairs.

`open_clip.add_model_config(CONFIG)` makes the name "pocket" known, and then
`open_clip.create_model_and_transforms("pocket", pretrained=checkpoint)` loads what `train` returns.
"""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.errors import ModelError

CONFIG = Path(__file__).with_name("pocket.json")
"""The model's shape, in open_clip's own form."""

LOG = "train.log"
"""File under `out` that holds everything the trainer said."""

LAUNCH = """
import sys
import open_clip
open_clip.add_model_config(sys.argv[1])
from open_clip_train.main import main
sys.exit(main(sys.argv[2:]))
"""
TAIL_LINES = 15


def train(
    shards: str,
    out: Path,
    *,
    epochs: int = 6,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    warmup_steps: int = 40,
    seed: int = 0,
    timeout_s: float = 1800,
) -> Path:
    """Train the pocket model on webdataset shards; return the path of its checkpoint, `epoch_<epochs>.pt`.

    shards: tars of jpg and txt as a path or brace pattern, with sizes.json (tar name to samples) beside them.
    out: a folder that holds no earlier training; gets train.log and pocket/checkpoints.
    batch_size: pairs per step, and so the number of captions each picture is told apart from (64 to 512).
    learning_rate: peak of the cosine schedule, after warmup_steps of linear rise.
    seed: of the initial weights; the trainer's shuffle follows the clock, so two runs differ a little.
    Raises: ModelError with the log's tail when the trainer fails, leaves no checkpoint or exceeds timeout_s.
    """
    out.mkdir(parents=True, exist_ok=True)
    log = out / LOG
    options = {
        "model": CONFIG.stem,
        "train-data": shards,
        "dataset-type": "webdataset",
        "logs": out,
        "name": CONFIG.stem,
        "epochs": epochs,
        "batch-size": batch_size,
        "lr": learning_rate,
        "warmup": warmup_steps,
        "wd": 0.1,
        "precision": "fp32",
        "device": "cpu",
        "workers": 1,
        "save-frequency": epochs,
        "log-every-n-steps": 20,
        "seed": seed,
    }
    command = [sys.executable, "-c", LAUNCH, str(CONFIG)]
    command += [f"--{name}={value}" for name, value in options.items()]
    # threads that spin while they wait take the core that decodes the next batch
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        with log.open("wb") as sink:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=timeout_s,
                check=False,
            ).returncode
    except subprocess.TimeoutExpired as error:
        raise ModelError(_failure(f"took longer than {timeout_s:g} s", shards, log)) from error
    checkpoint = out / CONFIG.stem / "checkpoints" / f"epoch_{epochs}.pt"
    if code != 0:
        raise ModelError(_failure(f"ended with exit code {code}", shards, log))
    if not checkpoint.is_file():
        raise ModelError(_failure(f"left no {checkpoint}", shards, log))
    return checkpoint


def _failure(what: str, shards: str, log: Path) -> str:
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
    return (
        f"open_clip's trainer must leave a checkpoint of {shards}, but it {what}; mend what its log's end "
        f"({log}) names and train into a fresh folder:\n{tail}"
    )
