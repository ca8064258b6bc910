"""Leaves `export-…/`: uid, caption and link of the kept samples, one parquet per input shard, for other programs."""

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from pipeline.artifact import Artifact
from pipeline.columns import column
from pipeline.errors import AccountingError
from pipeline.stage import Run, ShardItem, Summary, total

_TOLD = ("uid", "key", "caption", "width", "height")
_URL = "url"  # of pools that bring their vectors


@dataclass(frozen=True)
class Export:
    """Copies columns of the embeddings of what the manifest keeps; no image and no vector.

    Columns: uid (32 hex digits), key, caption, width and height (null where the pool does not tell), url (null where
    there is none, as in all pools with images). Rows are in the order of the pool; a shard of which nothing stays has a
    file without rows. Cost: one read of these columns a shard.
    """

    embeddings: Artifact
    manifest: Artifact
    name: ClassVar[str] = "export"
    version: ClassVar[int] = 2

    def run(self, run: Run, out: Artifact) -> Summary:
        """One file per input shard."""
        return {"kept": total(run.fill(_Copy(self, out), out, self.name), "kept")}


@dataclass(frozen=True)
class _Copy:
    stage: Export
    out: Artifact

    def open(self) -> None:
        return None

    def run(self, state: None, item: ShardItem) -> Summary:
        table = kept_rows(self.stage, item)
        summary = {"rows": table.num_rows, "kept": table.num_rows}
        self.out.write(item.index, table, summary)
        return summary


def kept_rows(stage: Export, item: ShardItem) -> pa.Table:
    """The exported rows of one shard. Raises AccountingError where manifest and embeddings are not of one job."""
    urls = [_URL] if _URL in stage.embeddings.columns(item.index) else []
    table = stage.embeddings.read(item.index, ["position", *_TOLD, *urls])
    if not urls:
        table = table.append_column(_URL, pa.nulls(table.num_rows, pa.string()))
    kept = column(stage.manifest.read(item.index, ["kept"]), "kept")
    position = column(table, "position")
    if len(position) and position[-1] >= len(kept):
        raise AccountingError(
            f"{stage.manifest.shard(item.index)} must have a row for each sample of {item.url}, but has {len(kept)}; "
            f"run the job again"
        )
    return table.drop_columns("position").filter(pa.array(kept[position]))
