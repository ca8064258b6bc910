"""Options that are named were tried: those that read, members before fields of a json, and none that is a guess."""

from pathlib import Path

import pyarrow as pa

from tests.pools import jpeg, members, write_parquet, write_tar
from winnow.stages.pools.parquet import Parquet
from winnow.stages.pools.vectors import Vectors
from winnow.stages.pools.webdataset import Webdataset
from winnow.stages.preview.remedy import remedies


def test_members_come_before_fields(tmp_path: Path) -> None:
    parts = {"jpg": jpeg(0), "json": b'{"caption": "from json"}', "txt": b"from a member"}
    url = write_tar(tmp_path / "a.tar", members([(f"{n}", parts) for n in range(3)]))
    assert remedies(Webdataset(caption="caption"), url, ["no-caption"]) == [
        "With pool.caption: txt 3 of the first 3 are read, the first with the caption 'from a member'.",
        "With pool.caption: json:caption 3 of the first 3 are read, the first with the caption 'from json'.",
    ]


def test_what_most_samples_lack_is_not_named(tmp_path: Path) -> None:
    samples = [("0", {"jpg": jpeg(0), "text": b"a b"}), *[(f"{n}", {"jpg": jpeg(0)}) for n in range(1, 5)]]
    assert remedies(Webdataset(), write_tar(tmp_path / "a.tar", members(samples)), ["no-caption"]) == []


def test_a_caption_is_no_terminal_code(tmp_path: Path) -> None:
    url = write_tar(tmp_path / "a.tar", members([("0", {"jpg": jpeg(0), "text": b"\x1b[2Ja\nb"})]))
    [line] = remedies(Webdataset(), url, ["no-caption"])
    assert line.endswith(r"'\x1b[2Ja\nb'.")


def test_columns(tmp_path: Path) -> None:
    table = pa.table({"image": pa.nulls(3, pa.binary()), "jpg": [jpeg(0)] * 3, "caption": ["a b"] * 3})
    url = write_parquet(str(tmp_path / "a.parquet"), table)
    [line] = remedies(Parquet(), url, ["no-image"])
    assert line.startswith("With pool.image: jpg 3 of the first 3 are read")
    vectors = pa.table({"image": [[1.0, 2.0]] * 3, "caption": pa.nulls(3, pa.string()), "alt": ["a b"] * 3})
    url = write_parquet(str(tmp_path / "b.parquet"), vectors)
    [line] = remedies(Vectors(), url, ["no-caption"])
    assert line.startswith("With pool.caption: alt 3 of the first 3 are read")


def test_a_shard_that_cannot_be_read_has_no_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    assert remedies(Webdataset(), str(tmp_path / "a.tar"), ["no-caption"]) == []
