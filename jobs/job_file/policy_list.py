"""Reads the cuts of a policy from plain values, and writes them back; a cut may have a list of cuts itself."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from winnow.jobs.job_file.options import list_of, mapping_of, options_of, unknown_kind
from winnow.pipeline.errors import JobError
from winnow.stages.cuts.cut import Cut
from winnow.stages.cuts.kinds import CUTS


def cuts_of(where: str, entries: object) -> tuple[Cut, ...]:
    """The cuts of a list in a job file, such as the policy. Raises JobError for an entry that is not one cut."""
    return tuple(_cut(f"{where}.{number}", entry) for number, entry in enumerate(list_of(where, entries)))


def _cut(place: str, entry: object) -> Cut:
    """One cut of a policy, or of the list of a cut that nests others."""
    values = mapping_of(place, entry)
    if len(values) != 1:
        raise JobError(f"{place} must be one cut, such as rules: {{min_words: 3}}, got {list(values)}")
    [(kind, options)] = values.items()
    if kind not in CUTS:
        raise JobError(f"{place} must be one of {', '.join(CUTS)}, got {kind!r}{unknown_kind(str(kind), CUTS)}")
    where = f"{place}.{kind}"
    try:
        if CUTS[kind].nests:
            return cast(Cut, cast(Any, CUTS[kind])(cuts_of(where, options)))
        return options_of(CUTS[kind], where, mapping_of(where, {} if options is None else options))
    except JobError as error:
        raise error if str(error).startswith(where) else JobError(f"{where}: {error}") from error


def plain_cuts(cuts: Sequence[Cut], plain: Callable[[Cut], Mapping[str, object]]) -> list[dict[str, object]]:
    """Cuts as a job file lists them. plain: the options of one cut as plain values."""
    return [{cut.kind: plain_cuts(cut.nested(), plain) if cut.nests else plain(cut)} for cut in cuts]
