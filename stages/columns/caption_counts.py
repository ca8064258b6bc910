"""Counts words and characters of captions, as rules and columns do."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def count_words(captions: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The words of each caption, separated by white space: int64 (n,). No caption is null."""
    trimmed = pc.utf8_trim_whitespace(captions)
    words = numbers(pc.list_value_length(pc.utf8_split_whitespace(trimmed)))
    words[numbers(pc.utf8_length(trimmed)) == 0] = 0  # "" splits into one empty word
    return words


def count_chars(captions: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The Unicode characters of each caption: int64 (n,). No caption is null."""
    return numbers(pc.utf8_length(captions))


def numbers(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Counts of Arrow as int64 (n,)."""
    return np.array(np.asarray(values), np.int64)
