"""Plugins are found by name without an import, loaded when asked for, and refused in words where they are unclear."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.plugins import install
from winnow.pipeline.errors import JobError
from winnow.pipeline.fingerprint import canonical, fingerprint
from winnow.pipeline.plugins import Offered, Origin, origin_of

MODULE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Sharpness:
    least: int = 3
"""


@dataclass(frozen=True)
class Plain:
    least: int = 3


def wrong(name: str, found: object) -> str | None:
    return None if isinstance(found, type) else "must be a class"


def cuts() -> Offered[object]:
    return Offered("winnow.cuts", {"plain": Plain}, wrong)


def test_a_plugin_stands_beside_winnows_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert list(cuts()) == ["plain"]
    offers = {"winnow.cuts": {"sharpness": "acme_cuts:Sharpness"}, "winnow.pools": {"other": "acme_cuts:Other"}}
    install(monkeypatch, tmp_path, "acme-cuts", offers, {"acme_cuts.py": MODULE})
    assert list(cuts()) == ["plain", "sharpness"]
    assert len(cuts()) == 2
    assert "sharpness" in cuts()
    assert "other" not in cuts()
    assert "acme_cuts" not in sys.modules  # nothing was imported to list it
    found = cuts()["sharpness"]
    assert found.__name__ == "Sharpness"
    assert cuts()["plain"] is Plain
    assert origin_of(found) == Origin("acme-cuts", "1.0")
    with pytest.raises(KeyError):
        cuts()["other"]


def test_a_class_of_no_plugin_has_no_origin() -> None:
    assert origin_of(Plain) is None
    assert origin_of(JobError) is None
    assert origin_of(int) is None


def test_a_version_of_a_plugin_is_part_of_the_fingerprint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = []
    for version in ("1.0", "1.1"):
        with monkeypatch.context() as inside:
            offers = {"winnow.cuts": {"sharpness": "acme_cuts:Sharpness"}}
            install(inside, tmp_path / version, "acme-cuts", offers, {"acme_cuts.py": MODULE}, version)
            kept = {"by": cuts()["sharpness"]()}  # inside of something else, as a stage holds its parts
            assert canonical(kept) == {"by": {"class": f"Sharpness of acme-cuts {version}", "least": 3}}
            found.append(fingerprint(kept))
    assert found[0] != found[1]
    assert canonical(Plain()) == {"class": "Plain", "least": 3}


def test_distributions_that_share_a_namespace_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("one", "two"):
        offers = {"winnow.cuts": {name: f"acme.{name}.cut:Sharpness"}}
        install(monkeypatch, tmp_path / name, f"acme-{name}", offers, {f"acme/{name}/cut.py": MODULE}, name[0])
    monkeypatch.delitem(sys.modules, "acme", raising=False)
    assert [origin_of(cuts()[name]) for name in ("one", "two")] == [Origin("acme-one", "o"), Origin("acme-two", "t")]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["plain"], "one distribution must offer plain in winnow.cuts, but winnow and acme-0 1.0 do; uninstall all"),
        (["same", "same"], "one distribution must offer same in winnow.cuts, but acme-0 1.0 and acme-1 1.0 do"),
    ],
)
def test_a_name_that_two_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: list[str], said: str
) -> None:
    for number, name in enumerate(names):
        offers = {"winnow.cuts": {name: f"acme_{number}:Sharpness"}}
        install(monkeypatch, tmp_path / str(number), f"acme-{number}", offers, {f"acme_{number}.py": MODULE})
    assert set(cuts()) == {"plain", *names}
    with pytest.raises(JobError) as refused:
        cuts()[names[0]]
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_library", r"imported from acme_cuts:Sharpness, but: ModuleNotFoundError: No module named"),
        ("1 / 0", "but: ZeroDivisionError: division by zero; fix or uninstall acme-cuts"),
        ("", "but: AttributeError: "),
        ("Sharpness = 3", r"sharpness of acme-cuts 1\.0 \(acme_cuts:Sharpness\) must be a class; fix acme-cuts"),
    ],
)
def test_a_broken_plugin_fails_only_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, said: str
) -> None:
    offers = {"winnow.cuts": {"sharpness": "acme_cuts:Sharpness"}}
    install(monkeypatch, tmp_path, "acme-cuts", offers, {"acme_cuts.py": text})
    assert list(cuts()) == ["plain", "sharpness"]
    assert cuts()["plain"] is Plain
    with pytest.raises(JobError, match=said):
        cuts()["sharpness"]
