"""Tokens: open_clip's own for whatever a caption may hold, from any number of threads, in bounded memory."""

from concurrent.futures import ThreadPoolExecutor

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from winnow.stages.encoders import tokens
from winnow.stages.encoders.tokens import ClipTokens, tokens_of

OWN = SimpleTokenizer()
FAST = tokens_of(SimpleTokenizer())

ODD = [
    "<start_of_text>", "<END_OF_TEXT>", "&amp;", "&amp;amp;lt;b&gt;", "&#39;s", "&notit;", "it's",
    "WE'LL", "I'Ve", "don't", "👩‍👩‍👧‍👦", "🇩🇪", "🙂", "ﬁne", "ﬂ", "“quoted”", "’s", "schÃ¶n", "â€™",
    "l’été", "İstanbul", "STRASSE", "ẞ", "Ǆ", "ſ", "猫が好き", "고양이", "नमस्ते", "מזל", "ＦＵＬＬ", "½", "٣",
    "Ⅷ", "e\u0301", "\ufeff", "\u200b", "\u2028", "\x00", "\x1b[31m", "\x85", "\xa0", "\ufffd",
    "\ud800", "\t", "\r\n", "\x1c", "\u180e", "...", "--", "#1", "C++", "3.14", "2026-11-22",
    "http://a.b/c?d=e&f=g", "a_b", "$5", "</w>", "x" * 40, "supercalifragilisticexpialidocious" * 3,
]  # fmt: skip

words = st.one_of(
    st.sampled_from(ODD),
    st.text(max_size=12),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
    st.text(st.sampled_from("abcdefgh'&;. "), max_size=50),
)
glue = st.sampled_from(["", " ", "  ", "\n", "\t", "\u3000"])
captions = st.lists(st.tuples(words, glue), max_size=40).map(lambda parts: "".join(word + gap for word, gap in parts))


@settings(max_examples=200, deadline=None)
@given(st.lists(captions, min_size=1, max_size=4))
def test_tokens_are_open_clips_own(texts: list[str]) -> None:
    found = FAST(texts)
    assert torch.equal(found, OWN(texts))
    assert found.dtype == torch.int64


@pytest.mark.parametrize("odd", ODD)
def test_each_odd_word_alone_beside_others_and_twice(odd: str) -> None:
    texts = [odd, f"a {odd} boat", f"{odd} {odd}", odd.upper(), f"{odd}{odd}", ""]
    for _ in range(2):  # the second time from the table
        assert torch.equal(FAST(texts), OWN(texts))


@pytest.mark.parametrize("context", [2, 3, 8, 32])
def test_a_long_caption_is_cut_where_open_clip_cuts_it(context: int) -> None:
    texts = ["a boat " * n for n in range(20)] + ["don't-stop!" * n for n in range(9)]
    assert torch.equal(tokens_of(SimpleTokenizer(context_length=context))(texts), OWN(texts, context_length=context))


def test_any_number_of_threads_and_a_table_that_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_WORDS", 50)
    fast = tokens_of(SimpleTokenizer())
    texts = [f"word{n} the {n * n % 97}th, naïve {n:b}x" for n in range(400)]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(fast, [texts] * 8):
            assert torch.equal(found, OWN(texts))
    assert isinstance(fast, ClipTokens)
    assert len(fast._table) <= 50
    assert len(fast._own.cache) <= 60


def test_only_clips_own_tokenizer_is_replaced() -> None:
    assert isinstance(tokens_of(open_clip.get_tokenizer("ViT-B-32")), ClipTokens)
    for other in (
        SimpleTokenizer(reduction_mask="simple"),
        SimpleTokenizer(clean="canonicalize"),
        SimpleTokenizer(context_length=None),
        str.split,
    ):
        assert tokens_of(other) is other
