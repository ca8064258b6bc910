"""Refuses a second recipe, a second trainer and torn checkpoints in a folder; a trainer that fails says why.

That a training ends well, and begins anew after a stop, is seen in test_train_filter.py.
"""

import fcntl
import json
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from open_clip_train.params import parse_args
from pydantic import ValidationError

from winnow.jobs.filter_network import training
from winnow.jobs.filter_network.training import LOG, RECIPE, Recipe, run_training
from winnow.jobs.quickstart import pocket
from winnow.pipeline.artifact import DONE, write_json
from winnow.pipeline.errors import ModelError, TrainingError
from winnow.pipeline.lifeline import WATCHED

SHORT = Recipe(model=str(pocket.POCKET_CONFIG), epochs=2, precision="fp32", timeout_s=0.2)


def started(out: Path, recipe: Recipe = SHORT) -> str:
    """What a training that has no time at all leaves is a folder of its own, and this error."""
    with pytest.raises((ModelError, TrainingError)) as caught:
        run_training("nowhere/00000.tar", out, recipe)
    return str(caught.value)


def checkpoint(out: Path, epoch: int) -> Path:
    path = out / "checkpoints" / f"epoch_{epoch}.pt"
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:  # what torch.save writes is one
        file.writestr("weights", bytes(1000))
    return path


def test_the_options_are_those_of_open_clips_own_parser(tmp_path: Path) -> None:
    recipe = Recipe(
        model="a/b/pocket.json",
        pretrained="start.pt",
        epochs=3,
        samples_per_epoch=500,
        batch_size=64,
        learning_rate=2e-4,
        warmup_steps=7,
        augmentation={"scale": (0.5, 1.0), "color_jitter_prob": 0.8, "use_timm": False},
        processes=4,
        precision="amp_bf16",
        seed=5,
    )
    command = training._command("x/{00..03}.tar::y/{00..03}.tar", tmp_path / "run", recipe)
    mark = command.index("--")
    assert command[1:mark] == [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"),
        *("-m", "winnow.stages.encoders.trainer", "a/b/pocket.json", WATCHED),
    ]
    found = parse_args(command[mark + 1 :])
    assert (found.model, found.pretrained, found.epochs, found.train_num_samples) == ("pocket", "start.pt", 3, 500)
    assert (found.batch_size, found.lr, found.warmup, found.wd, found.seed) == (16, 2e-4, 7, 0.2, 5)
    assert found.aug_cfg == {"scale": (0.5, 1.0), "color_jitter_prob": 0.8, "use_timm": False}
    assert (found.logs, found.name, found.resume) == (str(tmp_path), "run", "latest")
    assert found.local_loss
    assert found.gather_with_grad
    assert found.train_data == "x/{00..03}.tar::y/{00..03}.tar"


def test_one_process_needs_no_torchrun_and_a_known_model_no_file(tmp_path: Path) -> None:
    command = training._command("x.tar", tmp_path / "run", Recipe(model="ViT-B/32", precision="fp32"))
    assert command[1:6] == ["-m", "winnow.stages.encoders.trainer", "-", WATCHED, "--"]
    found = parse_args(command[6:])
    assert (found.model, found.batch_size, found.aug_cfg, found.local_loss) == ("ViT-B/32", 256, {}, False)


@pytest.mark.parametrize(
    ("code", "message"),
    [("raise SystemExit(3)", "ended with exit code 3"), ("", "left no ")],
)
def test_a_trainer_that_fails_is_an_error_with_the_end_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    lines = f"[print(n) for n in range(40_000)]; {code}"
    monkeypatch.setattr(training, "_command", lambda *_: [sys.executable, "-c", lines])
    with pytest.raises(TrainingError) as caught:
        run_training("nowhere/00000.tar", tmp_path, replace(SHORT, timeout_s=60))
    told, *tail = str(caught.value).splitlines()
    assert told.startswith("open_clip's trainer must write a checkpoint of nowhere/00000.tar, but it " + message)
    assert str(tmp_path / LOG) in told
    assert tail == [str(n) for n in range(40_000 - 15, 40_000)]
    assert not (tmp_path / DONE).exists()


def test_a_trainer_that_takes_too_long_is_stopped_and_leaves_no_process(tmp_path: Path) -> None:
    assert "took longer than 0.2 s" in started(tmp_path)
    with (tmp_path / LOG).open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its processes would hold it


def test_a_trainer_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    recipe = f"Recipe(model={str(pocket.POCKET_CONFIG)!r}, samples_per_epoch=9, precision='fp32')"
    call = f"run_training('pipe:sleep 60', Path({str(tmp_path)!r}), {recipe})"
    lines = f"from pathlib import Path; from winnow.jobs.filter_network.training import Recipe, run_training; {call}"
    with subprocess.Popen([sys.executable, "-c", lines]) as starter:
        children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children")
        while not children.read_text():
            assert starter.poll() is None
            time.sleep(0.05)
        starter.kill()
    with (tmp_path / LOG).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the trainer holds it to its end; a test has a time limit


def test_another_model_of_the_same_name_is_refused(tmp_path: Path) -> None:
    config = json.loads(pocket.POCKET_CONFIG.read_text())
    (tmp_path / "mine.json").write_text(json.dumps(config))
    recipe = replace(SHORT, model=str(tmp_path / "mine.json"))
    started(tmp_path / "run", recipe)
    (tmp_path / "mine.json").write_text(json.dumps({**config, "embed_dim": 8}))
    assert "a folder must hold trainings of one model, but in " in started(tmp_path / "run", recipe)
    (tmp_path / "mine.json").unlink()
    assert "a model must be a name of open_clip or a configuration .json, got" in started(tmp_path / "run", recipe)


def test_two_trainers_never_share_a_folder(tmp_path: Path) -> None:
    tmp_path.joinpath(LOG).touch()
    with (tmp_path / LOG).open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert "a folder must have one trainer at a time, but another one writes" in started(tmp_path)


def test_a_folder_takes_one_recipe(tmp_path: Path) -> None:
    started(tmp_path)
    later = replace(SHORT, epochs=3, timeout_s=5, workers=2, threads=1)
    assert "epochs was 2 and is 3; use another folder" in started(tmp_path, later)
    with pytest.raises(ModelError, match=r"shards was 'nowhere/00000\.tar' and is 'other\.tar'"):
        run_training("other.tar", tmp_path, SHORT)


def test_how_it_is_run_is_no_part_of_the_recipe(tmp_path: Path) -> None:
    started(tmp_path)
    before = (tmp_path / RECIPE).read_bytes()
    again = replace(SHORT, timeout_s=0.3, workers=2, threads=1)
    assert "took longer than 0.3 s" in started(tmp_path, again)
    assert (tmp_path / RECIPE).read_bytes() == before


def test_a_finished_training_is_returned_at_once(tmp_path: Path) -> None:
    started(tmp_path)
    last = checkpoint(tmp_path, 2)
    assert "took longer" in started(tmp_path)  # not finished without its last file
    write_json(str(tmp_path / DONE), {})
    assert run_training("nowhere/00000.tar", tmp_path, SHORT) == last


def test_half_a_checkpoint_is_not_gone_on_with(tmp_path: Path) -> None:
    started(tmp_path)
    whole, torn = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    torn.write_bytes(torn.read_bytes()[:500])
    started(tmp_path)
    assert whole.exists()
    assert not torn.exists()


def test_a_batch_is_shared_out_evenly() -> None:
    with pytest.raises(ValidationError, match="10 pairs for 4 processes"):
        Recipe(model="ViT-B-32", batch_size=10, processes=4)
