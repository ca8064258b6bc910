"""A small stage over shards of text: the length of every line. For tests of what is done again, and what is not."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.adoption import adopt
from winnow.pipeline.artifact import Artifact, write_table
from winnow.pipeline.errors import ShardError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Run, ShardItem, execute


@dataclass(frozen=True)
class Lengths:
    """Leaves the length of every line of every shard; a line `bad` is a reject, a shard `torn` an error."""

    scale: int
    reads: Artifact | None = None
    calls: str = field(default="", metadata={"fingerprint": False})
    name: ClassVar[str] = "lengths"
    version: ClassVar[int] = 1

    @property
    def recipe(self) -> str:
        return fingerprint([self.name, self.version, self.scale])

    def make(self, run: Run, out: Artifact) -> dict[str, object]:
        adopted = adopt(run, out, self.recipe)
        totals = run.fill(Measure(self, out), out, self.name)
        return {"rows": totals.number("rows"), "rejects": dict(totals.by_name("rejects")), "adopted": adopted}


@dataclass(frozen=True)
class Measure:
    stage: Lengths
    out: Artifact

    def __call__(self, item: ShardItem) -> dict[str, object]:
        with open(self.stage.calls, "a") as file:
            file.write(f"{storage.name_of(item.url)} ")
        lines = storage.read_bytes(item.url).decode().split()
        if "torn" in lines:
            raise ShardError(f"{item.url} is torn")
        good = [line for line in lines if line != "bad"]
        if good != lines:
            rejects = self.out.rejects(item.index)
            write_table(rejects, pa.table({"line": [line for line in lines if line == "bad"]}))
        summary: dict[str, object] = {"rows": len(good)}
        if good != lines:
            summary["rejects"] = {"bad": len(lines) - len(good)}
        self.out.write(item.index, pa.table({"length": [self.stage.scale * len(g) for g in good]}), summary)
        return summary


class Pool:
    """Shards on disk, a store beside them, and which shards were worked on since the last look."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.calls = folder / "pool", str(folder / "store"), folder / "calls"
        self.calls.touch()

    def put(self, name: str, text: str) -> None:
        storage.write_bytes(str(self.folder / name), text.encode())

    def run(self) -> Run:
        shards = storage.identify(storage.expand([str(self.folder / "*")]))
        return Run(self.store, LocalExecutor(2), tuple(shards))

    def stage(self, run: Run, scale: int = 1) -> Lengths:
        """Reads an artifact that stands for the pool, as every first stage does."""
        listed = Artifact(self.store, "pool", fingerprint(list(run.shards)))
        return Lengths(scale, listed, str(self.calls))

    def execute(self, scale: int = 1):
        run = self.run()
        return execute(self.stage(run, scale), run)

    def worked(self) -> list[str]:
        found = sorted(self.calls.read_text().split())
        self.calls.write_text("")
        return found


def lengths(result) -> list[list[int]]:
    shards = sorted(result.artifact.present())
    return [result.artifact.read(index)["length"].to_pylist() for index in shards]
