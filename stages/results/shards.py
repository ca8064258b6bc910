"""The stage `shards`: training tars of exactly samples_per_shard kept samples, for open_clip's loader.

Planning the output shards needs only counts. Then each of them is one task, which copies byte ranges without decoding.
"""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact, shard_name, write_json
from winnow.pipeline.errors import AccountingError
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.stages.growth import PartOfPool
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.unchanged import check_unchanged
from winnow.stages.results.tar_shard import TarShard
from winnow.stages.survivors import Survivors

SHARD_SIZES = "sizes.json"
_RECORD = tarfile.RECORDSIZE


@dataclass(frozen=True)
class Piece:
    """Part of an output shard: of the kept samples of one input shard, numbers `first` to `last` - 1."""

    item: ShardItem
    first: int
    last: int


@dataclass(frozen=True)
class OutputShard:
    """One output shard and its pieces, in order."""

    index: int
    pieces: tuple[Piece, ...]

    @property
    def samples(self) -> int:
        """The number of its samples."""
        return sum(piece.last - piece.first for piece in self.pieces)


def kept_of(run: Run, made: Artifact) -> list[int]:
    """How many samples of each input shard an artifact keeps, from its footers."""
    kept = np.zeros(len(run.items), np.int64)
    for index, summary in run.summaries(made):
        kept[index] = cast(int, summary["kept"])
    found: list[int] = kept.tolist()
    return found


def plan_shards(items: Sequence[ShardItem], kept: Sequence[int], samples_per_shard: int) -> list[OutputShard]:
    """Divide the kept samples of all input shards, in order, into output shards of exactly samples_per_shard.

    The last one has the rest. kept: number of kept samples of each input shard. Cost: O(input + output shards).
    """
    pieces: list[list[Piece]] = [[]]
    room = samples_per_shard  # samples that the current output shard still takes
    for item, count in zip(items, kept, strict=True):
        first = 0
        while first < count:  # an input shard may fill several output shards
            if not room:  # opened only when there is a sample for it, so no shard but the first can be empty
                pieces.append([])
                room = samples_per_shard
            last = min(count, first + room)
            pieces[-1].append(Piece(item, first, last))
            room -= last - first
            first = last
    return [OutputShard(index, tuple(found)) for index, found in enumerate(pieces) if found]


@dataclass(frozen=True)
class Shards:
    """Writes the kept samples as training shards."""

    survivors: Survivors
    reader: Reader
    samples_per_shard: int
    name: ClassVar[str] = "shards"
    reads_pool: ClassVar[PartOfPool] = "kept"
    version: ClassVar[int] = 2

    def make(self, run: Run, out: Artifact) -> Summary:
        """Write one tar for each planned shard that is not complete yet, then sizes.json.

        If this call wrote all tars, the report has `renamed`, the number of members that got another name for training.
        """
        planned = plan_shards(run.items, kept_of(run, self.survivors.source), self.samples_per_shard)
        # An earlier run may have left tars, and the plan is always the same: only the missing ones are written.
        present = sorted(out.present(".tar"))
        whole = {present[i] for i, ends in run.each(_Ends(out), present, f"{self.name} (done before)") if ends}
        missing = [shard for shard in planned if shard.index not in whole]
        renamed = sum(cast(int, made["renamed"]) for _, made in run.each(_WriteShard(self, out), missing, self.name))
        sizes = {shard_name(shard.index, ".tar"): shard.samples for shard in planned}
        write_json(out.meta(SHARD_SIZES), sizes)
        written = sum(found.size for found in storage.listing(out.folder) if found.url.endswith(".tar"))
        report: Summary = {"samples": sum(sizes.values()), "shards": len(sizes), "bytes": written}
        return report if whole else {**report, "renamed": renamed}


@dataclass(frozen=True)
class _Ends:
    """Whether an output shard is complete. If another program has truncated it, it is written again."""

    out: Artifact

    def __call__(self, item: int) -> bool:
        with storage.open_read(self.out.file(shard_name(item, ".tar"))) as file:
            size = file.seek(0, io.SEEK_END)
            if not size or size % _RECORD:  # tars are padded to whole records
                return False
            file.seek(-2 * tarfile.BLOCKSIZE, io.SEEK_END)  # a tar ends with two blocks of zeros
            return not any(file.read())


@dataclass(frozen=True)
class _WriteShard:
    stage: Shards
    out: Artifact

    def __call__(self, item: OutputShard) -> Summary:
        with storage.committing(self.out.file(shard_name(item.index, ".tar"))) as file:
            writer = TarShard(file)
            for piece in item.pieces:
                self._copy(piece, writer)
            writer.finish()
        if writer.samples != item.samples:
            raise AccountingError(
                f"output shard {item.index} must hold {item.samples} samples, but {writer.samples} were written"
            )
        return {"rows": writer.samples, "renamed": writer.renamed}

    def _copy(self, piece: Piece, writer: TarShard) -> None:
        survivors, index = self.stage.survivors, piece.item.index
        rows = np.flatnonzero(survivors.mask(index))[piece.first : piece.last]  # kept rows, in the order of the plan
        columns = self.stage.reader.place_columns(survivors.samples.columns(index))
        places = survivors.table(index, columns).take(pa.array(rows))
        check_unchanged(survivors.samples, index, piece.item.url, self.stage.reader)
        self.stage.reader.append(writer, piece.item.url, places)
