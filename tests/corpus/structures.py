"""Tars that are cut, spoiled, compressed, or unusual."""

import bz2
import gzip
import lzma
import tarfile

from tests.corpus.case import BAD, Case
from tests.corpus.tars import END, MID, MID_TXT, entries, entry, extended, header_of, raw, tar, zipped
from tests.pools import jpeg


def structures() -> list[Case]:
    """Tars that are cut, spoiled, or unusual."""
    gap, cut, lost = f"{BAD}tar-gap", f"{BAD}tar-truncated", f"{BAD}no-image"
    hole = MID[:512]
    image_end = 512 + -(-len(jpeg(7)) // 512) * 512
    deep = _deep()[0][0].removesuffix(".jpg")
    long_key = "d" * 60 + "/" + "k" * 130
    return [
        raw("cut in a header", lambda a, b: a + MID[: image_end + 300], "first", cut),
        raw("cut in the first header", lambda a, b: a[:300], failed="must be an uncompressed tar, but"),
        raw("cut in a member", lambda a, b: a + MID[:900], "first", cut, says={"tar-truncated": "needs bytes up to"}),
        raw("cut in the first member", lambda a, b: a[:700], cut),
        raw("cut in padding", lambda a, b: a + MID[:-100], "first", cut),
        raw("cut at a border of samples", lambda a, b: a + b, "first", "last", cut, says={"tar-truncated": "the mark"}),
        raw("half an end mark", lambda a, b: a + b + bytes(512), "first", "last"),
        raw("a little of an end mark", lambda a, b: a + b + bytes(7), "first", "last"),
        raw("an end mark of a megabyte", lambda a, b: a + b + bytes(1 << 20), "first", "last"),
        raw("junk after the end mark", lambda a, b: a + b + END + b"junk" * 99, "first", "last", cut),
        raw("junk before the first header", lambda a, b: b"junk" * 99 + a + b + END, gap, "first", "last"),
        raw("two tars in one file", lambda a, b: a + END + b + END, "first", gap, "last"),
        raw("an empty tar", lambda a, b: bytes(10240)),
        raw("no bytes at all", lambda a, b: b"", failed="the file ends at byte 0"),
        raw("gzip", lambda a, b: gzip.compress(a + b + END, mtime=0), failed="it begins like a gzip file"),
        raw("stored gzip", lambda a, b: gzip.compress(a + b, 0, mtime=0), failed="it begins like a gzip file"),
        raw("bzip2", lambda a, b: bz2.compress(a + b + END), failed="it begins like a bzip2 file"),
        raw("xz", lambda a, b: lzma.compress(a + b + END), failed="it begins like a xz file"),
        raw("parquet named tar", lambda a, b: b"PAR1" + bytes(999), failed="it is a parquet file: say so"),
        raw("an Arrow stream named tar", lambda a, b: b"\xff" * 4 + bytes(999), failed="save_to_disk leaves"),
        raw("a picture named tar", lambda a, b: b"\xff\xd8\xff\xe0" + bytes(999), failed="loose files are no pool"),
        raw("html named tar", lambda a, b: b"<html>503</html>" * 99, failed="the header at byte 0 is broken"),
        raw(
            "lines of JSON",
            lambda a, b: b'{"image": "YQ==", "text": "words"}\n' * 99,
            failed="it is JSON: write parquet",
        ),
        raw("JSON named tar", lambda a, b: b'[\n  {"text": "words"}]', failed="by pool.format"),
        raw("zip named tar", lambda a, b: zipped({"a.txt": b"x" * 999}), failed="it is a zip archive"),
        tar("junk between samples", b"\7" * 1024, gap, says={"tar-gap": "1024 bytes from"}),
        tar("junk of odd length", b"\7" * 777, gap, says={"tar-gap": "777 bytes from"}),
        tar("zeros between samples", bytes(4096), gap, says={"tar-gap": "the end mark at byte"}),
        tar("a spoiled header", b"\7" * 512 + MID[512:], gap, lost),
        tar("a header of zeros", bytes(512) + MID[512:], gap, lost),
        tar("one flipped bit in a header", hole[:5] + b"\1" + hole[6:] + MID[512:], gap, lost),
        tar("bytes missing in an image", MID[:700] + MID[1000:], gap, lost),
        tar("a block missing in an image", MID[:512] + MID[1024:], gap, lost),
        tar("a size of a terabyte", header_of("mid.jpg", 1 << 40) + MID[512:], gap, lost),
        tar("a negative size", header_of("mid.jpg", -5) + MID[512:], gap, lost),
        tar("a name of two megabytes", extended(tarfile.GNUTYPE_LONGNAME, b"k" * (2 << 20)) + MID, gap, lost),
        tar("a pax header of two megabytes", extended(tarfile.XHDTYPE, b"k" * (2 << 20)) + MID, gap, lost),
        tar("a broken pax header", extended(tarfile.XHDTYPE, b"99 path=mid") + MID, gap, lost),
        tar("a long name of a terabyte", extended(tarfile.GNUTYPE_LONGNAME, b"", 1 << 33) + MID, gap, "mid"),
        tar("a GNU long name", entries((f"{long_key}.jpg", jpeg(7)), (f"{long_key}.txt", b"words")), long_key),
        tar("a pax long name", _pax(long_key), long_key),
        tar("a pax name of other letters", _pax("ö猫"), "ö猫"),
        tar("a global pax header", extended(tarfile.XGLTYPE, b"13 comment=x\n") + MID, "mid"),
        tar("a name that is no UTF-8", _bad_name(), "mid\\xff"),
        tar("a header of 1979", _without_magic(MID[:512]) + MID[512:], "mid"),
        tar(
            "GNU headers with times",
            _changed(entries(("mid.jpg", jpeg(7)), ("mid.txt", b"a")), 345, b"14524770400\0"),
            "mid",
        ),
        tar("a GNU list of a folder", entry("d/", b"Nmid.jpg\0Nmid.txt\0\0", type=b"D") + MID, "mid"),
        tar("a GNU label", entry("backup", type=b"V") + MID, "mid"),
        tar("a GNU header that all but says so", _changed(MID, 263, b"  ", 345, b"folder"), "mid"),
        tar("a POSIX folder", b"".join(entry(name, content, tarfile.USTAR_FORMAT) for name, content in _deep()), deep),
        tar("a POSIX folder as Perl says it", _changed(MID, 257, b"ustar 00", 345, b"folder"), "folder/mid"),
        tar("a header of 1979 with junk behind it", _changed(MID, 257, bytes(8), 345, b"junk"), "mid"),
        tar("a star header", _star(b"folder"), "folder/mid"),
        tar("a star header with times alone", _star(b""), "mid"),
        tar("a star header with a long folder", _star(b"f" * 131), "f" * 131 + "/mid"),
        tar("pax records of no kind", _records(b"15 comment=a=b", b"17 VENDOR.x=\xff\0\n=", b"007 a="), "mid"),
        tar("an empty pax path", _records(b"8 path="), "mid"),
        tar("a GNU sparse image", entry("mid.jpg", bytes(512), type=tarfile.GNUTYPE_SPARSE) + MID_TXT, gap, lost),
        tar("a pax sparse image", extended(tarfile.XHDTYPE, b"22 GNU.sparse.major=1\n") + MID, gap, lost),
        tar("a link for an image", entry("mid.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd") + MID_TXT, lost),
        tar("a hard link for an image", entry("mid.jpg", type=tarfile.LNKTYPE, linkname="first.jpg") + MID_TXT, lost),
        tar("a folder for an image", entry("mid.jpg/", type=tarfile.DIRTYPE) + MID_TXT, lost),
        tar("a device for an image", entry("mid.jpg", type=tarfile.CHRTYPE) + MID_TXT, lost),
        tar("a pipe for an image", entry("mid.jpg", type=tarfile.FIFOTYPE) + MID_TXT, lost),
        tar("an absolute path", entries(("/etc/mid.jpg", jpeg(7)), ("/etc/mid.txt", b"words")), "/etc/mid"),
        tar("a path out of the folder", entries(("../../mid.jpg", jpeg(7)), ("../../mid.txt", b"w")), "../../mid"),
        tar("members without a key", entries((".jpg", b"x"), ("README", b"x"), ("._mid.jpg", b"x")) + MID, "mid"),
        tar("suffixes in capitals", entries(("MID.JPG", jpeg(7)), ("MID.Txt", b"words")), "MID"),
    ]


def _changed(members: bytes, *changes: object) -> bytes:
    """Members with other bytes in each header: where, and what."""
    found, at = b"", 0
    while at < len(members):
        end = at + 512 + -(-int(members[at + 124 : at + 135], 8) // 512) * 512
        raw = bytearray(members[at : at + 512])
        for where, what in zip(changes[::2], changes[1::2], strict=True):
            assert isinstance(where, int)
            assert isinstance(what, bytes)
            raw[where : where + len(what)] = what
        found, at = found + _resummed(bytes(raw)) + members[at + 512 : end], end
    return found


def _deep() -> list[tuple[str, bytes]]:
    folder = "/".join(["folder"] * 20)
    return [(f"{folder}/mid.jpg", jpeg(7)), (f"{folder}/mid.txt", b"a")]


def _star(folder: bytes) -> bytes:
    times = b"14524770400 14524770401 "
    return _changed(MID, 257, b"ustar\x0000", 345, folder, 476, times, 508, b"tar\0")


def _records(*records: bytes) -> bytes:
    return extended(tarfile.XHDTYPE, b"".join(record + b"\n" for record in records)) + MID


def _pax(key: str) -> bytes:
    parts = ((f"{key}.jpg", jpeg(7)), (f"{key}.txt", b"words"))
    return b"".join(entry(name, content, tarfile.PAX_FORMAT) for name, content in parts)


def _bad_name() -> bytes:
    return b"".join(
        _resummed(entry(f"mid@.{suffix}", content).replace(b"mid@", b"mid\xff", 1))
        for suffix, content in (("jpg", jpeg(7)), ("txt", b"words"))
    )


def _resummed(member: bytes) -> bytes:
    bare = member[:148] + b" " * 8 + member[156:512]
    return bare[:148] + f"{sum(bare):06o}\0 ".encode() + member[156:]


def _without_magic(header: bytes) -> bytes:
    """The header as tar programs wrote it in 1979."""
    return _resummed(header[:257] + bytes(255))
