"""Tokenizes captions as open_clip's CLIP tokenizer does, in a tenth of the time."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip.tokenizer
import torch

_WORDS = 1 << 17
"""Words whose tokens are kept, about 30 MB: beyond them the table is begun anew, for captions of the web never end."""

_LETTERS = 32
"""Characters of a word that is kept at most: what is longer is an address or text without spaces, seldom seen again."""


class ClipTokens:
    """Looks words up that open_clip's tokenizer split and merged before; any number of threads may call it.

    Two things make it equal. No token of CLIP's pattern holds white space, so a caption's tokens are those of its
    words one by one. And of printable ASCII without `&`, cleaning (ftfy, then html.unescape) leaves every word as it
    is; all other captions are cleaned by the tokenizer's own function.
    """

    def __init__(self, own: open_clip.tokenizer.SimpleTokenizer, context: int) -> None:
        """own: whose tokens these are; it lowers case and cuts what is too long. context: tokens of a caption, ≥ 2."""
        self._own = own
        self._context = context
        self._special = dict(own.cache)  # <start_of_text> and its like, which are no words to be merged
        self._table: dict[str, tuple[int, ...]] = {}
        self._learning = threading.Lock()

    def __call__(self, captions: list[str]) -> torch.Tensor:
        """int64 (b, context): start, tokens, end, and zeros; of a long caption the first context - 2 tokens."""
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
        if len(own.cache) > _WORDS:  # it has no bound of its own
            own.cache = dict(self._special)
        if len(word) <= _LETTERS:
            if len(self._table) >= _WORDS:
                self._table = {}
            self._table[word] = tuple(tokens)
        return tuple(tokens)


def tokens_of(own: Any) -> Callable[[list[str]], torch.Tensor]:
    """The same tokens as `own` gives, sooner where it is CLIP's: other tokenizers are returned as they came."""
    plain = type(own) is open_clip.tokenizer.SimpleTokenizer and own.reduction_fn is None
    if plain and own.clean_fn is open_clip.tokenizer.get_clean_fn("lower") and (own.context_length or 0) >= 2:
        return ClipTokens(own, own.context_length)
    return own  # type: ignore[no-any-return]  # open_clip has no types
