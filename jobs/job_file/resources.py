"""The resources of a job: how many workers it has, what each takes, and what the worker of k-means takes."""

import dataclasses
from dataclasses import dataclass

from winnow.pipeline import storage
from winnow.pipeline.errors import JobError, StorageError
from winnow.pipeline.executors.contract import Needs


@dataclass(frozen=True)
class Resources:
    """workers: number of workers (None: all cores or GPUs). cpus, gpus: of one worker while it embeds.

    memory_gb: what one worker declares to Ray, in 10⁹ bytes; 0 declares none.
    retries: how often a failing shard is tried again. prefetch: while an embedding worker works on a shard, it opens
    the next one and finishes the previous one in the background. scratch: folder or URL for the rows of exchanges,
    seen by all workers; empty for a folder of the store.
    deadline_factor, deadline_floor_s: a shard may take this many times the median of its pass, and at least so many
    seconds.
    kmeans_cpus, kmeans_gpus: of the worker that fits k-means; 0 cores: it asks for one and uses all of its machine;
    GPUs None: one if embedding workers have any.
    """

    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 0.0
    retries: int = 2
    prefetch: bool = True
    scratch: storage.File = ""
    deadline_factor: float = 20.0
    deadline_floor_s: float = 1800.0
    kmeans_cpus: float = 0.0
    kmeans_gpus: float | None = None

    @property
    def needs(self) -> Needs:
        """The resources of one worker while it embeds."""
        taken, known = dataclasses.asdict(self), {field.name for field in dataclasses.fields(Needs)}
        return Needs(**{name: value for name, value in taken.items() if name in known})

    @property
    def alone(self) -> Needs:
        """The resources of the worker that fits k-means; see Run.alone."""
        gpus = float(self.gpus > 0) if self.kmeans_gpus is None else self.kmeans_gpus
        return dataclasses.replace(self.needs, cpus=self.kmeans_cpus, gpus=gpus, prefetch=False)


def check_resources(wants: Resources) -> None:
    """Raises JobError for a value that no worker can have."""
    if (wants.workers is not None and wants.workers < 1) or wants.retries < 0:
        raise JobError(f"resources need workers >= 1 and retries >= 0, got {wants}")
    if not (0 <= wants.cpus < float("inf") and 0 <= wants.gpus < float("inf") and wants.cpus + wants.gpus > 0):
        raise JobError(f"resources need cpus >= 0 and gpus >= 0, not both 0, got {wants}")
    if not (0 <= wants.kmeans_cpus < float("inf") and 0 <= (wants.kmeans_gpus or 0) < float("inf")):
        raise JobError(f"resources need kmeans_cpus >= 0 and kmeans_gpus >= 0, got {wants}")
    if not 0 <= wants.memory_gb < float("inf"):
        raise JobError(f"resources need memory_gb >= 0, got {wants}")
    if wants.scratch:
        try:
            storage.check_commits(wants.scratch)
        except StorageError as error:
            raise JobError(f"resources.scratch: {error}") from error
    if not (wants.deadline_factor >= 1 and wants.deadline_floor_s > 0):
        raise JobError(f"resources need deadline_factor >= 1 and deadline_floor_s > 0, got {wants}")
