"""YAML as it looks: keys that come once, numbers that look like numbers, every other word as it is written."""

import math

import pytest
import yaml

from winnow.jobs.job_file.yaml_text import dumps, loads
from winnow.pipeline.errors import JobError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("+5", 5),
        ("0", 0),
        ("1_000_000", 1_000_000),
        ("0.5", 0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e6", 1e6),
        ("7e-2", 0.07),
        ("-1.5E+3", -1500.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        # and what is text, whatever YAML 1.1 makes of it
        *((word, word) for word in ("yes", "No", "on", "OFF", "y", "~/pool", "30%", "1:30", "2024-01-01", "a b")),
        *((word, word) for word in ("012", "00", "-07", "0x1f", "0o17", "0b1", "012.5", "1__0", "1_", "_1", "1,000")),
        *((word, word) for word in ("inf", "nan", "Infinity", "1e", "e5", ".", "=", "tRue")),
        ("'5'", "5"),
        ('"true"', "true"),
        ("'~'", "~"),
        ("[1, 0.5, no, null]", [1, 0.5, "no", None]),
        ("{no: on, 012: 012}", {"no": "on", "012": "012"}),
        ("a: &x {b: [1]}\nc: *x", {"a": {"b": [1]}, "c": {"b": [1]}}),
        ("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  b: 3", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
        ("d: {<<: [{b: 1}, {b: 2, c: 2}]}", {"d": {"b": 1, "c": 2}}),
        ("# nothing", None),
    ],
)
def test_values_are_as_they_look(text: str, value: object):
    found = loads(text, "job.yaml")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: 1\nb: 2\na: 3",
            "job.yaml: a key must come once, but a is in line 1 and again in line 3; remove one of them",
        ),
        ("a:\n- b: {c: 1,\n   c: 2}", "a key must come once, but c is in line 2 and again in line 3"),
        ("a: 1\n'a': 1", "but a is in line 1 and again in line 2"),
        ("a: {<<: {b: 1}, <<: {b: 2}}", "but << is in line 1 and again in line 1"),
        ("a: {<<: {b: 1, b: 2}}", "but b is in line 1 and again in line 1"),
        ("a: {<<: 5}", "job.yaml, line 1: << must merge a mapping or a list of them, got 5"),
        ("a:\n  1: x", "job.yaml, line 2: a key must be text, got '1'; quote it if it is a name"),
        ("true: x", "a key must be text, got 'true'"),
        ("null: x", "a key must be text, got 'null'"),
        ("? [a, b]\n: x", "a key must be text, got a list or a mapping"),
        ("a: &x [*x]", "an alias (*) must stand for something outside itself, but"),
        ("a: &x {b: *x}", "but this one is inside its own anchor"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "line 1: a value must have no tag, got !!python/object/apply:os.system",
        ),
        ("a: !!int '012'", "a value must have no tag, got !!int"),
        ("a: !!binary aGk=", "a value must have no tag, got !!binary"),
        ("a: !!set {b, c}", "a value must have no tag, got !!set"),
        ("a: !mine 5", "a value must have no tag, got !mine"),
        ("a: 1e999", "job.yaml, line 1: a number must be below 1.8e308, got 1e999"),
        ("a: " + "9" * 5000, "a number must be below 1.8e308, got 9999"),
        ('a: "\\ud83d"', "text must be Unicode, got half of a surrogate pair"),
        ("a: 1\n---\nb: 2", "job.yaml must be YAML: expected a single document"),
        ("a:\n\tb: 1", "job.yaml must be YAML: while scanning"),
        ("a: \x1b[31m", "job.yaml must be YAML: unacceptable character #x001b"),
        ("a: *x", "job.yaml must be YAML: found undefined alias 'x'"),
        ("a: [", "job.yaml must be YAML: "),
        ("[" * 5000, "job.yaml must be YAML: "),
    ],
)
def test_what_looks_like_two_things_is_refused(text: str, message: str):
    with pytest.raises(JobError) as error:
        loads(text, "job.yaml")
    assert message in str(error.value)
    assert error.value.exit_code == 2


def test_what_an_alias_brings_is_shared_with_nothing():
    values = loads("a: &x {b: 1}\nc: *x", "job.yaml")
    values["a"]["b"] = 2
    assert values["c"] == {"b": 1}


def test_what_is_written_is_read_again_here_and_by_others():
    words = [
        "012",
        "1e6",
        "7e-2",
        "yes",
        "no",
        "1:30",
        "2024-01-01",
        "~",
        "null",
        "true",
        "5",
        "0x1f",
        "=",
        "<<",
        "",
        "é",
    ]
    values = {"words": words, "keys": {word: word for word in words}, "numbers": [5, 0.5, 1e-7, 1e300, True, None]}
    assert loads(dumps(values), "plan") == values
    assert yaml.safe_load(dumps(values)) == values
    assert list(loads(dumps({"b": 1, "a": 2}), "plan")) == ["b", "a"]
