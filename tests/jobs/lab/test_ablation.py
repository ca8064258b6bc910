"""The ablation's plan: one ingredient less each, equal steps, wrong captions in copies; judged is judged."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from tests.pools import members, pair, write_tar
from winnow.jobs.filter_network.evaluate import Truth
from winnow.jobs.filter_network.filter_job import parse_filter_job
from winnow.jobs.filter_network.precision import PRECISION
from winnow.jobs.job_file.job import read
from winnow.jobs.lab import ablation
from winnow.jobs.lab.ablation import EvaluationData, ablate, table_of
from winnow.pipeline.artifact import write_json
from winnow.pipeline.errors import ModelError

TRUTH = Truth(pa.chunked_array([["00" * 16]]), np.asarray(["clean"]), np.asarray([True]))
JUDGED = EvaluationData("pool.tar", TRUTH, "held.tar", "txt")


def values_in(folder: Path) -> dict[str, Any]:
    samples = [(f"{n}", pair(n, "x", captions=[f"text {n}"])) for n in range(8)]
    shards = write_tar(folder / "clean/0.tar", members(samples))
    path = Path(ablation.__file__).with_name("ablation.yaml")
    return read(str(path), [f"folder={folder}/out", f"clean.shards={shards}"])


def test_each_filter_lacks_one_thing_and_takes_as_many_steps(tmp_path: Path) -> None:
    values = values_in(tmp_path)
    lines = list(ablation._lines(values, tmp_path / "out", [0.25], 1))
    jobs = {name: parse_filter_job(changed) for line in lines for name, changed in line.steps}
    assert list(jobs) == [*ablation.ADDED, *ablation.TAKEN_AWAY, "25% wrong captions"]
    steps = {(job.training.epochs, job.training.samples_per_epoch, job.training.seed) for job in jobs.values()}
    assert steps == {(values["training"]["epochs"], values["training"]["samples_per_epoch"], 1)}
    whole = jobs["captions and augmentation"]
    assert jobs["one caption a picture"].clean.layers == 1 < whole.clean.layers
    assert not jobs["no augmentation"].training.augmentation
    assert whole.training.augmentation
    tuned = {name for name, job in jobs.items() if job.finetune is not None}
    assert tuned == {"then fine-tuned", "averaged with before"}
    assert (jobs["then fine-tuned"].ensemble, jobs["averaged with before"].ensemble) == (1.0, 0.5)
    wrong = jobs["25% wrong captions"]
    assert wrong.clean.captions == "json:captions"
    assert wrong.clean.shards == f"{tmp_path}/out/poisoned-0.25-1/*.tar"
    assert len(list((tmp_path / "out/poisoned-0.25-1").glob("*.tar"))) == 1
    assert len({job.folder for job in jobs.values()}) == 4, "only what shares trainings shares a folder"


def test_all_filters_of_one_ablation_run_in_one_precision(tmp_path: Path) -> None:
    values = values_in(tmp_path)
    write_json(str(tmp_path / "out" / PRECISION), {"precision": "amp_bf16"})  # of another machine
    for line in ablation._lines(ablation._in_one_precision(values, tmp_path / "out", pytest.fail), tmp_path, [0.5], 0):
        for _, changed in line.steps:
            job = parse_filter_job(changed)
            recipes = [job.training] + ([] if job.finetune is None else [job.finetune.training])
            assert {recipe.precision for recipe in recipes} == {"amp_bf16"}


def test_what_is_judged_is_not_trained_again(tmp_path: Path) -> None:
    values = values_in(tmp_path)
    recalls = {f"{a}_to_{b}_recall@{k}": 0.5 for a, b in (("image", "text"), ("text", "image")) for k in (1, 5)}
    for seed in range(2):
        for line in ablation._lines(values, tmp_path / "out", [], seed):
            for number, (name, _) in enumerate(line.steps):
                row = {"filter": name, "seed": seed, "auc": 0.6 + 0.1 * seed, **recalls}
                write_json(str(line.folder / f"judged-{number}.json"), row)
    said: list[str] = []
    rows = ablate(values, JUDGED, range(2), [], 2, said.append)
    assert [row["filter"] for row in rows[::2]] == [*ablation.ADDED, *ablation.TAKEN_AWAY]
    assert [row["seed"] for row in rows] == [0, 1] * 5
    told, *lines = said
    assert (told.startswith("precision "), len(lines)) == (True, 10)
    assert json.loads((tmp_path / "out" / PRECISION).read_text()) == {"precision": told.split()[1].strip(":")}
    printed = io.StringIO()
    Console(width=140, file=printed).print(table_of(rows))
    assert printed.getvalue().count("0.6500 ± 0.0707") == 5
    said.clear()
    ablate(values, JUDGED, range(2), [], 2, said.append)
    assert len(said) == 10, "a precision is chosen once"
    longer = {**values, "training": {**values["training"], "epochs": 40}}
    with pytest.raises(ModelError, match=r"a folder must hold rows of one ablation, but in .* job was"):
        ablate(longer, JUDGED, range(2), [], 2, said.append)
