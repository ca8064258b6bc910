"""Tokenizes captions as open_clip's CLIP tokenizer does, in a tenth of the time."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip.tokenizer
import torch

_WORDS = 1 << 17
"""Size of the table of known words, about 30 MB. A full table is emptied, because the web never runs out of words."""

_LETTERS = 32
"""Longest word in the table, in characters. Longer ones are links or text without spaces, and seldom occur again."""


class ClipTokens:
    """A cache of words that open_clip's tokenizer has split and merged before. Thread-safe.

    The tokens are equal to open_clip's for two reasons. No token of CLIP's pattern holds white space, so a caption's
    tokens are those of its words, one by one. And cleaning (ftfy, then html.unescape) does not change printable ASCII
    without `&`; all other captions are cleaned by the tokenizer's own function.
    """

    def __init__(self, own: open_clip.tokenizer.SimpleTokenizer, context: int) -> None:
        """own: open_clip's tokenizer, which lowers case and truncates. context: number of tokens of a caption, ≥ 2."""
        self._own = own
        self._context = context
        self._special = dict(own.cache)  # <start_of_text> and others, which are not merged like words
        self._table: dict[str, tuple[int, ...]] = {}
        self._learning = threading.Lock()

    def __call__(self, captions: list[str]) -> torch.Tensor:
        """int64 (b, context): start, tokens, end, and zeros. A long caption has its first context - 2 tokens."""
        rows = np.zeros((len(captions), self._context), np.int64)
        for row, caption in zip(rows, captions, strict=True):
            found = [self._own.sot_token_id, *self._tokens(caption), self._own.eot_token_id]
            row[: len(found)] = found
        return torch.from_numpy(rows)

    def _tokens(self, caption: str) -> list[int]:
        """The first context - 2 tokens of a caption."""
        plain = caption.isascii() and caption.isprintable() and "&" not in caption
        cleaned = caption.lower() if plain else self._own.clean_fn(caption)
        room, table = self._context - 2, self._table
        found: list[int] = []
        for word in cleaned.split():
            known = table.get(word)
            if known is None:
                with self._learning:
                    known = self._learn(word)
            found += known
            if len(found) >= room:
                return found[:room]
        return found

    def _learn(self, word: str) -> tuple[int, ...]:
        """Tokens of a word by open_clip's own pattern and merges."""
        own = self._own
        tokens: list[int] = []
        for piece in own.pat.findall(word):
            letters = "".join(own.byte_encoder[byte] for byte in piece.encode())
            tokens += (own.encoder[part] for part in own.bpe(letters).split(" "))
        if len(own.cache) > _WORDS:  # open_clip never shrinks it
            own.cache = dict(self._special)
        if len(word) <= _LETTERS:
            if len(self._table) >= _WORDS:
                self._table = {}
            self._table[word] = tuple(tokens)
        return tuple(tokens)


def tokens_of(own: Any) -> Callable[[list[str]], torch.Tensor]:
    """A tokenizer with the same tokens as `own`, and faster if `own` is CLIP's. Others are returned as they are."""
    plain = type(own) is open_clip.tokenizer.SimpleTokenizer and own.reduction_fn is None
    if plain and own.clean_fn is open_clip.tokenizer.get_clean_fn("lower") and (own.context_length or 0) >= 2:
        return ClipTokens(own, own.context_length)
    return own  # type: ignore[no-any-return]  # open_clip has no types
