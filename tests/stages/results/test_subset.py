"""Sorted uid files against np.save of np.sort, byte for byte, whatever the uids, the shards and the ranges."""

import io
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import AccountingError, FailedShards
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.stage import Run, ShardItem
from winnow.pipeline.storage import Identity
from winnow.pipeline.uid import UID, UID_ARROW
from winnow.stages.results import subset
from winnow.stages.results.subset import Subset, write_subsets


@dataclass(frozen=True)
class Given:
    """uids of each subset in each shard."""

    shards: tuple[tuple[tuple[bytes, ...], ...], ...]

    def uids(self, item: ShardItem, subsets: Sequence[int]) -> Iterator[pa.Array]:
        for number in subsets:
            yield pa.array(self.shards[item.index][number], UID_ARROW)

    def subsets(self) -> list[Subset]:
        return [Subset(f"s{n}", len(self.of(n))) for n in range(len(self.shards[0]))]

    def of(self, number: int) -> list[bytes]:
        return [uid for shard in self.shards for uid in shard[number]]


def saved(uids: Sequence[bytes]) -> bytes:
    """As DataComp's own code sorts and saves them."""
    pairs = [(int(uid.hex()[:16], 16), int(uid.hex()[16:], 16)) for uid in uids]
    file = io.BytesIO()
    np.save(file, np.sort(np.array(pairs, UID)))
    return file.getvalue()


def run_of(shards: int, executor: Executor | None = None, store: str | None = None) -> tuple[Run, Artifact]:
    store = store or f"memory://{uuid.uuid4().hex}"
    identities = tuple(Identity(f"memory://pool/{i}", 1, "x") for i in range(shards))
    return Run(store, executor or LocalExecutor(1), identities), Artifact(store, "made", "0" * 8)


UIDS = st.binary(min_size=16, max_size=16) | st.integers(0, 9).map(lambda n: n.to_bytes(16, "big"))


@st.composite
def given_uids(draw: st.DrawFn) -> Given:
    """Up to 3 subsets in up to 4 shards: any uids, small numbers that come again, and trailing zero bytes."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    lists = st.lists(UIDS | st.just(b"\x01" + bytes(15)), max_size=20).map(tuple)
    return Given(tuple(tuple(draw(lists) for _ in range(shape[1])) for _ in range(shape[0])))


@settings(max_examples=40, deadline=None)
@given(given_uids(), st.integers(1, 30), st.integers(1, 5), st.integers(1, 4))
def test_files_are_those_of_a_sort(chosen: Given, uids: int, ranges: int, samples: int) -> None:
    run, out = run_of(len(chosen.shards))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subset, "_RANGE_UIDS", uids)
        patch.setattr(subset, "_RANGES", ranges)
        patch.setattr(subset, "_SAMPLES", samples)
        patch.setattr(subset, "_BLOCK_BYTES", 40)
        write_subsets(run, out, chosen, chosen.subsets(), "uids")
        for number in range(len(chosen.shards[0])):
            assert storage.read_bytes(out.meta(f"s{number}.npy")) == saved(chosen.of(number))
        write_subsets(run, out, chosen, chosen.subsets(), "uids")  # over the files of a run before
    assert storage.read_bytes(out.meta("s0.npy")) == saved(chosen.of(0))


def test_on_every_executor(executor: Executor, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = str(tmp_path_factory.mktemp("store"))
    rng = np.random.default_rng(0)
    drawn = Given(tuple(tuple(tuple(rng.bytes(16) for _ in range(n)) for n in (50, 3)) for _ in range(5)))
    run, out = run_of(5, executor, store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subset, "_RANGE_UIDS", 40)
        write_subsets(run, out, drawn, drawn.subsets(), "uids")
    assert storage.read_bytes(out.meta("s0.npy")) == saved(drawn.of(0))
    assert storage.read_bytes(out.meta("s1.npy")) == saved(drawn.of(1))


def test_ranges_are_about_equal_even_for_numbers_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Given(tuple((tuple(n.to_bytes(16, "big") for n in range(at, 6000, 6)),) for at in range(6)))
    run, out = run_of(6)
    monkeypatch.setattr(subset, "_RANGE_UIDS", 1000)
    write_subsets(run, out, chosen, chosen.subsets(), "uids")
    sizes = [len(np.load(io.BytesIO(storage.read_bytes(found.url)))) for found in storage.listing(out.meta("s0"))]
    assert len(sizes) == 6
    assert sum(sizes) == 6000
    assert max(sizes) < 1300


def test_a_small_subset_is_one_file() -> None:
    chosen = Given((((b"a" * 16, b"b" * 16), ()),))
    run, out = run_of(1)
    write_subsets(run, out, chosen, chosen.subsets(), "uids")
    assert [storage.name_of(found.url) for found in storage.listing(out.meta_folder)] == ["s0.npy", "s1.npy"]
    assert storage.folders(out.meta_folder) == ["exchange"]  # which `execute` removes at the end of a stage
    assert storage.read_bytes(out.meta("s1.npy")) == saved([])


@pytest.mark.parametrize("ranges", [1, 3])
def test_another_number_of_uids_is_an_accounting_error(monkeypatch: pytest.MonkeyPatch, ranges: int) -> None:
    chosen = Given(((tuple(bytes([n]) * 16 for n in range(9)),),))
    run, out = run_of(1)
    monkeypatch.setattr(subset, "_RANGE_UIDS", -(-10 // ranges))
    with pytest.raises(AccountingError, match=r"s0.npy must name 10 samples, but 9 were found; delete memory://"):
        write_subsets(run, out, chosen, [Subset("s0", 10)], "uids")


def test_a_range_that_is_not_whole_is_an_accounting_error(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Given(((tuple(bytes([n]) * 16 for n in range(9)),),))
    run, out = run_of(1)
    monkeypatch.setattr(subset, "_RANGE_UIDS", 5)
    whole = storage.open_read

    def torn(url: str) -> io.BytesIO:
        return io.BytesIO(whole(url).read()[:-16])

    monkeypatch.setattr(storage, "open_read", torn)
    with pytest.raises(AccountingError, match=r"s0/00000.npy must hold \d uids, but has \d+ bytes of them"):
        write_subsets(run, out, chosen, chosen.subsets(), "uids")


def test_columns_that_are_no_uids_are_refused() -> None:
    @dataclass(frozen=True)
    class Broken:
        column: pa.Array = field(metadata={"fingerprint": False})

        def uids(self, item: ShardItem, subsets: Sequence[int]) -> Iterator[pa.Array]:
            yield self.column

    for column, came in ((pa.array(["a"]), "string with 0 nulls"), (pa.array([None], UID_ARROW), "with 1 nulls")):
        run, out = run_of(1)
        with pytest.raises(FailedShards, match=f"uids must be .* without nulls, got .*{came}"):
            write_subsets(run, out, Broken(column), [Subset("s0", 1)], "uids")


def test_a_slice_of_a_column_is_its_own_uids() -> None:
    whole = pa.array([bytes([n]) * 16 for n in range(9)], UID_ARROW)

    @dataclass(frozen=True)
    class Sliced:
        def uids(self, item: ShardItem, subsets: Sequence[int]) -> Iterator[pa.Array]:
            yield whole.slice(3, 4)

    run, out = run_of(1)
    write_subsets(run, out, Sliced(), [Subset("s0", 4)], "uids")
    assert storage.read_bytes(out.meta("s0.npy")) == saved([bytes([n]) * 16 for n in range(3, 7)])
