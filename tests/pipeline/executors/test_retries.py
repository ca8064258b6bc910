"""Which faults another try can mend, of each kind and whatever they come from; and when a pass is over."""

import errno
import pickle

import botocore.exceptions
import pyarrow as pa
import pytest

from winnow.pipeline import errors, storage
from winnow.pipeline.errors import (
    DataError,
    FailedShards,
    FullError,
    JobError,
    ModelError,
    PoolError,
    ShardError,
    StorageError,
    TornError,
    WinnowError,
)
from winnow.pipeline.executors.retries import FEW, Account, Failure, failure, is_lasting


def made_of(kind: type[WinnowError], cause: Exception | None) -> WinnowError:
    try:
        raise kind("what it is") from cause
    except WinnowError as error:
        return error


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (PoolError("no such column"), True),
        (DataError("NaN"), True),
        (TornError("cut short"), True),
        (errors.AccountingError("one is lost"), True),
        (ShardError("it changed meanwhile"), False),
        (ShardError("another kind of file", lasting=True), True),
        (pickle.loads(pickle.dumps(ShardError("as Ray brings it", lasting=True))), True),  # noqa: S301  # made here
        (StorageError("cannot read"), False),
        (made_of(PoolError, KeyError("jpg")), True),
        (made_of(TornError, pa.ArrowInvalid("no magic")), True),
        (made_of(TornError, OSError("a page does not decompress")), True),  # as Arrow says it
        (made_of(TornError, OSError(errno.EIO, "a disk")), False),
        (made_of(PoolError, made_of(StorageError, ConnectionResetError("by peer"))), False),
        (made_of(StorageError, TimeoutError("of a read")), False),
        (made_of(StorageError, OSError(errno.EBUSY, "SlowDown")), False),
        (made_of(StorageError, OSError(errno.ESTALE, "NFS")), False),
        (made_of(StorageError, FileNotFoundError("not seen yet")), False),
        (made_of(StorageError, PermissionError("403")), True),
        (made_of(StorageError, IsADirectoryError(errno.EISDIR, "a folder")), True),
        (made_of(StorageError, OSError(errno.ENAMETOOLONG, "a name")), True),
        (made_of(StorageError, botocore.exceptions.EndpointConnectionError(endpoint_url="http://s3")), False),
        (OSError(errno.EMFILE, "files"), False),
        (PermissionError(errno.EACCES, "a file"), True),
    ],
    ids=repr,
)
def test_what_another_try_can_mend(error: Exception, lasting: bool) -> None:
    assert is_lasting(error) is lasting
    assert failure("0.tar", error) == Failure("0.tar", str(error), lasting)


@pytest.mark.parametrize("error", [JobError("no such key"), ModelError("no weights")])
def test_what_no_item_can_do_without_is_raised_as_it_is(error: WinnowError) -> None:
    with pytest.raises(type(error), match=str(error)):
        failure("0.tar", error)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("kind", [StorageError, TornError])
def test_a_full_storage_is_no_fault_of_an_item(kind: type[WinnowError], number: int) -> None:
    with pytest.raises(FullError, match="what it is"):
        failure("0.tar", made_of(kind, OSError(number, "full")))


def test_a_file_that_may_not_be_read_stays_so(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # tests may run as root, whom no mode refuses
    with pytest.raises(StorageError) as error:
        storage.open_read(f"{tmp_path}/0.tar")
    assert is_lasting(error.value)


def account(spare: int = 0, total: int = 10) -> Account:
    return Account("embeddings", total, spare)


BAD = [Failure(f"{i}.tar", f"{i}.tar: no such column", lasting=True) for i in range(9)]


@pytest.mark.parametrize(("spare", "enough"), [(0, FEW), (2, FEW), (3, 4), (7, 8)])
def test_a_pass_is_over_with_the_first_few_and_more_than_the_job_can_do_without(spare: int, enough: int) -> None:
    found = account(spare)
    for number in range(1, enough + 1):
        assert not found.over
        found.failed(BAD[number - 1 : number])
    assert found.over
    with pytest.raises(FailedShards) as error:
        found.close()
    assert str(error.value) == (
        f"embeddings: every shard must finish, but the first {enough} that were read, of 10, failed, and no other try "
        f"can do better:\n  0.tar and {enough - 1} more: no such column\n"
        "The others were not begun; fix the cause and run the same command again to resume."
    )
    assert error.value.failures == [(f.name, f.message) for f in BAD[:enough]]


def test_a_pass_goes_on_where_one_item_is_done_or_one_fault_may_pass(capsys):
    one_done, may_pass = account(), account()
    one_done.failed(BAD[:2])
    one_done.done()
    one_done.failed(BAD[2:])
    may_pass.failed([*BAD[:8], Failure("8.tar", "cut off")])
    assert not one_done.over
    assert not may_pass.over
    said = "winnow: embeddings: 0.tar failed and is not tried again; the others go on: no such column\n"
    assert capsys.readouterr().err == said
    with pytest.raises(FailedShards, match=r"9 of 10 failed:\n  0\.tar and 8 more: no such column\nThe others are"):
        one_done.close()


def test_nothing_failed():
    found = account()
    found.done()
    found.close()
