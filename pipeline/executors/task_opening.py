"""Opens a task in a worker, again where the network fails while it loads; tells the faults of a worker from others."""

import re
import time
from collections.abc import Callable, Iterator

from winnow.pipeline.errors import DeviceError, WeightsError
from winnow.pipeline.executors.contract import Item, Result, Task
from winnow.pipeline.executors.retries import FATAL

PAUSES_S = (1.0, 2.0, 4.0)
"""A task whose opening meets a network error is opened again after each of these."""

_PASSING = {408, 425, 429}
_CLIENTS = {"requests", "urllib3", "httpx", "httpcore", "aiohttp"}
_DEVICE = re.compile(
    "CUDA (unknown )?error|CUDA out of memory|CUDA driver|CUDA-capable|cudaMalloc|NVIDIA driver|device-side assert"
    "|cuDNN error|CUBLAS_STATUS|cusolver error|NCCL|HIP error"
)


def opened(task: Task[Item, Result]) -> Callable[[Item], Result]:
    """The function that a task opens; four tries where what fails is the network."""
    for pause_s in PAUSES_S:
        try:
            return task.open()
        except Exception as error:
            if not of_network(error):
                raise
        time.sleep(pause_s)
    return task.open()


def everywhere(error: BaseException) -> bool:
    """Whether a task that cannot be opened can be opened nowhere: the job says what cannot be."""
    return isinstance(error, FATAL) and not isinstance(error, (WeightsError, DeviceError))


def of_device(error: BaseException) -> bool:
    """Whether a GPU or its driver failed, after which the process that met it can do no more.

    Libraries raise RuntimeErrors of it and tell by their words: torch, faiss and cuDNN have no type in common.
    """
    return any(
        isinstance(cause, DeviceError) or (isinstance(cause, RuntimeError) and _DEVICE.search(str(cause)))
        for cause in causes(error)
    )


def of_network(error: BaseException) -> bool:
    """Whether a server refused for now, or a connection failed: another try may do better."""
    for cause in causes(error):
        answer = getattr(cause, "response", None)
        status = getattr(answer, "status_code", None) or getattr(cause, "code", None)
        if isinstance(status, int):
            return status in _PASSING or status >= 500
        if isinstance(cause, (ConnectionError, TimeoutError)) or type(cause).__module__.partition(".")[0] in _CLIENTS:
            return True
    return False


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it came from."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
