"""How well pairs find themselves: against the formula written out, its laws, and cosines that no order can move."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from tests.pools import normed, unit
from winnow.pipeline.errors import DataError
from winnow.stages.kernels import contrast
from winnow.stages.kernels.contrast import contrasts

TEMPERATURES = [0.001, 0.01, 0.07, 1.0]


def oracle(image: np.ndarray, text: np.ndarray, tau: float) -> np.ndarray:
    """The formula, on the whole matrix."""
    s = image.astype(np.float64) @ text.astype(np.float64).T
    return s.diagonal() - tau / 2 * (logsumexp(s / tau, axis=1) + logsumexp(s / tau, axis=0))


def pairs(n: int, seed: int, match: float = 1.0, width: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Images and texts of some cosine."""
    image = unit(n, width, seed)
    return image, normed(match * image + unit(n, width, seed + 1))


@settings(max_examples=40)
@given(
    n=st.integers(1, 40),
    tau=st.sampled_from(TEMPERATURES),
    tile=st.integers(1, 50),
    match=st.floats(-2, 2),
    seed=st.integers(0, 99),
)
def test_it_is_the_formula_in_tiles_of_any_size(n: int, tau: float, tile: int, match: float, seed: int) -> None:
    image, text = pairs(n, seed, match)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrast, "_TILE", tile)
        found = contrasts(image, text, tau)
    np.testing.assert_allclose(found, oracle(image, text, tau), rtol=0, atol=1e-13)
    assert (found <= 0).all()


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_values_near_0_keep_their_digits(tau: float) -> None:
    """Pairs that find themselves at once: the difference of cosine and log-sum-exp would be noise of 1e-16."""
    axes = np.eye(5, 8, dtype=np.float16)
    close = normed(np.eye(5, 8) + 0.9 * np.eye(5, 8, 1))
    s = [[math.fsum(a * b for a, b in zip(x, y, strict=True)) for y in close.tolist()] for x in axes.tolist()]
    for i, value in enumerate(contrasts(axes, close, tau)):
        rows = math.fsum(math.exp((s[i][j] - s[i][i]) / tau) for j in range(5) if j != i)
        columns = math.fsum(math.exp((s[j][i] - s[i][i]) / tau) for j in range(5) if j != i)
        assert value == pytest.approx(-tau / 2 * (math.log1p(rows) + math.log1p(columns)), rel=1e-12, abs=0)


@settings(max_examples=30)
@given(n=st.integers(1, 40), tau=st.sampled_from(TEMPERATURES), seed=st.integers(0, 99))
def test_its_laws(n: int, tau: float, seed: int) -> None:
    image, text = pairs(n, seed)
    found = contrasts(image, text, tau)
    order = np.random.default_rng(seed).permutation(n)
    np.testing.assert_allclose(contrasts(image[order], text[order], tau), found[order], rtol=1e-12)
    np.testing.assert_allclose(contrasts(text, image, tau), found, rtol=1e-12)
    # company only costs, and at most tau · log of how many it is
    alone = contrasts(image[: n // 2], text[: n // 2], tau)
    assert (found[: n // 2] <= alone * (1 - 1e-12)).all()
    twice = contrasts(np.r_[image, image], np.r_[text, text], tau)
    np.testing.assert_allclose(twice, np.r_[found, found] - tau * math.log(2), rtol=0, atol=1e-14)


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_equal_pairs_share_one_value(tau: float) -> None:
    """Cosines of 1, of 0 and of -1: exp(s / tau) alone would be infinite, or log 0."""
    image = np.tile(np.eye(1, 8, dtype=np.float16), (2000, 1))
    for text in (image, np.roll(image, 1, axis=1), -image):
        np.testing.assert_allclose(contrasts(image, text, tau), -tau * math.log(2000), rtol=1e-12)


def test_a_pair_alone_has_0_and_no_pair_nothing() -> None:
    image, text = pairs(1, 3)
    alone = contrasts(image, text, 0.01)
    assert alone.tolist() == [0.0]
    assert not np.signbit(alone).any()
    assert contrasts(image[:0], text[:0], 0.01).shape == (0,)


@settings(max_examples=30)
@given(width=st.integers(1, 300), seed=st.integers(0, 999))
def test_float64_sums_of_float16_products_are_exact(width: int, seed: int) -> None:
    """What the answer's independence of BLAS, its threads and the tiles rests on."""
    rng = np.random.default_rng(seed)
    # entries over the whole range of float16, subnormal ones as well
    image, text = (normed(unit(9, width, seed + i) * 2.0 ** -rng.integers(0, 24, (9, width))) for i in (0, 1))
    products = image.astype(np.float64) @ text.astype(np.float64).T
    exact = [[math.fsum(a * b for a, b in zip(x, y, strict=True)) for y in text.tolist()] for x in image.tolist()]
    assert products.tolist() == exact
    assert (products * 2**48 % 1 == 0).all()


@pytest.mark.parametrize("bad", [0.0, 1.1, np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_rows_that_are_not_unit_are_refused(bad: float, side: int) -> None:
    both = list(pairs(1030, 0))
    both[side] = both[side].copy()
    both[side][1026] = np.float16(bad) * both[side][1026]
    message = (
        f"every {['image', 'text'][side]} vector must be finite and of unit norm, but 1 of 6 are not, first at 1026"
    )
    with pytest.raises(DataError, match=message), np.errstate(invalid="ignore"):
        contrasts(both[0], both[1], 0.01)
