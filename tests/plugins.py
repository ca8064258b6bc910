"""Distributions that a test installs: a folder on the path with modules and the metadata that pip would write."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


def install(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    name: str,
    offers: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str],
    version: str = "1.0",
) -> Path:
    """Install a distribution until the test ends; the folder that it lies in.

    offers: `module:Class` by name, by group. modules: source text by file name; forgotten again with the test.
    """
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = [[f"[{group}]", *(f"{key} = {value}" for key, value in found.items())] for group, found in offers.items()]
    (info / "entry_points.txt").write_text("\n".join(line for group in groups for line in group))
    for file, text in modules.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
        module = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        monkeypatch.setitem(sys.modules, module, None)  # so that what stands there is put back
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(folder)
    return folder
