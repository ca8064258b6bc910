"""Exports counts of shards, samples and bytes as Ray metrics, which every Ray node serves to Prometheus.

Other programs rely on the names and labels in docs/monitoring.md, so changing one needs a new major version.
"""

from winnow.pipeline.executors.watching import Done

_SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000]


class RayMetrics:
    """A watcher that counts on the driver. Labels are stages, never shards or workers, so there are few label sets.

    Ray serves each name as `ray_winnow_…`. Counters only grow while the driver lives. Ray starts with the first pass,
    so earlier counts are kept until then.
    """

    def __init__(self, job: str) -> None:
        self._job = job
        self._opened = False
        self._early: list[str] = []  # stages that were done before the first pass
        self._to_do = 0

    def _open(self) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram  # the import takes a second

        def counter(name: str, what: str) -> Counter:
            return Counter(f"winnow_{name}", what, ("job", "stage"))

        self._shards = counter("shards_total", "Shards that a pass has done.")
        self._samples = counter("samples_total", "Samples in them, where the pass counts them.")
        self._rejects = counter("rejects_total", "Samples that could not be read.")
        self._retries = counter("retries_total", "Tries that failed.")
        self._bytes = counter("committed_bytes_total", "Bytes of files committed.")
        self._busy = counter("busy_seconds_total", "Seconds that workers were at it, of all of them together.")
        self._stages = counter("stages_total", "Stages that are done, those that were there already as well.")
        self._left = Gauge("winnow_shards_left", "Shards of the present pass that are not done.", ("job", "stage"))
        self._seconds = Histogram("winnow_shard_seconds", "Seconds of one shard.", _SECONDS, ("job", "stage"))

    def begin(self, stage: str, total: int, ready: int) -> None:
        """See Watcher.begin."""
        if not self._opened:
            self._open()
            self._opened = True
            for label in self._early:
                self._stages.inc(1, self._tags(label))
        self._to_do = total - ready
        self._left.set(self._to_do, self._tags(stage))

    def done(self, item: Done) -> None:
        """See Watcher.done."""
        tags = self._tags(item.stage)
        self._to_do -= 1
        self._left.set(self._to_do, tags)
        self._shards.inc(1, tags)
        self._seconds.observe(item.seconds, tags)
        counts = (self._samples, item.rows), (self._rejects, item.rejects), (self._retries, item.retries)
        for counter, count in (*counts, (self._bytes, item.bytes), (self._busy, item.seconds)):
            if count > 0:  # Ray refuses to add 0
                counter.inc(count, tags)

    def end(self, stage: str, seconds: float) -> None:
        """See Watcher.end."""
        self._left.set(0, self._tags(stage))

    def avoided(self, node: str, error: str) -> None:
        """Does nothing, because Ray's own metrics cover nodes."""

    def made(self, label: str, artifact: str, seconds: float, reused: bool) -> None:
        """See Watcher.made."""
        if self._opened:
            self._stages.inc(1, self._tags(label))
        else:
            self._early.append(label)

    def _tags(self, stage: str) -> dict[str, str]:
        # "density (pass 2)" and "epochs, from 64" are passes of one stage
        return {"job": self._job, "stage": stage.partition(" (")[0].partition(", ")[0]}
