"""Runs the recipes of docs/interop.md, block by block in the page's order, on small files of each program's layout."""

import contextlib
import io
import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.jobs.test_cat import pipes_left_open
from tests.pools import (
    Samples,
    jpeg,
    members,
    read_tar,
    tiny_clip,
    unit,
    write_clip_retrieval,
    write_datacomp,
    write_tar,
)
from winnow.jobs import cli
from winnow.pipeline.artifact import is_artifact

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/interop.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
POOL = 40
EMBEDDED = [f"{n // 20:05d}{n % 20:04d}" for n in np.random.default_rng(4).permutation(POOL)]
"""Keys of img2dataset's tars in the order in which a program embedded them."""


class Recipes:
    """The page in a folder of its own: what each section's Python left and its commands printed, by title."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.left: dict[str, dict[str, Any]] = {}
        self.printed: dict[str, str] = {}

    def run(self, title: str) -> dict[str, Any]:
        """Run the sections up to this one that have not run; what its Python blocks left."""
        for earlier, text in SECTIONS.items():
            if earlier not in self.left:
                self.left[earlier] = {}
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
                        getattr(self, language)(block, self.left[earlier])
                self.printed[earlier] = printed.getvalue()
            if earlier == title:
                return self.left[earlier]
        raise KeyError(title)

    def yaml(self, block: str, left: dict[str, Any]) -> None:
        """A job under the name that the commands call it by; a model that need not be downloaded."""
        job = yaml.safe_load(block)
        if "embeddings" in job:
            encoder = tiny_clip(self.folder / "model")
            model = {"model": encoder.model, "pretrained": encoder.pretrained}
            given = job["embeddings"].items()
            job["embeddings"] = {name: options if "from" in options else model for name, options in given}
        (self.folder / f"{job['name']}.yaml").write_text(yaml.safe_dump(job))

    def sh(self, block: str, left: dict[str, Any]) -> None:
        """Commands of winnow, in this process: its imports are the slow part.

        Without Ray: other tests of this process may hold every core of its cluster until they end.
        """
        for line in block.splitlines():
            words = shlex.split(line)
            assert words[0] == "winnow"
            if words[1] in ("run", "export") and "--executor" not in words:
                words += ["--executor", "local"]
            self.patch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as end:
                cli.main()
            assert end.value.code == 0

    def python(self, block: str, left: dict[str, Any]) -> None:
        """Its names stay for the test to look at, but for webdataset's own: those hold files open until they go."""
        with pipes_left_open():
            exec(compile(block, "docs/interop.md", "exec"), left)
            for name in [name for name, value in left.items() if type(value).__module__.startswith("webdataset")]:
                del left[name]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipes]:
    folder = tmp_path_factory.mktemp("interop")
    img2dataset(folder / "downloaded")
    write_tar(folder / "downloaded/00099.tar", [])  # of links that are all dead
    write_datacomp(folder / "commonpool/metadata", Samples.drawn(POOL, seed=1), 2)
    write_clip_retrieval(folder / "inference", Samples.drawn(POOL, seed=2), 2)
    embedded(folder / "embedded")
    curator(folder / "curator")
    laion(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # `winnow cat` is a process of its own, and its door is the tested one
        (folder / "bin").mkdir()
        door = folder / "bin/winnow"
        door.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m winnow.jobs "$@"\n')
        door.chmod(0o755)
        patch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
        # must be set before datasets is imported, which no other test does
        patch.setenv("HF_HOME", str(folder / "hub"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield Recipes(folder, patch)


def img2dataset(folder: Path) -> None:
    """Two shards as it leaves them: keys of nine digits, a json each, and the links that were dead in the parquet."""
    for shard in range(2):
        keys = [f"{shard:05d}{row:04d}" for row in range(POOL // 2)]
        facts = [
            {"url": f"http://x/{key}.jpg", "caption": f"a photo of thing {key}", "key": key, "status": "success"}
            for key in keys
        ]
        parts = [
            {"jpg": jpeg(int(fact["key"])), "json": json.dumps(fact).encode(), "txt": fact["caption"].encode()}
            for fact in facts
        ]
        write_tar(folder / f"{shard:05d}.tar", members(list(zip(keys, parts, strict=True))))
        dead = {
            "url": "http://x/dead.jpg",
            "caption": "gone",
            "key": f"{shard:05d}9999",
            "status": "failed_to_download",
        }
        pq.write_table(pa.Table.from_pylist([*facts, dead]), folder / f"{shard:05d}.parquet")
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": POOL // 2 + 1, "successes": POOL // 2}))


def embedded(folder: Path) -> None:
    """What clip-retrieval made of these tars: their keys, in no order."""
    write_clip_retrieval(folder, Samples.drawn(POOL, seed=4))
    columns = {"image_path": EMBEDDED, "caption": ["words"] * POOL}
    pq.write_table(pa.table(columns), folder / "metadata/metadata_0.parquet")


def curator(folder: Path) -> None:
    """Two files of ids and vectors that are not normed."""
    folder.mkdir()
    vectors = 7 * unit(POOL, seed=3).astype(np.float32)
    for shard, part in enumerate(np.split(vectors, 2)):
        ids = [f"{shard:05d}/{row:06d}.jpg" for row in range(len(part))]
        pq.write_table(pa.table({"image_id": ids, "embedding": list(part)}), folder / f"{shard}.parquet")


def laion(folder: Path) -> None:
    """Two files of LAION's columns, a list of links to take down, and a table as Conceptual Captions has."""
    (folder / "laion").mkdir()
    links = [f"http://site{row % 2}.org/{row}.jpg" for row in range(POOL)]
    columns = {
        "URL": links,
        "TEXT": [f"a photo of thing {row}" for row in range(POOL)],
        "WIDTH": [640.0] * POOL,
        "HEIGHT": [100.0 if row == 7 else 480.0 for row in range(POOL)],
        "LANGUAGE": ["nolang" if row % 5 == 0 else "en" for row in range(POOL)],
        "punsafe": [0.9 if row % 7 == 0 else 0.1 for row in range(POOL)],
    }
    table = pa.table(columns)
    for shard in range(2):
        pq.write_table(table.slice(shard * POOL // 2, POOL // 2), folder / f"laion/part-{shard}.parquet")
    (folder / "takedown.txt").write_text("".join(f"{links[row]}\n" for row in (1, 2, 3)))
    (folder / "cc12m.tsv").write_text('http://x/1.jpg\ta "quoted" word\nhttp://x/2.jpg\tanother\n')


def kept(recipes: Recipes, job: str) -> list[dict[str, Any]]:
    """The manifest's kept rows, read as anyone would."""
    record = json.loads((recipes.folder / f"winnow/jobs/{job}.json").read_text())
    folder = recipes.folder / "winnow" / record["artifacts"]["manifest"]
    table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])
    assert len(table) == POOL == record["counts"]["pool"]
    found: list[dict[str, Any]] = table.filter(table["kept"]).to_pylist()
    return found


def test_from_img2dataset(recipes: Recipes) -> None:
    recipes.run("From img2dataset")
    assert len(kept(recipes, "photos")) == POOL // 2


def test_from_datacomp(recipes: Recipes) -> None:
    recipes.run("From DataComp")
    samples = Samples.drawn(POOL, seed=1)
    best = np.argsort(-samples.cosine)[: int(0.3 * POOL)]
    assert sorted(row["uid"] for row in kept(recipes, "commonpool")) == sorted(samples.uid[i] for i in best)


def test_from_clip_retrieval(recipes: Recipes) -> None:
    recipes.run("From clip-retrieval")
    assert len(kept(recipes, "retrieval")) == int(0.6 * POOL)
    best = np.argsort(-Samples.drawn(POOL, seed=4).cosine)[: POOL // 2]
    assert sorted(row["key"] for row in kept(recipes, "beside")) == sorted(EMBEDDED[n] for n in best)
    written = [name for tar in recipes.folder.glob("winnow/shards-*/*.tar") for name, _ in read_tar(tar)]
    assert {f"{EMBEDDED[n]}.jpg" for n in best} <= set(written)


def test_from_nemo_curator(recipes: Recipes) -> None:
    ids = recipes.run("From NeMo Curator")["ids"]
    assert len(set(ids)) == len(ids) == len(kept(recipes, "curator")) == POOL // 2
    # content hashes are its uids, so the ids can only have come by their place
    assert all(re.fullmatch(r"0000[01]/0000[01]\d\.jpg", name) for name in ids)


def test_from_laion(recipes: Recipes) -> None:
    recipes.run("From LAION")
    passing = [row for row in range(POOL) if row % 5 and row % 7 and row not in (1, 2, 3)]
    captions = [row["caption"] for row in kept(recipes, "laion")]
    assert {int(caption.split()[-1]) for caption in captions} <= set(passing)
    assert len(captions) == sum(min(10, sum(row % 2 == site for row in passing)) for site in range(2))
    folder = Path(recipes.printed["From LAION"].split()[-1])
    listed = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])
    assert listed["caption"].to_pylist() == captions
    assert [url.split("/")[-1] for url in listed["url"].to_pylist()] == [f"{c.split()[-1]}.jpg" for c in captions]
    assert listed["punsafe"].to_pylist() == [0.1] * len(captions)
    assert pq.read_table(recipes.folder / "cc12m.parquet").to_pylist() == [
        {"url": "http://x/1.jpg", "caption": 'a "quoted" word'},
        {"url": "http://x/2.jpg", "caption": "another"},
    ]


def test_to_open_clip(recipes: Recipes) -> None:
    left = recipes.run("To open_clip")
    found = [row["key"] for row in kept(recipes, "photos")]
    assert [caption for _, caption in left["pairs"]] == [f"a photo of thing {key}" for key in found]
    assert all(picture.size == (40, 40) for picture, _ in left["pairs"])
    assert sorted(left["keys"]) == sorted(found)


def test_to_the_resharder(recipes: Recipes) -> None:
    subset = recipes.run("To DataComp's resharder")["subset"]
    names = [row["uid"] for row in kept(recipes, "commonpool")]
    as_its_readme_makes_it = np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in names], np.dtype("u8,u8"))
    as_its_readme_makes_it.sort()
    assert subset.dtype == as_its_readme_makes_it.dtype
    assert np.array_equal(subset, as_its_readme_makes_it)


def test_to_img2dataset(recipes: Recipes) -> None:
    recipes.run("To img2dataset")
    # the folder that was printed; img2dataset reads its *.parquet, each with the columns that it is told
    folder = Path(recipes.printed["To img2dataset"].strip())
    table = pa.concat_tables(
        [pq.read_table(path, columns=["url", "caption", "uid"]) for path in folder.glob("*.parquet")]
    )
    assert sorted(table["uid"].to_pylist()) == sorted(row["uid"] for row in kept(recipes, "commonpool"))
    assert table["url"].to_pylist() == [f"http://x/{uid}" for uid in table["uid"].to_pylist()]


def test_to_hugging_face_datasets(recipes: Recipes) -> None:
    left = recipes.run("To Hugging Face datasets")
    assert len(left["pictures"]) == len(kept(recipes, "photos"))
    assert left["first"][0].size == (40, 40)
    assert left["first"][1].startswith("a photo of thing")
    assert (left["mixed"][0]["jpg"].size, left["mixed"][0]["png"]) == ((40, 40), None)
    assert left["table"]["uid"] == [row["uid"] for row in kept(recipes, "photos")]


def test_to_duckdb_and_polars(recipes: Recipes) -> None:
    left = recipes.run("To DuckDB and polars")
    rows = kept(recipes, "photos")
    assert {reason: samples for reason, samples, _ in left["reasons"]} == {
        "kept": len(rows),
        "similarity": POOL - len(rows),
    }
    worst = sorted(rows, key=lambda row: row["similarity.cosine"])[:10]
    assert left["lowest"] == [(row["caption"], row["similarity.cosine"], 40, 40) for row in worst]
    assert sorted(left["narrow"]["uid"]) == sorted(row["uid"] for row in rows)
    assert sorted(left["narrow"]["caption"]) == sorted(row["caption"] for row in rows)


def test_every_folder_of_data_is_one_table_to_every_reader(recipes: Recipes) -> None:
    """Each stage of six jobs, read as a folder, as people do who do not know what else may lie there."""
    recipes.run(list(SECTIONS)[-1])
    import datasets  # not before the recipes have set where it keeps its files
    import duckdb
    import polars
    from pyarrow.dataset import dataset

    store = recipes.folder / "winnow"
    seen = Counter[str]()
    for folder in sorted(path for path in store.iterdir() if is_artifact(path.name)):
        stage, where = folder.name.rpartition("-")[0], str(folder)
        kind = {"shards": "webdataset"}.get(stage, "parquet")
        found = datasets.load_dataset(kind, data_dir=where, split="train")
        assert datasets.load_dataset(where, split="train").num_rows == found.num_rows
        if kind == "parquet":
            counts = [
                len(pd.read_parquet(where)),
                dataset(where).count_rows(),
                pq.read_table(where).num_rows,
                polars.scan_parquet(where).collect().height,
                duckdb.read_parquet(f"{where}/*.parquet").shape[0],
            ]
            assert counts == [found.num_rows] * 5
        assert found.num_rows
        seen[stage] += 1
    stages = {"samples", "vectors", "distinct", "clusters", "density", "prototypes", "manifest", "shards", "export"}
    assert stages <= set(seen)
    assert {seen["samples"], seen["manifest"]} == {6}


def test_uids_join_whatever_the_table(recipes: Recipes) -> None:
    recipes.run("From clip-retrieval")
    import duckdb

    made = json.loads((recipes.folder / "winnow/jobs/retrieval.json").read_text())["artifacts"]
    names = {name: f"'winnow/{made[name]}/*.parquet'" for name in ("manifest", "samples", "duplicates")}
    joined = duckdb.sql(
        f"SELECT m.caption, e.caption FROM {names['manifest']} m JOIN {names['samples']} e USING (uid)"
    ).fetchall()
    assert len(joined) == POOL
    assert all(one == other for one, other in joined)
    strange = duckdb.sql(
        f"SELECT count(*) FROM {names['duplicates']} WHERE duplicate_of NOT IN (SELECT uid FROM {names['samples']})"
    )
    assert strange.fetchall() == [(0,)]


def test_every_section_is_run_and_every_table_row_has_one(recipes: Recipes) -> None:
    titles = re.findall(r"\]\(#([\w-]+)\)", PAGE.partition("\n## ")[0])
    assert sorted(titles) == sorted(re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in SECTIONS)
    recipes.run(list(SECTIONS)[-1])
    assert set(recipes.left) == set(SECTIONS)
