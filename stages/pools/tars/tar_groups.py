"""Groups the members of a tar into samples by key: the path up to the first dot of the file's name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from winnow.stages.pools.tars.tar_members import Member


@dataclass(slots=True)
class Group:
    """The members of one sample with their suffixes, in tar order. again: whether an earlier sample has this key."""

    key: str
    again: bool
    parts: list[tuple[str, Member]] = field(default_factory=list)

    @property
    def offset(self) -> int:
        return self.parts[0][1].start

    @property
    def suffixes(self) -> set[str]:
        return {suffix for suffix, _ in self.parts}


def grouped(members: list[Member]) -> list[Group]:
    """Samples in the order of their first members. A suffix that repeats, after other samples, begins a new sample."""
    groups: list[Group] = []
    open_groups: dict[str, Group] = {}
    before: Group | None = None
    for member in members:
        key, suffix = key_and_suffix(member.name)
        group = open_groups.get(key)
        if key and (group is None or (group is not before and suffix in group.suffixes)):
            group = Group(key, again=group is not None)
            open_groups[key] = group
            groups.append(group)
        if group is not None:
            group.parts.append((suffix, member))
        before = group
    return groups


def key_and_suffix(name: str) -> tuple[str, str]:
    """Key and suffix of a member; ("", "") if it belongs to no sample."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return (folder + slash + stem, suffix.lower()) if stem and dot else ("", "")


def ending_of(suffix: str, asked: Sequence[str]) -> str:
    """The wanted suffix, with its dot, that a longer suffix ends with; "" if there is none."""
    return next((f".{name}" for name in asked if suffix.endswith(f".{name}")), "")


def by_dots(group: Group, pictures: Sequence[str]) -> list[Group]:
    """The pictures that a group without one would be if keys did not end at the first dot: each is one reject.

    pictures: the suffixes of pictures. A group that has a picture, or nothing that ends as one, stays as it is.
    """
    if group.again or group.suffixes & set(pictures):
        return [group]
    endings = [(member.name, ending_of(suffix, pictures)) for suffix, member in group.parts]
    parts: dict[str, list[tuple[str, Member]]] = {name[: -len(ending)]: [] for name, ending in endings if ending}
    for suffix, member in group.parts:
        owners = [key for key in parts if member.name.startswith(f"{key}.")] or list(parts)[:1]
        if not owners:
            return [group]
        parts[max(owners, key=len)].append((suffix, member))
    return [Group(key, again=False, parts=found) for key, found in parts.items()]


def dots_hint(parts: Mapping[str, Member], asked: Sequence[str], option: str) -> str:
    """What to do if a wanted suffix follows a second dot; "" if none does."""
    found = next((suffix for suffix in parts if ending_of(suffix, asked)), None)
    if found is None:
        return ""
    return (
        f": a key ends at the first dot of the file's name, so {parts[found].name} is a member {found!r}; rename the "
        f"files so that no other dot comes before the suffix, or where all have it, name it, {option.format(found)}"
    )


def joined_ranges(members: list[Member]) -> list[tuple[int, int]]:
    """Byte ranges (offset, size) that cover exactly these members, given in tar order. Adjacent ones are joined."""
    starts = [m.start for i, m in enumerate(members) if i == 0 or members[i - 1].end != m.start]
    ends = [m.end for i, m in enumerate(members) if i + 1 == len(members) or members[i + 1].start != m.end]
    return [(start, end - start) for start, end in zip(starts, ends, strict=True)]
