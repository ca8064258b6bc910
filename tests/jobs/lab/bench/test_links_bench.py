"""The benchmark of links: winnow, polars and duckdb keep as many of a small pool."""

from pathlib import Path

import pytest

from winnow.jobs.lab.bench import links


def test_every_program_keeps_as_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_MOST", 5)
    links.make_links(tmp_path, 4000)
    kept = {way: links.WAYS[way](tmp_path)["kept"] for way in ("polars", "duckdb", "winnow, threads")}
    assert len(set(kept.values())) == 1
    assert 0 < kept["polars"] < 4000
