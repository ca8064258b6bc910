"""Headers are judged as tarfile judges them, and tars come out in whatever pieces they are written."""

import io
import tarfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from winnow.pipeline.errors import ShardError
from winnow.stages.results.tar_shard import TarShard, _names_plainly, check_block

KEYS = st.sampled_from(["a", "a.b", "deep/000012", "x" * 98, "x" * 99, "y" * 60 + "/" + "z" * 60, "caf\u00e9", "0"])
TYPES = st.sampled_from([*tarfile.REGULAR_TYPES, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.GNUTYPE_LONGNAME])


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Headers of members, some of them with a byte or the sum changed."""
    info = tarfile.TarInfo(f"{draw(KEYS)}.{draw(st.sampled_from(['jpg', 'txt', '']))}")
    info.type, info.size = draw(TYPES), draw(st.integers(0, 8**11 - 1))
    fits = "/" in info.name or len(info.name) < 100
    format = draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])) if fits else tarfile.GNU_FORMAT
    raw = bytearray(info.tobuf(format)[: tarfile.BLOCKSIZE])
    for at, byte in draw(st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=2)):
        raw[at] = byte
    return bytes(raw)


def as_tarfile_reads(raw: bytes, key: str) -> bool:
    """Whether a regular member of `key` has this header."""
    try:
        header = tarfile.TarInfo.frombuf(raw, "utf-8", "backslashreplace")
    except tarfile.HeaderError:
        return False
    return header.type in tarfile.REGULAR_TYPES and header.name.startswith(f"{key}.")


@settings(max_examples=200, deadline=None)
@given(raw=headers(), key=KEYS)
@example(raw=bytes(512), key="a")
@example(raw=b"a.jpg", key="a")
def test_what_is_plain_is_so_to_tarfile(raw: bytes, key: str) -> None:
    assert as_tarfile_reads(raw, key) or not _names_plainly(raw, key)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_headers_that_tarfile_writes_are_plain(format: int) -> None:
    raw = tarfile.TarInfo("deep/000012.jpg").tobuf(format)
    assert _names_plainly(raw, "deep/000012")
    assert not _names_plainly(raw, "deep/00001")


@pytest.mark.parametrize("key", ["caf\u00e9", "x" * 120])
def test_a_name_that_is_not_plain_is_read_by_tarfile(key: str) -> None:
    raw = tarfile.TarInfo(f"{key}.jpg").tobuf(tarfile.GNU_FORMAT)
    assert not _names_plainly(raw, key)
    check_block(memoryview(raw), 0, key, "0.tar")
    with pytest.raises(ShardError, match=r"0\.tar must be as it was when it was embedded, but other is not at 512"):
        check_block(memoryview(tarfile.TarInfo("caf\u00e9.jpg").tobuf(tarfile.GNU_FORMAT)), 512, "other", "0.tar")


def test_a_sum_that_is_wrong_is_refused() -> None:
    raw = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.GNU_FORMAT))
    raw[105] ^= 1
    with pytest.raises(ShardError, match="a is not at 0"):
        check_block(memoryview(raw), 0, "a", "0.tar")


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.sampled_from([0, 1, 511, 512, 200_000, 262_144 - 512, 262_144, 600_001]), max_size=6))
def test_a_tar_is_the_same_in_whatever_pieces_it_is_written(sizes: list[int]) -> None:
    out, wanted = io.BytesIO(), io.BytesIO()
    writer = TarShard(out)
    with tarfile.open(fileobj=wanted, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for number, size in enumerate(sizes):
            content = bytes([number + 1]) * size
            writer.add_members(f"{number}", [("bin", content)])
            header = tarfile.TarInfo(f"{number}.bin")
            header.size = size
            tar.addfile(header, io.BytesIO(content))
    writer.finish()
    assert out.getvalue() == wanted.getvalue()


def test_a_tar_that_is_broken_off_has_what_was_written() -> None:
    out = io.BytesIO()
    writer = TarShard(out)
    writer.add_members("a", [("txt", b"words")])
    writer.break_off()
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert tar.next().name == "a.txt"  # type: ignore[union-attr]  # there is one
        with pytest.raises(tarfile.ReadError, match="unexpected end of data"):
            tar.getmembers()
