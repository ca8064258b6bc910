"""The bank: open_clip's own vectors, input order, rejects in place, the same bits for any threads."""

import io
import mmap
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image

from tests.stages.encoders.conftest import encoded, photo, sample
from winnow.pipeline.errors import DeviceError, JobError
from winnow.stages.encoders import Bank, EncodedBatch, Encoding, OpenClip, Timm, bf16, clip
from winnow.stages.encoders.batches import Decoded, PendingBatch, finished
from winnow.stages.encoders.device import tell_where_slow
from winnow.stages.pools.sample import Reject, Sample

CAPTIONS = ["a red boat", "", "ein Hund läuft", "猫", "word " * 100]


def merged(batches: Iterator[EncodedBatch]) -> EncodedBatch:
    parts = list(batches)
    starts = np.cumsum([0, *(len(part.samples) for part in parts)]).tolist()
    refused = {
        name: {
            start + row: why
            for start, part in zip(starts, parts, strict=False)
            for row, why in part.refused[name].items()
        }
        for name in parts[0].refused
    }
    return EncodedBatch(
        [s for part in parts for s in part.samples],
        np.concatenate([part.widths for part in parts]),
        np.concatenate([part.heights for part in parts]),
        {c: np.concatenate([part.vectors[c] for part in parts]) for c in parts[0].vectors},
        refused,
        [r for part in parts for r in part.rejects],
    )


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def samples_of(photos: list[bytes]) -> list[Sample]:
    return [sample(i, data, CAPTIONS[i % 5]) for i, data in enumerate(photos)]


@pytest.fixture(scope="module")
def bank(tiny_clip: OpenClip, tiny_timm: Timm) -> Bank:
    return Bank.open({"clip": tiny_clip, "dino": tiny_timm}, Encoding(batch_size=7, device="cpu"))


def test_vectors_are_open_clips_own_one_by_one(bank: Bank, tiny_clip: OpenClip, photos: list[bytes]) -> None:
    found = merged(bank.encode(samples_of(photos)))
    model, _, transform = open_clip.create_model_and_transforms("tiny-clip", tiny_clip.pretrained)
    tokenizer = open_clip.get_tokenizer("tiny-clip")
    model.eval()
    with torch.inference_mode():
        for i, data in enumerate(photos):
            image = model.encode_image(transform(Image.open(io.BytesIO(data)))[None], normalize=True)[0].numpy()
            text = model.encode_text(tokenizer([CAPTIONS[i % 5]]), normalize=True)[0].numpy()
            assert cosine(found.vectors["clip.image"][i], image) > 0.99999
            assert cosine(found.vectors["clip.text"][i], text) > 0.99999


def test_a_timm_model_beside_it_gives_its_pooled_features(bank: Bank, tiny_timm: Timm, photos: list[bytes]) -> None:
    found = merged(bank.encode(samples_of(photos)))
    model = timm.create_model("test_vit", checkpoint_path=tiny_timm.checkpoint).eval()
    data_config = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**data_config, is_training=False)
    with torch.inference_mode():
        for i, data in enumerate(photos):
            pixels = transform(Image.open(io.BytesIO(data)).convert("RGB"))[None]
            own = model.forward_head(model.forward_features(pixels), pre_logits=True)[0].numpy()
            assert cosine(found.vectors["dino.image"][i], own) > 0.99999


def test_columns_shapes_and_unit_norms(bank: Bank, photos: list[bytes]) -> None:
    assert bank.columns() == {"clip.image": 32, "clip.text": 32, "dino.image": 64}
    batches = list(bank.encode(samples_of(photos)))
    assert [len(batch.samples) for batch in batches] == [7, 7, 6]
    for batch in batches:
        for column, width in bank.columns().items():
            assert batch.vectors[column].shape == (len(batch.samples), width)
            assert batch.vectors[column].dtype == np.float16
            norms = np.linalg.norm(batch.vectors[column].astype(np.float32), axis=1)
            assert np.abs(norms - 1).max() < 1e-3
    found = merged(iter(batches))
    assert found.widths.tolist() == [200 + 17 * i for i in range(20)]
    assert found.heights.tolist() == [300 - 11 * i for i in range(20)]
    assert found.samples == [replace(s, image=b"") for s in samples_of(photos)]


def test_rejects_keep_their_place_and_move_no_vector(bank: Bank, photos: list[bytes]) -> None:
    clean = merged(bank.encode(samples_of(photos)))
    bad = {2: b"", 3: b"not an image", 9: photos[9][:900], 19: b""}
    mixed: list[Sample | Reject] = [sample(i, bad.get(i, data), CAPTIONS[i % 5]) for i, data in enumerate(photos)]
    mixed[5] = Reject(5, "00005", "no-caption", "none", 2560)
    found = merged(bank.encode(mixed))
    assert [(r.position, r.kind, r.offset) for r in found.rejects] == [
        (2, "image-empty", 1024),
        (3, "image-decode", 1536),
        (5, "no-caption", 2560),
        (9, "image-decode", 4608),
        (19, "image-empty", 9728),
    ]
    left = [s.position for s in found.samples]
    assert left == [i for i in range(20) if i not in {2, 3, 5, 9, 19}]
    for column in bank.columns():
        assert cosine(found.vectors[column], clean.vectors[column][left]).min() > 0.99999


def test_nothing_in_nothing_out_and_all_rejects(bank: Bank) -> None:
    assert list(bank.encode([])) == []
    (batch,) = bank.encode([sample(0, b""), sample(1, b"x")])
    assert batch.samples == []
    assert [r.kind for r in batch.rejects] == ["image-empty", "image-decode"]
    assert {c: v.shape for c, v in batch.vectors.items()} == {c: (0, d) for c, d in bank.columns().items()}


def test_a_vector_without_direction_is_a_reject_of_its_encoder_alone() -> None:
    rows = [Decoded(sample(i, b""), (4, 3), []) for i in range(4)]
    raw = {
        "a.image": np.array([[3, 4], [0, 0], [1, 0], [0, 2]], np.float32),
        "a.text": np.array([[1, 0], [0, 1], [np.nan, 0], [5, 0]], np.float32),
        "b.image": np.full((4, 1), 7, np.float32),
    }
    batch = finished(PendingBatch(rows, [row.sample for row in rows]), raw, {"a": {}, "b": {}})
    assert [s.position for s in batch.samples] == [0, 1, 2, 3]
    assert batch.widths.tolist() == [4] * 4
    assert np.allclose(batch.vectors["a.image"], [[0.6, 0.8], [0, 0], [0, 0], [0, 1]], atol=1e-3)
    assert batch.vectors["a.text"][:, 0].tolist() == [1, 0, 0, 1]
    refused = {row: (r.position, r.kind) for row, r in batch.refused["a"].items()}
    assert refused == {1: (1, "vector-zero"), 2: (2, "vector-not-finite")}
    assert batch.rejects == []
    assert batch.vectors["b.image"].tolist() == [[1]] * 4  # another encoder's rows stay


def test_threads_change_no_bit_and_other_code_gets_its_threads_back(
    tiny_clip: OpenClip, tiny_timm: Timm, photos: list[bytes]
) -> None:
    encoders = {"clip": tiny_clip, "dino": tiny_timm}
    before = torch.get_num_threads()
    results = []
    try:
        for threads, torch_threads in ((1, 1), (3, 2), (3, 1), (2, 4)):
            torch.set_num_threads(torch_threads)
            opened = Bank.open(encoders, Encoding(batch_size=5, device="cpu", decode_threads=threads))
            results += [merged(opened.encode(samples_of(photos))).vectors for _ in range(2)]
            assert torch.get_num_threads() == torch_threads
    finally:
        torch.set_num_threads(before)
    for column in results[0]:
        assert all(np.array_equal(results[0][column], other[column]) for other in results[1:])


def test_decoding_and_models_share_the_threads_of_a_cpu(tiny_clip: OpenClip, photos: list[bytes]) -> None:
    before = set(threading.enumerate())
    opened = Bank.open({"clip": tiny_clip}, Encoding(batch_size=2, device="cpu", decode_threads=2))
    merged(opened.encode(samples_of(photos)))
    assert len(set(threading.enumerate()) - before) == 2


def test_views_may_die_with_their_reader(bank: Bank, tmp_path: Path, photos: list[bytes]) -> None:
    path = tmp_path / "shard"
    path.write_bytes(b"".join(photos))

    def reader() -> Iterator[Sample]:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            whole, start = memoryview(mapped), 0
            for i, data in enumerate(photos):
                with whole[start : start + len(data)] as part:
                    yield sample(i, part, CAPTIONS[i % 5])
                start += len(data)
            whole.release()

    found, expected = merged(bank.encode(reader())), merged(bank.encode(samples_of(photos)))
    assert all(np.array_equal(found.vectors[c], expected.vectors[c]) for c in bank.columns())
    assert all(s.image == b"" for s in found.samples)


def test_reading_runs_ahead_by_a_bounded_window(bank: Bank, photos: list[bytes]) -> None:
    drawn = 0

    def endless() -> Iterator[Sample]:
        nonlocal drawn
        while True:
            yield sample(drawn, photos[drawn % 20])
            drawn += 1

    batches = bank.encode(endless())
    for _ in range(3):
        next(batches)
    batches.close()
    assert drawn <= 7 * (3 + bank._in_flight + 3)


def test_an_error_of_the_reader_reaches_the_caller(bank: Bank, photos: list[bytes]) -> None:
    def failing() -> Iterator[Sample]:
        yield sample(0, photos[0])
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(bank.encode(failing()))


def test_fast_pixels_give_nearly_the_same_vectors(tiny_clip: OpenClip) -> None:
    large = [sample(i, encoded(photo(i, 640 + 32 * i, 480), quality=90)) for i in range(24)]
    exact = merged(Bank.open({"c": tiny_clip}, Encoding(device="cpu")).encode(large))
    fast = merged(Bank.open({"c": tiny_clip}, Encoding(device="cpu", preprocess="fast")).encode(large))
    cosines = cosine(exact.vectors["c.image"], fast.vectors["c.image"])
    print(f"fast against exact: mean {cosines.mean():.6f}, worst {cosines.min():.6f}")
    assert cosines.min() > 0.999
    assert not np.array_equal(exact.vectors["c.image"], fast.vectors["c.image"])
    assert fast.widths.tolist() == exact.widths.tolist()


def test_random_weights_are_the_same_in_every_worker_and_leave_the_seed_alone(tiny_clip: OpenClip) -> None:
    encoders = {"c": OpenClip(tiny_clip.model, "random"), "t": Timm("test_vit", "random")}
    data = [sample(0, encoded(photo(0)))]
    torch.manual_seed(1)
    one = merged(Bank.open(encoders, Encoding(device="cpu")).encode(data))
    drawn = torch.rand(1)
    torch.manual_seed(2)
    two = merged(Bank.open(encoders, Encoding(device="cpu")).encode(data))
    assert all(np.array_equal(one.vectors[c], two.vectors[c]) for c in one.vectors)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize(
    ("encoding", "says"),
    [
        (Encoding(device="cpu", precision="fp16"), "fp16 needs a GPU, but the device is cpu"),
        (Encoding(device="toaster"), "got 'toaster'"),
    ],
)
def test_a_device_that_is_not_there_is_refused(encoding: Encoding, says: str) -> None:
    with pytest.raises(JobError, match=says):
        Bank.open({}, encoding)


def test_bf16_on_a_cpu_is_near_fp32_and_no_bit_follows_the_threads(tiny_clip: OpenClip, photos: list[bytes]) -> None:
    def vectors(precision: Literal["fp32", "bf16"], threads: int) -> dict[str, np.ndarray]:
        encoding = Encoding(batch_size=6, device="cpu", precision=precision, decode_threads=threads)
        return merged(Bank.open({"c": tiny_clip}, encoding).encode(samples_of(photos))).vectors

    full, low = vectors("fp32", 1), vectors("bf16", 1)
    for column in full:
        assert cosine(full[column], low[column]).min() > 0.999
        assert not np.array_equal(full[column], low[column])
    for threads in (2, 3):
        again = vectors("bf16", threads)
        assert all(np.array_equal(low[column], again[column]) for column in low)


def test_bf16_on_a_cpu_that_loses_by_it_is_said_once(tiny_clip: OpenClip, capfd: pytest.CaptureFixture[str]) -> None:
    tell_where_slow.cache_clear()
    for _ in range(2):
        Bank.open({"c": tiny_clip}, Encoding(device="cpu", precision="bf16"))
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("encoding.precision: bf16 is used")]
    assert len(said) == (bf16.gain() < 1)
    assert all(line.endswith(" on this machine's processor; fp32 is faster") for line in said)


@pytest.mark.parametrize(("size", "says"), [(8, "batch_size: 4"), (1, "a smaller model")])
def test_a_device_without_memory_left_says_which_batch_to_try(size: int, says: str, tiny_clip: OpenClip) -> None:
    loaded = clip.load_open_clip(tiny_clip, torch.device("cpu"))
    warm = False

    def hungry(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal warm
        if not warm:  # the one black image, by which a bank learns the widths
            warm = True
            return loaded.image(pixels)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    towers = {"c": replace(loaded, image=hungry)}
    bank = Bank(towers, Encoding(batch_size=size, device="cpu"), torch.device("cpu"), torch.float32)
    with pytest.raises(DeviceError, match=rf"(?s)a batch of {size} samples .* c ran out .*{says}"):
        list(bank.encode([sample(0, encoded(photo(0)))]))


@pytest.mark.timeout(60)
def test_a_word_of_any_length_costs_little_and_tokens_are_those_of_its_beginning(
    bank: Bank, photos: list[bytes]
) -> None:
    """Byte-pair encoding of all of it would take an hour."""
    letters = bytes(np.random.default_rng(0).integers(97, 123, 1_000_000).astype(np.uint8)).decode()
    both = [sample(0, photos[0], letters), sample(1, photos[0], letters[:4096])]
    found = merged(bank.encode(both))
    assert np.array_equal(found.vectors["clip.text"][0], found.vectors["clip.text"][1])
