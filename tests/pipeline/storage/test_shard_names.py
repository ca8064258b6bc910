"""What a pool names: folders, patterns, lists and plain names, each as what it is, on a disk, in memory and on S3."""

import itertools
import os
from pathlib import Path

import pytest

from winnow.pipeline import storage
from winnow.pipeline.errors import PoolError, StorageError

_numbers = itertools.count()


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a folder that nothing is in yet, on each kind of storage."""
    if request.param == "local":
        return str(tmp_path / "folder")
    fresh = f"shard-names-{next(_numbers)}"
    return f"memory://{fresh}" if request.param == "memory" else f"{request.getfixturevalue('s3_store')}/{fresh}"


def filled(folder: str, *names: str) -> str:
    for name in names:
        storage.write_bytes(f"{folder}/{name}", name.encode())
    return folder


def shards(*patterns: str, suffix: str | None = ".tar", below: str = "") -> list[str]:
    return [url.removeprefix(below + "/") for url in storage.expand(patterns, suffix)]


def refused(*patterns: str, suffix: str | None = ".tar") -> str:
    with pytest.raises(PoolError) as error:
        storage.identify(storage.expand(patterns, suffix))
    return str(error.value)


def test_hidden_names_are_no_shards(folder: str):
    filled(folder, "0.tar", "1.tar", "_SUCCESS", ".0.tar.crc", "_meta.tar", "_temporary/2.tar", "part=1/3.tar")
    assert shards(f"{folder}/*.tar", below=folder) == ["0.tar", "1.tar"]
    assert shards(f"{folder}/**/*.tar", below=folder) == ["0.tar", "1.tar", "part=1/3.tar"]
    assert shards(f"{folder}/_*.tar", below=folder) == ["_meta.tar"]
    assert shards(f"{folder}/.*", suffix=None, below=folder) == [".0.tar.crc"]
    assert shards(f"{folder}/_temporary/*", below=folder) == ["_temporary/2.tar"]
    assert list(storage.present([f"{folder}/_meta.tar", f"{folder}/no.tar", folder])) == [f"{folder}/_meta.tar"]
    assert [file.size for file in storage.identify([f"{folder}/_meta.tar", f"{folder}/.0.tar.crc"])] == [9, 10]


def test_only_hidden_names_are_said(folder: str):
    filled(folder, "_SUCCESS", ".a.crc")
    said = refused(f"{folder}/*")
    assert f"nothing matches {folder}/* except 2 hidden names, such as {folder}/.a.crc; to match them" in said
    assert "holds no visible file" in refused(f"{folder}/")


def test_a_folder_stands_for_the_shards_in_it(folder: str):
    filled(folder, "00001.tar", "00000.tar", "00000.parquet", "00000_stats.json", "_SUCCESS", "_old/00002.tar")
    for way in (folder, f"{folder}/"):
        assert shards(way, below=folder) == ["00000.tar", "00001.tar"]
        assert shards(way, suffix=".parquet", below=folder) == ["00000.parquet"]


def test_shards_below_a_folder_are_said(folder: str):
    filled(folder, "0.tar", "more/1.tar")
    said = refused(folder)
    assert f"must hold its shards directly, but 1 of 2 .tar files in {folder} are in subfolders" in said
    assert f"such as more/1.tar; write {folder}/**/*.tar for all of them, or {folder}/*.tar for those" in said


@pytest.mark.parametrize(
    ("names", "suffix", "message"),
    [
        (("a.parquet", "b.parquet"), ".tar", "holds 2 of .parquet; set pool.format to what the files are: web"),
        (("a.tar",), ".parquet", "holds 1 of .tar; set pool.format to what"),
        (("data-0-of-1.arrow", "state.json"), ".parquet", "save_to_disk wrote this dataset in another format: write"),
        (("0/1.jpg", "0/1.txt"), ".tar", "pack loose pictures with their captions into tars (tar --sort=name"),
        (("0.tar.gz",), ".tar", "holds 1 of .gz; name the shards by a pattern"),
    ],
)  # fmt: skip
def test_a_folder_of_other_things_is_said(folder: str, names: tuple[str, ...], suffix: str, message: str):
    said = refused(filled(folder, *names) + "/", suffix=suffix)
    assert f"must hold files that end in {suffix}, but" in said
    assert message in said


def test_a_pattern_of_two_kinds_is_said(folder: str):
    filled(folder, "0.tar", "0.parquet", "0_stats.json")
    said = refused(f"{folder}/*")
    assert f"matches 1 .tar files and 2 others, such as {folder}/0.parquet; end the pattern in .tar" in said
    assert shards(f"{folder}/*.json", below=folder) == ["0_stats.json"]  # whoever names it means it


def test_a_folder_that_a_pattern_matches_is_said(folder: str):
    filled(folder, "0.tar", "out.tar/part-0.tar")
    said = refused(f"{folder}/*.tar")
    assert f"matches 1 files and 1 folders, such as {folder}/out.tar; write {folder}/*.tar/*.tar for the" in said
    assert shards(f"{folder}/**", below=folder) == ["0.tar", "out.tar/part-0.tar"]
    assert f"1 of 1 are not: {folder}/out.tar (a folder)" in refused(f"{folder}/out.tar", suffix=None)


def test_names_of_any_sign_are_named(folder: str):
    names = ["a b.tar", "a#b%20.tar", "{1}.tar", "é猫.tar", "+=&.tar"]
    filled(folder, *names, "w[1]/a[1].tar")
    for name in names:
        assert shards(f"{folder}/{name}", below=folder) == [name]
    assert sorted(shards(f"{folder}/*.tar", below=folder)) == sorted(names)
    assert len(storage.identify(storage.expand([f"{folder}/*.tar", f"{folder}/w[[]1]/*.tar"]))) == len(names) + 1
    said = refused(f"{folder}/w[[]1]/a[1].tar")
    assert "nothing matches" in said
    storage.write_bytes(f"{folder}/a[1].tar", b"")
    said = refused(f"{folder}/a[1].tar")
    assert f"although a file has this name, because [, * and ? are wildcards; write {folder}/a[[]1].tar" in said
    assert shards(f"{folder}/a[[]1].tar", below=folder) == ["a[1].tar"]
    storage.write_bytes(f"{folder}/list.txt", f"{folder}/a[1].tar\n".encode())
    assert shards(f"{folder}/list.txt", below=folder) == ["a[1].tar"]


def test_lists_of_shards_from_any_editor(folder: str):
    urls = [f"{folder}/a b.tar", f"{folder}/b.tar"]
    url = f"{folder}/list.txt"
    for text in ("\ufeff{}\r\n{}\r\n", "{} \t\r\n\r\n  # none\r\n {}", "{}\r{}\r", "# é\n\ufeff{}\n\ufeff{}"):
        storage.write_bytes(url, text.format(*urls).encode())
        assert storage.expand([url]) == urls
    for data in ("\n".join(urls).encode("utf-16"), "\n".join(urls).encode("utf-16-le"), "# é".encode("latin-1")):
        storage.write_bytes(url, data)
        with pytest.raises(PoolError, match=r"list\.txt must be UTF-8, but .*; save it as UTF-8"):
            storage.expand([url])
    storage.write_bytes(f"{folder}/1.txt", b"s3://a/1.tar")
    storage.write_bytes(f"{folder}/2.txt", b"s3://a/2.tar")
    assert storage.expand([f"{folder}/{{2,1}}.txt"]) == ["s3://a/2.tar", "s3://a/1.tar"]
    assert storage.expand([f"{folder}/?.txt"]) == ["s3://a/1.tar", "s3://a/2.tar"]


def test_a_working_folder_may_be_called_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = filled(str(tmp_path / "w[1] *"), "0.tar")
    monkeypatch.chdir(here)
    assert storage.expand(["*.tar"]) == [f"{here}/0.tar"]
    assert storage.expand(["."], ".tar") == [f"{here}/0.tar"]


def test_links_and_pipes_are_told_as_what_they_are(tmp_path: Path):
    (tmp_path / "dead.tar").symlink_to("/nowhere/0.tar")
    os.mkfifo(tmp_path / "pipe.tar")
    for way in (f"{tmp_path}/dead.tar", f"{tmp_path}/d*.tar"):
        assert f"{tmp_path}/dead.tar (a link to /nowhere/0.tar, which does not exist)" in refused(way)
    assert f"{tmp_path}/pipe.tar (neither a file nor a folder)" in refused(f"{tmp_path}/pipe.tar")
    assert f"0.tar (there is no folder {tmp_path}/none)" in refused(f"{tmp_path}/none/0.tar")
    assert f"nothing matches {tmp_path}/none/*.tar; there is no folder {tmp_path}/none" in refused(
        f"{tmp_path}/none/*.tar"
    )


def test_one_file_by_two_names_is_refused(tmp_path: Path):
    url = f"{filled(str(tmp_path), '0.tar')}/0.tar"
    (tmp_path / "link.tar").symlink_to(url)
    os.link(url, tmp_path / "hard.tar")
    storage.write_bytes(f"{tmp_path}/other.tar", b"0.tar")
    for name in ("link.tar", "hard.tar"):
        with pytest.raises(PoolError, match=rf"once, but .*0\.tar and .*{name} are the same file; leave one out"):
            storage.check_distinct(storage.identify([url, f"{tmp_path}/{name}"]))
    storage.check_distinct(storage.identify([url, f"{tmp_path}/other.tar"]))
    assert "0.tar is named more than once" in refused(url, f"file://{url}")


def test_a_pattern_of_a_url_that_is_refused_is_refused():
    with pytest.raises(StorageError, match="goes through zip"):
        storage.expand(["zip://*.tar::/a.zip"], ".tar")
    with pytest.raises(StorageError, match="must carry no password"):
        storage.expand(["s3://key:geheim@bucket/*.tar"], ".tar")
