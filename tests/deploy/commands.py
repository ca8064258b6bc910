"""Finds the command lines that people are told to type, in pages, comments and entrypoints; runs none of them."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENDS = {"&&", "||", "|", ";", "&"}
OURS = ("winnow", "python -m winnow.jobs", "bash two_steps.sh", "sbatch slurm.sh", "ray")
"""How a command begins that is this repository's own or Ray's; folders of scripts are left out of account."""


def commands(path: Path) -> Iterator[list[str]]:
    """Words of every such command in a file; those that `ray job submit` and scripts are given, too."""
    for line in lines(path):
        yield from commands_in(line)


def commands_in(line: str) -> Iterator[list[str]]:
    """Those in a line of shell, `export A=b` and words before them passed over."""
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), ";"]:
        if word not in ENDS:
            words.append(word)
            continue
        yield from _started(words)
        words = []


def _started(words: list[str]) -> Iterator[list[str]]:
    rest = list(itertools.dropwhile(lambda word: "=" in word or word == "export", words))
    named = [*rest[:1], *[word.rpartition("/")[2] for word in rest[1:2]], *rest[2:]]
    if any(named[: start.count(" ") + 1] == start.split() for start in OURS):
        yield rest
        if rest[0] == "ray" and "--" in rest:
            yield from _started(rest[rest.index("--") + 1 :])


def lines(path: Path) -> list[str]:
    """Lines of shell, joined at backslashes: a page's sh blocks; else comments that stand in, and an entrypoint."""
    text = path.read_text()
    if path.suffix == ".md":
        found = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    else:
        indented = re.findall(r"^#  +(.*)$", text, re.MULTILINE)
        found = "\n".join([*indented, *re.findall(r"^ *entrypoint: (.*)$", text, re.MULTILINE)])
    joined = re.sub(r"\\\n\s*", "", found).splitlines()
    return [line for line in joined if any(re.search(rf"\b{start.split()[0]}\b", line) for start in OURS)]
