"""Starts the `winnow` command, also as `python -m winnow.jobs`; `winnow cat` skips what other commands import."""

import sys

from winnow.pipeline.lifeline import end_without_them
from winnow.pipeline.terminal import escape_unshown


def main() -> None:
    """Run the command that the first word names."""
    escape_unshown()
    if sys.argv[1:2] == ["cat"]:
        from winnow.jobs.cat import main as enter
    else:
        from winnow.jobs.cli import main as enter
    try:
        enter()
    except SystemExit as end:
        end_without_them(end.code)
        raise


if __name__ == "__main__":
    main()
