"""A batch of samples on its way through the encoders: decoded images in, checked unit vectors and rejects out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from winnow.pipeline.errors import SampleError
from winnow.stages.pools.sample import Reject, Sample


@dataclass(frozen=True)
class EncodedBatch:
    """The next samples of the input, in its order, and the rejects between them.

    samples: n samples without their image bytes.
    widths, heights: int32 (n,), pixels of the original image.
    vectors: column, as `Bank.columns` names it → float16 (n, d), finite, unit norm; zero in refused rows.
    refused: encoder → the rows that it cannot take, ascending, and why. No encoder's rows depend on another encoder.
    rejects: those of the input, and images that cannot be decoded, in the order of the input.
    """

    samples: list[Sample]
    widths: np.ndarray
    heights: np.ndarray
    vectors: dict[str, np.ndarray]
    refused: dict[str, dict[int, Reject]]
    rejects: list[Reject]


@dataclass(frozen=True)
class Decoded:
    """A sample whose image is decoded for every encoder."""

    sample: Sample
    size: tuple[int, int]
    pixels: list[np.ndarray | SampleError]  # uint8 (h, w, 3), one an encoder; or why the encoder cannot take it


@dataclass
class PendingBatch:
    """A batch on its way to the models. `order` holds samples and rejects in the order of the input."""

    rows: list[Decoded] = field(default_factory=list)
    order: list[Sample | Reject] = field(default_factory=list)
    tokens: dict[str, torch.Tensor] = field(default_factory=dict)


def taken(work: PendingBatch, encoder: int) -> tuple[np.ndarray, list[np.ndarray], dict[int, Reject]]:
    """The rows that one encoder can take, int64 (m,), their pixels, and a reject for each other row."""
    rows, pixels, refused = [], [], dict[int, Reject]()
    for row, decoded in enumerate(work.rows):
        found = decoded.pixels[encoder]
        if isinstance(found, SampleError):
            refused[row] = reject_of(decoded.sample, found.kind, str(found))
        else:
            rows.append(row)
            pixels.append(found)
    return np.array(rows, np.int64), pixels, refused


def finished(
    work: PendingBatch, raw: Mapping[str, np.ndarray], refused: Mapping[str, dict[int, Reject]]
) -> EncodedBatch:
    """Unit float16 vectors. An encoder refuses the rows in which one of its vectors has no direction."""
    norms = {column: np.linalg.norm(vectors, axis=1) for column, vectors in raw.items()}  # (b,) float32
    whole = {name: dict(rows) for name, rows in refused.items()}
    for column, norm in norms.items():
        name, _, tower = column.rpartition(".")
        for row in np.flatnonzero(~np.isfinite(norm) | (norm == 0)).tolist():
            kind = "vector-zero" if norm[row] == 0 else "vector-not-finite"
            message = f"a vector has a finite length above 0, but that of the {tower} has {norm[row]}"
            whole[name].setdefault(row, reject_of(work.rows[row].sample, kind, message))
    vectors = {}
    for column, values in raw.items():
        good = np.ones(len(values), bool)
        good[list(whole[column.rpartition(".")[0]])] = False
        vectors[column] = np.zeros(values.shape, np.float16)
        vectors[column][good] = (values[good] / norms[column][good, None]).astype(np.float16)
    sizes = np.array([row.size for row in work.rows], np.int32).reshape(-1, 2)  # (n, 2)
    return EncodedBatch(
        samples=[item for item in work.order if isinstance(item, Sample)],
        widths=sizes[:, 0],
        heights=sizes[:, 1],
        vectors=vectors,
        refused={name: dict(sorted(rows.items())) for name, rows in whole.items()},
        rejects=[item for item in work.order if isinstance(item, Reject)],
    )


def reject_of(sample: Sample, kind: str, message: str) -> Reject:
    """A reject at the place of a sample."""
    return Reject(sample.position, sample.key, kind, message, sample.offset)
