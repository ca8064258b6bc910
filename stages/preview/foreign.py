"""Recognises a file that its reader cannot read by its first bytes, and says what to do with it."""

import re

_ARROW = (
    "an Arrow file, as datasets' save_to_disk leaves: write parquet of it, with load_from_disk and to_parquet; "
    "docs/pools.md says how the pictures go into it"
)
_PICTURE = "a picture: pictures as loose files are no pool, so pack them into tars or parquet with their captions"
_BEGINNINGS = (
    (b"PAR1", "a parquet file: say so by pool.format"),
    (b"ARROW1", _ARROW),
    (b"\xff\xff\xff\xff", _ARROW),
    (b"version https://git-lfs", "a pointer of Git LFS, which stands for the file: fetch that with `git lfs pull`"),
    (b"\x93NUMPY", "a .npy file: vectors need the parquet beside them, as formats clip-retrieval and vectors say"),
    (b"\x1f\x8b", "compressed with gzip: unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it"),
    (b"BZh", "compressed with bzip2: unpack it"),
    (b"\xfd7zXZ", "compressed with xz: unpack it"),
    (b"PK\x03\x04", "a zip archive: make tars or parquet of what it holds"),
    (b"\xff\xd8\xff", _PICTURE),
    (b"\x89PNG", _PICTURE),
    (b"RIFF", _PICTURE),
    (b"GIF8", _PICTURE),
)
_JSON = re.compile(rb"\s*(\{\s*\"|\[\s*[\[{\"])")
_TAR_MAGIC = slice(257, 262)

HEAD_BYTES = 512
"""Number of bytes at the beginning of a file that `foreign` looks at."""


def foreign(head: bytes) -> str:
    """What a file with these first bytes is and what to do, as the end of a sentence; "" if unknown."""
    for beginning, told in _BEGINNINGS:
        if head.startswith(beginning):
            return told
    if _JSON.match(head):
        return (
            "JSON: write parquet of it, with the pictures or the vectors, or name the format of a package that reads "
            "it by pool.format"
        )
    return "a tar: say pool.format: webdataset" if head[_TAR_MAGIC] == b"ustar" else ""
