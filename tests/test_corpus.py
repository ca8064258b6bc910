"""Every case of the corpus alone, with its exact outcome; and all of them in one pool, with the exact ledger."""

import io
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from tests.corpus import BAD, CORPUS, WITNESS, Case
from tests.corpus.pictures import PICTURES, Picture
from tests.pools import tiny_clip
from tests.stages.encoders.pixels.test_decoding import preprocess_of
from tests.test_docs import section
from tests.tree import ROOT
from winnow.jobs.job_file.job import parse
from winnow.jobs.run import JobResult, run_job
from winnow.pipeline.artifact import read_table
from winnow.pipeline.errors import PoolError, SampleError, ShardError
from winnow.pipeline.executors.local import LocalExecutor
from winnow.stages.cuts.cut import names_of
from winnow.stages.encoders import Bank, Encoding
from winnow.stages.encoders.brought.joined import NO_VECTOR
from winnow.stages.encoders.pixels.decoding import decode
from winnow.stages.pools.formats import FORMATS
from winnow.stages.pools.sample import Reject
from winnow.stages.rejects import NO_VECTORS, REPEATED, UNREADABLE, read_rejects

UNLIKE = 7.0  # mean difference of 255 that a palette of 256 colours or JPEG may bring


def landed(case: Case, folder: Path) -> str:
    """The case's files in a folder; the shard's path."""
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder / next(iter(case.files)))


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return Bank.open({"clip": tiny_clip(tmp_path_factory.mktemp("clip"))}, Encoding())


def read(case: Case, url: str, bank: Bank) -> tuple[list[tuple[int, str, str]], list[Reject]]:
    """(position, outcome, caption) of every sample in order, and the rejects: read, decoded and embedded."""
    reader: Any = FORMATS[case.format](**case.options)
    if not reader.has_images:
        table, rejects = reader.sound(url, reader.encoders())
        for name in reader.encoders():
            reader.vectors(url, name, "image", np.asarray(table["position"]))
        kept = [(row["position"], row["key"], row["caption"]) for row in table.to_pylist()]
    else:
        batches = list(bank.encode(reader.samples(url)))
        kept = [(s.position, s.key, s.caption) for batch in batches for s in batch.samples]
        rejects = [reject for batch in batches for reject in batch.rejects]
    return sorted([*kept, *((r.position, BAD + r.kind, "") for r in rejects)]), rejects


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_each_case_has_its_outcome(tmp_path: Path, bank: Bank, case: Case) -> None:
    url = landed(case, tmp_path)
    if case.failed is not None:
        with pytest.raises((ShardError, PoolError)) as error:
            read(case, url, bank)
        assert case.failed in str(error.value)
        assert str(tmp_path) in str(error.value)
        return
    found, rejects = read(case, url, bank)
    assert [outcome for _, outcome, _ in found] == list(case.outcomes)
    assert [position for position, _, _ in found] == list(range(len(found)))
    captions = {outcome: caption for _, outcome, caption in found}
    assert {key: captions[key] for key in case.captions} == case.captions
    for reject in rejects:
        assert reject.message
        assert case.says.get(reject.kind, "") in reject.message


@pytest.mark.parametrize(("name", "made"), PICTURES.items(), ids=PICTURES)
@pytest.mark.parametrize("fast", [False, True])
def test_each_picture_is_read_as_it_looks_and_as_open_clip_reads_it(name: str, made: Picture, fast: bool) -> None:
    content, kind, looks = made
    cfg = PreprocessCfg(size=32)
    ours = preprocess_of(cfg)
    if kind is not None:
        with pytest.raises(SampleError) as error:
            decode(content, [ours], fast)
        assert error.value.kind == kind
        return
    assert looks is not None
    size, [pixels] = decode(content, [ours], fast)
    assert size == looks.size
    assert np.abs(pixels.astype(int) - ours.resize(looks).astype(int)).mean() < UNLIKE
    if not fast:
        own = image_transform_v2(cfg, is_train=False)
        with Image.open(io.BytesIO(content)) as image:
            assert np.array_equal(own.transforms[-1](own.transforms[-2](Image.fromarray(pixels))), own(image))


def test_the_corpus_is_large_and_its_cases_differ() -> None:
    assert len(CORPUS) >= 60
    assert len({case.name for case in CORPUS}) == len(CORPUS)
    assert len({(case.format, *case.options, *case.files.values()) for case in CORPUS}) == len(CORPUS)
    kinds = {outcome[1:] for case in CORPUS for outcome in case.outcomes if outcome.startswith(BAD)}
    told = re.findall(r"^\| `([\w-]+)` \|", section(ROOT / "docs/pools.md", "What is rejected"), re.MULTILINE)
    assert sorted(kinds | {UNREADABLE, REPEATED, NO_VECTORS, NO_VECTOR}) == sorted(told)


def jobs(folder: Path) -> list[tuple[dict[str, Any], list[Case]]]:
    """One job for each format and its options, over one pool with all of its cases."""
    groups: dict[str, list[Case]] = {}
    for case in CORPUS:
        groups.setdefault(repr((case.format, case.options)), []).append(case)
    clip = tiny_clip(folder)
    found = []
    for number, cases in enumerate(groups.values()):
        shards = [landed(case, folder / f"pool{number}/{at:03d}") for at, case in enumerate(cases)]
        values: dict[str, Any] = {
            "name": f"corpus-{number}",
            "store": str(folder / "store"),
            "pool": {"shards": shards, "format": cases[0].format, **cases[0].options},
            "policy": [{"random": {"fraction": 0.5}}],
            "limits": {"max_reject_fraction": 1, "max_failed_shards": sum(case.failed is not None for case in cases)},
        }
        if cases[0].format in ("webdataset", "parquet"):
            values["embeddings"] = {"clip": {"model": clip.model, "pretrained": "random"}}
            values["shards"] = {"samples_per_shard": 50}
        else:  # a cut that reads the vectors of every encoder and keeps all
            names = FORMATS[cases[0].format](**cases[0].options).encoders()
            all_of = [{"density": {"by": name, "clusters": 1, "fraction": 1.0}} for name in names]
            values["policy"] = [*all_of, *values["policy"]]
        found.append((values, cases))
    return found


def ledger(result: JobResult, cases: list[Case]) -> list[list[str]]:
    """What must become of every sample of every case, where cases of one pool hold the same samples again."""
    samples = dict(result.steps)["samples"].artifact
    uids: set[str] = set()
    found = []
    for at, case in enumerate(cases):
        table, lost = samples.read(at, ["position", "uid"]), read_rejects(samples, at).to_pylist()
        own = list(case.outcomes)
        if case.failed is not None:  # its samples, or only their vectors
            own = [f"{BAD}{NO_VECTORS}"] * (len(table) + len(lost))
            for row in lost:
                own[row["position"]] = f"{BAD}{row['kind']}"
        for position, uid in zip(*table.to_pydict().values(), strict=True):
            if own[position].startswith(BAD):
                continue
            if uid in uids:
                own[position] = f"{BAD}{REPEATED}"
            uids.add(uid)
        found.append(own)
    return found


def test_one_pool_that_holds_them_all_runs_to_the_end_with_the_exact_ledger(tmp_path: Path) -> None:
    ran = 0
    for values, cases in jobs(tmp_path):
        result = run_job(parse(values), LocalExecutor(2), lambda line: None)
        expected = ledger(result, cases)
        outcomes = [outcome for found in expected for outcome in found]
        rejected = Counter(outcome[1:] for outcome in outcomes if outcome.startswith(BAD))
        readable = len(outcomes) - rejected.total()
        assert result.counts == {
            "pool": readable + rejected.total(),
            "kept": readable // 2,
            "dropped": {**dict.fromkeys(names_of(parse(values).policy), 0), "random": readable - readable // 2},
            "rejected": dict(sorted(rejected.items())),
        }
        manifest = [read_table(result.path.manifest.shard(at)) for at in range(len(cases))]
        for table, case, wanted in zip(manifest, cases, expected, strict=True):
            reasons = [(row["key"], row["reason"] or "") for row in table.to_pylist()]
            seen = [f"{BAD}{why[7:]}" if why.startswith("reject:") else key for key, why in reasons]
            assert seen == wanted, case.name
        ran += len(cases)
    assert ran == len(CORPUS)
    assert not Path(WITNESS).exists()


def test_no_case_touches_the_file_system_beyond_its_own_files(tmp_path: Path, bank: Bank) -> None:
    """Absolute paths, paths out of the folder, links and pickles are read as names, or refused."""
    for case in CORPUS:
        if not any(word in case.name for word in ("path", "link", "device", "pipe", "folder", "pickle")):
            continue
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        url = landed(case, folder)
        before = sorted(tmp_path.rglob("*"))
        with suppress(ShardError, PoolError):
            read(case, url, bank)
        assert sorted(tmp_path.rglob("*")) == before
    assert not Path(WITNESS).exists()
    assert not Path("/etc/mid.jpg").exists()
