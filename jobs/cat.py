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
"""Buffer size. It is larger than any single write of a tar, so the rest of an interrupted write stays in the buffer and
is written first."""


class _Stdout(io.BufferedWriter):
    """A buffered stdout that writes everything or raises: BrokenPipeError if the reader left, else StorageError.

    sys.stdout.buffer is unbuffered if PYTHONUNBUFFERED is set, as in many container images. Bytes that a full disk or a
    closed pipe did not take would then be lost silently.
    """

    def __init__(self, number: int) -> None:
        super().__init__(io.FileIO(number, "w", closefd=False), _HELD_BYTES)

    def write(self, data: Any, /) -> int:
        """Like BufferedWriter.write."""
        with _taken():
            return super().write(data)

    def flush(self) -> None:
        """Like BufferedWriter.flush."""
        with _taken():
            super().flush()


@contextmanager
def _taken() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(f"stdout must take a whole tar, but: {error}; what was written is incomplete") from error


def stream_kept(store: str, name: str, shard: int, epoch: int | None = None, gap: int | None = None) -> int:
    """Write the kept samples of one input shard to stdout as a tar. Returns the exit code.

    epoch, gap: epoch and gap_bytes of loader.open_kept_samples. Raises the errors of loader.open_kept_samples
    and Selected.write_tar, and StorageError if stdout does not take all bytes.
    """
    if gap is not None and gap < 0:
        raise JobError(f"a gap must be 0 bytes or more, got {gap}")
    kept = loader.open_kept_samples(store, name, epoch=epoch, gap_bytes=gap)
    plan = kept.plan(shard)
    if sys.stdout is None:
        raise StorageError("stdout must take a tar, but it is closed")
    try:
        with _Stdout(sys.stdout.fileno()) as file:
            kept.selected.write_tar(plan, file)
            file.flush()  # if a signal interrupts it here, close() writes the rest
    except BrokenPipeError:
        return READER_LEFT
    return 0


def main() -> None:
    """`winnow cat` without typer, which takes as long to start as everything else. The exit codes are the same."""
    parser = argparse.ArgumentParser("winnow cat", description="See `winnow --help` for the other commands.")
    parser.add_argument("store", help="URL of a store")
    parser.add_argument("name", metavar="JOB", help="name of a finished job in the store")
    parser.add_argument("shard", type=int, help="number of an input shard, from 0; 00017 is 17")
    parser.add_argument("--epoch", type=int, help="only the samples that a cut such as `epochs` drew for this epoch")
    parser.add_argument("--gap", type=int, help="largest gap in bytes that one request reads over")
    words = parser.parse_args(sys.argv[2:])
    try:
        code = stream_kept(words.store, words.name, words.shard, words.epoch, words.gap)
    except WinnowError as error:
        print(escaped(f"winnow: {error}", keep="\n"), file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:  # Ctrl-C in the trainer reaches every process of its pipes
        code = 130
    sys.exit(code)
