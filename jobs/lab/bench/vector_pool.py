"""Generates a pool of clustered vectors in clip-retrieval's layout: metadata/*.parquet and img_emb/*.npy.

Concepts have very different sizes and spreads, as on the web. The same Shape gives the same bytes.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from winnow.pipeline.executors.contract import Executor, Needs, Stateless
from winnow.pipeline.executors.local import LocalExecutor

_BLOCK_ROWS = 4096
_PICTURES = 20_000  # number of pictures that have copies


@dataclass(frozen=True)
class Shape:
    """samples: number in the pool. width: length of a vector. concepts: number of directions, with sizes by Zipf.

    copies: share of samples that are near copies of one of 20,000 pictures; some have thousands of copies. seed: of the
    whole pool.
    """

    samples: int
    width: int = 512
    concepts: int = 4000
    rows_per_shard: int = 100_000
    seed: int = 0
    copies: float = 0.0

    @property
    def shards(self) -> int:
        """Number of files of rows_per_shard rows; the last may have fewer."""
        return -(-self.samples // self.rows_per_shard)

    def rows(self, shard: int) -> int:
        """Number of rows of one shard."""
        return min(self.rows_per_shard, self.samples - shard * self.rows_per_shard)


def drawn_vectors(shape: Shape, shard: int) -> np.ndarray:
    """float16 (rows, width), unit norm: the direction of a concept, plus noise of 0.4 to 1.2 times its length."""
    world = np.random.default_rng(shape.seed)
    directions = world.standard_normal((shape.concepts, shape.width), np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    spread = world.uniform(0.4, 1.2, shape.concepts).astype(np.float32) / np.float32(np.sqrt(shape.width))
    rng = np.random.default_rng([shape.seed, shard])
    weight = 1 / np.arange(10, 10 + shape.concepts)
    label = rng.choice(shape.concepts, shape.rows(shard), p=weight / weight.sum())
    found = np.empty((len(label), shape.width), np.float16)
    for start in range(0, len(label), _BLOCK_ROWS):
        own = label[start : start + _BLOCK_ROWS]
        noise = rng.standard_normal((len(own), shape.width), np.float32)
        rows = directions[own] + spread[own, None] * noise
        found[start : start + len(own)] = rows / np.sqrt(np.vecdot(rows, rows))[:, None]
    if shape.copies:
        _copy_over(found, shape, rng)
    return found


def _copy_over(found: np.ndarray, shape: Shape, rng: np.random.Generator) -> None:
    """Replace some rows by near copies, with cosines of 0.94 to 0.999 with the copied picture."""
    pictures = drawn_vectors(
        replace(shape, copies=0.0, seed=shape.seed + 1, rows_per_shard=_PICTURES, samples=_PICTURES), 0
    )
    weight = 1 / np.arange(3, 3 + _PICTURES)
    rows = np.flatnonzero(rng.random(len(found)) < shape.copies)
    of = rng.choice(_PICTURES, len(rows), p=weight / weight.sum())
    away = rng.uniform(0.05, 0.35, (len(rows), 1)).astype(np.float32) / np.float32(np.sqrt(shape.width))
    copied = pictures[of] + away * rng.standard_normal((len(rows), shape.width), np.float32)
    found[rows] = copied / np.sqrt(np.vecdot(copied, copied))[:, None]


@dataclass(frozen=True)
class _WriteVectors:
    shape: Shape
    folder: Path

    def __call__(self, item: int) -> int:
        np.save(self.folder / f"img_emb/img_emb_{item}.npy", drawn_vectors(self.shape, item))
        first = item * self.shape.rows_per_shard
        number = pa.array(np.arange(first, first + self.shape.rows(item))).cast(pa.string())
        table = pa.table(
            {
                "url": pc.binary_join_element_wise("https://pool.example/", number, ".jpg", ""),
                "caption": pc.binary_join_element_wise("a picture of the thing with number ", number, ""),
            }
        )
        pq.write_table(table, self.folder / f"metadata/metadata_{item}.parquet")
        return len(number)


def make(shape: Shape, folder: Path, executor: Executor) -> None:
    """Write the pool: about 2 · width bytes per sample."""
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for _ in executor.map(Stateless(_WriteVectors(shape, folder)), list(range(shape.shards)), "make the pool", Needs()):
        pass


def main(folder: Path, samples: int, rows_per_shard: int = 100_000, copies: float = 0.0) -> None:
    """Write a pool: `python -m winnow.jobs.lab.bench.vector_pool FOLDER SAMPLES`."""
    make(Shape(samples, rows_per_shard=rows_per_shard, copies=copies), folder, LocalExecutor())


if __name__ == "__main__":
    typer.run(main)
