"""Names a concept by the words that are typical of its captions."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

_WORD = re.compile(r"[^\W\d_]{2,30}")
_CAPTION_CHARS = 500
_CAPTION_WORDS = 64
_LEAST_Z = 1.5
_TELL_NOTHING = frozenset(
    _WORD.findall("""
    a an and are as at be being been by for from has have her him his in into is it its of off on onto or other
    out over she he some that the their them then there these they this those to up was were where which while
    who with you your we our i my me not no but if so than too very can will one two against near next down each
    """)
)
"""English stop words. In other languages only the log-odds remove such words, and mostly do."""

_PRIOR_CAPTIONS = 10.0  # weight of the prior, in captions


def words_of(caption: str) -> set[str]:
    """The set of words of a caption (letters only, lower case), from its first 64 words."""
    return set(_WORD.findall(caption[:_CAPTION_CHARS].lower())[:_CAPTION_WORDS])


def count_words(captions: Iterable[str]) -> Counter[str]:
    """The number of captions that have each word; under "" the number of all captions."""
    counts = Counter[str]()
    for caption in captions:
        counts.update(words_of(caption))
        counts[""] += 1
    return counts


def distinctive(counts: Mapping[int, Counter[str]], most: int = 4) -> dict[int, list[str]]:
    """For each concept at most `most` words, the most typical first: log-odds with an informative Dirichlet prior.

    counts: from count_words, by concept. y of n captions have the word in this concept, and Y of N in all others. The
    prior a is ten times the share of all captions that have the word, (Y + y + 1/2) / (N + n + 1):

        z = (log((y + a) / (n + 10 − y − a)) − log((Y + a) / (N + 10 − Y − a))) / sqrt(1 / (y + a) + 1 / (Y + a))

    (Monroe et al. 2008, Fightin' Words. They count words; we count captions, so that a caption which repeats a word ten
    times counts once.) Words with z below 1.5 or in one caption only are left out; ties are ordered alphabetically.
    Cost O(words).
    """
    every = Counter[str]()
    for found in counts.values():
        every.update(found)
    telling: dict[int, list[str]] = {}
    for concept, found in counts.items():
        here = found[""]
        words = sorted(word for word, count in found.items() if word and count > 1 and word not in _TELL_NOTHING)
        y = np.array([found[word] for word in words], np.float64)
        whole = np.array([every[word] for word in words], np.float64)
        prior = _PRIOR_CAPTIONS * (whole + 0.5) / (every[""] + 1)
        z = (_log_odds(y, here, prior) - _log_odds(whole - y, every[""] - here, prior)) / np.sqrt(
            1 / (y + prior) + 1 / (whole - y + prior)
        )
        order = np.argsort(-z, kind="stable")[:most]
        telling[concept] = [words[i] for i in order if z[i] >= _LEAST_Z]
    return telling


def _log_odds(with_word: np.ndarray, captions: int, prior: np.ndarray) -> np.ndarray:
    odds: np.ndarray = np.log((with_word + prior) / (captions + _PRIOR_CAPTIONS - with_word - prior))
    return odds
