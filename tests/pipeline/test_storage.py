"""Files by URL on a disk, in memory and on a real S3 server: whole or not at all, and listed as they are."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from tests.faults import KINDS, FaultyProxy
from winnow.pipeline import storage
from winnow.pipeline.errors import PoolError, StorageError

ROOT = Path(__file__).parents[2]
_numbers = itertools.count()


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a folder that nothing is in yet, on each kind of storage."""
    if request.param == "local":
        return str(tmp_path / "folder")
    fresh = f"folder-{next(_numbers)}"
    if request.param == "memory":
        return f"memory://{fresh}"
    return storage.join(request.getfixturevalue("s3_store"), fresh)


def names(folder: str) -> list[str]:
    return [storage.name_of(found.url) for found in storage.listing(folder)]


def interrupted(url: str, error: type[BaseException]) -> None:
    with storage.committing(url) as file:
        file.write(b"half of i")
        raise error("stop")


def test_paths_of_urls():
    assert storage.join("s3://bucket/store/", "a", "b.tar") == "s3://bucket/store/a/b.tar"
    assert storage.name_of("s3://bucket/a/b.tar") == "b.tar"
    assert storage.parent_of("s3://bucket/a/b.tar") == "s3://bucket/a"
    assert [storage.parent_of(url) for url in ("b.tar", "/b.tar", "a/b.tar")] == [".", "/", "a"]
    assert not storage.is_shared("memory://a")
    assert storage.is_shared("/a")
    assert storage.is_shared("s3://a")


def test_what_is_written_is_read(folder):
    url = storage.join(folder, "deep", "file.bin")
    assert not storage.exists(url)
    storage.write_bytes(url, b"one")
    assert storage.exists(url)
    assert storage.exists(storage.join(folder, "deep"))
    assert storage.read_bytes(url) == b"one"
    with storage.open_read(url) as file:
        file.seek(1)
        assert file.read() == b"ne"


def test_an_overwritten_file_is_the_new_one_whole(folder):
    url = storage.join(folder, "file.bin")
    storage.write_bytes(url, b"a long first version")
    storage.write_bytes(url, b"short")
    assert storage.read_bytes(url) == b"short"
    assert names(folder) == ["file.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_write_that_is_interrupted_leaves_nothing(folder, error):
    url = storage.join(folder, "file.bin")
    with pytest.raises(StorageError if error is OSError else error):
        interrupted(url, error)
    assert not storage.exists(url)
    assert names(folder) == []
    if Path(folder).is_dir():
        assert os.listdir(folder) == []


def test_a_write_that_is_interrupted_leaves_the_file_of_before(folder):
    url = storage.join(folder, "file.bin")
    storage.write_bytes(url, b"before")
    with pytest.raises(ValueError, match="stop"):
        interrupted(url, ValueError)
    assert storage.read_bytes(url) == b"before"


def test_nobody_sees_a_file_before_it_is_whole(folder):
    url = storage.join(folder, "file.bin")
    with storage.committing(url) as file:
        file.write(b"x" * 100_000)
        file.flush()
        assert not storage.exists(url)
        assert names(folder) == []
    assert names(folder) == ["file.bin"]


def test_two_writers_of_one_name_do_not_mix(folder):
    url = storage.join(folder, "file.bin")
    with storage.committing(url) as first:
        first.write(b"first ")
        storage.write_bytes(url, b"second")
        first.write(b"first")
    assert storage.read_bytes(url) == b"first first"


def test_a_missing_file_is_named(folder):
    url = storage.join(folder, "none.bin")
    for read in (storage.read_bytes, storage.open_read):
        with pytest.raises(StorageError, match=r"cannot read .*none\.bin: there is no such file"):
            read(url)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    url = str(tmp_path / "file" / "below.bin")
    with pytest.raises(StorageError, match=r"cannot write .*below\.bin: .*; nothing was left"):
        storage.write_bytes(url, b"")


def test_listing_has_files_only_sorted_with_size_and_stamp(folder):
    assert storage.listing(folder) == []
    assert storage.folders(folder) == []
    for name in ("b.tar", "a.tar", "below/c.tar", "under/d.tar", ".hidden"):
        storage.write_bytes(storage.join(folder, name), name.encode())
    found = storage.listing(folder)
    assert [(storage.name_of(i.url), i.size) for i in found] == [("a.tar", 5), ("b.tar", 5)]
    assert all(i.url.startswith(folder) and i.stamp for i in found)
    assert storage.folders(folder) == ["below", "under"]
    assert storage.listing(folder) == found


def test_a_changed_file_has_another_identity(folder):
    url = storage.join(folder, "a.tar")
    storage.write_bytes(url, b"one")
    before = storage.identify([url])
    time.sleep(0.01)
    storage.write_bytes(url, b"two")
    assert storage.identify([url]) != before


def test_identify_keeps_the_order_and_names_what_is_missing(folder):
    urls = [storage.join(folder, name) for name in ("z/1.tar", "a/1.tar", "z/0.tar")]
    for url in urls:
        storage.write_bytes(url, b"tar")
    assert [found.url for found in storage.identify(urls)] == urls
    assert storage.identify([]) == []
    lost = storage.join(folder, "a/2.tar")
    with pytest.raises(PoolError, match=r"must be an existing file, but 1 of 4 are not: .*a/2\.tar"):
        storage.identify([*urls, lost])


@pytest.mark.parametrize(("kind", "root"), [(LocalFileSystem, "{tmp}"), (MemoryFileSystem, "memory://once")])
def test_identify_lists_a_folder_once_however_many_files_it_holds(kind, root, tmp_path, monkeypatch):
    root = root.format(tmp=tmp_path)
    urls = [storage.join(root, part, f"{i}.tar") for part in ("x", "y") for i in range(20)]
    for url in urls:
        storage.write_bytes(url, b"")
    listed = []
    ls = kind.ls
    monkeypatch.setattr(kind, "ls", lambda *given, **more: listed.append(given[1]) or ls(*given, **more))
    storage.identify(urls)
    assert len(listed) == 2


def test_expand_reads_globs_braces_urls_and_lists(folder):
    urls = [storage.join(folder, f"{i:03d}.tar") for i in range(4)]
    for url in urls:
        storage.write_bytes(url, b"")
    storage.write_bytes(storage.join(folder, "other.parquet"), b"")
    shards = storage.join(folder, "list.txt")
    storage.write_bytes(shards, f"# shards\n{urls[3]}\n\n  # none\n {urls[1]} \r\n".encode())
    assert storage.expand([storage.join(folder, "*.tar")]) == urls
    assert storage.expand([storage.join(folder, "{003..001}.tar")]) == urls[:0:-1]
    assert storage.expand([storage.join(folder, "{00[01],003}.tar")]) == [*urls[:2], urls[3]]
    assert storage.expand([shards, urls[0]]) == [urls[3], urls[1], urls[0]]
    assert storage.expand([]) == []


def test_expand_refuses_what_matches_nothing_and_what_comes_twice(folder):
    url = storage.join(folder, "000.tar")
    storage.write_bytes(url, b"")
    with pytest.raises(PoolError, match=r"match at least one file, but nothing matches .*\*\.parquet"):
        storage.expand([storage.join(folder, "*.parquet")])
    with pytest.raises(PoolError, match=r"000\.tar is named more than once"):
        storage.expand([url, storage.join(folder, "*.tar")])
    with pytest.raises(StorageError, match=r"none\.txt: there is no such file"):
        storage.expand([storage.join(folder, "none.txt")])


def test_expand_refuses_a_brace_that_never_closes():
    with pytest.raises(PoolError, match=r"s3://pool/\{000\.\.003\.tar"):
        storage.expand(["s3://pool/{000..003.tar"])


def test_a_repeated_shard_is_found_among_very_many():
    with pytest.raises(PoolError, match=r"00007\.tar"):
        storage.expand(["s3://pool/{00000..99999}.tar", "s3://pool/00007.tar"])


@pytest.mark.parametrize("content", [b"", b"some bytes" * 1000])
def test_a_view_has_the_bytes_and_outlives_its_block_where_sliced(folder, content):
    url = storage.join(folder, "file.bin")
    storage.write_bytes(url, content)
    with storage.local_view(url) as view:
        assert view == content
        assert view.readonly
        part = view[2:6]
    assert bytes(part) == content[2:6]
    with pytest.raises(StorageError, match="no such file"), storage.local_view(url + "x"):
        pass


def test_a_copy_has_the_same_bytes(folder):
    content = os.urandom(5 << 20)
    source, target = storage.join(folder, "a/source.bin"), storage.join(folder, "b/target.bin")
    storage.write_bytes(source, content)
    storage.copy(source, target)
    assert storage.read_bytes(target) == content
    with pytest.raises(StorageError, match="no such file"):
        storage.copy(source + "x", storage.join(folder, "c/target.bin"))
    assert not storage.exists(storage.join(folder, "c/target.bin"))


def test_readers_of_one_file_do_not_share_a_position(folder):
    url = storage.join(folder, "file.bin")
    storage.write_bytes(url, b"0123456789")
    with storage.open_read(url) as one:
        assert one.read(5) == b"01234"
        with storage.open_read(url) as other:
            assert other.read(2) == b"01"
        assert one.read() == b"56789"


def test_a_link_is_what_it_points_to(tmp_path):
    target, link = tmp_path / "cache" / "blob", tmp_path / "pool" / "a.tar"
    storage.write_bytes(str(target), b"one")
    link.parent.mkdir()
    link.symlink_to(target)
    (tmp_path / "pool" / "nowhere.tar").symlink_to(tmp_path / "absent")
    (tmp_path / "pool" / "more").symlink_to(tmp_path / "cache")
    [before] = storage.listing(str(tmp_path / "pool"))
    assert (before.url, before.size) == (str(link), 3)
    assert storage.identify([str(link)]) == [before]
    assert storage.folders(str(tmp_path / "pool")) == ["more"]
    os.utime(target, (1, 1))
    assert storage.listing(str(tmp_path / "pool")) != [before]


@pytest.mark.parametrize("ask", [storage.exists, storage.listing, storage.folders, storage.read_bytes])
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("quux://a/b", "a URL must name a storage that fsspec can open here, got quux://a/b"),
        (
            "s3://key:geheim@bucket/b",
            "a URL must carry no password, because results and logs repeat it, but bucket/b",
        ),
        (
            "s3://key:ge/heim/geheim@bucket/b",
            "a URL must carry no password, because results and logs repeat it, but bucket/b",
        ),
    ],
)
def test_a_url_that_cannot_be_opened_is_said(ask, url, message):
    with pytest.raises(StorageError) as error:
        ask(url)
    assert message in str(error.value)
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize(
    "ask", [storage.exists, storage.listing, storage.folders, lambda url: storage.expand([url + "/*"])]
)
def test_a_back_end_that_refuses_is_a_storage_error(ask, monkeypatch):
    class Refused(Exception):
        """As botocore's, no OSError."""

    def refuse(*_args, **_more):
        raise Refused("no credentials")

    for name in ("exists", "ls", "glob"):
        monkeypatch.setattr(MemoryFileSystem, name, refuse)
    with pytest.raises(StorageError, match=r"cannot list memory://closed.*: no credentials"):
        ask("memory://closed")


def test_a_pool_has_one_name_from_wherever_it_is_listed(tmp_path, monkeypatch):
    storage.write_bytes(str(tmp_path / "a.tar"), b"a")
    (tmp_path / "list.txt").write_text("a.tar\n")
    monkeypatch.chdir(tmp_path)
    ways = ("a.tar", "*.tar", "{a..a}.tar", "./a.tar", "list.txt", str(tmp_path / "a.tar"))
    assert {tuple(storage.expand([way])) for way in ways} == {(str(tmp_path / "a.tar"),)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_fails_once_is_asked_again(kind: str, s3_store: str, faulty: FaultyProxy):
    folder = storage.join(s3_store, f"faulty-{kind}")
    url, content = storage.join(folder, "file.bin"), os.urandom(600_000)
    faulty.spoil_next(kind)
    storage.write_bytes(url, content)
    faulty.spoil_next(kind)
    assert names(folder) == ["file.bin"]
    faulty.spoil_next(kind)
    assert storage.read_bytes(url) == content
    for spoilt in ([kind], [None, kind]):  # the end, which is asked for first; what lies before it
        faulty.spoil_next(*spoilt)
        with storage.open_read(url) as file:
            file.seek(100_000)
            assert file.read(450_000) == content[100_000:550_000]
    assert faulty.injected == {kind: 5}


def test_what_s3_refuses_for_good_is_a_storage_error(s3_store: str, faulty: FaultyProxy, monkeypatch):
    client = {"endpoint_url": faulty.url, "config_kwargs": {"read_timeout": 1, "retries": {"max_attempts": 0}}}
    monkeypatch.setitem(fsspec.config.conf, "s3", client)
    url = storage.join(s3_store, "refused", "file.bin")
    faulty.share = 1.0
    for kind in ("500", "hang-up", "lost"):
        faulty.kinds = (kind,)
        asks = (storage.listing, storage.exists, storage.open_read, storage.read_bytes)
        for ask in (*asks, lambda url: storage.write_bytes(url, b"x")):
            with pytest.raises(StorageError, match=r"cannot (list|read|write) s3://store/refused/file\.bin: ."):
                ask(url)


def test_many_small_files_are_listed_at_once(s3_store: str, faulty: FaultyProxy):
    folder = storage.join(s3_store, "many")
    urls = [storage.join(folder, f"{i:03d}.tar") for i in range(40)]
    for url in urls:
        storage.write_bytes(url, b"tar")
    faulty.requests.clear()
    assert len(storage.identify(urls)) == 40
    assert faulty.requests == {"GET list": 1}


_FULL = """
import resource, signal, sys
from winnow.pipeline import storage
from winnow.pipeline.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    storage.write_bytes(sys.argv[1], bytes(1 << 20))
except StorageError as error:
    print(error)
"""


def test_a_disk_that_is_full_leaves_nothing_and_says_what_to_do(tmp_path):
    """The kernel lets no file grow beyond a limit, and says so as it does of a full disk, by another number."""
    command = [sys.executable, "-c", _FULL, str(tmp_path / "a/file.bin")]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"cannot write {tmp_path}/a/file.bin: [Errno 27] File too large; nothing was left under")
    assert "make room there, or raise the limit, and run the same command again" in said
    assert list((tmp_path / "a").iterdir()) == []


def test_what_killed_writers_left_is_removed_after_a_day(tmp_path):
    name = f".00003.parquet.{'0' * 32}.tmp"
    old, new, other = tmp_path / name, tmp_path / "rejects" / name.replace("3", "4"), tmp_path / ".mine.tmp"
    for path in (old, new, other):
        storage.write_bytes(str(path), b"half")
    for path in (old, other):
        os.utime(path, (time.time() - 90_000,) * 2)
    assert storage.listing(str(tmp_path)) == []
    assert storage.remove_abandoned(str(tmp_path)) == 1
    assert [path.exists() for path in (old, new, other)] == [False, True, True]
    os.utime(new, (time.time() - 90_000,) * 2)
    assert storage.remove_abandoned(str(tmp_path)) == 1
    assert storage.remove_abandoned(str(tmp_path / "absent")) == 0
    assert storage.remove_abandoned("memory://absent") == 0
