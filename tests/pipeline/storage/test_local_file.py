"""Files that go to the disk while they are written."""

import ctypes
import os
from pathlib import Path

import numpy as np
import pytest

from winnow.pipeline import storage
from winnow.pipeline.storage import local_file as early_file


@pytest.mark.skipif(early_file._SYNC_FILE_RANGE is None, reason="only Linux is told early")
def test_a_large_file_goes_to_the_disk_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int, int]] = []
    real = early_file._SYNC_FILE_RANGE

    def telling(descriptor: int, start: ctypes.c_int64, size: ctypes.c_int64, flags: int) -> None:
        told.append((start.value, size.value, real(descriptor, start, size, flags)))

    monkeypatch.setattr(early_file, "_SYNC_FILE_RANGE", telling)
    block = os.urandom(1_234_567)
    with storage.committing(str(tmp_path / "large")) as file:
        for _ in range(20):
            file.write(block)
    assert (tmp_path / "large").read_bytes() == 20 * block
    assert len(told) == 2
    assert told[1][0] == told[0][1]
    assert sum(size for _, size, _ in told) > 16 << 20
    assert {answer for _, _, answer in told} == {0}


def test_a_file_is_written_in_small_pieces(tmp_path: Path) -> None:
    """Of whatever it is given; who writes a large one by BufferedWriter need not know."""
    content = os.urandom(3 * early_file.WRITE_BYTES + 1)
    with early_file.EarlyFile(tmp_path / "raw", "w") as file:
        assert file.write(content) == early_file.WRITE_BYTES
    with storage.committing(str(tmp_path / "whole")) as file:
        file.write(b"before")
        assert file.write(np.frombuffer(content, np.uint8)) == len(content)
        file.write(content[:5])
    assert (tmp_path / "whole").read_bytes() == b"before" + content + content[:5]
