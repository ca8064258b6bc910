"""Columns of other packages: chosen by an option of the name of their kind, with the version in the fingerprint."""

from pathlib import Path

import pytest

from tests.plugins import install
from tests.pools import Samples, opened_with_columns
from winnow.pipeline.errors import FailedShards, JobError
from winnow.stages.columns.kinds import COLUMNS, chosen_by

CAPITALS = """
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from winnow.stages.columns.column import Column


@dataclass(frozen=True)
class Capitals(Column):
    capitals: str = "caption"
    kind: ClassVar[str] = "capitals"
    types: ClassVar[Mapping[str, pa.DataType]] = {"value": pa.int64()}

    def values(self, known, item, rows):
        texts = known.table(item.index, ["caption"])["caption"].take(pa.array(rows)).to_pylist()
        counts = [sum(map(str.isupper, text)) for text in texts]
        return {"value": pa.array(counts, pa.float64() if self.capitals == "wrong" else pa.int64())}


class Unnamed(Column):
    kind = "unnamed"
"""


def offer(monkeypatch: pytest.MonkeyPatch, folder: Path, version: str = "1.0") -> None:
    offers = {"capitals": "acme_capitals:Capitals", "unnamed": "acme_capitals:Unnamed"}
    install(
        monkeypatch,
        folder / version,
        "acme-columns",
        {"winnow.columns": offers},
        {"acme_capitals.py": CAPITALS},
        version,
    )


def test_a_column_of_another_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer(monkeypatch, tmp_path)
    samples = Samples.drawn(9, seed=1)
    samples.caption[:] = ["A Dog", "no", "ALL"] * 3
    kind = chosen_by("columns.c", {"capitals": "caption"})
    pool = opened_with_columns(samples, {"c": kind()}, 2)
    assert pool.read("c") == [2, 0, 3] * 3
    report = pool.filtered.survivors.field_named("c").made.done()
    assert report is not None
    assert "Capitals of acme-columns 1.0" in str(report["config"])
    with pytest.raises(FailedShards, match=r"column capitals must give value, int64 of 9 rows, got double of 9 rows"):
        opened_with_columns(samples, {"c": kind("wrong")})  # type: ignore[call-arg]  # a plugin's own option


def test_a_column_that_no_job_could_choose_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer(monkeypatch, tmp_path)
    with pytest.raises(JobError, match=r"must be a dataclass with an option unnamed"):
        COLUMNS["unnamed"]
    with pytest.raises(JobError, match=r"columns.c must have exactly one of captions, language, .*got no option"):
        chosen_by("columns.c", {})
