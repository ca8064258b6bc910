"""What a cut tells `winnow report` about itself: its value, the name of the value, and its galleries."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PairGallery:
    """The report shows pairs: each dropped sample beside the kept one that it repeats.

    column: the column of the cut's files with the uid of that kept sample, null for all other samples. The cut's number
    says how alike the two are, 1 for equal ones. hint: a sentence above the pairs that are least alike.
    """

    column: str
    hint: str = ""


@dataclass(frozen=True)
class Shown:
    """How the report shows a cut that ran. Every field has a default that holds for any cut.

    about: what the cut does, in a sentence. column: the column of the number that decided; None: the first column of
    numbers, if there is one. label: the usual name of that number; "" means the column's name. lowest: whether the
    lowest numbers stay. broken: the text column with the rule that a dropped sample breaks; the report counts them.
    pairs: for a cut that drops repetitions. concepts: the parquet file in the cut's meta folder with a row for each
    cluster and the columns of density.parquet; the cut's files then have `cluster`.
    If the report of a stage has a `threshold`, all samples are in one order, and the page shows those next to it.
    """

    about: str = ""
    column: str | None = None
    label: str = ""
    lowest: bool = False
    broken: str | None = None
    pairs: PairGallery | None = None
    concepts: str | None = None
