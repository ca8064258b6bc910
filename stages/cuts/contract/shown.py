"""What a cut tells `winnow report` about itself: its value, the name of the value, and its galleries."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pairs:
    """The report shows pairs: each dropped sample beside the kept one that it repeats.

    column: of the cut's files, the uid of that kept sample, null for all others. The cut's number is how alike the two
    are, 1 for equal ones. hint: a sentence above the pairs that are least alike.
    """

    column: str
    hint: str = ""


@dataclass(frozen=True)
class Shown:
    """How the report shows a cut that ran. Every field has a default that holds for any cut.

    about: what the cut does, in a sentence. column: of its files, the number that decided; None: the first column of
    numbers, if there is one. label: what people call that number; "" is the column's name. lowest: whether the lowest
    numbers stay. broken: the column of texts that names the rule which a dropped sample breaks; the report counts them.
    pairs: where the cut drops repetitions. concepts: the parquet file beside the cut's files that has a row for each
    cluster, with the columns of density.parquet; the cut's files then have `cluster`.
    A stage that reports a `threshold` cut one order there, so the report shows the samples next to it.
    """

    about: str = ""
    column: str | None = None
    label: str = ""
    lowest: bool = False
    broken: str | None = None
    pairs: Pairs | None = None
    concepts: str | None = None
