"""Labelled and captioned images: classes by number or name, every caption of a picture, rejects where they lie."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pools import jpeg, members, pair, write_tar
from winnow.pipeline.errors import DataError, JobError, PoolError
from winnow.stages.pools.labelled import captioned_images, labelled_images, read_classnames
from winnow.stages.pools.sample import Reject

NAMES = ("red fish", "cat", "dog")


def table(folder: Path, label: object, image: object = None) -> str:
    images = [{"bytes": jpeg(n), "path": None} for n in range(3)] if image is None else image
    pq.write_table(pa.table({"image": images, "label": label}), folder / "a.parquet")
    return str(folder / "a.parquet")


@pytest.mark.parametrize("label", [[2, 0, 1], ["dog", "red_fish", "cat"], ["2", "0", "1"]])
def test_parquet_labels_are_numbers_or_names(tmp_path: Path, label: list[object]) -> None:
    found = list(labelled_images(table(tmp_path, label), None, "image", NAMES))
    assert [(sample.image, number) for sample, number in found] == [(jpeg(0), 2), (jpeg(1), 0), (jpeg(2), 1)]  # type: ignore[misc]  # no rejects


def test_a_null_image_is_a_reject_in_its_place(tmp_path: Path) -> None:
    found = list(labelled_images(table(tmp_path, [0, 7, 1], [jpeg(0), None, jpeg(2)]), None, "image", NAMES))
    assert [isinstance(item, Reject) for item in found] == [False, True, False]
    assert found[2][1] == 1  # type: ignore[index]  # rows after it keep their labels


def test_tars_have_a_member_or_a_field(tmp_path: Path) -> None:
    samples = [
        ("a", {**pair(0, "x", kind="red_fish"), "cls": b"1"}),
        ("b", {**pair(1, "x", kind="dog"), "cls": b"cat\n"}),
        ("c", {"txt": b"x", "cls": b"2", "json": b"{}"}),
    ]
    url = write_tar(tmp_path / "a.tar", members(samples))
    by_member = list(labelled_images(url, None, "image", NAMES))
    assert [item.kind if isinstance(item, Reject) else item[1] for item in by_member] == [1, 1, "no-image"]
    by_field = list(labelled_images(url, "json:kind", "image", NAMES))
    assert [item.kind if isinstance(item, Reject) else item[1] for item in by_field] == [0, 2, "no-image"]


@pytest.mark.parametrize("label", [[0, 3, 1], [0, -1, 1], ["cat", "fish", "dog"], [0, None, 1], [0.0, 1.0, 2.0]])
def test_a_label_is_a_class(tmp_path: Path, label: list[object]) -> None:
    with pytest.raises(DataError, match=r"a label must be a class name or a number below 3, got "):
        list(labelled_images(table(tmp_path, label), None, "image", NAMES))


def test_missing_columns_are_said(tmp_path: Path) -> None:
    url = table(tmp_path, [0, 1, 2])
    with pytest.raises(
        PoolError, match="must have columns image and fine_label, but fine_label is not one of image, lab"
    ):
        list(labelled_images(url, "fine_label", "image", NAMES))
    with pytest.raises(PoolError, match="label must hold encoded images"):
        list(labelled_images(url, "image", "label", NAMES))


def test_every_caption_of_a_picture_comes(tmp_path: Path) -> None:
    samples = [
        ("a", pair(0, "one", captions=["first", " ", "second", 7], alt="other")),
        ("b", pair(1, "two", captions=[], alt="other")),
        ("c", pair(2, "three", captions="only", alt=None)),
        ("d", {**pair(3, " "), "json": b"{"}),
        ("e", {**pair(4, "five"), "json": b"[1]"}),
    ]
    url = write_tar(tmp_path / "a.tar", members(samples))

    def found(captions: str) -> list[object]:
        return [item.kind if isinstance(item, Reject) else item[1] for item in captioned_images(url, captions)]

    no = "no-caption"
    assert found("json:captions") == [("first", "second"), no, ("only",), no, no]
    assert found("json:alt") == [("other",), ("other",), no, no, no]
    assert found("txt") == [("one",), ("two",), ("three",), no, ("five",)]
    pictures = [item[0].image for item in captioned_images(url, "json:captions") if not isinstance(item, Reject)]
    assert pictures == [jpeg(0), jpeg(2)]
    with pytest.raises(JobError, match="captions must be a suffix or json:FIELD, got 'json:'"):
        found("json:")


def test_class_names_are_lines(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfred_fish\r\n cat \nDog\n\n")
    assert read_classnames(str(tmp_path / "names.txt")) == ("red fish", "cat", "Dog")
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(JobError, match=r"a file of class names must have one per line, but .*none.txt has none"):
        read_classnames(str(tmp_path / "none.txt"))
    (tmp_path / "gap.txt").write_text("red_fish\n\ncat\n")
    with pytest.raises(JobError, match=r"but line 2 of .*gap.txt is empty"):
        read_classnames(str(tmp_path / "gap.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(
        JobError, match=r"latin.txt must be UTF-8, but the byte 0x\w\w of line \d is not; save it as UTF-8"
    ):
        read_classnames(str(tmp_path / "latin.txt"))


def test_two_classes_of_one_name_are_told_by_number_alone(tmp_path: Path) -> None:
    names = ("crane", "dog", "crane")
    found = list(labelled_images(table(tmp_path, [0, 1, 2]), None, "image", names))
    assert [item[1] for item in found if not isinstance(item, Reject)] == [0, 1, 2]
    with pytest.raises(DataError, match="got 'crane'; a name that two classes share cannot be a label"):
        list(labelled_images(table(tmp_path, ["dog", "crane", "dog"]), None, "image", names))
