"""Tars by real writers: every sample once, bytes and ranges exact, whatever lies between or is cut off."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.pipeline.errors import JobError, ShardError
from winnow.pipeline.executors.retries import is_lasting
from winnow.pipeline.uid import content_hash
from winnow.stages.pools import webdataset as webdataset_module
from winnow.stages.pools.formats import FORMATS
from winnow.stages.pools.sample import Reject, Sample
from winnow.stages.pools.webdataset import Webdataset

Files = list[tuple[str, bytes]]


def tar_of(files: Files, format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def read(folder: Path, tar: bytes, reader: Webdataset | None = None) -> list[Sample | Reject]:
    path = folder / "00000.tar"
    path.write_bytes(tar)
    return list((reader or Webdataset()).samples(str(path)))


def members_at(tar: bytes, sample: Sample) -> Files:
    """What tarfile finds in the sample's byte ranges when they are put one after another."""
    flat = (sample.offset, sample.size, *sample.extra_ranges)
    ranges = list(zip(flat[0::2], flat[1::2], strict=True))
    cut = b"".join(tar[offset : offset + size] for offset, size in ranges) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(cut)) as copy:
        return [(member.name, copy.extractfile(member).read()) for member in copy]


def pair(key: str, n: int = 0) -> Files:
    return [(f"{key}.jpg", b"\xff\xd8" + bytes([n]) * 700), (f"{key}.txt", f"caption of {key}".encode())]


def kinds(found: list[Sample | Reject]) -> list[str]:
    return [item.kind if isinstance(item, Reject) else item.key for item in found]


def test_a_shard_by_webdatasets_own_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for n in range(3):
            fields = {"uid": f"{n:032x}", "width": 5}
            writer.write({"__key__": f"{n:09d}", "jpg": bytes([n]) * 1000, "txt": f"né {n}", "json": fields})
    found = list(Webdataset().samples(str(path)))
    for n, sample in enumerate(found):
        assert isinstance(sample, Sample)
        assert (sample.position, sample.key, sample.caption) == (n, f"{n:09d}", f"né {n}")
        assert sample.uid == n.to_bytes(16, "big")
        assert sample.image == bytes([n]) * 1000
        assert sample.image_hash == content_hash(bytes([n]) * 1000)
        assert sample.extra_ranges == ()
        assert {name for name, _ in members_at(path.read_bytes(), sample)} == {
            f"{n:09d}.{suffix}" for suffix in ("jpg", "txt", "json")
        }
    assert len(found) == 3


def test_the_uid_is_the_content_hash_where_the_json_has_none(tmp_path: Path) -> None:
    image = b"\xff\xd8" + bytes([1]) * 700
    wanted = content_hash(image, b"caption of a")
    for json_text in (b'{"uid": "12"}', b'{"uid": 7}', b"{", b"[1]", b"\xff", b"[" * 100_000):
        [sample] = read(tmp_path, tar_of([*pair("a", 1), ("a.json", json_text)]))
        assert isinstance(sample, Sample)
        assert sample.uid == wanted
    named = [*pair("a", 1), ("a.json", b'{"uid": "%s"}' % (b"ab" * 16))]
    [sample] = read(tmp_path, tar_of(named), Webdataset(uid="content"))
    assert isinstance(sample, Sample)
    assert sample.uid == wanted


def test_members_apart_come_as_further_ranges(tmp_path: Path) -> None:
    a, b = pair("a", 1), pair("b", 2)
    tar = tar_of([a[1], b[0], ("README", b"no suffix"), a[0], ("a.json", b"{}"), b[1], ("a.cls", b"7")])
    first, second = read(tmp_path, tar)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert (first.key, second.key) == ("a", "b")
    assert len(first.extra_ranges) == 4
    assert members_at(tar, first) == [a[1], a[0], ("a.json", b"{}"), ("a.cls", b"7")]
    assert members_at(tar, second) == b


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("key", ["d/" * 120 + "k", "é" * 90, "short"])
def test_long_names_belong_to_their_samples(tmp_path: Path, format: int, key: str) -> None:
    files = [*pair("first"), *pair(key, 1), *pair("last", 2)]
    tar = tar_of(files, format)
    found = read(tmp_path, tar)
    assert kinds(found) == ["first", key, "last"]
    for n, sample in enumerate(found):
        assert isinstance(sample, Sample)
        assert members_at(tar, sample) == files[2 * n : 2 * n + 2]
        assert sample.extra_ranges == ()


def test_pax_headers_of_the_whole_tar_belong_to_no_sample(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}) as tar:
        for name, content in pair("a"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.pax_headers = {"size": str(len(content)), "mtime": "1.5"}
            tar.addfile(info, io.BytesIO(content))
    [sample] = read(tmp_path, buffer.getvalue())
    assert isinstance(sample, Sample)
    assert sample.offset == 1024
    assert members_at(buffer.getvalue(), sample) == pair("a")


def test_folders_links_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind, name in (
            (tarfile.DIRTYPE, "a.jpg"),
            (tarfile.SYMTYPE, "b.jpg"),
            (tarfile.LNKTYPE, "c.jpg"),
        ):
            entry = tarfile.TarInfo(name)
            entry.type = kind
            entry.linkname = "elsewhere/" * 20  # gets a long-link header of its own
            tar.addfile(entry)
        for name, content in [("x/._a.jpg", b"junk"), *pair("x/a")]:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    assert kinds(read(tmp_path, buffer.getvalue())) == ["x/a"]


def test_each_fault_is_one_reject_with_its_reason(tmp_path: Path) -> None:
    jpg, txt = ("{}.jpg", b"J"), ("{}.txt", b"T")
    faults: dict[str, Files] = {
        "no-image": [("{}.json", b'{"status": "failed_to_download"}')],
        "no-caption": [jpg],
        "caption-not-utf8": [jpg, ("{}.txt", b"\xff\xfe")],
        "duplicate-member": [jpg, txt, ("{}.JPG", b"K")],
    }
    files = [(name.format(kind), content) for kind, parts in faults.items() for name, content in parts]
    found = read(tmp_path, tar_of([*pair("good"), *files, *pair("fine")]))
    assert kinds(found) == ["good", *faults, "fine"]
    assert [item.position for item in found] == list(range(6))
    assert all(item.key == item.kind for item in found if isinstance(item, Reject))
    rejected = found[1]
    assert isinstance(rejected, Reject)
    assert rejected.message == "a sample must have a member of jpg, jpeg, png, webp, but has json"
    assert rejected.offset == 2560


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"{", "json-broken"),
        (b"[1]", "json-broken"),
        (b"\xff", "json-broken"),
        (b"{}", "no-caption"),
        (b'{"c": null}', "no-caption"),
        (b'{"c": 3}', "no-caption"),
        (b'{"c": "\\ud800"}', "caption-not-utf8"),
        (b'{"c": "say"}', "a"),
    ],
)
def test_captions_from_json(tmp_path: Path, text: bytes, kind: str) -> None:
    tar = tar_of([("a.jpg", b"J"), ("a.json", text)])
    assert kinds(read(tmp_path, tar, Webdataset(caption="json:c"))) == [kind]


def test_uids_from_a_json_field(tmp_path: Path) -> None:
    hexes = json.dumps({"sha": "0" * 31 + "a"}).encode()
    tar = tar_of([*pair("a"), ("a.json", hexes), *pair("b"), ("b.json", b"{}"), *pair("c")])
    found = read(tmp_path, tar, Webdataset(uid="json:sha"))
    assert kinds(found) == ["a", "no-uid", "no-uid"]
    assert isinstance(found[0], Sample)
    assert found[0].uid == bytes(15) + b"\x0a"


def test_the_first_named_image_suffix_counts(tmp_path: Path) -> None:
    tar = tar_of([("a.png", b"P"), ("a.JPG", b"J"), ("a.txt", b"T")])
    for order, image in ((("jpg", "png"), b"J"), (("png", "jpg"), b"P")):
        [sample] = read(tmp_path, tar, Webdataset(image=order))
        assert isinstance(sample, Sample)
        assert sample.image == image


def test_an_empty_tar_has_no_samples(tmp_path: Path) -> None:
    assert read(tmp_path, tar_of([])) == []


@pytest.mark.parametrize("junk", [b"", b"x", b"\x1f\x8b" + bytes(range(256)) * 40, tar_of(pair("a"))[:500]])
def test_what_is_no_tar_is_refused(tmp_path: Path, junk: bytes) -> None:
    with pytest.raises(ShardError, match=r"00000\.tar: a webdataset shard must be an uncompressed tar, but") as error:
        read(tmp_path, junk)
    assert is_lasting(error.value) is junk.startswith(b"\x1f\x8b"), "what is only damaged may be whole at the next try"


def test_a_tar_cut_anywhere_keeps_the_samples_before(tmp_path: Path) -> None:
    files = [*pair("a"), *pair("k" * 130, 1), *pair("c", 2)]
    tar = tar_of(files, tarfile.GNU_FORMAT)
    whole = [item for item in read(tmp_path, tar) if isinstance(item, Sample)]
    ends = [sample.offset + sample.size for sample in whole]
    edges = {edge + step for edge in range(512, ends[-1] + 1, 512) for step in (-1, 0, 1, 100)}
    for cut in sorted(edge for edge in edges if 512 <= edge <= ends[-1]):
        found = read(tmp_path, tar[:cut])
        intact = sum(end <= cut for end in ends)
        assert found[:intact] == whole[:intact]
        assert kinds(found[intact:])[-1:] == ["tar-truncated"], cut
        # a sample that lost no more than padding or members nobody asked for may still be read
        assert [item.position for item in found] == list(range(len(found)))
        assert len(found) <= intact + 1, cut
    for cut in (ends[-1] + 1, ends[-1] + 512, len(tar)):
        assert read(tmp_path, tar[:cut]) == whole


def test_a_cut_member_names_its_sample(tmp_path: Path) -> None:
    [first, cut] = read(tmp_path, tar_of([*pair("a"), *pair("b")])[: 2560 + 600])
    assert isinstance(cut, Reject)
    assert (first.key, cut.key, cut.kind, cut.offset) == ("a", "b", "tar-truncated", 2560)
    assert cut.message.startswith("the entry at byte 2560 needs bytes up to 4096 of 3160;")


@pytest.mark.parametrize("hole", [bytes(512), b"\x07" * 512])
def test_a_broken_header_or_hole_costs_its_own_member(tmp_path: Path, hole: bytes) -> None:
    tar = tar_of([*pair("a"), *pair("b"), *pair("c")])
    found = read(tmp_path, tar[:2560] + hole + tar[3072:])
    assert kinds(found) == ["a", "tar-gap", "no-image", "c"]
    gap = found[1]
    assert isinstance(gap, Reject)
    assert (gap.key, gap.offset) == ("", 2560)
    assert gap.message.endswith("; 1536 bytes from 2560 on are passed over, with what they held")


@pytest.mark.parametrize("payload", [b"9999 path=x\n", b"path=x\n", b"8 path x\n", b"0 =\n", b"5 a=b" * 99])
@pytest.mark.parametrize("size", [None, 2 << 20])
def test_a_broken_pax_header_takes_its_member_with_it(tmp_path: Path, payload: bytes, size: int | None) -> None:
    """For the member's own header has its name only in part."""
    extended = tarfile.TarInfo("x")
    extended.type = tarfile.XHDTYPE
    extended.size = size or len(payload)
    padded = payload.ljust(-(-extended.size // 512) * 512, b"\0")
    broken = extended.tobuf(tarfile.USTAR_FORMAT) + padded
    found = read(tmp_path, tar_of(pair("a"))[:2560] + broken + tar_of([*pair("b"), *pair("c")]))
    assert kinds(found) == ["a", "tar-gap", "no-image", "c"]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("key", ["k" * 130, "é"])
def test_a_member_without_its_extended_header_gets_no_other_name(tmp_path: Path, format: int, key: str) -> None:
    tar = tar_of([*pair("a"), *pair(key), *pair("c")], format)
    found = read(tmp_path, tar[:2560] + b"\x07" * 512 + tar[3072:])
    if format == tarfile.GNU_FORMAT and len(key) == 1:  # its name fits, so what is broken is the member's own header
        assert kinds(found) == ["a", "tar-gap", "no-image", "c"]
    else:
        assert kinds(found)[:2] == ["a", "tar-gap"]
        assert kinds(found)[-1] == "c"
        assert {item.key for item in found} <= {"a", "", key, "c"}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 6), st.booleans())
def test_bytes_between_members_cost_no_sample(
    tmp_path_factory: pytest.TempPathFactory, length: int, at: int, zeros: bool
) -> None:
    """Junk of any length before any sample, so that all headers after it lie on odd bytes."""
    parts = [tar_of(pair(key, n))[:2560] for n, key in enumerate("abcdef")]
    junk = (b"\0" if zeros else b"\x07") * length
    found = read(tmp_path_factory.getbasetemp(), b"".join(parts[:at]) + junk + b"".join(parts[at:]) + bytes(1024))
    keys = list("abcdef")
    if at < 6:
        keys.insert(at, "tar-gap")
    elif not zeros:
        keys.append("tar-truncated")
    assert kinds(found) == keys
    for n, sample in enumerate(item for item in found if isinstance(item, Sample)):
        assert (sample.image, sample.caption) == (pair(sample.key, n)[0][1], f"caption of {sample.key}")


@settings(max_examples=60, deadline=None)
@given(st.integers(2560, 2 * 2560 - 1), st.integers(1, 2000))
def test_bytes_that_are_missing_never_mix_two_samples(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int
) -> None:
    """The others are read as they were; whatever is read of what lost bytes has no other sample's header in it."""
    tar = b"".join(tar_of(pair(key, n))[:2560] for n, key in enumerate("abcdef")) + bytes(1024)
    whole = {key: dict(pair(key, n)) for n, key in enumerate("abcdef")}
    found = read(tmp_path_factory.getbasetemp(), tar[:start] + tar[start + length :])
    samples = {item.key: item for item in found if isinstance(item, Sample)}
    assert {"a", "d", "e", "f"} <= set(samples)
    for key in "adef":
        assert samples[key].image == whole[key][f"{key}.jpg"]
    assert all(b"ustar" not in sample.image and "ustar" not in sample.caption for sample in samples.values())


def test_two_tars_one_after_the_other_are_both_read(tmp_path: Path) -> None:
    found = read(tmp_path, tar_of(pair("a")) + tar_of(pair("b")))
    assert kinds(found) == ["a", "tar-gap", "b"]


def test_a_key_that_comes_again_is_another_sample_which_is_refused(tmp_path: Path) -> None:
    again = [("a.jpg", b"other"), ("a.txt", b"other")]
    found = read(tmp_path, tar_of([*pair("a"), *pair("b"), *again, *pair("c")]))
    assert kinds(found) == ["a", "b", "duplicate-key", "c"]
    assert isinstance(found[0], Sample)
    assert found[0].caption == "caption of a"
    assert "came again at byte 5120; the first is read" in getattr(found[2], "message", "")
    assert kinds(read(tmp_path, tar_of([*pair("a"), *again]))) == ["duplicate-member"]


def test_members_too_large_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset_module, "MAX_IMAGE_BYTES", 2000)
    large = [("b.jpg", bytes(2001)), ("b.txt", b"words"), ("c.jpg", b"J"), ("c.txt", b"x" * (2**16 + 1))]
    found = read(tmp_path, tar_of([*pair("a"), *large, ("d.jpg", b"J"), ("d.txt", b"x" * 2**16)]))
    assert kinds(found) == ["a", "image-too-large", "caption-too-large", "d"]
    long = json.dumps({"c": "x" * (2**16 + 1)}).encode()
    tar = tar_of([("a.jpg", b"J"), ("a.json", long)])
    assert kinds(read(tmp_path, tar, Webdataset(caption="json:c"))) == ["caption-too-large"]
    assert kinds(read(tmp_path, tar, Webdataset())) == ["no-caption"]


names = st.sampled_from(["a", "b", "dir/a", "n" * 120, "ü"])
suffixes = st.sampled_from(["jpg", "txt", "json", "PNG", "cls.gz"])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(names, suffixes, st.binary(max_size=1200)), max_size=14, unique_by=lambda m: m[:2]),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_any_interleaving_gives_the_samples_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, str, bytes]], format: int
) -> None:
    files = [(f"{key}.{suffix}", content) for key, suffix, content in members]
    tar = tar_of(files, format)
    found = read(tmp_path_factory.getbasetemp(), tar)
    oracle: dict[str, Files] = {}
    for name, content in files:
        oracle.setdefault(name.split(".")[0], []).append((name, content))
    assert [item.key for item in found] == list(oracle)
    for position, (item, (key, wanted)) in enumerate(zip(found, oracle.items(), strict=True)):
        parts = {name[len(key) + 1 :].lower(): content for name, content in wanted}
        assert item.position == position
        if isinstance(item, Sample):
            assert item.image == parts.get("jpg", parts.get("png"))
            assert item.caption.encode() == parts["txt"]
            assert members_at(tar, item) == wanted
        elif item.kind == "no-image":
            assert not {"jpg", "png"} & set(parts)
        elif item.kind == "no-caption":
            assert "txt" not in parts
        else:
            assert item.kind == "caption-not-utf8"
            with pytest.raises(UnicodeDecodeError):
                parts["txt"].decode()


@pytest.mark.parametrize(
    "options",
    [
        {"image": ()},
        {"caption": ""},
        {"caption": "json:"},
        {"uid": "sha"},
        {"uid": "json:"},
    ],
)
def test_options_that_name_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(JobError, match=r"pool\.\w+ must be"):
        Webdataset(**options)  # type: ignore[arg-type]  # wrong on purpose


def test_every_format_can_travel_to_a_worker() -> None:
    for format in FORMATS.values():
        assert pickle.loads(pickle.dumps(format())) == format()  # noqa: S301  # our own object, as Ray sends it
