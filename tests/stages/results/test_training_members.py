"""Members under the names by which training reads the judged pair, held against webdataset's own decoders."""

import warnings

import pytest
from webdataset import autodecode

from tests.corpus.training import SIDE_MEMBERS, THUMBNAIL
from tests.pools import jpeg
from winnow.stages.results.training_members import (
    ASIDE,
    DECODERS,
    IMAGES,
    PICTURES,
    UNSHOWN,
    Entry,
    decodes,
    training_key,
    training_members,
)

DECODER = autodecode.Decoder([autodecode.imagehandler("pilrgb")])


def webdataset_keeps(suffix: str, content: bytes) -> bool:
    """Whether webdataset decodes a member, or leaves it as it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            DECODER.decode({suffix: content})
    except Exception:  # noqa: BLE001  # as the trainer's handler does
        return False
    return True


def test_webdataset_has_the_decoders_that_are_known_here() -> None:
    assert set(autodecode.IMAGE_EXTENSIONS) == IMAGES
    assert set(autodecode.decoders) == UNSHOWN | set(DECODERS)
    assert set(PICTURES) <= IMAGES
    assert webdataset_keeps(f"jpg{ASIDE}", b"any")


def unshown(suffix: str) -> bool:
    return suffix.rpartition(".")[2] in UNSHOWN or suffix.startswith("__")


CONTENTS = {content: suffix for suffix, content in SIDE_MEMBERS.items() if content != b"\xff\xfe\xfd"}


@pytest.mark.parametrize("content", [*CONTENTS, jpeg(1)], ids=[*CONTENTS.values(), "another picture"])
def test_any_content_under_any_name_is_judged_as_webdataset_decodes_it(content: bytes) -> None:
    names = {suffix.lower() for suffix in SIDE_MEMBERS} | {"webp", "x.gif", "ps", "msg.gz", "jpg.gz", ""}
    for name in names:
        if unshown(name) or unshown(name.removesuffix(".gz")):  # nobody runs a pickle to see what it does
            assert not decodes(name, content) or name.endswith(".gz")
        else:
            assert decodes(name, content) == webdataset_keeps(name, content), name


PAIR: list[Entry] = [("jpg", jpeg(1)), ("txt", b"words")]
ORDER = ("jpg", "jpeg", "png", "webp")


def names(members: list[Entry], image: tuple[str, ...] = ORDER, caption: str | None = None) -> list[str]:
    """What they are called, in order; the contents stay."""
    found = training_members(members, image, caption)
    assert [content for _, content in found][: len(members)] == [content for _, content in members]
    return [suffix for suffix, _ in found]


@pytest.mark.parametrize("suffix", SIDE_MEMBERS)
def test_what_does_not_decode_gets_another_name_and_nothing_else_does(suffix: str) -> None:
    kept = not unshown(suffix) and webdataset_keeps(suffix.lower(), SIDE_MEMBERS[suffix])
    members = [*PAIR, (suffix, SIDE_MEMBERS[suffix])]
    assert names(members) == ["jpg", "txt", suffix if kept else suffix + ASIDE]


def test_the_judged_picture_is_the_one_that_is_taken() -> None:
    png, webp = ("png", THUMBNAIL), ("webp", THUMBNAIL)
    assert names([png, ("jpeg", jpeg(1)), PAIR[1], webp]) == ["png.bin", "jpeg", "txt", "webp"]
    assert names([png, *PAIR]) == ["png", "jpg", "txt"]
    assert names([png, *PAIR], ("png", "jpg")) == ["png", "jpg.bin", "txt"]
    assert names([("PNG", THUMBNAIL), ("JPG", b""), PAIR[1]], ("png",)) == ["PNG", "JPG.bin", "txt"]
    assert names([("img", THUMBNAIL), *PAIR, webp], ("img", "jpg")) == ["jpg", "jpg.bin", "txt", "webp"]
    assert names([("avif", b"any"), PAIR[1]], ("avif",)) == ["jpg", "txt"]
    assert names([png, ("png.bin", b""), ("jpeg", b"")], ORDER) == ["png.bin.bin", "png.bin", "jpeg"]


def test_the_judged_caption_is_the_txt() -> None:
    assert training_members(PAIR, ORDER, "words") == PAIR
    assert training_members(PAIR, ORDER, "other") == [PAIR[0], ("txt", b"other")]
    assert training_members(PAIR[:1], ORDER, "ü") == [PAIR[0], ("txt", "ü".encode())]
    assert names([*PAIR, ("en.txt", b"said")], ORDER, "words") == ["jpg", "txt", "en.txt"]


@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("./00000", "./00000"),
        ("__a__", "__a__"),
        ("__MACOSX/a", "__MACOSX/a"),
        ("__a__/b", "./__a__/b"),
        ("a\nb/c", "a\nb/c"),
        ("a.b\n/c", "./a.b_/c"),
        ("v1.2/c", "v1.2/c"),
    ],
)
def test_a_key_that_webdataset_passes_over_gets_another(key: str, read: str) -> None:
    assert training_key(key) == read
