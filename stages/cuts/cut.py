"""The contract of a cut: its options, the stages that decide it, and how it is explained, checked and shown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa

from winnow.pipeline.stage import Run, ShardItem, Stage
from winnow.stages.cuts.contract.amount import Amount, Number, Of
from winnow.stages.cuts.contract.explained import Asked, Explained, explain_by_first_column
from winnow.stages.cuts.contract.findings import Findings
from winnow.stages.cuts.contract.finished import Check, Contents, CutRows, FinishedCut, NamedRows
from winnow.stages.cuts.contract.given import Given
from winnow.stages.cuts.contract.orders import (
    Ranking,
    Standings,
    as_many_as_asked,
    by_first_column,
    by_quotas,
    by_source,
    in_order,
)
from winnow.stages.cuts.contract.priced import smaller
from winnow.stages.cuts.contract.shown import Shown
from winnow.stages.cuts.contract.source import Source
from winnow.stages.survivors import Survivors

__all__ = ["Amount", "Cut", "Number", "Of", "names_of"]  # what a cut's file needs


class Cut:
    """One entry of a job's policy: a frozen dataclass with its options, and everything that is special about its kind.

    kind: its name in a job file. ranks: whether `winnow why` tells the rank of a sample in each of its rankings.
    nests: whether its options are a list of cuts (`nested`), as those of `any`. The class is called with a tuple.
    draws_epochs: whether it draws another sample for each epoch of training. It must then be the last cut of a policy,
    and its artifact must be as in contract/drawn.py.
    A cut must define `stages`. All other methods have defaults that work for any cut whose artifact has `kept` for
    every row. If the last stage is `Ranked`, the defaults also check its order and its count, and explain it. With
    `ranked_by` they do so for any cut that ends in `keep_by_quota`, and with `quotas` they check each group.
    """

    kind: ClassVar[str]
    ranks: ClassVar[bool] = True
    draws_epochs: ClassVar[bool] = False
    nests: ClassVar[bool] = False

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The stages that decide the cut, in order. The artifact of the last one has `kept` for every row."""
        raise NotImplementedError

    def nested(self) -> tuple["Cut", ...]:
        """The cuts in its list, each of which sees the samples that this cut sees. Default: none.

        A cut that has any defines `steps` too, and names each nested cut's stages as in a policy (`names_of`).
        """
        return ()

    def steps(self, survivors: Survivors, store: str) -> list[tuple[str, Stage]]:
        """The stages with their labels in a job, without the cut's name before them. Default: the stages' own names."""
        return [(stage.name, stage) for stage in self.stages(survivors, store)]

    def shown(self) -> Shown:
        """How `winnow report` shows the cut. Default: its value is the first column of numbers in its files."""
        return Shown()

    def smaller(self, rows: int, samples: float) -> Self:
        """The same cut for the small run of `plan --price`, on `rows` samples in place of `samples`.

        Default: the options `count`, `clusters` and `sample_per_cluster` shrink, if the cut has them.
        """
        return smaller(self, rows, samples)

    def amount(self) -> Amount | None:
        """How much the cut keeps; None if that is not one number, or if `Ranked` was given it."""
        return None

    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders whose vectors or cosines the cut reads. Default: option `by`, if it has one.

        Of the vectors that a pool brings, only those of the encoders that a cut of the policy names are read.
        """
        by = getattr(self, "by", None)
        return () if by is None else (by,)

    def check(self, given: Given) -> None:
        """Raises JobError if the job lacks what the cut needs. Default: `encoders` must be encoders of the job."""
        for by in self.encoders():
            given.check_encoder(self.kind, by)

    def explain(self, asked: Asked) -> Explained:
        """Explain what became of one sample. Default: its first column beside the threshold."""
        return explain_by_first_column(asked)

    def contents(self) -> Mapping[str, Contents]:
        """What each stage's artifact holds, by name of the stage. A stage not named has only a table per shard."""
        return {}

    def subsets(self, cut: FinishedCut) -> Mapping[str, NamedRows]:
        """Files of uids in its meta folder, by name. Each must be sorted and hold the uids of these rows, once each."""
        return {}

    @classmethod
    def checks(cls) -> Mapping[str, Check]:
        """What `winnow verify` checks in addition to columns and rankings, by the name that it prints."""
        return {}

    def ranked_by(self, cut: FinishedCut) -> Source | None:
        """The source by which the last stage ranked the samples of the finished cut; None: the cut does not say."""
        return None

    def quotas(self, cut: FinishedCut) -> np.ndarray | None:
        """How many samples of each group stay, if it has as many: int64 (g,); None: the cut does not say."""
        return None

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array] | None:
        """The cut's columns of one shard, computed anew: (n,) each; also `kept` if each row is decided by itself.

        Values of rows that were out before do not matter. Default: the columns of `ranked_by`. None: they cannot be
        computed anew, and `winnow verify` says that it does not check them. {}: `checks` or `rankings` check all.
        """
        source = self.ranked_by(cut)
        return None if source is None else source.columns(item, source.rows(item))

    def rankings(self, cut: FinishedCut, rows: CutRows) -> Iterable[Ranking] | None:
        """The rankings of one shard's rows that the cut used, the same number in every shard. `rows` is read lazily.

        None: the cut does not say, and `winnow verify` reports that. (): it has no order. Default: that of `ranked_by`,
        else that of `Ranked`.
        """
        source = self.ranked_by(cut)
        return by_first_column(cut, rows) if source is None else by_source(source, rows)

    def laws(self, cut: FinishedCut, run: Run, standings: Sequence[Standings]) -> Findings:
        """Check what the cut kept of the whole pool. standings: of each ranking. Not called for a threshold.

        Default: in each group no dropped sample ranks before a kept one. If there is one ranking, each group keeps its
        quota, or without `quotas` all groups together keep the amount.
        """
        found = in_order(cut, run, standings)
        if len(standings) != 1:
            return found
        quotas = self.quotas(cut)
        if quotas is not None:
            return found + by_quotas(cut, standings[0], quotas)
        if len(standings[0].size) > 1 or cut.amount is None:
            note = f"{cut.name}: the cut gives no quotas of its groups, so the counts per group are not checked"
            found += Findings(notes=(note,))
        return found + as_many_as_asked(cut, standings[0])


def names_of(policy: Sequence[Cut]) -> list[str]:
    """The name of each cut in a job: its kind, and `<kind>_2` for the second cut of that kind."""
    kinds = [cut.kind for cut in policy]
    again = [kinds[:number].count(kind) for number, kind in enumerate(kinds)]
    return [f"{kind}_{times + 1}" if times else kind for kind, times in zip(kinds, again, strict=True)]
