"""The tree of errors is the one its docstring draws, and every error crosses processes."""

import pickle
import re

import pytest

from winnow.pipeline import errors
from winnow.pipeline.errors import DataError, FailedShards, SampleError, SpanError, WinnowError


def tree(of: type[WinnowError]) -> list[type[WinnowError]]:
    mine = [c for c in of.__subclasses__() if c.__module__ == errors.__name__]
    return [of, *(c for child in mine for c in tree(child))]


def example(kind: type[WinnowError]) -> WinnowError:
    if kind is FailedShards:
        return FailedShards("embeddings", [("s3://pool/0.tar", "it is no tar")], 3)
    if kind is SampleError:
        return SampleError("image-decode", "broken JPEG")
    if kind is SpanError:
        return SpanError([("s3://pool/0.tar", DataError("it is no tar")), ("s3://pool/1.tar", OSError("it is gone"))])
    return kind("one invariant, what came, and what to do")


def test_the_docstring_draws_the_tree():
    drawn = re.findall(r"^(?P<branch>[│├└─ ]*)(?P<name>\w+Error|FailedShards)\b", errors.__doc__, re.M)
    assert [name for _, name in drawn] == ["WinnowError", *(name for _, name in drawn[1:])]
    assert {name for _, name in drawn} == {kind.__name__ for kind in tree(WinnowError)}
    assert len(drawn) == len(tree(WinnowError))
    parent = "WinnowError"
    for branch, name in drawn[1:]:
        below = "WinnowError" if len(branch) == 4 else parent
        assert getattr(errors, name).__bases__ == (getattr(errors, below),)
        parent = name if len(branch) == 4 else parent


def test_the_docstring_says_the_exit_codes():
    for name, code in re.findall(r"(\w+)\s+exit (\d)", errors.__doc__):
        assert getattr(errors, name).exit_code == int(code)
    codes = {kind.__name__: kind.exit_code for kind in tree(WinnowError) if kind.exit_code != 1}
    assert codes == {"JobError": 2, "PoolError": 2, "ModelError": 2, "WeightsError": 2}


@pytest.mark.parametrize("kind", tree(WinnowError), ids=lambda kind: kind.__name__)
def test_every_error_crosses_processes(kind):
    error = example(kind)
    back = pickle.loads(pickle.dumps(error))  # noqa: S301  # made here, as Ray does
    assert type(back) is kind
    assert str(back) == str(error)
    assert repr(vars(back)) == repr(vars(error))  # errors inside have no equality


def test_failed_shards_names_some_and_counts_all():
    few = str(FailedShards("embeddings", [("s3://pool/0.tar", "it is no tar")], 3))
    assert few == (
        "embeddings: every shard must finish, but 1 of 3 failed:\n"
        "  s3://pool/0.tar: it is no tar\n"
        "The others are kept; fix the cause and run the same command again to resume."
    )
    many = FailedShards("embeddings", [(str(i), f"bad {i}") for i in range(25)], 30)
    assert "25 of 30" in str(many)
    assert "  19: bad 19\n  … and 5 more\n" in str(many)
    assert len(many.failures) == 25


def test_failed_shards_says_what_is_the_same_once():
    failures = [(f"{i}.tar", f"{i}.tar: it is no {'tar' if i % 2 else 'zip'}") for i in range(5)]
    found = FailedShards("embeddings", failures, 9)
    assert found.failures == failures
    assert "failed:\n  0.tar and 2 more: it is no zip\n  1.tar and 1 more: it is no tar\nThe" in str(found)
