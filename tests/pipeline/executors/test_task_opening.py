"""A task that meets a network error is opened again, whatever else is wrong is told at once; which fault is whose."""

import urllib.error
from collections.abc import Callable
from email.message import Message

import pytest

from winnow.pipeline.errors import DeviceError, FullError, JobError, ModelError, ShardError, WeightsError
from winnow.pipeline.executors import task_opening
from winnow.pipeline.executors.task_opening import everywhere, of_device, of_network, opened


def refused(status: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("https://hub/weights", status, "no", Message(), None)


def caused(error: Exception, cause: Exception) -> Exception:
    try:
        raise error from cause
    except type(error) as raised:
        return raised


class Opens:
    """Fails so often with an error, then opens."""

    def __init__(self, times: int, error: Exception) -> None:
        self.times, self.error, self.tried = times, error, 0

    def open(self) -> Callable[[int], int]:
        self.tried += 1
        if self.tried <= self.times:
            raise self.error
        return abs


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(task_opening.time, "sleep", found.append)
    return found


@pytest.mark.parametrize(
    "error",
    [
        refused(429),
        refused(503),
        ConnectionResetError("by peer"),
        TimeoutError(),
        caused(ModelError("x"), refused(429)),
    ],
    ids=repr,
)
def test_a_network_error_is_tried_again_three_times_after_longer_and_longer_pauses(
    error: Exception, pauses: list[float]
) -> None:
    assert opened(Opens(3, error))(-7) == 7
    assert pauses == [1.0, 2.0, 4.0]
    task = Opens(4, error)
    with pytest.raises(type(error)):
        opened(task)
    assert task.tried == 4


@pytest.mark.parametrize(
    "error", [refused(404), refused(401), ModelError("no such name"), ImportError("no libcuda"), OSError("no file")]
)
def test_what_is_wrong_otherwise_is_told_at_once(error: Exception, pauses: list[float]) -> None:
    task = Opens(1, error)
    with pytest.raises(type(error)):
        opened(task)
    assert (task.tried, pauses) == (1, [])


@pytest.mark.parametrize(
    ("error", "device"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp"), True),
        (RuntimeError("Error: 'err == cudaSuccess' failed: cudaMalloc error out of memory [2]"), True),
        (RuntimeError("Found no NVIDIA driver on your system"), True),
        (DeviceError("a batch of 64 samples must fit"), True),
        (caused(ShardError("cannot embed"), RuntimeError("CUDA error: unspecified launch failure")), True),
        (RuntimeError("Expected all tensors to be on the same device, cuda:0 and cpu"), False),
        (ValueError("CUDA error"), False),
        (ShardError("a caption says CUDA error"), False),
    ],
    ids=repr,
)
def test_errors_of_a_gpu_are_known_by_their_words(error: Exception, device: bool) -> None:
    assert of_device(error) is device


def test_only_what_the_job_says_is_wrong_everywhere() -> None:
    assert all(everywhere(error) for error in (JobError("x"), ModelError("x"), FullError("x")))
    of_one = (WeightsError("x"), DeviceError("x"), ImportError("x"), RuntimeError("x"), ConnectionError("x"))
    assert not any(everywhere(error) for error in of_one)


def test_an_error_that_was_suppressed_is_no_cause() -> None:
    def suppressing() -> None:
        try:
            raise ConnectionError("while something else was tried")
        except ConnectionError:
            raise ValueError("x") from None

    with pytest.raises(ValueError, match="x") as error:
        suppressing()
    assert not of_network(error.value)
