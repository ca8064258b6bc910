"""`winnow cat`: streams the kept samples of one input shard to stdout as a tar; imports little, to start fast."""

import argparse
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from winnow.jobs import loader
from winnow.pipeline.errors import JobError, StorageError, WinnowError
from winnow.pipeline.terminal import escaped

READER_LEFT = 141
"""Exit code if the reader closes the pipe: a shell's code for SIGPIPE, which webdataset does not treat as an error."""


_HELD_BYTES = 512 << 10
"""More than one write of a tar: what an interrupted one did not take is then still held, and goes before all else."""


class _Stdout(io.BufferedWriter):
    """The whole of what it is given, or an error: StorageError, but for a reader who left.

    sys.stdout.buffer is none where PYTHONUNBUFFERED is set, as in many images of containers: what a full disk or a
    reader who left did not take would be gone without a word.
    """

    def __init__(self, number: int) -> None:
        super().__init__(io.FileIO(number, "w", closefd=False), _HELD_BYTES)

    def write(self, data: Any, /) -> int:
        """As BufferedWriter's."""
        with _taken():
            return super().write(data)

    def flush(self) -> None:
        """As BufferedWriter's."""
        with _taken():
            super().flush()


@contextmanager
def _taken() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(f"stdout must take a whole tar, but: {error}; what it has is broken off") from error


def cat(store: str, name: str, shard: int, epoch: int | None = None, gap: int | None = None) -> int:
    """Write the kept samples of one input shard to stdout; the exit code.

    epoch, gap: as epoch and gap_bytes of loader.opened. Raises as it does, and as Selected.write_tar; StorageError
    where stdout does not take all.
    """
    if gap is not None and gap < 0:
        raise JobError(f"a gap must be 0 bytes or more, got {gap}")
    kept = loader.opened(store, name, epoch=epoch, gap_bytes=gap)
    plan = kept.plan(shard)
    if sys.stdout is None:
        raise StorageError("stdout must take a tar, but it is closed")
    try:
        with _Stdout(sys.stdout.fileno()) as file:
            kept.selected.write_tar(plan, file)
            file.flush()  # one that is interrupted here goes on when the file is closed
    except BrokenPipeError:
        return READER_LEFT
    return 0


def main() -> None:
    """`winnow cat` by a short way: without typer, which takes as long to start as all the rest; exit codes are its."""
    parser = argparse.ArgumentParser("winnow cat", description="See `winnow --help` for the other commands.")
    parser.add_argument("store", help="URL of a store")
    parser.add_argument("name", metavar="JOB", help="name of a finished job of it")
    parser.add_argument("shard", type=int, help="number of an input shard, from 0; 00017 is 17")
    parser.add_argument("--epoch", type=int, help="only samples of this epoch, of a cut such as `epochs`")
    parser.add_argument("--gap", type=int, help="bytes that are read over rather than asked for around them")
    words = parser.parse_args(sys.argv[2:])
    try:
        code = cat(words.store, words.name, words.shard, words.epoch, words.gap)
    except WinnowError as error:
        print(escaped(f"winnow: {error}", keep="\n"), file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:  # of whoever trains, whose every pipe it reaches
        code = 130
    sys.exit(code)
