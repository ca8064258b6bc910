"""All encoders of a job, loaded once per worker: samples in, batches of checked unit vectors out.

Reading, decoding and the models run in parallel. Each step works on a window of bounded size, and order is kept.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from winnow.pipeline.errors import DeviceError, ModelError, SampleError
from winnow.pipeline.executors.turns import Turns
from winnow.stages.encoders.batches import Decoded, EncodedBatch, PendingBatch, finished, reject_of, taken
from winnow.stages.encoders.device import decoding_threads, device_of, dtype_of, tell_where_slow
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.encoders.encoding import Encoding
from winnow.stages.encoders.pixels.decoding import Picture, decode_all
from winnow.stages.encoders.towers import Towers
from winnow.stages.pools.sample import Reject, Sample

_LOADING = threading.Lock()  # open_clip and timm build models with the process's one random generator

_TOKENIZED = 4096
"""Characters of a caption that are tokenized: more than the longest context of a CLIP holds. Byte-pair encoding of one
word costs its length squared: 64 KB of base64 would block a worker for minutes, 4096 characters for half a second."""

TOGETHER = 8
"""Samples in one call of a decoding thread. A call costs 50 microseconds, decoding a small JPEG 170 to 250.
Images of one size are resized together."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Bank:
    """Encoders on one device. Make it with `Bank.open`.

    On a CPU every operation of a model runs on one thread, and batches run in parallel. Matrix kernels give other last
    bits on two threads than on one, so with this rule the vectors of a shard depend on `batch_size` only, not on cores,
    threads or the number of workers.
    """

    def __init__(
        self, towers: Mapping[str, Towers], encoding: Encoding, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._towers = dict(towers)
        self._preprocesses = [tower.preprocess for tower in self._towers.values()]
        self._encoding = encoding
        self._device = device
        self._dtype = dtype
        threads = encoding.decode_threads or decoding_threads()
        # prefetch for a GPU: one batch waits while another runs
        self._in_flight = threads if device.type == "cpu" else 2
        # a resize runs on one thread, or each decoding thread would start as many again
        self._decoders = ThreadPoolExecutor(threads, "decode", torch.set_num_threads, (1,))
        # On a CPU the models share the threads of decoding. Threads of their own on the same cores would interrupt it,
        # and each would evict the other's caches. torch keeps its thread count per calling thread.
        self._models = self._decoders
        if device.type != "cpu":
            own = (torch.get_num_threads(),)
            self._models = ThreadPoolExecutor(self._in_flight, "model", torch.set_num_threads, own)
        self._tokenizing = threading.Lock()
        self.turns = Turns()
        """The order of the shards in progress in one worker: each reads its samples after the one before."""
        self._columns = self._widths()

    @classmethod
    def open(cls, encoders: Mapping[str, Encoder], encoding: Encoding) -> "Bank":
        """Load every encoder onto the device that `encoding` names.

        Raises: ModelError if a model or its weights cannot be loaded; DeviceError and JobError if this machine does
            not have the device or the precision.
        """
        device = device_of(encoding.device)
        dtype = dtype_of(encoding.precision, device)
        if device.type == "cpu" and dtype == torch.bfloat16:
            tell_where_slow()
        with _LOADING:
            towers = {name: encoder.load(device) for name, encoder in encoders.items()}
        return cls(towers, encoding, device, dtype)

    def only(self, names: Collection[str]) -> "Bank":
        """The same bank with these of its encoders; it shares models, threads and turns."""
        if set(names) == set(self._towers):
            return self
        part = copy(self)
        part._towers = {name: tower for name, tower in self._towers.items() if name in names}
        part._preprocesses = [tower.preprocess for tower in part._towers.values()]
        part._columns = {c: width for c, width in self._columns.items() if c.rpartition(".")[0] in names}
        return part

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its encoders."""
        return tuple(self._towers)

    def columns(self) -> dict[str, int]:
        """Vector columns and their width d: `NAME.image`, and `NAME.text` if there is a text tower."""
        return dict(self._columns)

    def encode(self, samples: Iterable[Sample | Reject]) -> Iterator[EncodedBatch]:
        """Batches of at most `batch_size` samples, in order. Every input is in exactly one batch.

        An image is copied when its sample is drawn, so a reader may free its memory after its last sample.
        A sample that cannot be decoded becomes a Reject of kind `image-empty`, `image-too-large` or `image-decode`.
        An encoder refuses a row for `image-too-large` (after its resize), `vector-zero` or `vector-not-finite`.
        Memory: (batches in flight + 3) x batch_size images, decoded to the encoders' sizes.
        """
        yield from self.forwarded(self.batches(self.decoded(samples)))

    def decoded(self, samples: Iterable[Sample | Reject]) -> Iterator[Decoded | Reject]:
        """First step of `encode`: pixels for every encoder, in order."""
        together = min(TOGETHER, self._encoding.batch_size)
        ahead = 2 * self._encoding.batch_size // together
        for items in _in_order(self._decoders, self._decode_all, _grouped(samples, together), ahead):
            yield from items

    def _decode_all(self, items: list[Sample | Reject]) -> list[Decoded | Reject]:
        files = [item.image for item in items if isinstance(item, Sample)]
        found = iter(decode_all(files, self._preprocesses, fast=self._encoding.preprocess == "fast"))
        return [item if isinstance(item, Reject) else _decoded(item, next(found)) for item in items]

    def batches(self, decoded: Iterable[Decoded | Reject]) -> Iterator[PendingBatch]:
        """Second step of `encode`: groups of `batch_size` decoded samples, their captions tokenized."""
        work = PendingBatch()
        for item in decoded:
            if isinstance(item, Reject):
                work.order.append(item)
                continue
            work.order.append(item.sample)
            work.rows.append(item)
            if len(work.rows) == self._encoding.batch_size:
                yield self._tokenize(work)
                work = PendingBatch()
        if work.order:
            yield self._tokenize(work)

    def forwarded(self, batches: Iterable[PendingBatch]) -> Iterator[EncodedBatch]:
        """Last step of `encode`: every model over every batch, in order."""
        return _in_order(self._models, self._forward, batches, self._in_flight)

    def _tokenize(self, work: PendingBatch) -> PendingBatch:
        """Tokenize in the thread that builds batches: tokenizers hold the GIL, and not all are thread-safe."""
        captions = [row.sample.caption[:_TOKENIZED] for row in work.rows]
        with self._tokenizing:  # two shards may be in work
            for name, tower in self._towers.items():
                if tower.tokenize is not None and captions:
                    work.tokens[name] = tower.tokenize(captions)
        return work

    def _forward(self, work: PendingBatch) -> EncodedBatch:
        raw = {column: np.zeros((len(work.rows), width), np.float32) for column, width in self._columns.items()}
        refused: dict[str, dict[int, Reject]] = {}
        for i, (name, tower) in enumerate(self._towers.items()):
            rows, pixels, refused[name] = taken(work, i)
            if not pixels:
                continue
            tokens = work.tokens.get(name)
            if tokens is not None and len(rows) < len(work.rows):
                tokens = tokens[torch.from_numpy(rows)]
            try:
                made = self._vectors(name, tower, pixels, tokens)
            except torch.OutOfMemoryError as error:
                raise self._too_large(name, error) from error
            for column, vectors in made.items():
                raw[column][rows] = vectors
        return finished(work, raw, refused)

    def _vectors(
        self, name: str, tower: Towers, pixels: Sequence[np.ndarray], tokens: torch.Tensor | None
    ) -> dict[str, np.ndarray]:
        """float32 (b, d) of each of the encoder's columns, not normalised."""
        low = self._dtype != torch.float32
        autocast = torch.autocast(self._device.type, self._dtype, enabled=low)
        # in inference mode torch 2.15 copies a cast weight for every position of a batch: bf16 is as slow as fp32
        quiet = torch.no_grad() if low and self._device.type == "cpu" else torch.inference_mode()
        with quiet, autocast:
            found = {f"{name}.image": tower.image(tower.preprocess.tensor(pixels, self._device))}
            if tower.text is not None and tokens is not None:
                found[f"{name}.text"] = tower.text(tokens.to(self._device))
            return {column: tensor.float().cpu().numpy() for column, tensor in found.items()}

    def _too_large(self, name: str, error: torch.OutOfMemoryError) -> DeviceError:
        """The error for a device without enough memory. Most of it goes to activations, which grow with the batch."""
        size = self._encoding.batch_size
        advice = f"set encoding.batch_size: {size // 2}" if size > 1 else "choose a smaller model or a larger GPU"
        return DeviceError(
            f"a batch of {size} samples must fit in the memory of {self._device} beside the models, but {name} ran "
            f"out of it: {str(error).splitlines()[0]}; {advice} (winnow does not change it by itself, because "
            f"batch_size changes the last bits of vectors)"
        )

    def _widths(self) -> dict[str, int]:
        """Columns and widths, from one black image and one empty caption; also the first warm-up."""
        widths: dict[str, int] = {}
        for name, tower in self._towers.items():
            pixels = [tower.preprocess.resize(Image.new("RGB", (8, 8)))]
            tokens = None if tower.tokenize is None else tower.tokenize([""])
            found = self._vectors(name, tower, pixels, tokens)
            flat = {column: vectors.shape for column, vectors in found.items()}
            if any(len(shape) != 2 for shape in flat.values()):
                raise ModelError(
                    f"an encoder must return one vector for each sample, but {name} returns {flat}; "
                    "choose a model with pooled output"
                )
            widths |= {column: shape[1] for column, shape in flat.items()}
        return widths


def _in_order(pool: Executor, function: Callable[[_In], _Out], items: Iterable[_In], ahead: int) -> Iterator[_Out]:
    """function(item) for each item, in order. At most `ahead` more items are submitted than results were taken."""
    pending: deque[Future[_Out]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _grouped(samples: Iterable[Sample | Reject], together: int) -> Iterator[list[Sample | Reject]]:
    """The samples in lists of `together`, each with its own copy of the image."""
    owned = iter(map(_own, samples))
    while group := list(islice(owned, together)):
        yield group


def _own(item: Sample | Reject) -> Sample | Reject:
    """The sample with its own copy of the image: a view into a shard ends with the reader, threads may run later."""
    if isinstance(item, Reject) or isinstance(item.image, bytes):
        return item
    return replace(item, image=bytes(item.image))


def _decoded(sample: Sample, found: Picture | SampleError) -> Decoded | Reject:
    if isinstance(found, SampleError):
        return reject_of(sample, found.kind, str(found))
    return Decoded(replace(sample, image=b""), *found)
