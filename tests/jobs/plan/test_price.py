"""`winnow plan --price`: what shards and samples cost is told apart, and a pool out of reach has its page."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.jobs.test_cli import called
from tests.jobs.test_run import job_values
from tests.outside_cut import Longest, install
from tests.pools import (
    Samples,
    members,
    pair,
    write_clip_retrieval,
    write_datacomp,
    write_parquet,
    write_tar,
    write_vectors,
)
from winnow.jobs.job_file.job import Job, load_job, parse
from winnow.jobs.plan import price as pricing
from winnow.jobs.plan import price_kernels as kernels
from winnow.jobs.plan.miniature import drawn, shrink
from winnow.jobs.plan.plan import workers_here
from winnow.jobs.plan.price import Price, PriceOptions, price
from winnow.jobs.plan.price_model import MeasuredStage, PoolEstimate, Rates, estimate, extended, files_of
from winnow.jobs.plan.price_table import Prices, show_price_table, totals
from winnow.jobs.plan.timing import Call
from winnow.jobs.run import run_job
from winnow.pipeline.errors import JobError
from winnow.pipeline.executors.batching import AIM_S, PassItems, Waiting
from winnow.pipeline.executors.contract import Executor
from winnow.pipeline.executors.local import LocalExecutor
from winnow.pipeline.machine import cores
from winnow.stages.pools.sample import Sample

SHARDS, EACH = 6, 40


def priced(job: Job, **options: Any) -> Price:
    return price(job, LocalExecutor(1), PriceOptions(**options), lambda line: None)


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job with every kind of pass over six tars of 40 samples."""
    folder = tmp_path_factory.mktemp("tars")
    for shard in range(SHARDS):
        samples = [(f"{n:04d}", pair(1000 * shard + n, f"a picture of thing {n}")) for n in range(EACH)]
        write_tar(folder / f"pool/{shard:05d}.tar", members(samples))
    policy = [
        {"rules": {"min_words": 3}},
        {"duplicates": {"by": "clip", "epsilon": 0.0005, "clusters": 3}},
        {"similarity": {"by": "clip", "fraction": 0.8}},
        {"density": {"by": "clip", "count": 60, "clusters": 4}},
    ]
    return parse(job_values(folder, policy))


@pytest.fixture(scope="module")
def page(tars: Job) -> Price:
    return priced(tars)


def test_the_miniature_stands_for_the_pool(tars: Job, page: Price) -> None:
    """What it says of files and bytes is what a real run leaves."""
    result = run_job(tars, LocalExecutor(1), lambda line: None)
    assert [stage.label for stage in page.stages] == [label for label, _ in result.steps]
    assert (page.pool.shards, page.pool.assumed) == (SHARDS, False)
    assert page.pool.samples == pytest.approx(SHARDS * EACH, rel=0.1)
    for stage, (label, step) in zip(page.stages, result.steps, strict=True):
        shards, odd, left = files_of(step.artifact)
        if label != "shards":  # of few samples, tars are as many as there are ends
            assert stage.files == pytest.approx(shards + odd, rel=0.2), label
        assert stage.left == pytest.approx(left, rel=0.6), label
        assert stage.seconds >= 0
        assert stage.busy >= 0
    assert page.rates.decode
    assert page.rates.models
    tars_bytes = sum(path.stat().st_size for path in Path(tars.pool.shards[0]).parent.glob("*.tar"))
    [samples] = [stage for stage in page.stages if stage.label == "samples"]
    assert samples.read > 0.9 * tars_bytes


def test_nothing_is_left_and_the_store_is_not_touched(
    tars: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(JobError, match="--measure-on must come with --samples-per-shard"):
        priced(tars, measure_on=tars.pool.shards)
    assert list(tmp_path.iterdir()) == []


@given(
    st.floats(0, 1),
    st.floats(1e-6, 1e-2),
    st.lists(st.integers(1, 10_000), min_size=2, max_size=8).filter(lambda rows: max(rows) > 2 * min(rows)),
)
def test_what_a_shard_and_what_a_sample_cost_are_told_apart(a: float, b: float, rows: list[int]) -> None:
    shards, samples = 1000, 5_000_000.0
    found = extended(rows, [a + b * n for n in rows], shards, samples)
    assert found == pytest.approx((a, b), rel=1e-3, abs=1e-6)


def test_calls_of_one_size_are_samples_unless_the_pool_has_that_size() -> None:
    assert extended([100, 100], [1.0, 3.0], 10, 10_000.0) == pytest.approx((0, 0.02))
    assert extended([100, 100], [1.0, 3.0], 10, 1000.0) == pytest.approx((2.0, 0))
    assert extended([10, 100], [3.0, 1.0], 10, 1000.0)[1] == 0, "never less for more"


def test_a_call_by_itself_costs_the_driver_more_than_one_of_many(ray_executor: Executor, tmp_path: Path) -> None:
    alone, among = kernels.driver_seconds(ray_executor, str(tmp_path))
    assert alone > 4 * among > 0  # 20 to 40 times
    [log] = tmp_path.rglob("*.jsonl")
    assert log.read_text().count("\n") > 5000, "its event lines are counted"


@pytest.mark.parametrize("workers", [1, 2, 64])
def test_what_is_timed_alone_goes_alone(workers: int) -> None:
    waiting = Waiting(PassItems(kernels.ALONE * workers, str, lambda actor, items: None), workers)
    waiting.saw(1, 1e-9)
    while waiting:
        assert len(waiting.take()) == 1
        waiting.saw(1, 1e-9)


def test_the_driver_is_priced_by_what_a_call_holds() -> None:
    rates = Rates(alone=1e-3, among=1e-5, read=1.0)
    assert rates.driver(0) == 1e-5
    assert rates.driver(AIM_S / 10) == pytest.approx(1e-5 + 0.1 * 0.99e-3)
    assert rates.driver(AIM_S) == pytest.approx(1e-3)
    assert rates.driver(3600) == pytest.approx(1e-3)


@pytest.mark.parametrize(("step", "seconds", "driver"), [("run", 0.1, 1.0), ("run", 0.01, 0.1), ("scatter", 0.1, 0.0)])
def test_a_pass_is_priced_by_the_time_of_its_items(page: Price, step: str, seconds: float, driver: float) -> None:
    shards = len(page.miniature.shards)
    calls = tuple(Call("rules", step, i, seconds, 0, 0, 0, "a:1") for i in range(shards))
    found = MeasuredStage("rules", seconds, 0.0, calls, page.miniature.rows, shards, 0, 0, 0)
    pool = PoolEstimate(1000, 1000 * page.miniature.rows / shards, 0.0, 0.0, assumed=True)
    bare, dear = (
        estimate(found, page.miniature, page.job, pool, Rates(alone, 0.0, 1e9), 1000, 1).seconds for alone in (0.0, 1.0)
    )
    assert bare == pytest.approx(seconds)
    assert dear == pytest.approx(max(seconds, 1000 * driver))


@pytest.mark.parametrize(("label", "embeds"), [("thumbnails", True), ("samples", False)])
def test_gpus_are_priced_where_a_stage_says_that_it_embeds(page: Price, label: str, embeds: bool) -> None:
    """Its name says nothing."""
    calls = tuple(Call(label, "run", i, 3600.0, 0, 0, 0, "a:1") for i in range(len(page.miniature.shards)))
    found = MeasuredStage(label, 3600.0, 0.0, calls, page.miniature.rows, len(calls), 0, 0, 0, embeds=embeds)
    job = replace(page.job, resources=replace(page.job.resources, gpus=2.0))
    pool = PoolEstimate(len(calls), page.miniature.rows, 0.0, 0.0, assumed=True)
    priced = estimate(found, page.miniature, job, pool, Rates(0.0, 0.0, 1e9, decode=10.0, models=5.0), len(calls), 1)
    assert priced.gpu_hours == pytest.approx(2.0 * len(calls) if embeds else 0)
    assert (priced.bottleneck == "models") == embeds


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 9))
def test_shards_are_drawn_from_all_over_the_pool(shards: int, count: int, seed: int) -> None:
    urls = [str(i) for i in range(shards)]
    found = [int(url) for url in drawn(urls, count, seed)]
    assert found == [int(url) for url in drawn(urls, count, seed)]
    assert sorted(set(found)) == found
    assert len(found) == min(shards, count)
    edges = [shards * i // len(found) for i in range(len(found) + 1)]
    assert all(low <= at < high for at, low, high in zip(found, edges, edges[1:], strict=False))


def test_a_shrunk_tar_has_the_first_samples(tars: Job, tmp_path: Path) -> None:
    [url] = [str(path) for path in Path(tars.pool.shards[0]).parent.glob("00001.tar")]
    [small] = shrink(tars, [url], 7, tmp_path / "small")
    reader = tars.pool.reader
    whole, cut = (list(reader.samples(at)) for at in (url, small.url))  # type: ignore[union-attr]  # webdataset
    assert all(isinstance(sample, Sample) for sample in cut)
    assert [sample.key for sample in cut] == [sample.key for sample in whole[:7]]
    assert small.whole_rows == pytest.approx(EACH, rel=0.1)


@pytest.mark.parametrize("kind", ["vectors", "datacomp", "clip-retrieval"])
def test_a_shrunk_pool_of_vectors_has_the_first_rows(kind: str, tmp_path: Path) -> None:
    samples = Samples.drawn(30)
    write = {"vectors": write_vectors, "datacomp": write_datacomp, "clip-retrieval": write_clip_retrieval}[kind]
    urls = write(tmp_path / "pool" if kind != "vectors" else str(tmp_path / "pool"), samples, 1)  # type: ignore[operator]
    options = {"vectors": {"text": "text", "encoder": "clip"}, "datacomp": {"use": ["l14"]}, "clip-retrieval": {}}[kind]
    policy: list[dict[str, Any]] = [{"random": {"fraction": 0.5}}]
    pool = {"shards": list(urls), "format": kind, **options}
    job = parse({"name": "a", "store": str(tmp_path / "store"), "pool": pool, "policy": policy})
    [small] = shrink(job, urls, 11, tmp_path / "small")
    reader: Any = job.pool.reader
    table, rejects = reader.rows(small.url)
    assert (table.num_rows, rejects, small.whole_rows) == (11, [], 30)
    name = reader.encoders()[0]
    assert np.array_equal(reader.vectors(small.url, name, "image", None), samples.image[:11])


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """A job over 200,000 shards that nothing here can reach."""
    write_vectors(str(tmp_path / "near"), Samples.drawn(400), 4)
    (tmp_path / "urls.txt").write_text("\n".join(f"s3://out-of-reach/{i}.parquet" for i in range(200_000)))
    policy = [
        {"duplicates": {"by": "clip", "exact": False, "epsilon": 0.07, "clusters": 5_000_000, "iterations": 1}},
        {"density": {"by": "clip", "fraction": 0.4, "clusters": 500}},
    ]
    pool = {"shards": str(tmp_path / "urls.txt"), "format": "vectors", "text": "text", "encoder": "clip"}
    values = {"name": "far", "store": "s3://out-of-reach/store", "pool": pool, "policy": policy}
    (tmp_path / "far.yaml").write_text(yaml.safe_dump({**values, "resources": {"workers": 256}}))
    return tmp_path / "far.yaml"


def test_a_pool_out_of_reach_is_priced_on_another(
    far: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pricing.kernels, "_FIT_FLOPS", 1e8)
    words = ["plan", str(far), "--set", "policy.0.duplicates.clusters=50000", "--price", "--executor", "local"]
    near = ["--measure-on", f"{far.parent}/near/*.parquet", "--samples-per-shard", "10000", "--here", "1"]
    assert called(monkeypatch, *words, *near, "--cpu-hour", "0.04", "--tb", "20", "--json") == 0
    page = json.loads(capsys.readouterr().out)
    assert page["pool"]["samples"] == 2_000_000_000
    assert page["pool"]["shards"] == 200_000
    assert (page["workers"], page["measured_workers"]) == (256, 1)
    stages = {stage["label"]: stage for stage in page["stages"]}
    assert stages["duplicates.clusters"]["bottleneck"] == "k-means, one machine"
    assert all(stage["files"] > 200_000 for label, stage in stages.items() if label != "pool")
    assert stages["duplicates"]["exchanged"] > 1e10
    cost = sum(s["cpu_hours"] * 0.04 + s["left"] / 1e12 * 20 for s in page["stages"])
    assert page["total"]["cost"] == pytest.approx(cost)


def test_a_cut_from_outside_has_its_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "installed")
    urls = list(write_vectors(str(tmp_path / "pool"), Samples.drawn(400), 4))
    pool = {"shards": urls, "format": "vectors", "text": "text", "encoder": "clip"}
    job = parse({"name": "a", "store": str(tmp_path / "store"), "pool": pool, "policy": [{"longest": {"count": 200}}]})
    page = priced(job, rows=50, samples_per_shard=1000)
    assert page.miniature.rows == 50 + 16 + 50 + 16
    assert page.miniature.job.policy == (Longest(count=round(200 * 132 / 4000)),)
    [stage] = [stage for stage in page.stages if stage.label == "longest"]
    assert stage.files == 4 + 1  # one a shard, and _done.json
    assert stage.seconds > 0
    assert stage.left > 0


def test_what_will_not_fit_is_said(far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "memory_bytes", lambda: 1 << 20)
    monkeypatch.setattr(pricing.kernels, "assign_seconds", lambda *_: 1e-6)  # five million centroids take a while
    monkeypatch.setattr(pricing.kernels, "_FIT_FLOPS", 1e8)
    monkeypatch.setattr(pricing, "_NOTED_BYTES", 1e11)
    job = load_job(str(far))
    found = priced(job, measure_on=(f"{far.parent}/near/*.parquet",), samples_per_shard=10_000)
    told = " ".join(found.warnings)
    assert "duplicates.clusters: k-means of 1,280,000,000 samples takes" in told
    assert "TB more while an exchange runs; resources.scratch names another place" in told
    assert "workers beside one another would hold" in told


def test_the_page_reads_whole_on_a_narrow_terminal(page: Price) -> None:
    console = Console(file=io.StringIO(), width=80)
    show_price_table(page, Prices(cpu_hour=0.04), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    for stage in page.stages:
        assert sum(line.split()[:1] == [stage.label] for line in text.splitlines()) == 2
    assert f"pool: {SHARDS} shards, about " in text
    assert "below 1 s most time is" in text


def test_prices_are_of_gpus_or_of_cores() -> None:
    prices = Prices(gpu_hour=2.5, cpu_hour=0.04, tb=20, tb_read=5)
    assert prices.of(2, 16, 0, 0) == 5
    assert prices.of(0, 100, 3e12, 1e12) == pytest.approx(4 + 60 + 5)


def test_sums_are_those_of_the_stages(page: Price) -> None:
    sums = totals(page, Prices(cpu_hour=1))
    assert sums["seconds"] == pytest.approx(sum(stage.seconds for stage in page.stages))
    assert sums["cost"] == pytest.approx(sums["cpu_hours"])


def test_a_machine_is_not_given_the_workers_of_a_cluster() -> None:
    here = cores()
    assert workers_here(None, None) == workers_here(256, None) == workers_here(None, 4096) == here
    assert workers_here(1, 256) == workers_here(None, 1) == 1


def test_files_beside_the_pool_cost_once_and_not_by_its_samples(tmp_path: Path) -> None:
    """A list and a column of a user's files are read whole, on whatever part of the pool the price is measured."""
    samples = Samples.drawn(400)
    pool = {"shards": [*write_datacomp(tmp_path / "pool", samples, 4)], "format": "datacomp", "use": ["l14"]}
    (tmp_path / "takedown.txt").write_text("\n".join(samples.uid[::9]))
    v = np.random.default_rng(0).random(400)
    url = write_parquet(f"{tmp_path}/v.parquet", pa.table({"uid": samples.uid, "v": v}))
    policy = [
        {"subset": {"uids": f"{tmp_path}/takedown.txt", "keep": False}},
        {"score": {"from": url, "column": "v", "fraction": 0.5}},
        {"mix": {"values": [{"by": "l14"}, {"from": url, "column": "v"}], "fraction": 0.5}},
    ]
    job = parse({"name": "j", "store": str(tmp_path / "store"), "pool": pool, "policy": policy})
    page = priced(job)
    found = [stage.label for stage in page.stages]
    assert found[found.index("subset") :][:5] == ["subset", "score.scores", "score", "mix.scores_1", "mix.mixed"]
    small = len(page.miniature.shards)
    calls = [Call("subset", "scatter", index, 1.0, 0, 0, 0, "a:1") for index in range(small)]
    calls.append(Call("subset", "scatter", None, 50.0, 0, 0, 0, "a:1"))
    stage = MeasuredStage("subset", 50.0 + small, 0.0, tuple(calls), page.miniature.rows, small, 0, 0, 0)
    pool = PoolEstimate(1000 * small, 1000 * page.miniature.rows, 0.0, 0.0, assumed=True)
    told = estimate(stage, page.miniature, page.job, pool, Rates(0.0, 0.0, 1e9), 1, 1)
    assert told.busy == pytest.approx(50 + 1000 * small)
