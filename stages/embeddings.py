"""The stage `embeddings`: reads each input shard and writes its samples with unit vectors, and its rejects.

Precomputed pools get the same files without vectors: those are read in place from the pool, never stored twice.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from winnow.pipeline import storage
from winnow.pipeline.adoption import adopt
from winnow.pipeline.artifact import Artifact, read_schema
from winnow.pipeline.columns import vector_column
from winnow.pipeline.errors import AccountingError, FailedShards
from winnow.pipeline.executors.contract import Needs, Stateless, Task
from winnow.pipeline.executors.turns import Turn
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Run, ShardItem, Summary
from winnow.pipeline.totals import Told, Totals
from winnow.pipeline.uid import UID_ARROW, hex_of
from winnow.stages.encoders import Encoding
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.pools.precomputed.widths import WIDTHS, Widths
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.pools.unchanged import check_unchanged
from winnow.stages.preview.early import Early
from winnow.stages.rejects import LIKE, UNREADABLE, embedding_report, write_rejects

if TYPE_CHECKING:
    from winnow.stages.encoders import Bank

_PLACE = pa.schema(
    [
        ("position", pa.int64()),
        ("key", pa.string()),
        ("uid", pa.string()),
        ("caption", pa.string()),
        ("image_hash", UID_ARROW),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("extra_ranges", pa.list_(pa.int64())),
        ("plain", pa.bool_()),
    ]
)

_PIXELS = {"exact": "exact", "fast": "fast 2"}
"""The value of `preprocess` in a fingerprint. If the pixels of one mode change, its value changes, and no other."""

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Embeddings:
    """Reads and decodes each sample of a pool with images once, and runs every encoder on it.

    provenance: for each encoder the hashes of its weights, so that new weights under an old name make a new artifact.
    needs: the resources of one worker. Neither these nor the paths of the weights change the result.
    """

    pool: Artifact
    reader: Reader
    encoders: tuple[tuple[str, Encoder], ...] = field(metadata={"fingerprint": False})
    provenance: tuple[tuple[str, Mapping[str, str]], ...]
    batch_size: int
    preprocess: str
    precision: str
    device: str
    encoding: Encoding = field(metadata={"fingerprint": False})
    needs: Needs = field(metadata={"fingerprint": False})
    name: ClassVar[str] = "embeddings"
    reads_pool: ClassVar[Literal["whole", "kept"]] = "whole"
    version: ClassVar[int] = 4

    @classmethod
    def of(
        cls,
        pool: Artifact,
        reader: Reader,
        encoders: Mapping[str, Encoder],
        encoding: Encoding,
        needs: Needs,
    ) -> "Embeddings":
        """The stage for these encoders. It reads their weights to hash them."""
        encoding = _resolved(encoding, needs)
        return cls(
            pool=pool,
            reader=reader,
            encoders=tuple(encoders.items()),
            provenance=tuple((name, encoder.identity()) for name, encoder in encoders.items()),
            batch_size=encoding.batch_size,
            preprocess=_PIXELS[encoding.preprocess],
            precision=encoding.precision,
            device=encoding.device.partition(":")[0],
            encoding=encoding,
            needs=needs,
        )

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard. If another artifact of the same recipe has the file of a shard, it is copied."""
        adopted = adopt(run, out, self.recipe)
        task = _Embed(self.reader, self.encoders, self.encoding, out)
        return {**embedding_report(_filled(run, task, out, self.reader, self.needs)), "adopted": adopted}

    @property
    def recipe(self) -> str:
        """A fingerprint without the shards: artifacts of one recipe have the same file for the same shard."""
        numbers = self.batch_size, self.preprocess, self.precision, self.device
        return fingerprint([self.name, self.version, self.reader, self.provenance, numbers])

    def rejecting(self, made: Artifact) -> tuple[Artifact, ...]:
        """See Rejecting.rejecting."""
        return (made,)


def _resolved(encoding: Encoding, needs: Needs) -> Encoding:
    """The encoding with `auto` resolved from the job alone, so that no artifact depends on the machine."""
    device = encoding.device if encoding.device != "auto" else ("cuda" if needs.gpus > 0 else "cpu")
    automatic: Precision = "bf16" if device.startswith("cuda") else "fp32"
    precision: Precision = automatic if encoding.precision == "auto" else encoding.precision
    return replace(encoding, device=device, precision=precision)


@dataclass(frozen=True)
class _Embed:
    reader: Reader
    encoders: tuple[tuple[str, Encoder], ...]
    encoding: Encoding
    out: Artifact

    def open(self) -> Callable[[ShardItem], Summary]:
        from winnow.stages.encoders import Bank

        return partial(self._embed, Bank.open(dict(self.encoders), self.encoding))

    def _embed(self, bank: "Bank", item: ShardItem) -> Summary:
        check_unchanged(self.out, item.index, item.url, self.reader)
        return embed(bank, self.reader.samples(item.url), self.out, item)


def embed(bank: "Bank", samples: Iterable[Sample | Reject], out: Artifact, item: ShardItem) -> Summary:
    """Encode the samples of one shard and commit its file. Raises AccountingError if a sample is lost on the way."""
    seen = 0

    def counted(turn: Turn) -> Iterator[Sample | Reject]:
        nonlocal seen
        for sample in samples:  # with the first sample the shard is open; then wait for the shard before this one
            turn.begin()
            seen += 1
            yield sample
        turn.end()

    parts = {name: [np.empty((0, width), np.float16)] for name, width in bank.columns().items()}
    kept: list[Sample] = []
    rejects: list[Reject] = []
    sides = [np.empty((2, 0), np.int32)]
    with bank.turns.one() as turn:
        for batch in bank.encode(counted(turn)):
            kept += batch.samples
            rejects += batch.rejects
            sides.append(np.stack([batch.widths, batch.heights]))
            for name, vectors in batch.vectors.items():
                parts[name].append(vectors)
    if len(kept) + len(rejects) != seen:
        raise AccountingError(
            f"{item.url}: {seen} samples must each be embedded or rejected, but {len(kept)} + {len(rejects)} are"
        )
    width, height = np.concatenate(sides, axis=1)
    table = _place(kept).append_column("width", pa.array(width)).append_column("height", pa.array(height))
    found = {name: np.concatenate(blocks) for name, blocks in parts.items()}
    named = dict(Counter(sample.named for sample in kept))
    return commit(out, item, with_similarity(table, found), found, rejects, {"named": named})


@dataclass(frozen=True)
class Precomputed:
    """The same artifact for a pool with precomputed vectors: places, captions and cosines, but no copy of a vector."""

    pool: Artifact
    reader: Reader
    name: ClassVar[str] = "embeddings"
    reads_pool: ClassVar[Literal["whole", "kept"]] = "whole"
    version: ClassVar[int] = 3

    @property
    def recipe(self) -> str:
        """See Embeddings.recipe."""
        return fingerprint([self.name, self.version, self.reader])

    def rejecting(self, made: Artifact) -> tuple[Artifact, ...]:
        """See Rejecting.rejecting."""
        return (made,)

    def make(self, run: Run, out: Artifact) -> Summary:
        """One file per shard, without vectors. Raises PoolError if the vectors of an encoder have two widths."""
        adopted = adopt(run, out, self.recipe)
        widths = Widths()
        totals = _filled(run, Stateless(_ReadShard(self.reader, out)), out, self.reader, None, widths)
        return {**embedding_report(totals), WIDTHS: widths.one(run.shards), "adopted": adopted}


@dataclass(frozen=True)
class _ReadShard:
    reader: Reader
    out: Artifact

    def __call__(self, item: ShardItem) -> Summary:
        check_unchanged(self.out, item.index, item.url, self.reader)
        table, rejects = self.reader.rows(item.url)
        named = {found["values"]: found["counts"] for found in pc.value_counts(table["named"]).to_pylist()}
        table = table.drop_columns("named")
        table = table.set_column(table.column_names.index("uid"), "uid", hex_of(table["uid"]))
        positions, widths = np.asarray(table["position"]), dict[str, int]()
        for name in self.reader.encoders():
            if len(positions):
                with self.reader.blocks(item.url, name, "image") as blocks:
                    widths[name] = blocks.width
            if self.reader.has_text:
                image = self.reader.vectors(item.url, name, "image", positions)
                text = self.reader.vectors(item.url, name, "text", positions)
                table = with_similarity(table, {f"{name}.image": image, f"{name}.text": text})
        return commit(self.out, item, table, {}, rejects, {"named": named, WIDTHS: widths})


def _filled(
    run: Run, task: Task[ShardItem, Summary], out: Artifact, reader: Reader, needs: Needs | None, *told: Told
) -> Totals:
    """Run.fill_task, then a file without rows for each shard that failed in every try, if the run's limits allow that.

    Raises FailedShards if the limits do not, or if no shard can be read; RejectsError as soon as nearly everything in
    the first shards is rejected.
    """
    try:
        return run.fill_task(task, out, out.stage, needs, [Early(run, reader, out), *told])
    except FailedShards as failed:
        readable = (index for index in sorted(out.present()) if LIKE not in out.summary(index))
        like = next(readable, None)
        if len(failed.failures) > run.limits.max_failed_shards or like is None:
            raise
        columns = read_schema(out.shard(like)).remove_metadata().empty_table()
        items = {item.url: item for item in run.items}
        for url, message in failed.failures:
            reject = Reject(0, storage.name_of(url), UNREADABLE, message)
            commit(out, items[url], columns, {}, [reject], {LIKE: run.items[like].url})
    return run.fill_task(task, out, out.stage, needs, told)


def cosine(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Row-wise cosine of unit vectors (n, d) float16: float32 (n,).

    float32 holds products of float16 exactly, and they are summed in float64, so blocks and threads change no bit.
    """
    products = image.astype(np.float32) * text.astype(np.float32)  # (n, d)
    cosines: np.ndarray = products.sum(axis=1, dtype=np.float64).astype(np.float32)
    return cosines


def with_similarity(table: pa.Table, vectors: Mapping[str, np.ndarray]) -> pa.Table:
    """The table with `<encoder>.similarity` for each encoder that has both towers."""
    for column in vectors:
        name, _, tower = column.rpartition(".")
        if tower == "text":
            values = cosine(vectors[f"{name}.image"], vectors[column])
            table = table.append_column(f"{name}.similarity", pa.array(values))
    return table


def commit(
    out: Artifact,
    item: ShardItem,
    table: pa.Table,
    vectors: Mapping[str, np.ndarray],
    rejects: Sequence[Reject],
    more: Mapping[str, object] | None = None,
) -> Summary:
    """Commit one shard: its rejects first, then its samples. So if the file of samples exists, both are complete.

    more: further entries of its summary.
    """
    kinds = dict(sorted(Counter(reject.kind for reject in rejects).items()))
    if rejects:
        write_rejects(out, item.index, rejects)
    for name, values in vectors.items():
        table = table.append_column(name, vector_column(values))
    summary = {"rows": table.num_rows, "kept": table.num_rows, "rejects": kinds, **(more or {})}
    out.write(item.index, table, summary)
    return summary


def _place(samples: Sequence[Sample]) -> pa.Table:
    rows = {name: [getattr(sample, name) for sample in samples] for name in _PLACE.names if name != "uid"}
    return pa.Table.from_pydict({**rows, "uid": [sample.uid.hex() for sample in samples]}, _PLACE)
