"""Each way to commit a file, over real servers: FTP and SFTP here; S3, memory and local files in test_storage.py."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from tests.pools import Samples, opened, write_vectors
from tests.tree import ROOT
from winnow.pipeline import storage
from winnow.pipeline.errors import StorageError
from winnow.pipeline.storage.commits import WAYS
from winnow.pipeline.storage.scratch import remove_ownerless
from winnow.stages.cuts.similarity import Similarity

DAY_S = 90_000.0
USER, PASSWORD = "winnow", "secret"


class Served:
    """A folder that a server process serves; see tests/servers.py."""

    def __init__(self, folder: Path, scheme: str) -> None:
        self.folder, self.url = folder, f"{scheme}://127.0.0.1/out"

    def halve(self) -> None:
        """Let the server lose half of the next upload."""
        self.folder.with_suffix(".halve").touch()

    def refuse(self) -> None:
        """Let the server refuse to rename onto a file that is there."""
        self.folder.with_suffix(".refuse").touch()


@contextmanager
def serving(scheme: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Start the server; fsspec's configuration logs its client in."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.servers", scheme, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        login = {"username": USER, "password": PASSWORD, "port": int(process.stdout.readline())}
        more = {"allow_agent": False, "look_for_keys": False} if scheme == "sftp" else {}
        monkeypatch.setitem(fsspec.config.conf, scheme, login | more)
        yield Served(folder, scheme)
        process.kill()


@pytest.fixture(params=["ftp", "sftp"])
def served(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Storage that writes in place, each kind in turn."""
    with serving(request.param, tmp_path / "served", monkeypatch) as found:
        yield found


def test_a_file_on_storage_that_writes_in_place_is_whole_or_not_there(served: Served) -> None:
    url, content = storage.join(served.url, "deep", "file.bin"), os.urandom(300_000)
    path = served.folder / "out/deep/file.bin"
    served.halve()
    with pytest.raises(StorageError, match=f"cannot write {url}: .*nothing was left under that name"):
        storage.write_bytes(url, content)
    assert list(path.parent.iterdir()) == []
    storage.write_bytes(url, content)
    assert path.read_bytes() == storage.read_bytes(url) == content
    served.halve()
    with pytest.raises(StorageError, match="cannot write"):
        storage.write_bytes(url, bytes(200_000))
    assert path.read_bytes() == content  # what was there is still there
    storage.write_bytes(url, b"other")
    assert path.read_bytes() == b"other"
    assert [path.name for path in path.parent.iterdir()] == ["file.bin"]


def test_a_rename_that_refuses_an_existing_file_commits_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SMB and HDFS refuse it."""
    with serving("ftp", tmp_path / "served", monkeypatch) as ftp:
        ftp.refuse()
        url = storage.join(ftp.url, "file.bin")
        for content in (b"one", b"two"):
            storage.write_bytes(url, content)
            assert storage.read_bytes(url) == content
        assert [path.name for path in (ftp.folder / "out").iterdir()] == ["file.bin"]


def test_what_killed_writers_left_there_is_removed_after_a_day(served: Served) -> None:
    storage.write_bytes(storage.join(served.url, "file.bin"), b"whole")
    folder = served.folder / "out"
    old, new = (folder / f".{name}.{'0' * 32}.tmp" for name in ("1.parquet", "2.parquet"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - DAY_S,) * 2)
    assert [storage.name_of(found.url) for found in storage.listing(served.url)] == ["file.bin"]
    assert storage.remove_abandoned(served.url) == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_a_pool_is_filtered_on_storage_that_writes_in_place(served: Served, tmp_path: Path) -> None:
    samples = Samples.drawn(30)
    cut = Similarity(by="clip", fraction=0.5)
    here = opened(write_vectors(str(tmp_path / "pool"), samples, 3), store=str(tmp_path / "store"))
    there = opened(write_vectors(storage.join(served.url, "pool"), samples, 3), store=served.url)
    assert there.through(cut).kept == here.through(cut).kept
    assert len(there.through(cut).kept) == 15


@pytest.mark.parametrize("scheme", ["box", "gdrive", "dropbox", "adl", "http"])
def test_storage_that_cannot_commit_is_refused_by_name(scheme: str) -> None:
    with pytest.raises(StorageError, match=f"appears whole or not at all; winnow does not know this of {scheme}://"):
        storage.check_commits(f"{scheme}://bucket/out")


def test_every_way_is_of_a_back_end_that_fsspec_has() -> None:
    other = {"tos", "webdav"} - set(fsspec.available_protocols())
    assert set(WAYS) - other <= set(fsspec.available_protocols())
    for url in ("/tmp/out", "file:///tmp/out", *(f"{scheme}://bucket/out" for scheme in WAYS)):
        storage.check_commits(url)


_HOLDS = """
import sys, time
from winnow.pipeline import storage
with storage.scratch_folder() as folder:
    (folder / "upload").write_bytes(b"half")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_the_scratch_of_a_killed_process_is_removed_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    command, environment = [sys.executable, "-c", _HOLDS], {**os.environ, "TMPDIR": str(tmp_path)}
    other = tmp_path / "winnow-of-another-program"
    other.mkdir()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        scratch = Path(process.stdout.readline().strip()).parent
        long_ago = (time.time() - DAY_S,) * 2
        os.utime(scratch, long_ago)
        os.utime(other, long_ago)
        assert remove_ownerless(tmp_path) == 0
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (scratch / "files/upload").read_bytes() == b"half"
    os.utime(scratch)
    assert remove_ownerless(tmp_path) == 0  # so young that its owner may not have locked it yet
    os.utime(scratch, long_ago)
    again = [sys.executable, "-c", _HOLDS.replace("time.sleep(600)", "")]
    said = subprocess.run(again, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert not scratch.exists()
    assert other.exists()
    assert not Path(said.strip()).exists()  # its own goes with the block
