"""Removes files and folders; a file that another process has removed already is not an error."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from winnow.pipeline.storage.backends import answering, in_memory, lies_here, resolve


def remove(urls: Sequence[str]) -> None:
    """Remove files of one storage. Cost on S3: one request for each thousand."""
    if urls:
        with answering("remove", urls[0]):
            _remove_files(resolve(urls[0])[0], [resolve(url)[1] for url in urls])


def remove_folder(url: str) -> None:
    """Remove a folder with everything in it; does nothing if it does not exist."""
    filesystem, path = resolve(url)
    if lies_here(filesystem):
        shutil.rmtree(path, ignore_errors=True)
        return
    with answering("remove", url), suppress(FileNotFoundError):
        _remove_files(filesystem, filesystem.find(path))  # fsspec's own way asks for each folder by itself too


def _remove_files(filesystem: Any, paths: Sequence[str]) -> None:
    if lies_here(filesystem) or in_memory(filesystem):
        for path in paths:
            with suppress(FileNotFoundError):
                filesystem.rm_file(path)
    elif paths:
        with suppress(FileNotFoundError):
            filesystem.rm(list(paths))
