"""Names of files: one spelling for each local path, and no URL with a secret or of several storages."""

from pathlib import Path

import pytest

from winnow.pipeline.errors import JobError, StorageError, WinnowError
from winnow.pipeline.storage.urls import absolute, checked, home, redacted


def test_a_local_path_has_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ways = (
        "a b/[1].tar", "./a b/[1].tar", "x/../a b//[1].tar", "~/a b/[1].tar", f"{tmp_path}/a b/[1].tar",
        f"file://{tmp_path}/a b/[1].tar", f"file:{tmp_path}/a b/[1].tar", f"file://localhost{tmp_path}/a b/[1].tar",
        f"local://{tmp_path}/a b/[1].tar",
    )  # fmt: skip
    assert {absolute(way) for way in ways} == {f"{tmp_path}/a b/[1].tar"}
    assert absolute("./~a.tar") == f"{tmp_path}/~a.tar"
    assert absolute("a::b.tar") == f"{tmp_path}/a::b.tar"
    assert home("~") == str(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "s3://b/a b%20c.tar",
        "hf://datasets/o/n@main/x.parquet",
        "http://[::1]:80/x",
        "http://h:80/x.tar?download=true&id=7",
    ],
)
def test_other_urls_stay_as_they_are(url: str):
    assert absolute(url) == url


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("simplecache::s3://b/x.tar", StorageError, "goes through simplecache; a path, file://, s3://, gs://, az://, hf://"),
        ("filecache::file:///x", StorageError, "https:// will do: give file:///x itself"),
        ("blockcache::/x", StorageError, "give /x itself"),
        ("simplecache::zip://*.tar::s3://b/x.zip", StorageError, "goes through simplecache"),
        ("zip://x.tar::/x.zip", StorageError, "goes through zip; "),
        ("zip:///x.zip", StorageError, "unpack or copy the files to one of these"),
        ("tar://a.tar::s3://b/x.tar", StorageError, "goes through tar"),
        ("github://org:repo@main/x.tar", StorageError, "goes through github"),
        ("s3://b/a::b.tar", StorageError, "s3://b/a::b.tar has ::, which chains storages"),
        ("s3://key:geheim@b/x", StorageError, "no password, because results and logs repeat it, but b/x"),
        ("simplecache::s3://key:geheim@b/x", StorageError, "goes through simplecache"),
        ("https://user:geheim@h/x", StorageError, "a URL must carry no password"),
        ("https://h/x.tar?sig=geheim", StorageError, "but https://h/x.tar has sig=…; give an s3://"),
        ("https://h/x?a=1&X-Amz-Signature=geheim", StorageError, "but https://h/x has X-Amz-Signature=…"),
        ("https://h/x?access_token=geheim", StorageError, "has access_token=…"),
        ("https://h/x?Key-Pair-Id=geheim", StorageError, "or download it"),
        ("file://host/a", StorageError, "must have an absolute path, got file://host/a"),
        ("file:///a%20b", StorageError, "a file:// URL must have no %XX escapes, got file:///a%20b"),
        ("/a/\udce9.tar", StorageError, r"a path must be UTF-8, because results name it, but '/a/\udce9.tar' is not"),
        ("~no-such-user/x", JobError, "but ~no-such-user has none, got ~no-such-user/x; write ./~no"),
    ],
)  # fmt: skip
def test_what_names_no_file_of_one_storage_is_refused(url: str, error: type[WinnowError], message: str):
    with pytest.raises(error) as raised:
        absolute(url)
    assert message in str(raised.value)
    assert "geheim" not in str(raised.value)


def test_people_are_shown_no_query():
    assert redacted("https://h/x.tar?id=7") == "https://h/x.tar"
    assert redacted("s3://b/what?.tar") == "s3://b/what?.tar"
    checked("https://h/x.tar?id=7")
