"""A fingerprint changes with what is computed and never with how it is run."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.fingerprint import IF_GIVEN, canonical, fingerprint, fingerprinted


@dataclass(frozen=True)
class Model:
    name: str
    threads: int = field(default=1, metadata={"fingerprint": False})


@dataclass(frozen=True)
class Config:
    model: Model
    reads: Artifact
    limits: tuple[float, ...] = (0.1, 0.5)


@dataclass(frozen=True)
class Other:
    name: str


READS = Artifact("s3://store", "pool", "01234567")
CONFIG = Config(Model("ViT-B-32"), READS)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_the_canonical_form_is_plain():
    assert canonical(CONFIG) == {
        "class": "Config",
        "model": {"class": "Model", "name": "ViT-B-32"},
        "reads": "01234567",
        "limits": [0.1, 0.5],
    }


def test_a_fingerprint_stays_from_version_to_version():
    assert fingerprint(CONFIG) == "b56a4ccf556ebbc6"
    assert fingerprint(CONFIG, digits=32).startswith("b56a4ccf556ebbc6")
    assert len(fingerprint(CONFIG, digits=32)) == 32


@pytest.mark.parametrize(
    "changed",
    [
        replace(CONFIG, model=Model("ViT-B-16")),
        replace(CONFIG, reads=Artifact("s3://store", "pool", "76543210")),
        replace(CONFIG, limits=(0.5, 0.1)),
        replace(CONFIG, limits=(0.1, 0.5, 0.5)),
    ],
)
def test_what_is_computed_counts(changed):
    assert fingerprint(changed) != fingerprint(CONFIG)


@pytest.mark.parametrize(
    "same",
    [
        replace(CONFIG, model=Model("ViT-B-32", threads=8)),
        replace(CONFIG, reads=Artifact("gs://another/store", "pool", "01234567")),
    ],
)
def test_how_and_where_it_runs_does_not(same):
    assert fingerprint(same) == fingerprint(CONFIG)


def test_classes_of_equal_fields_differ():
    assert fingerprint(Model("a")) != fingerprint(Other("a"))


@given(PLAIN)
def test_plain_values_stand_for_themselves(value):
    assert canonical(value) == value
    assert fingerprint(value) == fingerprint(canonical(value))


@given(st.dictionaries(st.text(), st.integers(), max_size=5))
def test_the_order_of_keys_does_not_count(mapping):
    assert fingerprint(dict(reversed(mapping.items()))) == fingerprint(mapping)


@pytest.mark.parametrize("value", [{1, 2}, object(), Model, {"a": [object()]}])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(TypeError, match="configuration is plain values, arrays, dataclasses and artifacts, got"):
        fingerprint(value)


def test_what_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint([float("nan")])


@dataclass(frozen=True)
class Grown(Other):
    fields: tuple[str, ...] = field(default=(), metadata=IF_GIVEN)


def test_an_option_that_came_later_counts_only_where_it_is_given():
    Grown.__name__ = "Other"  # the same class, some versions later
    assert fingerprint(Grown("a")) == fingerprint(Other("a")) != fingerprint(Grown("a", ("b",)))
    assert fingerprinted(Grown("a")) == ["name"]
    assert fingerprinted(Grown("a", ("b",))) == ["name", "fields"]
