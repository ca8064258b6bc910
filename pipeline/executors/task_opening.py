"""Opens a task in a worker, with retries if the network fails; tells faults of the worker from other errors."""

import re
import time
from collections.abc import Callable, Iterator

from winnow.pipeline.errors import DeviceError, WeightsError
from winnow.pipeline.executors.contract import Item, Result, Task
from winnow.pipeline.executors.retries import FATAL
from winnow.pipeline.store.shard_files import forget

PAUSES_S = (1.0, 2.0, 4.0)
"""Seconds of the pauses between tries to open a task, after a network error."""

_PASSING = {408, 425, 429}
_CLIENTS = {"requests", "urllib3", "httpx", "httpcore", "aiohttp"}
_DEVICE = re.compile(
    "CUDA (unknown )?error|CUDA out of memory|CUDA driver|CUDA-capable|cudaMalloc|NVIDIA driver|device-side assert"
    "|cuDNN error|CUBLAS_STATUS|cusolver error|NCCL|HIP error"
)


def opened(task: Task[Item, Result]) -> Callable[[Item], Result]:
    """The function that a task opens; four tries if the network fails."""
    forget()  # the driver may have written another list of files since the last pass of this worker
    for pause_s in PAUSES_S:
        try:
            return task.open()
        except Exception as error:
            if not of_network(error):
                raise
        time.sleep(pause_s)
    return task.open()


def everywhere(error: BaseException) -> bool:
    """Whether an error while opening a task would happen in every worker, because the job is wrong."""
    return isinstance(error, FATAL) and not isinstance(error, (WeightsError, DeviceError))


def of_device(error: BaseException) -> bool:
    """Whether a GPU or its driver failed. A process cannot use the GPU after that.

    It looks at the words of RuntimeErrors, because torch, faiss and cuDNN have no error type in common.
    """
    return any(
        isinstance(cause, DeviceError) or (isinstance(cause, RuntimeError) and _DEVICE.search(str(cause)))
        for cause in causes(error)
    )


def of_network(error: BaseException) -> bool:
    """Whether a server refused temporarily or a connection failed, so that a retry may help."""
    for cause in causes(error):
        answer = getattr(cause, "response", None)
        status = getattr(answer, "status_code", None) or getattr(cause, "code", None)
        if isinstance(status, int):
            return status in _PASSING or status >= 500
        if isinstance(cause, (ConnectionError, TimeoutError)) or type(cause).__module__.partition(".")[0] in _CLIENTS:
            return True
    return False


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
