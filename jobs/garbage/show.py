"""Prints what `winnow gc` found: a table for people, JSON for programs."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from winnow.jobs.garbage.survey import Survey


def table(store: str, found: Survey, removed: bool) -> Iterator[Table | str]:
    """A table of what no job needs, and sentences about it."""
    whys = Counter(why.partition(" ")[0] for why in found.needed.values())
    yield f"{len(found.records)} records: {', '.join(found.records) or 'none'}; they need {whys['job']} artifacts"
    if runs := sum(count for why, count in whys.items() if why == "a"):
        yield f"{runs} more artifacts belong to runs in progress or unfinished runs"
    if young := whys["it"]:
        yield f"{young} more artifacts are new (--hours)"
    if not found.unneeded:
        yield "the store has no other artifacts"
        return
    rows = Table("not needed", "files", "MB", "kept for others")
    for column in rows.columns[1:3]:
        column.justify = "right"
    for one in found.unneeded:
        users = sorted(set(one.kept.values()))
        kept = f"{len(one.kept)} files, for {', '.join(users[:3])}" if users else ""
        rows.add_row(one.name, f"{len(one.files):,}", f"{one.size / 1e6:,.1f}", kept)
    yield rows
    count, size = sum(len(one.files) for one in found.unneeded), sum(one.size for one in found.unneeded)
    if removed:
        yield f"removed {count:,} files of {size / 1e6:,.1f} MB"
    else:
        yield f"{count:,} files of {size / 1e6:,.1f} MB can be removed: winnow gc {store} --remove"


def document(store: str, found: Survey, removed: bool) -> Mapping[str, Any]:
    """The same as plain JSON; docs/formats.md lists its fields."""
    unneeded = [
        {"name": one.name, "files": len(one.files), "bytes": one.size, "kept": dict(one.kept)} for one in found.unneeded
    ]
    return {
        "store": store,
        "removed": removed,
        "records": list(found.records),
        "needed": dict(found.needed),
        "unneeded": unneeded,
    }
