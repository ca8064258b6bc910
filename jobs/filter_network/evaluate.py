"""Evaluation of a filter's score (ROC AUC, precision) and of a CLIP (zero-shot accuracy, retrieval recall).

Filter quality is not accuracy: a filter trained on a few wrong captions filters much worse, while its accuracy falls
slowly (Fang et al. 2023, arXiv 2309.17425). So each has its own measurement.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from winnow.pipeline.artifact import Artifact
from winnow.pipeline.columns import column
from winnow.pipeline.errors import DataError, JobError, StorageError
from winnow.pipeline.uid import uids_from_pairs, uids_to_hex
from winnow.stages.pools.brought import brought_schema, read_brought
from winnow.stages.pools.columns import uid_bytes_of
from winnow.stages.pools.labelled import captioned_images, labelled_images, read_classnames
from winnow.stages.pools.sample import Reject
from winnow.stages.results.record import artifacts_of, record_of
from winnow.stages.survivors import SIMILARITY

if TYPE_CHECKING:
    from winnow.stages.encoders.zero_shot import Judge

FRACTIONS = (0.1, 0.2, 0.3, 0.5, 0.7)
_BLOCK = 512  # rows of a similarity matrix at a time


@dataclass(frozen=True)
class Truth:
    """The known kind of each sample of a pool.

    uid: 32 hex digits, as in a manifest. good: true for right pairs. kind: name of each sample's kind.
    """

    uid: pa.ChunkedArray
    kind: np.ndarray
    good: np.ndarray

    @classmethod
    def read(cls, url: str, what: str, good: Sequence[str], bad: Sequence[str]) -> "Truth":
        """Read parquet with `uid` and a column `what`. Rows whose kind is neither good nor bad are left out.

        bad: if empty, every kind that is not good. Raises JobError for a missing column, and if no sample is good or
        none is bad; DataError for a file that is not parquet.
        """
        try:
            names = brought_schema(url).names
        except StorageError as error:
            raise JobError(f"the truth must be a parquet file, but: {error}") from error
        if lost := {"uid", what} - set(names):
            raise JobError(f"{url} must have columns {', '.join(sorted(lost))}, but it has {', '.join(names)}")
        table = read_brought(url, ["uid", what])
        kind = np.asarray([str(value) for value in table[what].to_pylist()])
        is_good = np.isin(kind, good)
        used = is_good | (np.isin(kind, bad) if bad else True)
        if not is_good.any() or is_good[used].all():
            raise JobError(
                f"{url} must name good samples ({', '.join(good)}) and bad ones ({', '.join(bad) or 'all others'}) "
                f"under {what}, but it has {', '.join(sorted(set(kind.tolist())))}"
            )
        raw, _ = uid_bytes_of(table["uid"].filter(pa.array(used)), named=True)
        pairs = np.ascontiguousarray(raw).view(">u8")  # (n, 16) bytes -> (n, 2)
        uids = uids_to_hex(uids_from_pairs(pairs[:, 0], pairs[:, 1]))
        return cls(pa.chunked_array([pa.array(uids, pa.string())]), kind[used], is_good[used])


def roc_auc(score: Float[np.ndarray, "n"], good: Bool[np.ndarray, "n"]) -> float:
    """P(score of a good sample > score of a bad one) + P(equal) / 2, by average ranks (Mann and Whitney 1947).

    NaN if either kind is missing. Cost O(n log n).
    """
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank = (last - (counts - 1) / 2)[place]  # ranks start at 1; equal scores share their mean rank
    n, m = int(good.sum()), int((~good).sum())
    return float((rank[good].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def precision_at(score: Float[np.ndarray, "n"], good: Bool[np.ndarray, "n"], fraction: float) -> float:
    """Share of good samples among the int(fraction · n) highest scores; ties at the end count in proportion."""
    kept = int(fraction * len(score))
    if not kept:
        return float("nan")
    threshold = np.partition(score, len(score) - kept)[len(score) - kept]
    above, at = score > threshold, score == threshold
    return float((good[above].sum() + good[at].mean() * (kept - above.sum())) / kept)


def filter_quality(
    store: str, name: str, score: str | None, truth: Truth, fractions: Sequence[float] = FRACTIONS
) -> dict[str, object]:
    """ROC AUC and precision of a score of a finished job, on a pool with known truth.

    score: a numeric column of the job's manifest or samples, or `<encoder>.similarity`; None for the cosine of its only
    encoder with text. Rejected samples have no score and are counted as unread. Fractions that keep no sample are left
    out. Memory: about 300 bytes per sample of the truth.
    Raises JobError for a missing job or column; DataError if job and truth share no sample, or one kind is missing.
    """
    artifacts = artifacts_of(store, record_of(store, name))
    cosines = {
        f"{label.removeprefix('vectors.')}.{SIMILARITY}": made
        for label, made in artifacts.items()
        if label.startswith("vectors.") and SIMILARITY in made.columns(0)
    }
    if score is None:
        found = list(cosines)
        if len(found) != 1:
            raise JobError(
                f"{name} must have one cosine, but it has {', '.join(found) or 'none'}; name a column with --score"
            )
        score = found[0]
    samples = artifacts["samples"]
    if score in cosines:
        values = _joined(samples, cosines[score], SIMILARITY, truth)
    else:
        source = next((made for made in (samples, artifacts["manifest"]) if score in made.columns(0)), None)
        if source is None:
            known = ", ".join(cosines) or "no cosine"
            raise JobError(f"{score} must be a column of the manifest or the samples of {name}, or of {known}")
        values = _joined(source, source, score, truth)
    read = np.isfinite(values)
    if not read.any():
        raise DataError(f"{name} and the truth must be of one pool, but they have no uid in common")
    values, good, kind = values[read], truth.good[read], truth.kind[read]
    if good.all() or not good.any():
        raise DataError(
            f"{score} of {name} must have good and bad samples, but of {len(good)} with this score "
            f"{int(good.sum())} are good; name a score that more samples have"
        )
    bad = sorted(set(kind[~good].tolist()))
    return {
        "score": score,
        "good": int(good.sum()),
        "bad": int((~good).sum()),
        "unread": int((~read).sum()),
        "auc": roc_auc(values, good),
        "auc_against": {each: roc_auc(values[good | (kind == each)], good[good | (kind == each)]) for each in bad},
        "precision_at": {f"{part:g}": precision_at(values, good, part) for part in fractions if int(part * len(good))},
    }


def _joined(names: Artifact, source: Artifact, score: str, truth: Truth) -> np.ndarray:
    """float64 score of each sample of the truth, NaN if the artifact has none; one file in memory at a time.

    names: has the uid of each row of `source`. A sample without a vector has no score.
    """
    place = {uid: row for row, uid in enumerate(truth.uid.to_pylist())}
    values = np.full(len(place), np.nan)
    if len(place) != len(truth.uid):
        raise DataError("a truth must name each sample once, but a uid is repeated")
    columns = [score, "kept"] if score == SIMILARITY else [score]
    for index in sorted(source.present()):
        uids, table = names.read(index, ["uid"])["uid"], source.read(index, columns)
        rows = np.asarray([place.get(uid, -1) for uid in uids.to_pylist()], np.int64)
        numbers = np.array(table[score].cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy())
        if score == SIMILARITY:
            numbers[~column(table, "kept")] = np.nan
        values[rows[rows >= 0]] = numbers[rows >= 0]
    return values


def zero_shot(
    judge: "Judge", urls: Sequence[str], classnames: str, templates: Sequence[str], label: str | None, image: str
) -> dict[str, object]:
    """Zero-shot accuracy on labelled images in tars or parquet; see labelled_images for the columns.

    top1, top5: over all images; mean_per_class: mean of the top1 of each class. Ties go to the lower class.
    A test set must be complete: raises StorageError for a sample that cannot be read, SampleError for an image that
    cannot be decoded, and DataError for an empty set.
    """
    names = read_classnames(classnames)
    weights = judge.classifier(names, templates)  # (d, c)
    labels: list[int] = []

    def images() -> Iterator[bytes]:
        for url in urls:
            for found in _whole(labelled_images(url, label, image, names), url):
                labels.append(found[1])
                yield bytes(found[0].image)

    ranks = [_ranks(vectors @ weights, labels, done) for done, vectors in _counted(judge.images(images()))]
    if not ranks:
        raise DataError(f"a test set must have images, but {', '.join(urls)} have none")
    rank, known = np.concatenate(ranks), np.asarray(labels)
    own = [float((rank[known == number] == 0).mean()) for number in np.unique(known)]
    return {
        "images": len(known),
        "classes": len(names),
        "top1": float((rank == 0).mean()),
        "top5": float((rank < 5).mean()),
        "mean_per_class": float(np.mean(own)),
    }


def _counted(batches: Iterator[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    done = 0
    for vectors in batches:
        yield done, vectors
        done += len(vectors)


def _ranks(scores: np.ndarray, labels: Sequence[int], done: int) -> np.ndarray:
    """Rank of the label in each row of (b, c): how many classes have a higher score, or the same and a lower index."""
    known = np.asarray(labels[done : done + len(scores)])
    own = scores[np.arange(len(scores)), known][:, None]
    ahead = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < known[:, None]))
    rank: np.ndarray = ahead.sum(1)
    return rank


def retrieval(judge: "Judge", urls: Sequence[str], captions: str, recalls: Sequence[int] = (1, 5)) -> dict[str, object]:
    """Recall at k over all pairs of a set: an image must find one of its captions, a caption must find its image.

    captions: see captioned_images. Memory: 4 d bytes per image and per caption; cost: images x captions x d.
    Raises the same errors as zero_shot.
    """
    texts: list[str] = []
    owner: list[int] = []

    def images() -> Iterator[bytes]:
        for url in urls:
            for sample, own in _whole(captioned_images(url, captions), url):
                owner.extend([owner[-1] + 1 if owner else 0] * len(own))
                texts.extend(own)
                yield bytes(sample.image)

    batches = list(judge.images(images()))
    if not batches:
        raise DataError(f"a test set must have pictures with captions, but {', '.join(urls)} have none")
    pictures = np.concatenate(batches)  # (n, d)
    said, owners = judge.texts(texts), np.asarray(owner)  # (m, d), (m,)
    to_text = _best(pictures, said, lambda rows: rows[:, None] == owners)
    to_image = _best(said, pictures, lambda rows: owners[rows][:, None] == np.arange(len(pictures)))
    return {
        "pictures": len(pictures),
        "captions": len(texts),
        **{f"image_to_text_recall@{k}": float((to_text < k).mean()) for k in recalls},
        **{f"text_to_image_recall@{k}": float((to_image < k).mean()) for k in recalls},
    }


def _best(queries: np.ndarray, items: np.ndarray, own: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Rank of the best of a query's own items: how many other items score at least as high."""
    found = []
    for start in range(0, len(queries), _BLOCK):
        scores = queries[start : start + _BLOCK] @ items.T  # (b, m)
        mine = own(np.arange(start, start + len(scores)))
        best = np.where(mine, scores, -np.inf).max(1)
        found.append(((scores >= best[:, None]) & ~mine).sum(1))
    return np.concatenate(found)


def _whole(found: Iterator[object], url: str) -> Iterator[tuple]:  # type: ignore[type-arg]  # of either reader
    for item in found:
        if isinstance(item, Reject):
            raise StorageError(f"{url}: a test set must be complete, but {item.key}: {item.message}")
        if isinstance(item, tuple):
            yield item
