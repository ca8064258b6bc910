"""What a cut is: its options, the stages that decide it, and its answers when it is explained, checked and shown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa

from winnow.pipeline.stage import Run, ShardItem, Stage
from winnow.stages.cuts.contract.amount import Amount, Number, Of
from winnow.stages.cuts.contract.explained import Asked, Explained, explain_by_first_column
from winnow.stages.cuts.contract.findings import Findings
from winnow.stages.cuts.contract.finished import Check, Contents, CutRows, FinishedCut, Named
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

__all__ = ["Amount", "Cut", "Number", "Of"]  # what a cut's file needs


class Cut:
    """One entry of a job's policy: a frozen dataclass of its options, and all that is special about this kind of cut.

    kind: its name in a job file. ranks: whether `winnow why` tells where a sample stands in each of its rankings.
    draws_epochs: whether it draws another sample for each epoch of training; it is then the last cut of a policy, and
    leaves what contract/drawn.py says.
    A cut must say which stages decide it. The rest has defaults that hold for any cut whose artifact has `kept` beside
    every row. Where the last stage is `Ranked`, they check its order and its count, and explain it. With `ranked_by`
    they do so for any cut that ends in `keep_by_quota`, and `quotas` lets them check each group.
    """

    kind: ClassVar[str]
    ranks: ClassVar[bool] = True
    draws_epochs: ClassVar[bool] = False

    def stages(self, survivors: Survivors, store: str) -> list[Stage]:
        """The stages that decide it, in order; the last one's artifact has `kept` beside every row."""
        raise NotImplementedError

    def shown(self) -> Shown:
        """How `winnow report` shows it; by default the first column of numbers of its files is its value."""
        return Shown()

    def smaller(self, rows: int, samples: float) -> Self:
        """The same cut for a miniature of the job, which `plan --price` runs: `rows` samples in place of `samples`.

        By default the options `count`, `clusters` and `sample_per_cluster` shrink, where the cut has them.
        """
        return smaller(self, rows, samples)

    def amount(self) -> Amount | None:
        """How much it keeps; None where that is no one number, or is what `Ranked` was told anyway."""
        return None

    def check(self, given: Given) -> None:
        """Raises JobError where the job lacks what it needs; by default, an option `by` names an encoder of the job."""
        by = getattr(self, "by", None)
        if by is not None:
            given.check_encoder(self.kind, by)

    def explain(self, asked: Asked) -> Explained:
        """What it says of one sample; by default its first column beside the threshold."""
        return explain_by_first_column(asked)

    def contents(self) -> Mapping[str, Contents]:
        """What its stages leave, by name of the stage; one that is absent has a table for each shard and no more."""
        return {}

    def subsets(self, cut: FinishedCut) -> Mapping[str, Named]:
        """The files of uids beside its own, by name: each is sorted and has the uids of these rows, each once."""
        return {}

    @classmethod
    def checks(cls) -> Mapping[str, Check]:
        """What `winnow verify` looks at beside its columns and orders, by the name that it prints."""
        return {}

    def ranked_by(self, cut: FinishedCut) -> Source | None:
        """The source that its last stage ranked the samples by, of the finished cut; None: it does not say."""
        return None

    def quotas(self, cut: FinishedCut) -> np.ndarray | None:
        """How many samples of each group stay where there are as many, int64 (g,); None: it does not say."""
        return None

    def made_again(self, cut: FinishedCut, item: ShardItem) -> Mapping[str, pa.Array] | None:
        """Its columns of one shard made again, (n,) each; `kept` too where a row alone decides it.

        What they have for rows that were out before does not matter. By default those of `ranked_by`. None: it does
        not say how, so `winnow verify` tells that they are taken as they are; {} where `checks` or `rankings` hold all
        of them.
        """
        source = self.ranked_by(cut)
        return None if source is None else source.columns(item, source.rows(item))

    def rankings(self, cut: FinishedCut, rows: CutRows) -> Iterable[Ranking] | None:
        """The orders that it went by in one shard; as many in each shard, `rows` is read when it is asked.

        None: it does not say, and `winnow verify` tells so; () where it has no order. By default that of `ranked_by`,
        else of `Ranked`.
        """
        source = self.ranked_by(cut)
        return by_first_column(cut, rows) if source is None else by_source(source, rows)

    def laws(self, cut: FinishedCut, run: Run, standings: Sequence[Standings]) -> Findings:
        """Whether what it kept of the whole pool is right; standings: of each ranking. Not asked of a threshold.

        By default none that is kept comes after one that is not, in each group. Of one ranking, each group keeps its
        quota, or where `quotas` says nothing, all groups together the amount.
        """
        found = in_order(cut, run, standings)
        if len(standings) != 1:
            return found
        quotas = self.quotas(cut)
        if quotas is not None:
            return found + by_quotas(cut, standings[0], quotas)
        if len(standings[0].size) > 1 or cut.amount is None:
            note = f"{cut.name}: it does not say the quotas of its groups, so how many of each stay is taken as it is"
            found += Findings(notes=(note,))
        return found + as_many_as_asked(cut, standings[0])
