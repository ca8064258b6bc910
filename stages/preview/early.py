"""Ends a run early when nearly everything in its first shards is rejected.

The rule: take five shards spread evenly over the pool (`spread`: the first, the last, three between; all if there are
fewer). The run ends if in each of them more than nine tenths of the samples, and more than limits.max_reject_fraction,
are rejected. A shard without samples does not count. With five shards or fewer such a pool is certainly beyond its
limits. A longer one is almost certainly too: otherwise nearly everything would have to be bad in every shard of the
five and good almost everywhere else. For such a pool, set limits.stop_early: false. One bad shard, or the shards of one
bad source among others, never end a run early; then the limits decide at the end.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import RejectsError
from winnow.pipeline.stage import Run, Summary, nearly_whole, spread
from winnow.pipeline.terminal import escaped
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.sample import NOT_DOWNLOADED
from winnow.stages.preview.remedy import remedies
from winnow.stages.rejects import read_rejects

_SHOWN = 300  # characters of an example's message


@dataclass(frozen=True)
class ShardRejects:
    """The rejects of a shard. rejects: counts by kind. examples: key and message of the first of each kind."""

    url: str
    samples: int
    rejects: Mapping[str, int]
    examples: Mapping[str, str] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        """Number of samples that cannot be read."""
        return sum(self.rejects.values())


class Early:
    """Sees every finished shard, in any order; raises RejectsError by the rule above."""

    def __init__(self, run: Run, reader: Reader, out: Artifact, beside: Sequence[Artifact] = ()) -> None:
        """beside: artifacts that the same pass makes; a sample that one of them rejects is lost too."""
        self._run, self._reader, self._outs = run, reader, (out, *beside)
        self._waits = set(spread(len(run.shards))) if run.limits.stop_early else set[int]()
        self._found: list[int] = []
        self._rejects = Counter[str]()
        self._samples = 0

    def __call__(self, index: int, summary: Summary) -> None:
        """A shard's summary: `kept`, and `rejects` by kind."""
        if index not in self._waits:
            return
        self._waits.discard(index)
        own, *others = (_kinds(told) for told in (summary, *self._beside(index)))
        rejects = own + max(others, key=Counter.total, default=Counter[str]())
        rejected = rejects.total()
        samples = own.total() + cast(int, summary["kept"])
        if samples and not nearly_whole(rejected, samples, self._run.limits):
            self._waits = set()
            self._found = []
            return
        if samples:
            self._found.append(index)
            self._rejects.update(rejects)
            self._samples += samples
        if not self._waits and self._found:
            self._end()

    def _beside(self, index: int) -> list[Summary]:
        there = (out for out in self._outs[1:] if storage.exists(out.shard(index)))
        return [out.summary(index) for out in there]

    def _end(self) -> None:
        examples: dict[str, str] = {}
        urls = [self._run.shards[index].url for index in sorted(self._found)]
        for index, url in zip(sorted(self._found), urls, strict=True):
            for out in self._outs:
                for row in read_rejects(out, index).to_pylist() if storage.exists(out.shard(index)) else ():
                    examples.setdefault(row["kind"], example(url, row["key"], row["position"], row["message"]))
        found = ShardRejects(urls[0], self._samples, self._rejects, examples)
        raise RejectsError(refusal(self._reader, found, len(urls), len(self._run.shards)))


def _kinds(summary: Summary) -> Counter[str]:
    kinds = Counter(cast(Mapping[str, int], summary["rejects"]))
    del kinds[NOT_DOWNLOADED]  # these are not samples: every list of links has some
    return kinds


def example(url: str, key: str, position: int, message: str) -> str:
    """A reject on one line, by its key or else its place; escaped, because keys and messages come from the pool."""
    return escaped(f"{url}, {key or f'sample {position}'}: {message[:_SHOWN]}")


def joined(found: Sequence[ShardRejects]) -> ShardRejects:
    """Merge several shards into one, with the URL and examples of the first."""
    rejects = sum((Counter(one.rejects) for one in found), Counter[str]())
    examples: dict[str, str] = {}
    for one in reversed(found):
        examples |= one.examples
    return ShardRejects(found[0].url, sum(one.samples for one in found), rejects, examples)


def refusal(reader: Reader, found: ShardRejects, looked: int, shards: int) -> str:
    """The text of the error: the kinds of rejects, and the option that would read the samples, if one is found.

    looked: how many of the pool's `shards` were looked at.
    """
    wide = max(map(len, found.rejects))
    lines = [
        f"  {kind:{wide}}  {count:>10,}  {count / found.samples:>7.2%}  such as {found.examples.get(kind, found.url)}"
        for kind, count in sorted(found.rejects.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    told = "\n".join([*lines, *remedies(reader, found.url, found.rejects)])
    return (
        f"a pool must be readable, but {found.rejected:,} of the {found.samples:,} samples of {looked} of its "
        f"{shards:,} shards are rejected:\n{told}\n"
        "Fix what they have in common (options of pool name what is read). limits.max_reject_fraction says how many "
        "samples may be rejected; with limits.stop_early: false it is checked only at the end."
    )
