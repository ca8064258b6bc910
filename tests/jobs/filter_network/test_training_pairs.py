"""Training tars: every layer has each picture once, all captions come, bytes stay, what cannot be read is counted."""

import io
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from braceexpand import braceexpand
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.pools import jpeg, members, pair, read_tar, write_tar
from winnow.jobs.filter_network.training_pairs import Pairs, Task, pattern, write_pairs
from winnow.pipeline.errors import PoolError
from winnow.pipeline.executors.local import LocalExecutor

CAPTIONS = {"a": ["one"], "b": ["one", "two", "three"], "c": ["", "four", "five"]}


def clean_set(folder: Path) -> str:
    samples = [(key, pair(n, "txt", captions=texts)) for n, (key, texts) in enumerate(CAPTIONS.items())]
    lacking = [("d", pair(7, "txt", captions=[])), ("e", {"txt": b"no image", "json": b"{}"})]
    write_tar(folder / "00000.tar", members(samples))
    write_tar(folder / "00001.tar", members(lacking))
    write_tar(folder / "00002.tar", members(samples[:2]))
    return str(folder / "*.tar")


def made_tars(folder: Path) -> dict[str, list[tuple[str, bytes]]]:
    return {path.name: read_tar(path) for path in sorted(folder.glob("*.tar"))}


@pytest.mark.parametrize("workers", [1, 3])
def test_every_layer_has_each_picture_once_and_all_captions_come(tmp_path: Path, workers: int) -> None:
    shards = clean_set(tmp_path / "clean")
    out = tmp_path / "out"
    report = write_pairs([Pairs(shards, "json:captions", 3)], str(out), LocalExecutor(workers))
    assert report == {"pictures": 5, "pairs": 15, "tars": 6, "rejected": {"no-caption": 1, "no-image": 1}}
    tars = made_tars(out)
    assert list(tars) == [f"{shard:06d}-{layer:02d}.tar" for shard in (0, 2) for layer in range(3)]
    assert json.loads((out / "sizes.json").read_text()) == {name: len(found) // 2 for name, found in tars.items()}
    texts: dict[bytes, list[str]] = {}
    for layer in range(3):
        found = tars[f"000000-{layer:02d}.tar"]
        assert [content for name, content in found if name.endswith("jpg")] == [jpeg(n) for n in range(3)]
        for (_, picture), (_, text) in zip(found[::2], found[1::2], strict=True):
            texts.setdefault(picture, []).append(text.decode())
    assert [sorted(found) for found in texts.values()] == [
        ["one", "one", "one"],
        ["one", "three", "two"],
        ["five", "four", "four"],
    ]


def test_done_is_done(tmp_path: Path) -> None:
    sources = [Pairs(clean_set(tmp_path / "clean"), "json:captions")]
    first = write_pairs(sources, str(tmp_path / "out"), LocalExecutor(1))
    (tmp_path / "out/000000-00.tar").unlink()
    assert write_pairs(sources, str(tmp_path / "out"), LocalExecutor(1)) == first
    assert not (tmp_path / "out/000000-00.tar").exists()


def test_a_task_gives_prompts_of_its_classes_another_in_each_layer(tmp_path: Path) -> None:
    images = [jpeg(n) for n in range(6)]
    pq.write_table(pa.table({"image": images, "label": [n % 2 for n in range(6)]}), tmp_path / "task.parquet")
    (tmp_path / "names.txt").write_text("red_fish\ncat\n")
    templates = ("a {}.", "the {}", "{}!")
    task = Task(str(tmp_path / "task.parquet"), str(tmp_path / "names.txt"), templates, layers=3)
    write_pairs([task], str(tmp_path / "out"), LocalExecutor(1))
    prompts: dict[str, list[str]] = {}
    for found in made_tars(tmp_path / "out").values():
        for name, text in found[1::2]:
            prompts.setdefault(name, []).append(text.decode())
    for number, found in enumerate(prompts.values()):
        name = ("red fish", "cat")[number % 2]
        assert Counter(found) == Counter(template.format(name) for template in templates)
    assert len({found[0][:2] for found in prompts.values()}) > 1, "not one template for all pictures of a layer"


def test_pictures_may_be_stored_smaller(tmp_path: Path) -> None:
    broken = {**pair(5, "x"), "jpg": b"\xff\xd8 no picture"}
    samples = [("a", {"jpg": jpeg(1, side=90), "txt": b"x"}), ("b", {"jpg": jpeg(2, side=32), "txt": b"y"})]
    write_tar(tmp_path / "clean.tar", members([*samples, ("c", broken)]))
    report = write_pairs([Pairs(str(tmp_path / "clean.tar"), side=48)], str(tmp_path / "out"), LocalExecutor(1))
    assert report["rejected"] == {"image-decode": 1}
    [found] = made_tars(tmp_path / "out").values()
    assert Image.open(io.BytesIO(found[0][1])).size == (48, 48)
    assert found[2][1] == jpeg(2, side=32)


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    write_tar(tmp_path / "clean.tar", members([("a", {"txt": b"x"})]))
    with pytest.raises(PoolError, match=r"none could be read from .*clean\.tar and the others: \{'no-image': 1\}"):
        write_pairs([Pairs(str(tmp_path / "clean.tar"))], str(tmp_path / "out"), LocalExecutor(1))


@given(st.dictionaries(st.integers(0, 120_000), st.integers(1, 30), min_size=1, max_size=30))
def test_the_pattern_stands_for_exactly_the_tars(
    tmp_path_factory: pytest.TempPathFactory, layers: dict[int, int]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    sizes = {f"{number:06d}-{layer:02d}.tar": 1 for number, count in layers.items() for layer in range(count)}
    (folder / "sizes.json").write_text(json.dumps(sizes))
    found = [Path(url).name for part in pattern(str(folder)).split("::") for url in braceexpand(part)]
    assert Counter(found) == Counter(sizes)
