"""Reads mutated files for some minutes and reports crashes, hangs and memory: `python -m tests.fuzz --minutes 5`.

Every input is made from a case of the corpus by a number, so a finding is that number. Each reader runs in a process of
its own with 1 GiB of room; the parent ends one that does not answer, and goes on with a new one.
"""

import argparse
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.corpus import CORPUS, Case
from winnow.pipeline.errors import WinnowError
from winnow.stages.pools.formats import FORMATS
from winnow.stages.pools.parquet import Parquet
from winnow.stages.pools.sample import Sample

ROOM_BYTES = 1 << 30
"""Address space that a reader gets beside what it has once everything is imported and one input is read."""

HANG_S = 10.0
"""No input of the corpus's size may take longer; most take a thousandth of a second."""

_SMALL = 200_000  # bytes: larger cases are read by tests/test_corpus.py, and would only make this slow
_WORDS = (b"\0", b"\xff", b"ustar", b"PAR1", b"PK\1\2", b"PK\3\4", b"\x93NUMPY", b"'descr'", b"9999999999", b"-1", b"(")

Edit = tuple[int, int, int]
"""What is done, where, and with what: any three numbers are an edit."""


@dataclass(frozen=True)
class Target:
    """One reader and the cases whose file it mutates; file: the end of that file's name."""

    name: str
    format: str
    file: str

    @property
    def cases(self) -> list[Case]:
        """Small ones: all that can be read, and some that cannot, for mutations of those are mostly refused at once."""
        mine = [case for case in CORPUS if case.format == self.format]
        small = [case for case in mine if sum(map(len, case.files.values())) < _SMALL]
        return [case for at, case in enumerate(small) if case.failed is None or at % 4 == 0]


TARGETS = (
    Target("tar", "webdataset", ".tar"),
    Target("parquet of images", "parquet", ".parquet"),
    Target("parquet of vectors", "vectors", ".parquet"),
    Target("npz", "datacomp", ".npz"),
    Target("npy", "clip-retrieval", "img_emb_0.npy"),
)


def mutated(content: bytes, edits: Sequence[Edit]) -> bytes:
    """The file after these edits, one after the other."""
    data = bytearray(content)
    for what, where, value in edits:
        at = where % (len(data) + 1)
        match what % 9:
            case 0:  # one bit
                data[at : at + 1] = bytes(byte ^ 1 << value % 8 for byte in data[at : at + 1])
            case 1:  # one byte
                data[at : at + 1] = bytes([value % 256])
            case 2:  # an end that is lost
                del data[at:]
            case 3:  # bytes that are lost
                del data[at : at + value % 1000]
            case 4:  # bytes of another place, again
                data[at:at] = data[value % (len(data) + 1) :][: 1 + value % 700]
            case 5:  # bytes of another place, instead
                part = data[value % (len(data) + 1) :][: 1 + value % 700]
                data[at : at + len(part)] = part
            case 6:  # a number that is small, large, or negative
                width = (1, 2, 4, 8)[value % 4]
                number = (0, 1, 127, 128, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)[value // 4 % 11]
                data[at : at + width] = (number % 256**width).to_bytes(width, ("little", "big")[value // 64 % 2])
            case 7:  # a word that these formats look for
                word = _WORDS[value % len(_WORDS)]
                data[at : at + len(word)] = word
            case _:  # a tar header's field, with the checksum that belongs to it
                _edit_header(data, where, value)
    return bytes(data)


_FIELDS = ((0, 100), (100, 8), (124, 12), (124, 12), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))


def _edit_header(data: bytearray, where: int, value: int) -> None:
    """One field of the 512 bytes at a multiple of 512."""
    start = where % (len(data) // 512 + 1) * 512
    block = data[start : start + 512]
    if len(block) < 512:
        return
    field, width = _FIELDS[value % len(_FIELDS)]
    choices = (
        b"\0" * width,
        b"7" * (width - 1) + b"\0",
        b"\x80" + b"\xff" * 11,
        b"\xff" * width,
        b"xgLKSV05"[value % 8 :],
    )
    block[field : field + width] = choices[value // 16 % len(choices)][:width].ljust(width, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    data[start : start + 512] = block


def drawn(target: Target, seed: int) -> tuple[Case, list[Edit]]:
    """The case and the edits of one input."""
    chance = random.Random(f"{target.name} {seed}")
    case = chance.choice(target.cases)
    edits = [
        (chance.getrandbits(32), chance.getrandbits(32), chance.getrandbits(32)) for _ in range(chance.randint(1, 4))
    ]
    return case, edits


def land(target: Target, case: Case, edits: Sequence[Edit], folder: Path) -> str:
    """The case's files with one of them mutated; the shard's path."""
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutated(content, edits) if name.endswith(target.file) else content)
    return str(folder / next(iter(case.files)))


def read(case: Case, url: str) -> str:
    """Read a shard to its end as the stages do: `read`, or `refused`; errors that are not of the contract surface."""
    reader: Any = FORMATS[case.format](**case.options)
    try:
        if not reader.has_images:
            table, _ = reader.sound(url, reader.encoders())
            for name in reader.encoders():
                reader.vectors(url, name, "image", np.asarray(table["position"]))
        else:
            rows = [sample.position for sample in reader.samples(url) if isinstance(sample, Sample)]
            if isinstance(reader, Parquet):
                for _ in reader.members(url, np.array(rows, np.int64)):
                    pass
    except (WinnowError, OSError):
        return "refused"
    return "read"


def _work(target: Target, first: int, until: float, folder: Path) -> None:
    """Read inputs until the time is over; one line of JSON a second, and one for each finding."""
    state = {"seed": first, "read": 0, "refused": 0}
    land(target, target.cases[0], [], folder)
    read(target.cases[0], str(folder / next(iter(target.cases[0].files))))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    Path("/proc/self/clear_refs").write_text("5")  # the highest that memory stood is counted from here
    base, said = _highest(), 0.0
    while time.time() < until:
        case, edits = drawn(target, state["seed"])
        (folder / "now").write_text(str(state["seed"]))
        try:
            state[read(case, land(target, case, edits, folder))] += 1
        except Exception:  # noqa: BLE001  # the very thing that is looked for
            _say({"crash": state["seed"], "error": traceback.format_exc()[-1500:]})
        state["seed"] += 1
        if time.time() - said > 1:
            said = time.time()
            _say({**state, "base": base, "peak": _highest()})
    _say({**state, "base": base, "peak": _highest()})


def _highest() -> int:
    """The most memory that this process had since it was asked to count, in KiB."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def _say(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)


@dataclass(frozen=True)
class Found:
    """What came of one target; memory in MiB above what the process had before."""

    target: str
    seconds: float = 0.0
    inputs: int = 0
    read: int = 0
    refused: int = 0
    crashes: tuple[str, ...] = ()
    hangs: tuple[str, ...] = ()
    peak_mib: int = 0


def fuzz(target: Target, seconds: float, first: int) -> Found:
    """Processes one after the other, each from where the one before ended."""
    found, started, seed = Found(target.name), time.monotonic(), first
    while (left := started + seconds - time.monotonic()) > 0.5:
        with tempfile.TemporaryDirectory(prefix="winnow-fuzz-") as folder:
            last: dict[str, Any] = {}
            for line in _lines(target, seed, left, Path(folder)):
                if "crash" in line:
                    found = replace(found, crashes=(*found.crashes, f"{line['crash']}: {line['error']}"))
                elif "ended" in line:
                    now = int((Path(folder) / "now").read_text() or seed)
                    last, seed = last, now + 1
                    if line["ended"] == "hang":
                        found = replace(found, hangs=(*found.hangs, str(now)))
                    elif line["ended"]:
                        found = replace(found, crashes=(*found.crashes, f"{now}: exit code {line['ended']}"))
                else:
                    last = line
            found = replace(
                found,
                read=found.read + last.get("read", 0),
                refused=found.refused + last.get("refused", 0),
                peak_mib=max(found.peak_mib, (last.get("peak", 0) - last.get("base", 0)) // 1024),
            )
    return replace(found, seconds=time.monotonic() - started, inputs=seed - first)


def _lines(target: Target, seed: int, seconds: float, folder: Path) -> Iterator[dict[str, Any]]:
    """What one process says, and at last how it ended: 0, another exit code, or `hang`."""
    (folder / "now").write_text(str(seed))
    until = time.time() + seconds
    command = [sys.executable, "-m", "tests.fuzz", "--child", target.name, str(seed), str(until), str(folder)]
    with (
        open(folder / "said", "w+") as said,
        subprocess.Popen(command, stdout=said, stderr=subprocess.DEVNULL) as child,
    ):
        ended: int | str | None = None
        while ended is None:
            try:
                ended = child.wait(0.5)
            except subprocess.TimeoutExpired:
                if time.time() - (folder / "now").stat().st_mtime > HANG_S and (folder / "said").stat().st_size:
                    child.send_signal(signal.SIGKILL)
                    child.wait()
                    ended = "hang"
        said.seek(0)
        for line in said:
            with suppress(ValueError):  # the last one of a process that was ended
                yield json.loads(line)
        yield {"ended": ended}


def main() -> int:
    """Exit code 1 where anything crashed or hung."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="in all")
    parser.add_argument("--seed", type=int, default=0, help="number of the first input of each target")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, seed, until, folder = options.child
        _work(next(target for target in TARGETS if target.name == name), int(seed), float(until), Path(folder))
        return 0
    found = [fuzz(target, 60 * options.minutes / len(TARGETS), options.seed) for target in TARGETS]
    print(
        f"{'reader':20} {'minutes':>7} {'inputs':>9} {'read':>9} {'refused':>9} {'crashes':>7} {'hangs':>5} {'MiB':>5}"
    )
    for one in found:
        row = f"{one.target:20} {one.seconds / 60:7.2f} {one.inputs:9,} {one.read:9,} {one.refused:9,}"
        print(f"{row} {len(one.crashes):7} {len(one.hangs):5} {one.peak_mib:5}")
    print(f"bounds: {HANG_S:.0f} s an input, {ROOM_BYTES >> 20} MiB; MiB: the most that a reader took above its start")
    for one in found:
        for finding in (*one.crashes[:5], *(f"{seed}: no answer in {HANG_S:.0f} s" for seed in one.hangs[:5])):
            print(f"\n{one.target}, input {finding}")
    return 1 if any(one.crashes or one.hangs for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
