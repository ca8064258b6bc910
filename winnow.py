"""winnow's public names, for notebooks, plugins and training: `winnow.load`, `run`, `open`, `samples` and the errors.

    import winnow

    job = winnow.run(winnow.load("job.yaml"))
    job.counts["kept"], job.manifest(), job.kept_uids()

A name is imported when it is first used, so `import winnow` costs nothing, and the loader needs neither Ray nor torch.
"""

# In a checkout the floors `pipeline`, `stages` and `jobs` lie beside this file; in a wheel it is winnow/__init__.py.

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from winnow.jobs.api import keep_top as keep_top
    from winnow.jobs.api import load as load
    from winnow.jobs.api import plan as plan
    from winnow.jobs.api import run as run
    from winnow.jobs.finished_job import FinishedJob as FinishedJob
    from winnow.jobs.finished_job import open as open
    from winnow.jobs.job_file.job import Job as Job
    from winnow.jobs.loader import samples as samples
    from winnow.pipeline.errors import AccountingError as AccountingError
    from winnow.pipeline.errors import DataError as DataError
    from winnow.pipeline.errors import DeviceError as DeviceError
    from winnow.pipeline.errors import FailedShards as FailedShards
    from winnow.pipeline.errors import FullError as FullError
    from winnow.pipeline.errors import JobError as JobError
    from winnow.pipeline.errors import ModelError as ModelError
    from winnow.pipeline.errors import PoolError as PoolError
    from winnow.pipeline.errors import RejectsError as RejectsError
    from winnow.pipeline.errors import SampleError as SampleError
    from winnow.pipeline.errors import ShardError as ShardError
    from winnow.pipeline.errors import SpanError as SpanError
    from winnow.pipeline.errors import StorageError as StorageError
    from winnow.pipeline.errors import TornError as TornError
    from winnow.pipeline.errors import TrainingError as TrainingError
    from winnow.pipeline.errors import WeightsError as WeightsError
    from winnow.pipeline.errors import WinnowError as WinnowError

__path__ = [str(Path(__file__).parent)]

_ERRORS = (
    "AccountingError", "DataError", "DeviceError", "FailedShards", "FullError", "JobError", "ModelError", "PoolError",
    "RejectsError", "SampleError", "ShardError", "SpanError", "StorageError", "TornError", "TrainingError",
    "WeightsError", "WinnowError",
)  # fmt: skip
_HOMES = {
    **dict.fromkeys(("keep_top", "load", "plan", "run"), "winnow.jobs.api"),
    **dict.fromkeys(("FinishedJob", "open"), "winnow.jobs.finished_job"),
    "Job": "winnow.jobs.job_file.job",
    "samples": "winnow.jobs.loader",
    **dict.fromkeys(_ERRORS, "winnow.pipeline.errors"),
}
"""Where each public name is at home."""

__all__ = sorted(_HOMES)  # pyright and mypy read the imports above


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'winnow' has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
