"""What a case of the corpus is: one shard, and what must become of it."""

from dataclasses import dataclass, field
from typing import Any

BAD = "!"
"""Before a reject's kind among the outcomes of a case; the others are keys of samples that are read."""


@dataclass(frozen=True)
class Case:
    """One shard and what must become of it.

    files: name -> content; the first is the shard, the others its companions. outcomes: in the order of the shard.
    failed: what the error of a shard that cannot be read at all says; then there are no outcomes. options: of the pool.
    captions: of keys where they are told. says: what the messages of rejects of a kind hold.
    """

    name: str
    format: str
    files: dict[str, bytes]
    outcomes: tuple[str, ...] = ()
    failed: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    says: dict[str, str] = field(default_factory=dict)
