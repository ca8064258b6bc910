"""What people see of a stage: a plain line now and then in a log, one live line on a terminal."""

import io
import warnings

import pytest

from winnow.pipeline import progress
from winnow.pipeline.progress import StageProgress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then_with_rate_and_time_left(clock):
    stream = io.StringIO()
    with StageProgress("embeddings", total=10, ready=4, stream=stream) as stage:
        for seconds in (10, 10, 10):
            clock[0] += seconds
            stage.advance(rows=500)
    # 2 shards with 1,000 rows in 20 s, and 4 of the 6 to do are left; 10 s later it is too early for a line
    assert stream.getvalue() == "embeddings: 6 of 10 shards, 50 samples/s, 40 s left\n"


def test_rejects_are_told_where_there_are_any(clock):
    stream = io.StringIO()
    with StageProgress("embeddings", total=4, stream=stream) as stage:
        for rejects in (0, 1_500):
            clock[0] += 16
            stage.advance(1_000, rejects)
    assert stream.getvalue().splitlines() == [
        "embeddings: 1 of 4 shards, 62 samples/s, 48 s left",
        "embeddings: 2 of 4 shards, 62 samples/s, 1,500 rejects, 32 s left",
    ]


def test_shards_without_rows_have_no_rate(clock):
    stream = io.StringIO()
    with StageProgress("pool", total=2, stream=stream) as stage:
        clock[0] += 16
        stage.advance()
    assert stream.getvalue() == "pool: 1 of 2 shards, 16 s left\n"


def test_a_line_of_a_log_is_never_broken_or_read_as_markup(clock):
    stream = io.StringIO()
    label = "duplicates.clusters [bold] " + "x" * 100
    with StageProgress(label, total=200_000, stream=stream) as stage:
        clock[0] += 16
        stage.advance(rows=10_000)
    line = f"{label}: 1 of 200000 shards, 625 samples/s, 3,199,984 s left\n"
    assert stream.getvalue() == line


def test_a_quick_stage_leaves_a_log_alone():
    stream = io.StringIO()
    with StageProgress("pool", total=3, stream=stream) as stage:
        for _ in range(3):
            stage.advance(1)
    assert stream.getvalue() == ""


def test_a_terminal_has_one_live_line_that_goes_away():
    stream = Terminal()
    with StageProgress("embeddings", total=10, ready=4, stream=stream) as stage:
        stage.advance(rows=500, rejects=7)
        stage._live.refresh()
        shown = stream.getvalue()
    assert "embeddings" in shown
    assert "5/10" in shown
    assert "samples/s" in shown
    assert "7 rejects" in shown
    assert stream.getvalue().endswith("\x1b[2K"), "the line is erased at the end"


def test_an_error_ends_the_live_line():
    stream = Terminal()
    with pytest.raises(ValueError, match="stop"), StageProgress("embeddings", total=10, stream=stream):
        raise ValueError("stop")
    assert stream.getvalue().count("\x1b[?25h") == 1, "the cursor is shown again"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_hushed_shows_nothing(stream, clock):
    with progress.hushed(), StageProgress("embeddings", 2, stream=stream) as shown:
        clock[0] += 100
        shown.advance()
        shown.advance()
        warnings.warn("said by a library", UserWarning, stacklevel=1)
    assert stream.getvalue() == ""
    with progress.hushed(False), StageProgress("embeddings", 2, stream=stream) as shown:
        clock[0] += 100
        shown.advance()
    assert "embeddings" in stream.getvalue()
