"""Plugins: finds the classes that other installed distributions offer by entry points.

A distribution offers a class under a group, such as `winnow.cuts`, in its pyproject.toml:

    [project.entry-points."winnow.cuts"]
    sharpness = "acme_cuts.sharpness:Sharpness"

Listing names imports nothing. A class is imported when a job names it, so a broken plugin breaks only the jobs that
use it.
"""

import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, cast

from winnow.pipeline.errors import JobError

_T = TypeVar("_T")
_PREFIX = "winnow."  # of every group


@dataclass(frozen=True)
class Origin:
    """An installed distribution, as pip names it."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class _Offer:
    entry: importlib.metadata.EntryPoint
    origin: Origin

    @property
    def package(self) -> str:
        """The top-level package that the class lies in."""
        return self.entry.module.partition(".")[0]


def _offers() -> tuple[_Offer, ...]:
    return _offers_on(tuple(sys.path))


@lru_cache(maxsize=4)
def _offers_on(path: tuple[str, ...]) -> tuple[_Offer, ...]:
    """Every entry point of winnow's groups, sorted by name. Cached by path: it takes 40 ms for 200 distributions."""
    first: dict[str, list[_Offer]] = {}  # if a distribution is on the path twice, Python imports the first copy
    for installed in importlib.metadata.distributions():
        entries = [entry for entry in installed.entry_points if entry.group.startswith(_PREFIX)]
        if entries:
            origin = Origin(installed.name, installed.version)
            first.setdefault(origin.name, [_Offer(entry, origin) for entry in entries])
    found = [offer for offers in first.values() for offer in offers]
    return tuple(sorted(found, key=lambda offer: (offer.entry.group, offer.entry.name, offer.origin.name)))


def origin_of(kind: type) -> Origin | None:
    """The plugin that a class belongs to; None for winnow's own classes and for classes outside any plugin.

    A class belongs to the distribution that has an entry point for winnow in the same top-level package. If several
    distributions share that package (a namespace), it belongs to the one whose module path matches most of the class's.
    """
    # by package, not by the entry point's own class: a plugin's helper classes belong to it too
    package = kind.__module__.partition(".")[0]
    if package == "winnow":
        return None
    path = kind.__module__.split(".")
    offers = [offer for offer in _offers() if offer.package == package]
    nearest = max(offers, key=lambda offer: _shared(offer.entry.module.split("."), path), default=None)
    return None if nearest is None else nearest.origin


def _shared(one: list[str], other: list[str]) -> int:
    """The number of leading parts that two module paths have in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def of_kind(base: type) -> Callable[[str, object], str | None]:
    """A check for `Offered`: an object must be a subclass of `base`, and its `kind` must be its name."""

    def wrong(name: str, found: object) -> str | None:
        if not (isinstance(found, type) and issubclass(found, base)):
            return f"must be a subclass of {base.__module__}.{base.__qualname__}, but is not"
        kind = getattr(found, "kind", None)
        return None if kind == name else f"must have this name as its kind, but has {kind!r}"

    return wrong


class Offered(Mapping[str, type[_T]]):
    """Classes by name: first winnow's own, then those of plugins. A plugin's class is imported on first access.

    group: of the entry points, such as `winnow.cuts`. own: winnow's classes by name. wrong: check of an object that a
    plugin offers under a name; returns what is wrong with it, or None.
    """

    def __init__(
        self, group: str, own: Mapping[str, type[_T]], wrong: Callable[[str, object], str | None] = lambda *_: None
    ) -> None:
        self._group, self._own, self._wrong = group, own, wrong

    def _offers(self, name: str) -> list[_Offer]:
        return [offer for offer in self._all() if offer.entry.name == name]

    def _all(self) -> list[_Offer]:
        return [offer for offer in _offers() if offer.entry.group == self._group]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._own, *(offer.entry.name for offer in self._all())]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._own or any(name == offer.entry.name for offer in self._all())

    def __getitem__(self, name: str) -> type[_T]:
        """The class of that name.

        Raises KeyError for an unknown name; JobError for a name that two distributions offer, and for a plugin that
        cannot be imported or fails the group's check.
        """
        offers = self._offers(name)
        owners = [*(["winnow"] if name in self._own else []), *(str(offer.origin) for offer in offers)]
        if len(owners) > 1:
            raise JobError(
                f"one distribution must offer {name} in {self._group}, but {' and '.join(owners)} do; uninstall all "
                "but one of them, or ask their authors for another name"
            )
        if not offers:
            return self._own[name]
        [offer] = offers
        try:
            found = offer.entry.load()
        except Exception as error:  # importing a plugin's module may raise anything
            raise JobError(
                f"{name} of {offer.origin} must be imported from {offer.entry.value}, but: {type(error).__name__}: "
                f"{error}; fix or uninstall {offer.origin.name}"
            ) from error
        if (problem := self._wrong(name, found)) is not None:
            raise JobError(f"{name} of {offer.origin} ({offer.entry.value}) {problem}; fix {offer.origin.name}")
        return cast(type[_T], found)
