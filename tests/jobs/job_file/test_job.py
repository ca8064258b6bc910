"""Job files: every key known or refused with the nearest name, changes applied, the resolved job the same job."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pools import Samples, tiny_clip, write_tar, write_vectors
from winnow import jobs
from winnow.jobs.job_file.job import load_job, parse
from winnow.jobs.run import laid_out
from winnow.pipeline.errors import JobError
from winnow.pipeline.stage import artifact_of
from winnow.stages.cuts.density import Density
from winnow.stages.cuts.duplicates import Duplicates
from winnow.stages.pools.clip_retrieval import ClipRetrieval
from winnow.stages.pools.parquet import Parquet
from winnow.stages.pools.vectors import Vectors
from winnow.stages.pools.webdataset import Webdataset

# those of other commands have keys of their own, and are read where these are tested
FILES = [path for path in sorted(Path(jobs.__file__).parent.glob("*.yaml")) if "\npolicy:" in path.read_text()]


def image_job(**changes: Any) -> dict[str, Any]:
    return {
        "name": "mine",
        "store": "s3://bucket/store/",
        "pool": {"shards": "s3://pool/{0..3}.tar"},
        "embeddings": {"clip": {"model": "ViT-B-32", "pretrained": "openai"}, "dino": {"timm": "vit_small"}},
        "policy": [{"rules": {"min_words": 3}}, {"density": {"by": "dino", "fraction": 0.4, "clusters": 10}}],
        "shards": {"samples_per_shard": 100},
        **changes,
    }


def vector_job(**changes: Any) -> dict[str, Any]:
    return {
        "name": "mine",
        "store": "memory://s",
        "pool": {"shards": ["a.parquet"], "format": "datacomp", "use": ["l14"]},
        "policy": [{"similarity": {"by": "l14", "fraction": 0.3}}],
        **changes,
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_job_of_the_project_is_read(path: Path) -> None:
    job = load_job(str(path))
    assert job.policy
    assert parse(job.resolved) == job
    assert path.read_text().startswith("#"), "a job file opens with its promise"


def test_a_job_is_its_parts() -> None:
    job = parse(image_job())
    assert job.store == "s3://bucket/store"
    assert job.pool.reader == Webdataset()
    assert isinstance(job.policy[1], Density)
    assert job.policy[1].temperature == 0.1
    assert (job.needs.cpus, job.needs.gpus, job.needs.retries) == (1, 0, 2)


@pytest.mark.parametrize(
    ("pool", "reader"),
    [
        ({"shards": "a.tar"}, Webdataset()),
        ({"shards": ["b.parquet"]}, Parquet()),
        ({"shards": "urls.txt"}, Webdataset()),
        ({"shards": "urls.txt", "format": "parquet", "image": "jpg"}, Parquet(image="jpg")),
        (
            {"shards": "a.tar", "image": ["png"], "caption": "json:alt"},
            Webdataset(image=("png",), caption="json:alt"),
        ),
    ],
)
def test_the_format_follows_the_name_or_is_said(pool: dict[str, Any], reader: object) -> None:
    assert parse(image_job(pool=pool)).pool.reader == reader


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"polciy": []},
            "the job has no key 'polciy'; did you mean policy?; it has name, store, pool, embeddings",
        ),
        ({"zzz": 1}, "the job has no key 'zzz'; it has name"),
        ({"name": ""}, "a job must have name"),
        ({"store": None}, "a job must have store"),
        ({"name": "a/b"}, "name must be letters, digits, dot, dash or underscore, got 'a/b'"),
        ({"pool": "a.tar"}, "pool must be a mapping, got 'a.tar'"),
        ({"pool": {"shards": []}}, "pool.shards must be a pattern or a list of them, got []"),
        ({"pool": {"shards": 7}}, "pool.shards must be a pattern or a list of them, got 7"),
        ({"pool": {"shards": [7]}}, "pool.shards must be a pattern or a list of them, got [7]"),
        ({"pool": {"shards": "a.tar", "captoin": "txt"}}, "pool has no key 'captoin'; did you mean caption?"),
        (
            {"pool": {"shards": "a.tar", "format": "webdatset"}},
            "pool.format must be one of webdataset, parquet, datacomp, clip-retrieval, vectors, links, "
            "got 'webdatset'; did you mean webdataset?",
        ),
        ({"pool": {"shards": "a.tar", "image": "jpg"}}, "pool.image"),
        (
            {"pool": {"shards": "a.tar", "uid": "hash"}},
            "pool.uid must be auto, content, key or json:FIELD, got 'hash'",
        ),
        ({"embeddings": {}}, "density.by must be an encoder of the job, got 'dino', but it has none under embeddings"),
        ({"embeddings": {"a.b": {"model": "x"}}}, "an encoder's name must be text without a dot, got 'a.b'"),
        ({"embeddings": {"clip": "ViT"}}, "embeddings.clip must be a mapping, got 'ViT'"),
        ({"embeddings": {"clip": {"modle": "x"}}}, "embeddings.clip has no key 'modle'; did you mean model?"),
        ({"embeddings": {"clip": {"pretrained": "x"}}}, "embeddings.clip.model: Field required, got"),
        (
            {"embeddings": {"d": {"timm": "x", "image_size": 0}}},
            "embeddings.d.image_size: Input should be greater",
        ),
        (
            {"encoding": {"batch_size": 0}},
            "encoding.batch_size: Input should be greater than or equal to 1, got 0",
        ),
        (
            {"encoding": {"precision": "int8"}},
            "encoding.precision: Input should be 'auto', 'fp32', 'bf16' or 'fp16'",
        ),
        ({"policy": {"rules": {}}}, "policy must be a list, got {'rules': {}}"),
        (
            {"policy": [{"rules": {}, "random": {}}]},
            "policy.0 must be one cut, such as rules: {min_words: 3}, got ['rules",
        ),
        ({"policy": ["rules"]}, "policy.0 must be a mapping, got 'rules'"),
        (
            {"policy": [{"rules": {}}, {"densty": {}}]},
            "policy.1 must be one of rules, duplicates, similarity, negclip, density, prototypes, coverage, normsim, "
            "image_based, feature_mapping, cap, random, score, mix, subset, any, epochs, got "
            "'densty'; did you mean density?",
        ),
        (
            {"policy": [{"rules": {"min_word": 3}}]},
            "policy.0.rules has no key 'min_word'; did you mean min_words?",
        ),
        (
            {"policy": [{"rules": {"min_words": "three"}}]},
            "policy.0.rules.min_words: Input should be a valid integer",
        ),
        (
            {"policy": [{"random": {}}]},
            "policy.0.random: a cut must have one of fraction, count and threshold, got none",
        ),
        (
            {"policy": [{"random": {"fraction": 30}}]},
            "policy.0.random: fraction must be between 0 and 1, got 30.0",
        ),
        (
            {"policy": [{"random": {"count": 3, "seed": -1}}]},
            "policy.0.random.seed: Input should be greater than or",
        ),
        (
            {"policy": [{"similarity": {"by": "clip", "threshold": float("nan")}}]},
            "policy.0.similarity.threshold: Input should be a finite number, got nan",
        ),
        (
            {"policy": [{"score": {"column": "v", "count": 3}}]},
            "policy.0.score: score needs a value: field (of the pool), or both from and column",
        ),
        (
            {"policy": [{"score": {"columm": "v", "from": "x"}}]},
            "policy.0.score has no key 'columm'; did you mean column?",
        ),
        (
            {"policy": [{"similarity": {"by": "clap", "fraction": 0.3}}]},
            "similarity.by must be an encoder of the job (clip, dino), got 'clap'",
        ),
        (
            {"policy": [{"similarity": {"by": "dino", "fraction": 0.3}}]},
            "similarity.by must name an encoder with text vectors, but dino has none; name a CLIP model",
        ),
        (
            {"policy": [{"negclip": {"by": "dino", "fraction": 0.3}}]},
            "negclip.by must name an encoder with text vectors, but dino has none; name a CLIP model",
        ),
        (
            {"policy": [{"coverage": {"by": "dino", "fraction": 0.3}}]},
            "coverage.by must name an encoder with text vectors, but dino has none; name a CLIP model",
        ),
        (
            {"policy": [{"duplicates": {"by": "clip", "epsilon": 0.1, "clusters": 0}}]},
            "policy.0.duplicates.clusters.k: Input should be greater than or equal to 1, got 0",
        ),
        (
            {"policy": [{"epochs": {"epochs": 2, "count": 5}}, {"random": {"count": 5}}]},
            "epochs must be the last cut of a policy, because a later cut would remove samples from some epochs",
        ),
        ({"policy": [{"epochs": {"count": 5}}]}, "policy.0.epochs.epochs: Field required"),
        ({"policy": [{"duplicates": {"epsilon": 0.1}}]}, "set by (an encoder) and clusters (k) too"),
        ({"shards": {"samples_per_shard": 0}}, "shards.samples_per_shard must be at least 1, got 0"),
        ({"shards": {"per_shard": 5}}, "shards has no key 'per_shard'; did you mean samples_per_shard?"),
        ({"resources": {"gpu": 1}}, "resources has no key 'gpu'; did you mean gpus?"),
        ({"resources": {"workers": -1}}, "resources need workers >= 1 and retries >= 0, got"),
        ({"resources": {"workers": 0}}, "resources need workers >= 1 and retries >= 0, got"),
        ({"resources": {"cpus": -1}}, "resources need cpus >= 0 and gpus >= 0, not both 0, got"),
        ({"resources": {"cpus": 0}}, "resources need cpus >= 0 and gpus >= 0, not both 0, got"),
        ({"resources": {"memory_gb": -1}}, "resources need memory_gb >= 0, got"),
        ({"resources": {"deadline_factor": 0.5}}, "resources need deadline_factor >= 1 and deadline_floor_s > 0, got"),
        ({"resources": {"deadline_floor_s": 0}}, "resources need deadline_factor >= 1 and deadline_floor_s > 0, got"),
        ({"resources": []}, "resources must be a mapping, got []"),
        ({"limits": {"max_rejects": 1}}, "limits has no key 'max_rejects'; did you mean max_reject_fraction?"),
        ({"limits": {"max_reject_fraction": 5}}, "limits need 0 <= max_reject_fraction <= 1 and max_failed"),
        ({"limits": {"max_failed_shards": -1}}, "limits need 0 <= max_reject_fraction <= 1 and max_failed_shards >= 0"),
        ({"policy": {}}, "policy must be a list, got {}"),
        ({"policy": [{1: {}}]}, "policy.0 must be one of rules, duplicates"),
        ({"embeddings": {1: {"model": "x"}}}, "an encoder's name must be text without a dot, got 1"),
        ({"store": ["a"]}, "store must be a URL or a folder, got ['a']"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as error:
        parse(image_job(**changes))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"embeddings": {"c": {"model": "x"}}},
            "this pool has no images: leave embeddings out, its own are l14",
        ),
        (
            {"shards": {}},
            "this pool has no images, so no shards can be written: leave shards out and use uids.npy",
        ),
        (
            {"policy": [{"density": {"by": "b32", "count": 3, "clusters": 2}}]},
            "encoder of the job (l14), got 'b32'",
        ),
        (
            {"policy": [{"duplicates": {}}]},
            "compares the bytes of images, but this pool has none; set exact: false",
        ),
        (
            {
                "pool": {"shards": "a.parquet", "format": "vectors"},
                "policy": [{"similarity": {"by": "vectors", "count": 3}}],
            },
            "similarity.by must name an encoder with text vectors, but vectors has none",
        ),
    ],
)
def test_pools_of_vectors_have_their_own_limits(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as error:
        parse(vector_job(**changes))
    assert message in str(error.value)


def test_semantic_duplicates_of_vectors_are_fine() -> None:
    near = {"by": "l14", "exact": False, "epsilon": 0.1, "clusters": 5}
    assert isinstance(parse(vector_job(policy=[{"duplicates": near}])).policy[0], Duplicates)


def written(folder: Path, text: str) -> str:
    (folder / "job.yaml").write_text(text)
    return str(folder / "job.yaml")


def test_changes_go_by_path(tmp_path: Path) -> None:
    path = written(tmp_path, yaml.safe_dump(image_job()))
    job = load_job(
        path,
        [
            "policy.1.density.fraction=0.3",
            "policy.0={rules: {min_words: 5}}",
            "pool.image=[webp, png]",
            "resources.workers=3",
            "name=other",
            "shards=",
        ],
    )
    assert job.policy[1].fraction == 0.3  # type: ignore[attr-defined]  # a Density
    assert job.policy[0].min_words == 5  # type: ignore[attr-defined]  # a Rules
    assert job.pool.reader == Webdataset(image=("webp", "png"))
    assert (job.resources.workers, job.name, job.shards) == (3, "other", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("name", "a change must be path=value, got 'name'"),
        (
            "policy.7.density.fraction=0.3",
            "--set policy.7.density.fraction: there is no '7' in the job at that place",
        ),
        ("policy.2=x", "--set policy.2: there is no '2' in the job at that place"),
        ("policy.density.fraction=0.3", "there is no 'density' in the job at that place"),
        ("name.x=3", "--set name.x: 'x' must be inside a mapping or list of the job"),
        ("name.x.y=3", "--set name.x.y: there is no 'x' in the job at that place"),
        ("name=[", "--set name=[ must be YAML: "),
        ("policy.1.density.fractoin=0.3", "policy.1.density has no key 'fractoin'; did you mean fraction?"),
    ],
)
def test_wrong_changes_are_said(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(JobError) as error:
        load_job(written(tmp_path, yaml.safe_dump(image_job())), [change])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "- a\n- b\n",
            "job.yaml must be a mapping with name, store, pool, embeddings, encoding, columns, policy, shards",
        ),
        ("", "but it holds NoneType"),
        ("a: [", "job.yaml must be YAML: "),
    ],
)
def test_files_that_are_no_job_are_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(JobError) as error:
        load_job(written(tmp_path, text))
    assert message in str(error.value)
    with pytest.raises(
        JobError, match=r"a job must be a YAML file, but: cannot read .*absent\.yaml: there is no such file"
    ):
        load_job(str(tmp_path / "absent.yaml"))


def names(values: dict[str, Any]) -> list[str]:
    path, _ = laid_out(parse(values))
    return [artifact_of(stage, "s").name for _, stage in path.stages]


def test_the_resolved_job_is_the_same_job(tmp_path: Path) -> None:
    """After a way through JSON, and then through YAML."""
    clip = tiny_clip(tmp_path)
    scores = write_vectors(str(tmp_path / "scores"), Samples.drawn(2))
    values = image_job(
        store=str(tmp_path / "store"),
        pool={"shards": [write_tar(tmp_path / "a.tar", [("a.txt", b"")])], "image": ["JPG"]},
        embeddings={
            "clip": {"model": clip.model, "pretrained": "random"},
            "d": {"timm": "test_vit", "checkpoint": "random"},
        },
        policy=[
            {"rules": {"min_words": 3, "max_aspect": 3}},
            {"duplicates": {"by": "clip", "epsilon": 0.1, "clusters": 2}},
            {"similarity": {"by": "clip", "threshold": 0.1}},
            {"score": {"column": "width", "from": list(scores), "count": 1, "missing": "drop"}},
            {"density": {"by": "d", "fraction": 0.5, "clusters": 2, "keep": "easy"}},
            {"random": None} | {"random": {"fraction": 0.5}},
        ],
        encoding={"batch_size": 8},
    )
    job = parse(values)
    again = json.loads(json.dumps(job.resolved))
    assert parse(again) == job
    assert names(again) == names(values)
    assert names(yaml.safe_load(yaml.safe_dump(again))) == names(values)
    assert again["policy"][3]["score"]["from"] == list(scores)


@pytest.mark.parametrize(
    ("pool", "reader"),
    [
        ({"format": "clip-retrieval", "encoder": "l"}, ClipRetrieval(encoder="l")),
        ({"format": "vectors", "text": "t"}, Vectors(text="t")),
    ],
)
def test_vector_pools_resolve_to_themselves(pool: dict[str, Any], reader: object) -> None:
    job = parse(vector_job(pool={"shards": "metadata/metadata_0.parquet", **pool}, policy=[]))
    assert job.pool.reader == reader
    assert parse(json.loads(json.dumps(job.resolved))) == job


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"policy": [{"random": {"count": "5"}}]},
            "policy.0.random.count: Input should be a valid integer, got '5'",
        ),
        ({"policy": [{"random": {"count": 1e6}}]}, "count: Input should be a valid integer, got 1000000.0"),
        ({"policy": [{"random": {"count": True}}]}, "policy.0.random.count: Input should be a valid integer, got True"),
        (
            {"policy": [{"random": {"fraction": "0.3"}}]},
            "policy.0.random.fraction: Input should be a valid number, got",
        ),
        ({"policy": [{"random": {"fraction": "30%"}}]}, "fraction: Input should be a valid number, got '30%'"),
        ({"policy": [{"random": {"count": 5, "seed": None}}]}, "seed: Input should be a valid integer, got None"),
        ({"policy": [{"random": 0}]}, "policy.0.random must be a mapping, got 0"),
        (
            {"policy": [{"duplicates": {"exact": "yes"}}]},
            "duplicates.exact: must be true, false or caption, got 'yes'",
        ),
        ({"policy": [{"duplicates": {"exact": 1}}]}, "duplicates.exact: must be true, false or caption, got 1"),
        (
            {"policy": [{"rules": {"caption_matches": 5}}]},
            "rules.caption_matches: Input should be a valid string, got 5",
        ),
        ({"resources": {"workers": "4"}}, "resources.workers: Input should be a valid integer, got '4'"),
        ({"resources": {"prefetch": 0}}, "resources.prefetch: Input should be a valid boolean, got 0"),
        ({"limits": {"max_reject_fraction": "5%"}}, "limits.max_reject_fraction: Input should be a valid number, got"),
        ({"shards": {"samples_per_shard": 1000.0}}, "samples_per_shard: Input should be a valid integer, got 1000.0"),
        ({"encoding": {"batch_size": b"64"}}, "encoding must be plain values, as YAML holds them, got"),
        ({"name": 12}, "name must be text, got 12; quote it"),
        ({"store": "zip://a.zip"}, "store: a URL must name a file of one storage, but zip://a.zip goes through zip"),
        ({"store": "s3://key:geheim@bucket/s"}, "store: a URL must carry no password"),
        ({"store": "/data/a::b"}, "store must be a name that webdataset can open, but /data/a::b contains ::"),
        ({"store": "s3://bucket/{a,b}"}, "but s3://bucket/{a,b} contains {, which webdataset expands to a list"),
        (
            {"store": "https://host/store?x=1"},
            "store must be a place where files can be written, got https://host/store",
        ),
        (
            {"store": "~no-such-user/store"},
            "~ must stand for the home folder of a user of this machine, but ~no-such-user has none",
        ),
    ],
)
def test_values_are_of_their_own_kind(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as error:
        parse(image_job(**changes))
    assert message in str(error.value)
    assert "geheim" not in str(error.value)


def test_a_whole_number_is_a_number() -> None:
    job = parse(image_job(policy=[{"random": {"fraction": 1}}], resources={"cpus": 2}))
    assert job.resolved["policy"] == [{"random": {"fraction": 1.0, "count": None, "seed": 0, "of": "survivors"}}]
    assert job.resources.cpus == 2.0


def test_home_is_a_folder_wherever_a_job_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_vectors(str(tmp_path / "vec"), Samples.drawn(4), 1)
    encoders = {
        "clip": {"model": "~/model.json", "pretrained": "~/epoch_1.pt"},
        "own": {"model": "local-dir:~/own"},
        "dino": {"timm": "vit_small", "checkpoint": "~/dino.pt"},
    }
    text = yaml.safe_dump(image_job(store="~/store", pool={"shards": "~/a.tar"}, embeddings=encoders))
    job = load_job(written(tmp_path, text))
    assert job.store == f"{tmp_path}/store"
    assert job.pool.urls() == [f"{tmp_path}/a.tar"]
    assert job.resolved["embeddings"] == {
        "clip": {"model": f"{tmp_path}/model.json", "pretrained": f"{tmp_path}/epoch_1.pt"},
        "own": {"model": f"local-dir:{tmp_path}/own", "pretrained": None},
        "dino": {"timm": "vit_small", "checkpoint": f"{tmp_path}/dino.pt", "image_size": None},
    }
    again = load_job(written(tmp_path, text), ["store=~/other", "pool.shards=~/vec", "pool.format=parquet"])
    assert (again.store, again.pool.urls()) == (f"{tmp_path}/other", [f"{tmp_path}/vec/00000.parquet"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["name=a", "store=b", "name=c"], "--set must name a place once, but name is set 2 times"),
        (
            ["policy.0={rules: {min_words: 3, min_words: 1}}"],
            "a key must come once, but min_words is in line 1 and again",
        ),
        (
            ["policy.1.density.fraction=30%"],
            "policy.1.density.fraction: Input should be a valid number, got '30%'",
        ),
        (["policy.1.density.count=012"], "policy.1.density.count: Input should be a valid integer, got '012'"),
        (["policy.01.density.count=5"], "there is no '01' in the job at that place"),
        (["policy.².density.count=5"], "there is no '²' in the job at that place"),
        (["name=!!set {a}"], "a value must have no tag, got !!set"),
    ],
)
def test_changes_are_held_as_strictly(tmp_path: Path, changes: list[str], message: str) -> None:
    with pytest.raises(JobError) as error:
        load_job(written(tmp_path, yaml.safe_dump(image_job())), changes)
    assert message in str(error.value)


def test_a_change_of_what_an_alias_brought_changes_one_place(tmp_path: Path) -> None:
    text = yaml.safe_dump(image_job(policy=[])).replace("policy: []", "policy: [random: &x {count: 5}, random: *x]")
    job = load_job(written(tmp_path, text), ["policy.0.random.count=9"])
    assert [cut.amount().count for cut in job.policy] == [9, 5]  # type: ignore[attr-defined]


def test_a_job_file_is_utf_8(tmp_path: Path) -> None:
    text = yaml.safe_dump(image_job())
    (tmp_path / "bom.yaml").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert load_job(str(tmp_path / "bom.yaml")) == parse(image_job())
    for data in (text.encode("utf-16"), text.encode("utf-16-le"), (text + "# café").encode("latin-1")):
        (tmp_path / "other.yaml").write_bytes(data)
        with pytest.raises(JobError, match=r"other.yaml must be UTF-8, but .*; save it as UTF-8"):
            load_job(str(tmp_path / "other.yaml"))
