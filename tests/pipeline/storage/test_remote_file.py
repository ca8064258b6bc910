"""Reads of a remote file are those of the same bytes in memory, however short the answers and however many fail."""

import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.pipeline.errors import StorageError
from winnow.pipeline.storage import remote_file as reading
from winnow.pipeline.storage.remote_file import RemoteFile, Seeking, joined_spans

CONTENT = bytes(range(256)) * 4


class Answers:
    """A back end's file whose answers are cut short or fail by a seeded chance."""

    def __init__(self, seed: int, share: float, error: type[Exception] = ConnectionResetError) -> None:
        self._random, self._share, self._error = random.Random(seed), share, error
        self.size, self.closed = len(CONTENT), False
        self.asked: list[tuple[int, int]] = []

    def read_at(self, start: int, size: int) -> bytes:
        self.asked.append((start, start + size))
        if self._random.random() < self._share:
            raise self._error("cut")
        stop = start + (self._random.randint(0, size) if self._share else size)
        return CONTENT[start:stop]

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading.time, "sleep", lambda _: None)


moves = st.lists(st.tuples(st.integers(0, 1100), st.integers(-1, 1100)), max_size=5)


spans = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 524)).map(lambda s: (s[0], s[0] + s[1])), max_size=3)


@given(moves, spans, st.integers(0, 99), st.sampled_from([0.0, 0.3]), st.sampled_from([7, 100, 1 << 20]))
def test_every_read_is_that_of_the_bytes(moves, spans, seed, share, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE_BYTES", piece)
        patch.setattr(reading, "SPAN_BYTES", piece)
        patch.setattr(reading, "GAP_BYTES", piece)
        patch.setattr(reading.time, "sleep", lambda _: None)
        file, plain = RemoteFile(Answers(seed, share), "s3://b/x", seed), io.BytesIO(CONTENT)
        file.expect(spans)
        for position, size in moves:
            assert file.seek(position) == plain.seek(position)
            assert file.read(size) == plain.read(size)
            assert file.tell() == plain.tell()
            room, plainly = bytearray(40), bytearray(40)
            assert file.readinto(room) == plain.readinto(plainly)
            assert room == plainly


def test_what_is_expected_comes_in_few_requests_and_nothing_else_does(monkeypatch):
    monkeypatch.setattr(reading, "GAP_BYTES", 20)
    monkeypatch.setattr(reading, "SPAN_BYTES", 100)
    answers = Answers(0, 0.0)
    file = RemoteFile(answers, "s3://b/x", 400)
    file.expect([(300, 550), (10, 40), (60, 80)])
    for start, stop in ((60, 80), (10, 20), (20, 40), (300, 310), (310, 450), (450, 550)):
        file.seek(start)
        assert file.read(stop - start) == CONTENT[start:stop]
    assert answers.asked == [(10, 80), (300, 400), (400, 500), (500, 550)]
    file.seek(600)
    assert file.read(5) == CONTENT[600:605]
    assert answers.asked[4:] == [(600, 1000)]


def test_neighbours_are_one_span(monkeypatch):
    monkeypatch.setattr(reading, "GAP_BYTES", 20)
    assert joined_spans([(50, 60), (0, 10), (30, 35), (5, 8), (81, 90)]) == [(0, 60), (81, 90)]
    assert joined_spans([]) == []


def test_a_file_that_seeks_answers_by_ranges():
    plain = io.BytesIO(CONTENT)
    plain.size = len(CONTENT)
    with RemoteFile(Seeking(plain), "gs://b/x") as file:
        assert file.seek(-2, io.SEEK_END) == 1022
        assert file.readall() == CONTENT[-2:]
        assert file.seek(-4, io.SEEK_CUR) == 1020
        with pytest.raises(ValueError, match="at least 0, got -5"):
            file.seek(-5)
    assert plain.closed


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


def test_what_comes_in_two_parts_is_asked_for_once():
    """The last bytes are known already: a back end answers up to them."""
    answers = Answers(0, 0.0)
    known, read_at = 900, answers.read_at
    answers.read_at = lambda start, size: read_at(start, min(size, known - start) if start < known else size)
    file = RemoteFile(answers, "s3://b/x")
    file.expect([(0, 1024)])
    assert file.read() == CONTENT
    assert answers.asked == [(0, 900), (900, 1024)]
