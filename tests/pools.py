"""Lands small real pools (tars, parquet, npz, npy) and runs stages over them; every reader and file is the real one."""

import io
import itertools
import json
import tarfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.executors.contract import Needs
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import Limits, Run, StepResult, artifact_of, execute
from winnow.stages.columns.column import Column
from winnow.stages.columns.laying import column_stages
from winnow.stages.cuts.cut import Cut
from winnow.stages.distinct import Distinct
from winnow.stages.encoders import Encoding, OpenClip
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.fields import field_stages
from winnow.stages.policy import known_of
from winnow.stages.pools.pool import Pool, PoolStage
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.vectors import Vectors
from winnow.stages.pools.webdataset import Webdataset
from winnow.stages.samples import Samples as SamplesStage
from winnow.stages.survivors import Survivors
from winnow.stages.vectors import StoredVectors

WIDTH = 16
READER = Vectors(image="image", text="text", encoder="clip")
TARS, ENCODING, NEEDS, LIMITS = Webdataset(), Encoding(), Needs(), Limits()


def unit(rows: int, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Random unit vectors, float16 (rows, width)."""
    return normed(np.random.default_rng(seed).standard_normal((rows, width)))


def normed(x: np.ndarray) -> np.ndarray:
    """Rows of norm 1, float16."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def hex_uids(rows: int, seed: int = 0) -> list[str]:
    """Distinct uids that are in no order."""
    rng = np.random.default_rng(seed)
    return [rng.bytes(16).hex() for _ in range(rows)]


@dataclass(frozen=True)
class Samples:
    """Rows of a pool before anyone has split them into shards."""

    uid: list[str]
    image: np.ndarray
    text: np.ndarray
    caption: list[str]
    width: list[int | None]
    height: list[int | None]

    @classmethod
    def drawn(cls, rows: int, seed: int = 0, **columns: object) -> "Samples":
        """Random rows; `columns` replace what they name."""
        made = cls(
            hex_uids(rows, seed),
            unit(rows, seed=seed),
            unit(rows, seed=seed + 1),
            [f"a caption of picture {n}" for n in range(rows)],
            [256] * rows,
            [192] * rows,
        )
        return replace(made, **columns)  # type: ignore[arg-type]  # columns of the same kinds

    def __len__(self) -> int:
        return len(self.uid)

    @property
    def cosine(self) -> np.ndarray:
        """Image-text cosines, float64 (n,)."""
        return (self.image.astype(np.float64) * self.text.astype(np.float64)).sum(axis=1)

    def take(self, rows: Sequence[int]) -> "Samples":
        """These rows, in this order."""
        at = list(rows)
        lists = {name: [getattr(self, name)[i] for i in at] for name in ("uid", "caption", "width", "height")}
        return replace(self, image=self.image[at], text=self.text[at], **lists)

    def split(self, shards: int) -> list["Samples"]:
        """Contiguous parts; some are empty where there are few rows."""
        edges = [len(self) * i // shards for i in range(shards + 1)]
        return [self.take(range(a, b)) for a, b in itertools.pairwise(edges)]

    def table(self) -> pa.Table:
        """The rows as a `vectors` pool holds them."""
        vectors = {name: _lists(getattr(self, name)) for name in ("image", "text")}
        sides = {"width": pa.array(self.width, pa.int32()), "height": pa.array(self.height, pa.int32())}
        return pa.table({"uid": self.uid, "caption": pa.array(self.caption, pa.string()), **vectors, **sides})


def _lists(x: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])


def write_parquet(url: str, table: pa.Table) -> str:
    """One parquet file anywhere; its url."""
    with storage.committing(url) as file:
        pq.write_table(table, file)
    return url


def write_vectors(root: str, samples: Samples, shards: int = 1) -> tuple[str, ...]:
    """A `vectors` pool for READER."""
    parts = samples.split(shards)
    return tuple(write_parquet(f"{root}/{i:05d}.parquet", part.table()) for i, part in enumerate(parts))


def write_datacomp(root: Path, samples: Samples, shards: int = 1) -> tuple[str, ...]:
    """DataComp's metadata: parquet and npz pairs with l14 only."""
    root.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(samples.split(shards)):
        columns = {"uid": part.uid, "text": part.caption, "url": [f"http://x/{u}" for u in part.uid]}
        sides = {"original_width": part.width, "original_height": part.height}
        pq.write_table(pa.table({**columns, **sides}), root / f"{i:05d}.parquet")
        np.savez(root / f"{i:05d}.npz", l14_img=part.image, l14_txt=part.text)
    return tuple(str(root / f"{i:05d}.parquet") for i in range(shards))


def write_clip_retrieval(root: Path, samples: Samples, shards: int = 1) -> tuple[str, ...]:
    """clip-retrieval's folders."""
    for name in ("metadata", "img_emb", "text_emb"):
        (root / name).mkdir(parents=True)
    for i, part in enumerate(samples.split(shards)):
        table = pa.table({"uid": part.uid, "caption": part.caption, "url": [f"http://x/{u}" for u in part.uid]})
        pq.write_table(table, root / f"metadata/metadata_{i}.parquet")
        np.save(root / f"img_emb/img_emb_{i}.npy", part.image)
        np.save(root / f"text_emb/text_emb_{i}.npy", part.text)
    return tuple(str(root / f"metadata/metadata_{i}.parquet") for i in range(shards))


def jpeg(seed: int, side: int = 40, quality: int = 90) -> bytes:
    """A picture of four coloured fields, as a JPEG file."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def pair(seed: int, caption: str, **facts: object) -> dict[str, bytes]:
    """Members of a sample as img2dataset leaves them, with a uid of its own."""
    described = {"uid": f"{seed + 1:032x}", "caption": caption, **facts}
    return {"jpg": jpeg(seed), "txt": caption.encode(), "json": json.dumps(described).encode()}


Entry = tuple[str, bytes]
"""Name and content of a tar's member."""


def members(samples: Sequence[tuple[str, dict[str, bytes]]]) -> list[Entry]:
    """Members of (key, suffix -> content), each sample's side by side."""
    return [(f"{key}.{suffix}", content) for key, parts in samples for suffix, content in parts.items()]


def write_tar(path: Path, entries: Sequence[Entry], format: int = tarfile.USTAR_FORMAT) -> str:
    """A tar of these members in this order; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in entries:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            header.mtime = 1_700_000_000
            tar.addfile(header, io.BytesIO(content))
    return str(path)


def read_tar(path: str | Path) -> list[Entry]:
    """Every member, in order."""
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]  # files


def tiny_clip(folder: Path) -> OpenClip:
    """A CLIP of 32 px with seeded random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "tiny.json"
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config.write_text(json.dumps({"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": text}))
    return OpenClip(str(config), "random")


ON_EACH = [(1, "local"), (7, "local"), (40, "local"), (40, "ray")]
"""Numbers of shards, and the executor, for a test of one answer."""


@dataclass(frozen=True)
class Filtered:
    """A pool after some cuts."""

    run: Run
    survivors: Survivors
    steps: tuple[StepResult, ...]

    @property
    def kept(self) -> list[str]:
        """Hex uids of what is still in, in order."""
        return [row["uid"] for row in self.rows if row["kept"]]

    @property
    def rows(self) -> list[dict[str, object]]:
        """Every readable row with the last cut's columns beside its uid."""
        return [row for item in self.run.items for row in self._rows(item.index)]

    def _rows(self, index: int) -> Iterator[dict[str, object]]:
        uids = self.survivors.samples.read(index, ["uid"])["uid"].to_pylist()
        last = self.survivors.last
        verdicts = [{"kept": True}] * len(uids) if last is None else last.read(index).to_pylist()
        for uid, verdict in zip(uids, verdicts, strict=True):
            yield {"uid": uid, **verdict}

    def through(self, *cuts: Cut) -> "Filtered":
        """After these cuts too."""
        survivors, steps = self.survivors, list(self.steps)
        for cut in cuts:
            stages = cut.stages(survivors, self.run.store)
            steps += [execute(stage, self.run) for stage in stages]
            survivors = replace(survivors, last=artifact_of(stages[-1], self.run.store))
        return replace(self, survivors=survivors, steps=tuple(steps))

    def step(self, name: str) -> StepResult:
        """The last step of a stage of this name."""
        return [step for step in self.steps if step.stage == name][-1]

    def artifact(self, name: str) -> Artifact:
        """The last artifact of a stage of this name."""
        return self.step(name).artifact


def asked(fraction: float, n: int) -> int:
    """int(fraction · n) of the decimal as written, where floats make 28 of 0.29 · 100."""
    return int(Decimal(str(fraction)) * n)


def opened(urls: Sequence[str], reader: Reader = READER, store: str | None = None, limits: Limits = LIMITS) -> Filtered:
    """A pool of precomputed vectors that are read and checked, and whose uids are distinct; nothing cut."""
    store = store or f"memory://{uuid.uuid4().hex}"
    shards = Pool(tuple(urls), reader).identities()
    run = Run(store, LocalExecutor(1), shards, limits=limits)
    stage = SamplesStage(artifact_of(PoolStage(shards), store), reader, None)
    step = execute(stage, run)
    names = reader.encoders()
    vectors = [execute(StoredVectors(step.artifact, reader, stage.recipe, name), run) for name in names]
    made = tuple(each.artifact for each in vectors)
    distinct = execute(Distinct(step.artifact, made), run)
    survivors = Survivors(step.artifact, distinct.artifact, reader, tuple(zip(names, made, strict=True)))
    return Filtered(run, survivors, (step, *vectors, distinct))


def embedded(
    urls: Sequence[str],
    store: str,
    encoders: Mapping[str, Encoder],
    *,
    reader: Reader = TARS,
    encoding: Encoding = ENCODING,
    needs: Needs = NEEDS,
    limits: Limits = LIMITS,
) -> Filtered:
    """A pool of images whose samples are read and embedded, and whose uids are distinct; nothing cut."""
    pool = Pool(tuple(urls), reader)
    shards = pool.identities()
    run = Run(store, LocalExecutor(1), shards, limits=limits)
    known = known_of(store, pool, artifact_of(PoolStage(shards), store), encoders, encoding, needs, ())
    return Filtered(run, known.survivors, tuple(execute(stage, run) for _, stage in known.stages))


def filtered(samples: Samples, *cuts: Cut, shards: int = 1) -> Filtered:
    """Samples as a pool of so many shards in memory, after these cuts."""
    root = f"memory://{uuid.uuid4().hex}"
    return opened(write_vectors(f"{root}/pool", samples, shards), store=f"{root}/store").through(*cuts)


def answers(samples: Samples, *cuts: Cut, seed: int = 0) -> list[list[str]]:
    """Sorted kept uids for 1, 3 and 7 shards, in the given order of rows and in another; all must be one answer."""
    order = np.random.default_rng(seed).permutation(len(samples))
    pools = [samples, samples.take(order)]
    return [sorted(filtered(pool, *cuts, shards=n).kept) for pool in pools for n in (1, 3, 7)]


def opened_with(samples: Samples, said: Mapping[str, Sequence[object]], shards: int = 1) -> Filtered:
    """Samples with more columns as a pool of so many shards in memory; each column is a field of the job."""
    root = f"memory://{uuid.uuid4().hex}"
    edges = [len(samples) * i // shards for i in range(shards + 1)]
    urls = []
    for i, (part, (a, b)) in enumerate(zip(samples.split(shards), itertools.pairwise(edges), strict=True)):
        table = part.table()
        for name, values in said.items():
            table = table.append_column(name, pa.array(values)[a:b])
        urls.append(write_parquet(f"{root}/pool/{i:05d}.parquet", table))
    pool = opened(urls, store=f"{root}/store")
    before = pool.survivors
    stages, fields = field_stages({name: name for name in said}, before.samples, before.reader, "", pool.run.store)
    steps = [execute(stage, pool.run) for stage in stages]
    return replace(pool, survivors=replace(before, fields=fields), steps=(*pool.steps, *steps))


@dataclass(frozen=True)
class WithColumns:
    """A pool with computed columns."""

    filtered: Filtered

    def read(self, name: str) -> list[object]:
        """The values of a column in all shards."""
        field = self.filtered.survivors.field_named(name)
        return [value for item in self.filtered.run.items for value in field.read(item.index).to_pylist()]


def opened_with_columns(samples: Samples, columns: Mapping[str, Column], shards: int = 1) -> WithColumns:
    """Samples as a pool of so many shards in memory, with these columns computed."""
    root = f"memory://{uuid.uuid4().hex}"
    pool = opened(write_vectors(f"{root}/pool", samples, shards), store=f"{root}/store")
    everyone = replace(pool.survivors, last=None)
    recipes = {name: made.name for name, made in everyone.encoded}
    stages, fields = column_stages(columns, everyone, everyone.samples.name, recipes, pool.run.store)
    steps = [execute(stage, pool.run) for stage in stages]
    survivors = replace(pool.survivors, fields=fields)
    return WithColumns(replace(pool, survivors=survivors, steps=(*pool.steps, *steps)))
