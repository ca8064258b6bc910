"""Reads of a remote file are those of the same bytes in memory, however short the answers and however many fail."""

import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import reading
from pipeline.errors import StorageError
from pipeline.reading import RemoteFile

CONTENT = bytes(range(256)) * 4


class Answers:
    """A back end's file whose answers are cut short or fail by a seeded chance."""

    def __init__(self, seed: int, share: float, error: type[Exception] = ConnectionResetError) -> None:
        self._file, self._random, self._share, self._error = io.BytesIO(CONTENT), random.Random(seed), share, error
        self.size, self.tell, self.seek = len(CONTENT), self._file.tell, self._file.seek
        self.closed = False

    def read(self, size: int) -> bytes:
        if self._random.random() < self._share:
            self._file.seek(self._random.randrange(self.size))  # wherever it failed
            raise self._error("cut")
        return self._file.read(self._random.randint(0, size))

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading.time, "sleep", lambda _: None)


moves = st.lists(st.tuples(st.integers(0, 1100), st.integers(-1, 1100)), max_size=5)


@given(moves, st.integers(0, 99), st.sampled_from([0.0, 0.3]), st.sampled_from([7, 100, 1 << 20]))
def test_every_read_is_that_of_the_bytes(moves, seed, share, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE_BYTES", piece)
        patch.setattr(reading.time, "sleep", lambda _: None)
        file, plain = RemoteFile(Answers(seed, share), "s3://b/x"), io.BytesIO(CONTENT)
        for position, size in moves:
            assert file.seek(position) == plain.seek(position)
            assert file.read(size) == plain.read(size)
            assert file.tell() == plain.tell()
            room, plainly = bytearray(40), bytearray(40)
            assert file.readinto(room) == plain.readinto(plainly)
            assert room == plainly


def test_it_is_a_file():
    answers = Answers(0, 0.0)
    with RemoteFile(answers, "s3://b/x") as file:
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        assert (file.name, file.mode) == ("s3://b/x", "rb")
        assert file.seek(-2, io.SEEK_END) == 1022
        assert file.readall() == CONTENT[-2:]
    assert answers.closed
    assert file.closed


@pytest.mark.parametrize("error", [ConnectionResetError, RuntimeError])
def test_what_never_comes_is_an_error_in_the_end(error, monkeypatch):
    monkeypatch.setattr(reading, "_PATIENCE_S", 0.05)
    file = RemoteFile(Answers(0, 1.0, error), "s3://b/x")
    file.seek(24)
    with pytest.raises(StorageError, match=r"cannot read s3://b/x: it has 1024 bytes, but after 24 of them: cut"):
        file.read(3)


def test_a_file_that_is_gone_is_not_waited_for():
    answers = Answers(0, 1.0, FileNotFoundError)
    with pytest.raises(StorageError, match="after 0 of them: cut"):
        RemoteFile(answers, "s3://b/x").read()
