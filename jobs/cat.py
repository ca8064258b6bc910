"""`winnow cat`: streams a tar of the kept samples of one input shard to stdout; leaves no file, and imports little."""

import argparse
import os
import sys

from jobs import loader
from pipeline.errors import JobError, WinnowError

READER_LEFT = 141
"""Exit code where who reads the pipe had enough: that of a shell for SIGPIPE, which webdataset takes as no error."""


def cat(store: str, name: str, shard: int, epoch: int | None = None, gap: int | None = None) -> int:
    """Write the kept samples of one input shard to stdout; the exit code.

    epoch, gap: as epoch and gap_bytes of loader.opened. Raises as it does, and as Selected.write_tar.
    """
    if gap is not None and gap < 0:
        raise JobError(f"a gap must be 0 bytes or more, but {gap} came")
    kept = loader.opened(store, name, epoch=epoch, gap_bytes=gap)
    plan = kept.plan(shard)
    try:
        kept.selected.write_tar(plan, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # what is left in the buffer would fail again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_LEFT
    return 0


def main() -> None:
    """`winnow cat` by a short way: without typer, which takes as long to start as all the rest; exit codes are its."""
    parser = argparse.ArgumentParser("winnow cat", description="See `winnow --help` for the other commands.")
    parser.add_argument("store", help="URL of a store")
    parser.add_argument("name", metavar="JOB", help="name of a finished job of it")
    parser.add_argument("shard", type=int, help="number of an input shard, from 0; 00017 is 17")
    parser.add_argument("--epoch", type=int, help="only samples of this epoch of the cut `epochs`")
    parser.add_argument("--gap", type=int, help="bytes that are read over rather than asked for around them")
    words = parser.parse_args(sys.argv[2:])
    try:
        code = cat(words.store, words.name, words.shard, words.epoch, words.gap)
    except WinnowError as error:
        print(f"winnow: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:  # of whoever trains, whose every pipe it reaches
        code = 130
    sys.exit(code)
