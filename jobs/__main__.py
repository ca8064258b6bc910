"""The door of `winnow` and `python -m jobs`; `cat`, which starts once for every shard, skips what the others import."""

import sys

from pipeline.terminal import escape_unshown


def main() -> None:
    """Run the command that the first word names."""
    escape_unshown()
    if sys.argv[1:2] == ["cat"]:
        from jobs.cat import main as enter
    else:
        from jobs.cli import main as enter
    enter()


if __name__ == "__main__":
    main()
