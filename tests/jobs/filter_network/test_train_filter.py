"""One filter network: stopped, resumed and fine-tuned for real, averaged; a job embeds with it; every part is named.

The first training is planted as finished, for a start of open_clip's trainer is ten seconds; fine-tuning is real.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.jobs.test_cli import called
from tests.pools import jpeg, members, pair, tiny_clip, write_tar
from winnow.jobs.filter_network import filter_job
from winnow.jobs.filter_network.filter_job import parse_filter_job
from winnow.jobs.filter_network.train_filter import PROVENANCE, Filter, run_filter_job
from winnow.jobs.filter_network.training import LOG
from winnow.jobs.job_file.job import parse as parse_job
from winnow.jobs.run import run_job
from winnow.pipeline.artifact import DONE, write_json
from winnow.pipeline.errors import JobError, TrainingError
from winnow.pipeline.executors.local import LocalExecutor

FILES = [path for path in Path(filter_job.__file__).parents[1].glob("*.yaml") if "\nclean:" in path.read_text()]
TRAINING = {"epochs": 1, "batch_size": 8, "warmup_steps": 1, "learning_rate": 1e-3, "precision": "fp32", "threads": 1}


def values_in(folder: Path) -> dict[str, Any]:
    """A job over 32 pictures with two captions each, and 10 labelled ones."""
    for shard in range(2):
        captions = [[f"a first text {n}", f"a second text {n}"] for n in range(16)]
        samples = [(f"{n:04d}", pair(16 * shard + n, "x", captions=captions[n])) for n in range(16)]
        write_tar(folder / f"clean/{shard:05d}.tar", members(samples))
    images = [{"bytes": jpeg(100 + n), "path": None} for n in range(10)]
    pq.write_table(pa.table({"image": images, "label": [n % 2 for n in range(10)]}), folder / "task.parquet")
    (folder / "names.txt").write_text("red fish\nblue_fish\n")
    return {
        "name": "mine",
        "folder": str(folder / "out"),
        "model": tiny_clip(folder / "model").model,
        "clean": {"shards": f"{folder}/clean/*.tar", "captions": "json:captions", "layers": 2},
        "training": dict(TRAINING),
        "finetune": {
            "task": {"images": f"{folder}/task.parquet", "classnames": f"{folder}/names.txt", "templates": "simple"},
            "training": {**TRAINING, "learning_rate": 1e-2},
        },
        "ensemble": 0.25,
    }


def untrained(config: str) -> dict[str, torch.Tensor]:
    """Weights of a configuration's model, the same each time."""
    open_clip.add_model_config(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights: dict[str, torch.Tensor] = open_clip.create_model(Path(config).stem).state_dict()
    return weights


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Filter, list[str]]:
    folder = tmp_path_factory.mktemp("filter")
    values, said = values_in(folder), []
    short = {**values, "training": {**TRAINING, "timeout_s": 0.2}}
    with pytest.raises(TrainingError, match=r"took longer than 0\.2 s"):
        run_filter_job(parse_filter_job(short), LocalExecutor(2), said.append)
    [base] = (folder / "out").glob("base-*")
    (base / "checkpoints").mkdir(exist_ok=True)
    torch.save({"state_dict": untrained(values["model"])}, base / "checkpoints/epoch_1.pt")
    write_json(str(base / DONE), {"seconds": 1.0})
    finetune = {**values["finetune"], "training": {**values["finetune"]["training"], "timeout_s": 0.2}}
    with pytest.raises(TrainingError, match=r"took longer than 0\.2 s"):
        run_filter_job(parse_filter_job({**values, "finetune": finetune}), LocalExecutor(2), said.append)
    [tuned] = (folder / "out").glob("tuned-*")
    (tuned / "checkpoints").mkdir(exist_ok=True)
    (tuned / "checkpoints/epoch_1.pt").write_bytes(b"PK\x03\x04 half a checkpoint")
    found = run_filter_job(parse_filter_job(values), LocalExecutor(2), said.append)
    return values, found, said


def weights(path: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return loaded


def steps(found: Filter) -> tuple[Path, Path]:
    """Checkpoints of the training and of the fine-tuning."""
    names = {name: facts["folder"] for name, facts in found.provenance["steps"].items()}  # type: ignore[attr-defined]
    folder = found.weights.parent
    return (
        folder / names["base"] / "checkpoints/epoch_1.pt",
        folder / names["tuned"] / "checkpoints/epoch_1.pt",
    )


def test_the_filter_is_the_average_of_before_and_after(made: tuple[dict[str, Any], Filter, list[str]]) -> None:
    _, found, _ = made
    before, after = (weights(path) for path in steps(found))
    mixed = weights(found.weights)
    assert mixed.keys() == before.keys() == after.keys()
    moved = 0.0
    for name, value in mixed.items():
        expected = 0.75 * before[name].double() + 0.25 * after[name].double()
        np.testing.assert_array_equal(value.numpy(), expected.to(value.dtype).numpy(), err_msg=name)
        moved = max(moved, float((before[name] - after[name]).abs().max()))
    assert moved > 1e-4, "fine-tuning begins at the trained weights, and changes them"
    assert moved < 0.5, "it does not begin anew"


def test_a_job_embeds_with_it(made: tuple[dict[str, Any], Filter, list[str]], tmp_path: Path) -> None:
    values, found, _ = made
    encoder = {"model": str(found.config), "pretrained": str(found.weights)}
    pool = {"shards": values["clean"]["shards"]}
    job = {"name": "uses", "store": str(tmp_path / "store"), "pool": pool, "embeddings": {"clip": encoder}}
    policy = [{"similarity": {"by": "clip", "fraction": 0.5}}]
    result = run_job(parse_job({**job, "policy": policy}), LocalExecutor(1), lambda _: None)
    assert (result.counts["pool"], result.counts["kept"]) == (32, 16)


def test_provenance_names_every_part(made: tuple[dict[str, Any], Filter, list[str]]) -> None:
    values, found, _ = made
    record = json.loads((found.weights.parent / PROVENANCE).read_text())
    assert record == found.provenance
    assert record["filter"] == {
        "model": f"sha256:{hashlib.sha256(found.config.read_bytes()).hexdigest()}",
        "pretrained": f"sha256:{hashlib.sha256(found.weights.read_bytes()).hexdigest()}",
    }
    before, after = steps(found)
    for name, path in (("base", before), ("tuned", after)):
        assert record["steps"][name]["checkpoint"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert record["steps"]["tuned"]["parent"]["pretrained"] == record["steps"]["base"]["checkpoint"]
    assert record["steps"]["base"]["parent"]["pretrained"] == "random"
    assert record["steps"]["base"]["pairs"]["pairs"] == 2 * record["steps"]["base"]["pairs"]["pictures"] == 64
    assert record["steps"]["tuned"]["pairs"]["pictures"] == 10
    assert [found["files"] for found in record["steps"]["tuned"]["inputs"]] == [2]  # images and class names
    assert [record["steps"][name]["precision"] for name in ("base", "tuned")] == ["fp32", "fp32"]
    assert record["weights"] == {before.parts[-3]: 0.75, after.parts[-3]: 0.25}
    assert record["job"]["clean"]["layers"] == values["clean"]["layers"]


def test_a_stopped_training_went_on_in_its_folder(made: tuple[dict[str, Any], Filter, list[str]]) -> None:
    _, found, _ = made
    tuned = steps(found)[1].parents[1]
    assert [path.name for path in found.weights.parent.glob("tuned-*")] == [tuned.name]
    assert "No latest resume checkpoint found" in (tuned / LOG).read_text(), "half a checkpoint is none"
    assert "Train Epoch: 0" in (tuned / LOG).read_text()


def test_again_nothing_is_trained_and_the_command_says_what_to_write(
    made: tuple[dict[str, Any], Filter, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values, found, _ = made
    before = found.weights.stat().st_mtime_ns
    job = found.weights.parent / "job.yaml"
    job.write_text(json.dumps(values))
    assert called(monkeypatch, "train-filter", str(job), "--workers", "1") == 0
    out, err = capsys.readouterr()
    assert f"  clip: {{model: {found.config}, pretrained: {found.weights}}}" in out
    assert "done before" in err
    assert found.weights.stat().st_mtime_ns == before


def test_another_share_needs_no_training(made: tuple[dict[str, Any], Filter, list[str]], tmp_path: Path) -> None:
    values, found, _ = made
    short = {**TRAINING, "timeout_s": 0.001}
    finetune = {**values["finetune"], "training": {**values["finetune"]["training"], "timeout_s": 0.001}}
    tuned = {**values, "training": short, "finetune": finetune, "ensemble": 1.0}
    kept = found.weights.read_bytes(), (found.weights.parent / PROVENANCE).read_bytes()
    again = run_filter_job(parse_filter_job(tuned), LocalExecutor(1), lambda _: None)
    assert not again.reused
    after = weights(steps(found)[1])
    assert all(torch.equal(value, after[name]) for name, value in weights(again.weights).items())
    # the other tests' filter again
    back = run_filter_job(
        parse_filter_job({**values, "training": short, "finetune": finetune}), LocalExecutor(1), lambda _: None
    )
    assert back.weights.read_bytes() == kept[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_filter_job_of_the_project_is_read(path: Path) -> None:
    assert filter_job.load_filter_job(str(path)).training.augmentation
    assert path.read_text().startswith("#"), "a job file opens with its promise"


def test_there_are_filter_jobs_to_read() -> None:
    assert {"dfn_paper", "dfn_pocket"} <= {path.stem for path in FILES}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean": None}, "a filter's job must have clean; its keys are name, folder"),
        ({"trainning": {}}, "the job has no key 'trainning'; did you mean training?"),
        ({"clean": {"shards": "a.tar", "layer": 2}}, "clean has no key 'layer'; did you mean layers?"),
        ({"clean": {"shards": "a.tar", "layers": 0}}, "clean.layers: Input should be greater than or equal to 1"),
        ({"training": {"epoch": 2}}, "training has no key 'epoch'; did you mean epochs?"),
        ({"training": {"precision": "int8"}}, "training.precision: Input should be 'auto', 'fp32', 'amp'"),
        ({"training": {"model": "x"}}, "training must not have model, because one model holds for the whole job"),
        ({"training": {"batch_size": 10, "processes": 4}}, "got 10 pairs for 4 processes"),
        ({"finetune": {}}, "finetune must have task (labelled images), pairs (captioned images), or both"),
        ({"finetune": {"task": {"images": "a"}}}, "finetune.task.classnames: Field required"),
        (
            {"finetune": {"pairs": {"shards": "a"}, "training": {"pretrained": "x"}}},
            "finetune.training must not have pretra",
        ),
        ({"ensemble": 1.5}, "ensemble must be between 0 and 1 (share of the fine-tuned weights), got 1.5"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], message: str) -> None:
    job = {"name": "mine", "folder": "out", "model": "ViT-B-32", "clean": {"shards": "a.tar"}, **changes}
    with pytest.raises(JobError) as error:
        parse_filter_job(job)
    assert message in str(error.value)


def test_the_trainer_writes_to_this_machine() -> None:
    job = {"name": "mine", "folder": "s3://bucket/x", "model": "ViT-B-32", "clean": {"shards": "a.tar"}}
    with pytest.raises(JobError, match="folder must be local, got s3://bucket/x"):
        run_filter_job(parse_filter_job(job), LocalExecutor(1), lambda _: None)
