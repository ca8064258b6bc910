"""Archives put together from single members, so that any byte of them can be wrong."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

from tests.corpus.case import Case
from tests.pools import jpeg


def entry(name: str, content: bytes = b"", format: int = tarfile.GNU_FORMAT, **fields: Any) -> bytes:
    """One member of a tar, padded: header, its extended headers, and content."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(content), 1_700_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(format) + content + bytes(-len(content) % 512)


def entries(*members: tuple[str, bytes]) -> bytes:
    """Members side by side."""
    return b"".join(entry(name, content) for name, content in members)


END = bytes(1024)


def sound(key: str, case: str) -> bytes:
    """Two members of a sample like no other in the corpus."""
    seed = sum(map(ord, case + key))
    return entries((f"{key}.jpg", jpeg(seed)), (f"{key}.txt", f"the {key} sample of {case}".encode()))


MID = entries(("mid.jpg", jpeg(7)), ("mid.txt", b"a picture in the middle"))
MID_TXT = entry("mid.txt", b"a picture in the middle")


def tar(name: str, middle: bytes, *outcomes: str, **more: Any) -> Case:
    """Bytes between two sound samples."""
    whole = sound("first", name) + middle + sound("last", name) + END
    return Case(name, "webdataset", {"shard.tar": whole}, ("first", *outcomes, "last"), **more)


def raw(name: str, content: Callable[[bytes, bytes], bytes], *outcomes: str, **more: Any) -> Case:
    """A whole file made from the sound samples."""
    made = content(sound("first", name), sound("last", name))
    return Case(name, "webdataset", {"shard.tar": made}, outcomes, **more)


def header_of(name: str, size: int) -> bytes:
    """A GNU header with a right checksum that states any size."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def extended(kind: bytes, payload: bytes, size: int | None = None) -> bytes:
    """An extended header and its payload."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, len(payload) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + payload + bytes(-len(payload) % 512)


def zipped(files: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive, such as a .npz."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = kind
            archive.writestr(member, content)
    return buffer.getvalue()
