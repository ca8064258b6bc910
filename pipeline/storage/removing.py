"""Removes files and folders; one that another process has removed already is no error."""

import shutil
from collections.abc import Sequence
from contextlib import suppress

from winnow.pipeline.storage.backends import answering, in_memory, lies_here, resolve


def remove(urls: Sequence[str]) -> None:
    """Remove files of one storage. Cost on S3: one request for each thousand."""
    if not urls:
        return
    filesystem, _ = resolve(urls[0])
    paths = [resolve(url)[1] for url in urls]
    with answering("remove", urls[0]):
        if lies_here(filesystem) or in_memory(filesystem):
            for path in paths:
                with suppress(FileNotFoundError):
                    filesystem.rm_file(path)
        else:
            with suppress(FileNotFoundError):
                filesystem.rm(paths)


def remove_folder(url: str) -> None:
    """Remove a folder with all that is in it; does nothing where there is none."""
    filesystem, path = resolve(url)
    if lies_here(filesystem):
        shutil.rmtree(path, ignore_errors=True)
        return
    with answering("remove", url), suppress(FileNotFoundError):
        filesystem.rm(path, recursive=True)
