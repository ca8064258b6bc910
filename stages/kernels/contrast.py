"""The kernel of negCLIPLoss: the cosine of each pair less the logsumexp of all cosines in its batch."""

import numpy as np
from jaxtyping import Float16, Float64

from winnow.stages.kernels.nearest import check_unit

Float16Vectors = Float16[np.ndarray, "n d"]

_TILE = 1024  # pairs on each side of a tile: (1024, 1024) cosines in float64 are 8 MB


def contrasts(image: Float16Vectors, text: Float16Vectors, temperature: float) -> Float64[np.ndarray, "n"]:
    """Cosine of each pair, less what its image and its text match in the whole batch (Wang et al. 2024).

        s_ij    = ⟨image_i, text_j⟩
        value_i = s_ii − tau/2 · ( logsumexp_j(s_ij / tau) + logsumexp_j(s_ji / tau) ),  j from 1 to n, i included

    That is tau times the mean log-probability that image i picks text i, and text i picks image i, among all n. It
    equals minus tau times the CLIP loss of the pair. So no value is above 0; a pair alone has 0, and n equal pairs have
    −tau · log(n).

    image, text: float16 (n, d), unit norm; row i of both is pair i. temperature: tau, at least 0.001; 0.01 is OpenAI's.
    Returns float64 (n,), finite. s_ii is moved into the logarithm, so that a value near 0 keeps all its digits:
    s_ii − tau · logsumexp_j(s_ij / tau) = −tau · log(1 + Σ_{j≠i} exp((s_ij − s_ii) / tau)).
    Every cosine is exact and does not depend on tiles, order or threads: products of float16 are multiples of 2^-48,
    and their sums stay below 2, so float64 holds them. The order of rows does change the last bits of the sums of exp.
    For equal results, pass a batch in one order and round to float32.
    Cost: 2 n² d flops and 2 n² exp. Memory: about 30 MB, and 16 KB · d.
    Raises DataError for rows that are not finite and of unit norm.
    """
    own = _own(image, text)
    # One pass over the tiles serves both sums: axis 1 is over the texts of an image, axis 0 over the images of a text.
    of_images, of_texts = _Others(own), _Others(own)
    for top in range(0, len(own), _TILE):
        down = slice(top, top + _TILE)
        wide = image[down].astype(np.float64)
        for left in range(0, len(own), _TILE):
            across = slice(left, left + _TILE)
            cosines = wide @ text[across].astype(np.float64).T  # (r, d) @ (d, c)
            if top == left:  # tiles are square, so s_ii lies on the diagonal of these; `excess` adds it exactly
                np.fill_diagonal(cosines, -np.inf)
            of_images.add(down, cosines, 1, temperature)
            of_texts.add(across, cosines, 0, temperature)
    excess = of_images.excess(temperature) + of_texts.excess(temperature)
    values: np.ndarray = 0.0 - excess / 2  # not -excess / 2, which gives -0 for a pair alone
    return values


class _Others:
    """Running Σ_{j≠i} exp((s_ij − peak_i) / tau) of n rows; peak_i is the largest cosine so far, at first s_ii."""

    def __init__(self, own: np.ndarray) -> None:
        self._own, self._peak, self._total = own, own.copy(), np.zeros(len(own))

    def add(self, rows: slice, cosines: np.ndarray, axis: int, temperature: float) -> None:
        """Add one tile to the sums of `rows`; axis: the one that is summed over."""
        peak = np.maximum(self._peak[rows], cosines.max(axis=axis))
        terms = cosines - np.expand_dims(peak, axis)  # at most 0, so exp cannot overflow
        terms /= temperature
        np.exp(terms, out=terms)
        self._total[rows] *= np.exp((self._peak[rows] - peak) / temperature)  # the earlier terms had the old peak
        self._total[rows] += terms.sum(axis=axis)
        self._peak[rows] = peak

    def excess(self, temperature: float) -> np.ndarray:
        """tau · logsumexp_j(s_ij / tau) − s_ii of each row, with s_ii in the sum: float64 (n,), at least 0."""
        # log1p(total + own) is the log of all terms: own is the term of s_ii less 1, and 0 where s_ii is the peak.
        own = np.expm1((self._own - self._peak) / temperature)
        found: np.ndarray = self._peak - self._own + temperature * np.log1p(self._total + own)
        return found


def _own(image: Float16Vectors, text: Float16Vectors) -> Float64[np.ndarray, "n"]:
    """s_ii of each pair, exact. Raises DataError for a row that is not finite and of unit norm."""
    own = np.empty(len(image))
    for start in range(0, len(image), _TILE):
        part = slice(start, start + _TILE)
        wide = {"image": image[part].astype(np.float64), "text": text[part].astype(np.float64)}
        for what, rows in wide.items():
            check_unit(rows, f"{what} vector", start)
        own[part] = np.vecdot(wide["image"], wide["text"])
    return own
