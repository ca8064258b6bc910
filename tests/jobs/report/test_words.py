"""Words that set concepts apart: the formula as it stands, and what no order of captions may change."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from winnow.jobs.report.words import count_words, distinctive, words_of

CAPTIONS = st.lists(st.lists(st.sampled_from(["red", "boat", "dog", "sea", "hill"]), max_size=4).map(" ".join))


def z(word: str, here: list[str], others: list[str]) -> float:
    """As the docstring has it, for one word."""
    y, n = sum(word in c.split() for c in here), len(here)
    whole, rest = sum(word in c.split() for c in others), len(others)
    a = 10 * (y + whole + 0.5) / (n + rest + 1)
    odds = math.log((y + a) / (n + 10 - y - a)) - math.log((whole + a) / (rest + 10 - whole - a))
    return odds / math.sqrt(1 / (y + a) + 1 / (whole + a))


@given(st.lists(CAPTIONS, min_size=1, max_size=4))
def test_words_come_by_their_z_and_the_alphabet(concepts: list[list[str]]) -> None:
    found = distinctive({j: count_words(captions) for j, captions in enumerate(concepts)})
    for j, captions in enumerate(concepts):
        others = [c for k, more in enumerate(concepts) if k != j for c in more]
        seen = Counter(word for caption in captions for word in set(caption.split()))
        scores = {word: z(word, captions, others) for word, count in seen.items() if count > 1}
        told = sorted((word for word in scores if scores[word] >= 1.5), key=lambda w: (-round(scores[w], 9), w))
        assert found[j] == told[:4]
    turned = distinctive({j: count_words(captions[::-1]) for j, captions in enumerate(concepts)})
    assert turned == found


def test_a_planted_word_names_its_concept_and_a_common_one_none() -> None:
    counts = {
        0: count_words([f"a photo of the boat {n}" for n in range(30)]),
        1: count_words([f"a photo of the dog {n}" for n in range(30)]),
        2: count_words([f"photo {n}" for n in range(30)]),
    }
    assert distinctive(counts) == {0: ["boat"], 1: ["dog"], 2: []}


def test_words_are_letters_of_any_script_and_each_once() -> None:
    assert words_of("Dog, dog! собака 42 a x_y") == {"dog", "собака"}
    assert words_of("<script>alert(1)</script>") == {"script", "alert"}
    assert len(words_of(" ".join(f"w{'x' * (n % 9)}{chr(97 + n % 26)}" for n in range(500)))) <= 64
    assert count_words(["dog dog", "", "dog"]) == Counter({"dog": 2, "": 3})
