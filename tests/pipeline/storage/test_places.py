"""Names in a job file are found from the folder of that file, all others from the working directory."""

import copy
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from winnow.pipeline import storage
from winnow.pipeline.errors import JobError
from winnow.pipeline.storage.places import FromFile, from_file, placed, rooted, rooted_pattern


@pytest.fixture(params=["plain", "w[1] *", "a{b,c}", "a\\b ?"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with two shards and a job file in it, of any name."""
    made = tmp_path / request.param / "here"
    (made / "data").mkdir(parents=True)
    for name in ("data/0.tar", "data/1.tar", "list.txt", "job.yaml"):
        (made / name).write_text(f"{made}/data/1.tar")
    return made


def test_a_pattern_of_a_job_file_means_the_same_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    both = [f"{folder}/data/0.tar", f"{folder}/data/1.tar"]
    ways = ["data/*.tar", "data", "./data/", "../here/data", "data/{0,1}.tar", "{data/0,data/1}.tar"]
    texts = from_file([*ways, "list.txt"], "job.yaml")
    plain = [rooted_pattern(way) for way in ways]
    monkeypatch.chdir("/")
    *found, listed = [storage.expand([rooted_pattern(text)], ".tar") for text in texts]
    assert found == [both] * len(ways)
    assert listed == both[1:]
    assert [storage.expand([pattern], ".tar") for pattern in plain] == found
    assert [rooted_pattern(pattern) for pattern in plain] == plain


def test_one_file_of_a_job_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = from_file({"a": ["list.txt"]}, f"{folder}/job.yaml")["a"][0]
    for same in (text, copy.deepcopy(text), pickle.loads(pickle.dumps(text))):  # noqa: S301
        assert rooted(same) == f"{folder}/list.txt"
    assert type(rooted(text)) is str
    monkeypatch.chdir(folder / "data")
    assert rooted("list.txt") == f"{folder}/data/list.txt"
    assert rooted(FromFile("local-dir:net", "/jobs"), "local-dir:") == "local-dir:/jobs/net"


@pytest.mark.parametrize("name", ["", "/a/b.tar", "s3://bucket/a", "https://host/a.tar"])
def test_a_name_that_is_absolute_stays(name: str) -> None:
    assert rooted(FromFile(name, "/jobs")) == name
    assert rooted_pattern(FromFile(name, "/jobs")) == name


def test_a_job_file_in_an_object_store() -> None:
    [text, above] = from_file(["data/*.tar", "../x/y.json"], "s3://bucket/jobs/a/job.yaml")
    assert rooted_pattern(text) == "s3://bucket/jobs/a/data/*.tar"
    assert rooted(above) == "s3://bucket/jobs/x/y.json"


def test_a_job_from_a_pipe_lies_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert rooted(from_file("a.tar", "/dev/null")) == f"{tmp_path}/a.tar"


def test_alternatives_are_absolute_or_relative() -> None:
    assert rooted_pattern(FromFile("{/a,s3://b}/*.tar", "/jobs")) == "{/a,s3://b}/*.tar"
    assert rooted_pattern(FromFile("{a,b}/*.tar", "/jobs")) == "/jobs/{a,b}/*.tar"
    with pytest.raises(JobError, match=r"must all be absolute or all be relative, but \{/a,b\}/x has both; write two"):
        rooted_pattern(FromFile("{/a,b}/x", "/jobs"))


@dataclass(frozen=True)
class _Inner:
    source: storage.File
    name: str = ""


@dataclass(frozen=True)
class _Options:
    files: storage.Files
    known: int | _Inner | None = None
    several: tuple[_Inner, ...] = ()
    later: Annotated[dict[str, Any], storage.OptionsOf({"inner": _Inner})] | None = None
    more: dict[str, _Inner] | None = None


def test_the_type_of_an_option_says_whether_it_names_a_file() -> None:
    inner = {"source": "a", "name": "a"}
    values = {"files": ["*.npy", "b"], "known": inner, "several": [inner], "later": {"inner": inner}, "unknown": "a"}
    values["more"] = {"a": inner}
    found = placed(_Options, from_file(values, str(Path(__file__))))
    here = str(Path(__file__).parent)
    there = {"source": f"{here}/a", "name": "a"}
    assert found["files"] == [f"{here}/*.npy", f"{here}/b"]
    assert [found["known"], *found["several"], found["later"]["inner"], found["more"]["a"]] == [there] * 4
    assert found["unknown"] == "a"
    assert placed(_Options, {"files": 3, "known": 5, "several": "x", "later": None}) == {
        "files": 3,
        "known": 5,
        "several": "x",
        "later": None,
    }
    with pytest.raises(JobError, match="a URL must carry no password"):
        placed(_Inner, {"source": "s3://user:word@bucket/a"})


def test_a_list_of_shards_names_files_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/shards.txt").write_text("0.tar\n../1.tar\ns3://bucket/2.tar\n/3.tar\n")
    monkeypatch.chdir("/")
    shards = storage.expand([f"{tmp_path}/lists/shards.txt"], ".tar")
    assert shards == [f"{tmp_path}/lists/0.tar", f"{tmp_path}/1.tar", "s3://bucket/2.tar", "/3.tar"]
