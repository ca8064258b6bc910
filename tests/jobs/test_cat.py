"""`winnow cat`: tars that webdataset and open_clip's own loader read through a pipe; light, loud, quiet when left."""

import fcntl
import gc
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import open_clip_train.data as training
import pytest
from open_clip_train import params

from tests.jobs.test_cli import ROOT, called
from tests.jobs.test_loader import exported, finished, result
from tests.jobs.test_run import job_values, planted
from tests.pools import read_tar
from tests.stages.results.test_shards import left_open
from winnow.jobs import cat as short
from winnow.jobs import cli, loader
from winnow.jobs.cat import READER_LEFT
from winnow.jobs.run import JobResult
from winnow.jobs.show import funnel

WINNOW = f"{shlex.quote(sys.executable)} -m jobs"

__all__ = ["result"]  # a fixture


def piped(result: JobResult, shards: str, options: str = "") -> str:
    """What --train-data is given."""
    return f"pipe:{WINNOW} cat {options} {result.job.store} planted {shards}"


def test_the_tars_of_all_shards_are_the_exported_samples(
    result: JobResult, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    found = {}
    for shard in range(4):
        if shard == 2:  # the way of the other commands, then its own
            monkeypatch.setattr(cli, "main", short.main)
        assert called(monkeypatch, "cat", result.job.store, "planted", f"0000{shard}") == 0
        path = tmp_path / "one.tar"
        path.write_bytes(capfdbinary.readouterr().out)
        found |= dict(read_tar(path))
    assert found == exported(result)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["planted", "4"], 2, "winnow: a shard of planted must be 0 to 3, got 4"),
        (["other", "0"], 2, "winnow: a job must have finished before it is read"),
        (["planted", "0", "--epoch", "9"], 2, "winnow: an epoch must be one that planted drew, got 9"),
        (["planted", "0", "--gap=-1"], 2, "winnow: a gap must be 0 bytes or more, got -1"),
        (["planted", "nine"], 2, "shard"),
    ],
)
@pytest.mark.parametrize("way", [cli.main, short.main])
def test_what_is_not_there_is_refused(
    result: JobResult,
    words: list[str],
    code: int,
    says: str,
    way: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "main", way)
    assert called(monkeypatch, "cat", result.job.store, *words) == code
    out, err = capsys.readouterr()
    assert (out, says in err) == ("", True)


def test_it_starts_without_what_the_other_commands_import(result: JobResult) -> None:
    heavy = {"torch", "ray", "faiss", "webdataset", "typer", "pydantic", "winnow.jobs.cli", "winnow.jobs.run"}
    code = (
        "import sys; from winnow.jobs.__main__ import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"  # it ends the process itself
        f"sys.exit(sorted({heavy!r} & set(sys.modules)) or 0)"
    )
    words = [sys.executable, "-c", code, "cat", result.job.store, "planted", "2"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) > 10_000


# many images of containers set it, and sys.stdout.buffer then takes a part of what it is given
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_had_enough_is_no_error(
    result: JobResult, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    words = [sys.executable, "-m", "winnow.jobs", "cat", result.job.store, "planted", "0"]
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)  # a tar of 70 kB would lie in a longer one when the reader leaves
    with subprocess.Popen(words, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE) as running:
        os.close(writer)
        assert len(os.read(reader, 100)) == 100
        os.close(reader)
        assert running.communicate() == (None, b"")
    assert running.returncode == READER_LEFT


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_interrupted_write_loses_nothing(
    result: JobResult, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after it, the rest or the mark of a failure, must stand where a reader looks for it."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    words = [sys.executable, "-m", "winnow.jobs", "cat", result.job.store, "planted", "0"]
    whole = subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen(words, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE) as running:
        os.close(writer)
        found = [os.read(reader, 100)]  # it waits for room in the pipe now
        running.send_signal(signal.SIGINT)
        while block := os.read(reader, 1 << 16):
            found.append(block)
        os.close(reader)
        assert running.communicate() == (None, b"")
    assert running.returncode == 130
    assert b"".join(found) == whole


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("target", ["/dev/full", "short.tar"])
def test_a_tar_that_finds_no_room_is_an_error(
    result: JobResult, target: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No room at all, and none after the first 40 kB: the last write takes a part of what it is given."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = f"ulimit -f 40; {WINNOW} cat {result.job.store} planted 0 > {shlex.quote(str(tmp_path / target))}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith("winnow: stdout must take a whole tar, but: ")


@contextmanager
def pipes_left_open() -> Iterator[None]:
    """As left_open; a child that still writes when nobody holds its pipe any more is kept by subprocess itself."""
    with left_open():
        yield
        gc.collect()
        for process in list(subprocess._active):  # type: ignore[attr-defined]  # nothing public names them
            process.stdout.close()
            process.wait(60)


def trainers_texts(data: str, count: int) -> list[str]:
    """Captions that open_clip's trainer is given by its own loader in an epoch, started as from its command line."""
    words = ["--dataset-type", "webdataset", "--train-data", data, "--train-num-samples", str(count)]
    args = params.parse_args([*words, "--batch-size", "1", "--workers", "0"])
    args.distributed, args.world_size = False, 1  # what its main adds
    with pipes_left_open():
        pictures = [lambda image: np.asarray(image).shape] * 2
        found = training.get_data(args, pictures, tokenizer=lambda text: [text])["train"].dataloader
        assert found.num_samples == count
        return [text for _, batch in found for text in batch]


def test_open_clips_loader_gives_each_sample_of_an_epoch_once(
    result: JobResult, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        texts = trainers_texts(piped(result, "{00000..00003}", "--epoch 1"), 30)
    wanted = loader.samples(result.job.store, "planted", epoch=1)
    assert sorted(texts) == sorted(sample["txt"].decode() for sample in wanted)
    assert len(texts) == 30
    assert caplog.records == []


def test_a_shard_that_changed_is_told_by_open_clips_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It logs and goes on; so the error must reach it, though the pipe had begun like any tar."""
    [url] = planted(tmp_path / "pool", 1)
    values = job_values(tmp_path, [], limits={"max_reject_fraction": 0.1}, shards=None)
    done = finished(values)
    Path(url).write_bytes(Path(url).read_bytes()[:-512])
    data = f"pipe:{WINNOW} cat {done.job.store} planted 0"
    with pipes_left_open(), caplog.at_level(logging.WARNING):
        assert list(training.tarfile_to_samples_nothrow([{"url": data}])) == []
    assert "Handling webdataset error" in caplog.text


def test_the_closing_lines_offer_it_where_no_shards_were_exported(tmp_path: Path) -> None:
    planted(tmp_path / "a pool", 2)
    store = str(tmp_path / "a store")
    policy = [{"random": {"count": 40}}]
    limits = {"max_reject_fraction": 0.1}
    done = finished(job_values(tmp_path, policy, "a pool", store=store, limits=limits, shards=None))
    words = shlex.split(funnel.training_command(done))
    data = words[words.index("--train-data") + 1]
    assert data == f"pipe:winnow cat '{store}' planted {{00000..00001}}"
    assert words[words.index("--train-num-samples") + 1] == "40"
    shell = shlex.split(data.removeprefix("pipe:winnow cat"))
    assert sum(loader.open_kept_samples(*shell[:2]).plan(n).samples for n in range(2)) == 40
