"""Files and folders are removed, and what is not there is no error."""

import uuid
from pathlib import Path

import pytest

from winnow.pipeline import storage


@pytest.mark.parametrize("kind", ["local", "memory", "s3"])
def test_what_is_there_is_removed_and_nothing_else(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    fresh = uuid.uuid4().hex
    roots = {"local": str(tmp_path), "memory": f"memory://{fresh}"}
    root = roots.get(kind) or storage.join(request.getfixturevalue("s3_store"), fresh)
    names = ["a/1", "a/2", "a/deep/3", "ab/4"]
    for name in names:
        storage.write_bytes(storage.join(root, name), b"x")

    def left() -> list[str]:
        return [name for name in names if storage.exists(storage.join(root, name))]

    storage.remove([storage.join(root, "a/1"), storage.join(root, "a/none")])
    assert left() == ["a/2", "a/deep/3", "ab/4"]
    storage.remove([])
    storage.remove_folder(storage.join(root, "a"))
    assert left() == ["ab/4"]
    storage.remove_folder(storage.join(root, "a"))


@pytest.mark.parametrize("kind", ["local", "memory", "s3"])
def test_folders_that_nobody_writes_to_are_removed(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = {"local": str(tmp_path), "memory": f"memory://{uuid.uuid4().hex}"}
    root = roots.get(kind) or storage.join(request.getfixturevalue("s3_store"), uuid.uuid4().hex)
    for name in ("a/1", "a/deep/2", "b/1", "file"):
        storage.write_bytes(storage.join(root, name), b"x")
    assert storage.remove_abandoned_folders(storage.join(root, "none")) == 0
    assert storage.remove_abandoned_folders(root) == 0
    monkeypatch.setattr("winnow.pipeline.storage.writing._ABANDONED_S", -86_400.0)  # all was written long ago
    assert storage.remove_abandoned_folders(root) == 2
    assert storage.folders(root) == []
    assert storage.read_bytes(storage.join(root, "file")) == b"x"
