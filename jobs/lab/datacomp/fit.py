"""Runs one training in a process of its own; SIGTERM to the process ends its trainer too.

`python -m winnow.jobs.lab.datacomp.fit SHARDS FOLDER RECIPE [until-stdin-ends]`, with the recipe as JSON.
If the training fails, the exit code is 1 and the reason is on stderr.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from pydantic import TypeAdapter

from winnow.jobs.filter_network.training import Recipe, run_training
from winnow.pipeline.errors import WinnowError
from winnow.pipeline.lifeline import WATCHED, end_self, end_with_starter


def main(arguments: Sequence[str]) -> int:
    """Train, and return the exit code."""
    shards, folder, recipe, *watched = arguments
    signal.signal(signal.SIGTERM, _stop)
    try:
        if WATCHED in watched:
            end_with_starter(end_self)
        run_training(shards, Path(folder), TypeAdapter(Recipe).validate_json(recipe))
    except WinnowError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # on which `run_training` ends the trainer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
