"""The pool format `webdataset`: tars as img2dataset writes them."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from winnow.pipeline.errors import DataError, JobError, SampleError
from winnow.pipeline.storage import local_view
from winnow.pipeline.uid import content_hash, named_uid, stated_uid
from winnow.stages.pools import options
from winnow.stages.pools.fields import Values, json_key, transposed
from winnow.stages.pools.reader import Original, Reader
from winnow.stages.pools.sample import (
    BY_CONTENT,
    MAX_CAPTION_BYTES,
    MAX_IMAGE_BYTES,
    MAX_JSON_BYTES,
    Reject,
    Sample,
    check_caption,
)
from winnow.stages.pools.tars import ranges
from winnow.stages.pools.tars.tar_again import samples_at
from winnow.stages.pools.tars.tar_groups import Group, by_dots, dots_hint, grouped, joined_ranges, key_and_suffix
from winnow.stages.pools.tars.tar_members import Damage, Member, list_members
from winnow.stages.preview.head import MOST_TAR_BYTES, TAR_BYTES, Head, tar_head
from winnow.stages.results.tar_shard import TarShard, members_of
from winnow.stages.results.training_members import CAPTION, PICTURES, Entry, decodes, training_key, training_members


@dataclass(frozen=True)
class Webdataset(Reader):
    """A pool of tars in which the members of a sample share a key.

    The key is a member's path up to the first dot of its base name. The rest, in lower case, is its suffix.
    Members without a suffix belong to no sample. A sample's members may lie anywhere in the shard.

    image: suffixes of images. If a sample has several, the first in this list counts.
    caption: the suffix of the caption's member, or `json:FIELD`.
    uid: `auto`: the json's `uid` if it is 32 hex digits or a UUID, otherwise the content hash of image and caption.
        `content`: always that hash. `key` or `json:FIELD`: that value, which may be such a uid, or any text or integer,
        whose hash is the uid (pipeline.uid.named_uid); every sample must have it.
    Raises JobError for options that name nothing.
    """

    image: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    caption: str = "txt"
    uid: str = "auto"
    kind: ClassVar[str] = "webdataset"
    suffix: ClassVar[str] = ".tar"
    mapped: ClassVar[bool] = True
    movable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.image, str) or not self.image or not all(self.image):
            raise JobError(f"pool.image must be a list of suffixes, got {self.image!r}; write [jpg, png]")
        if self.caption in ("", "json:"):
            raise JobError(f"pool.caption must be a suffix or json:FIELD, got {self.caption!r}")
        if self.uid not in ("auto", "content", "key") and not (self.uid.startswith("json:") and self.uid[5:]):
            raise JobError(f"pool.uid must be auto, content, key or json:FIELD, got {self.uid!r}")
        object.__setattr__(self, "image", tuple(suffix.lower() for suffix in self.image))

    def samples(self, url: str) -> Iterator[Sample | Reject]:
        """Every sample of the shard once, in the order of their first members.

        Image bytes are a copy, so the caller may keep them. Damage inside a tar is one reject, `tar-gap`, whatever it
        held, and reading goes on after it. A sample that lost a member there is rejected for the missing member. Damage
        up to the end of the file is one reject, `tar-truncated`, in place of the sample that is cut off.
        Kinds: no-image, no-caption, caption-not-utf8, caption-too-large, image-too-large, json-broken,
        duplicate-member, duplicate-key, no-uid, tar-gap, tar-truncated.
        Raises ShardError if the file is not a tar.
        """
        with local_view(url) as view:
            members, damage = list_members(view, url)
            rest = damage.pop() if damage and damage[-1].rest else None
            groups = grouped(members)
            cut = self._cut(groups, rest)
            samples = [one for group in groups for one in ([group] if group is cut else by_dots(group, self.image))]
            places: list[Group | Damage] = sorted([*samples, *damage], key=lambda place: place.offset)
            for position, place in enumerate(places):
                if isinstance(place, Damage):
                    yield _gap(position, place)
                elif place is cut and rest:
                    yield _truncated(position, place.key, rest)
                else:
                    yield self._read(view, position, place)
            if rest and cut is None:
                yield _truncated(len(places), key_and_suffix(rest.name or "")[0], rest)

    def place_columns(self, there: Collection[str]) -> list[str]:
        """See Reader.place_columns: the place of the sample, and the caption if it is not a member."""
        caption = [] if self.caption == CAPTION else ["caption"]
        plain = ["plain"] if "plain" in there else []  # older files do not have it
        return ["position", "key", *caption, "offset", "size", "extra_ranges", *plain]

    def again(self, url: str, places: pa.Table, gap_bytes: int | None = None) -> Iterator[tuple[str, Sequence[Entry]]]:
        """See Reader.again: reads the byte ranges of the samples, and small gaps between them."""
        for key, blocks, judged in ranges.sample_blocks(self.image, url, places, gap_bytes):
            yield key, members_of(blocks, judged)

    def append(self, writer: TarShard, url: str, places: pa.Table, gap_bytes: int | None = None) -> None:
        """See Reader.append: copies members as they are if none needs another name."""
        ranges.append_samples(writer, self.image, url, places, gap_bytes)

    def images(self, url: str, places: pa.Table) -> Iterator[bytes | None]:
        """See Reader.images: None for places that do not hold a whole sample."""
        for _, members in samples_at(url, places.to_pylist()):
            found = {} if isinstance(members, Exception) else {s.lower(): content for _, s, content in members}
            yield next((found[suffix] for suffix in self.image if suffix in found), None)

    def field_name(self, source: str) -> str:
        """See Reader.field_name: a key of the json."""
        return json_key(source)

    def fields(self, url: str, places: pa.Table, names: Sequence[str]) -> Mapping[str, Values]:
        """See Reader.fields: keys of each sample's json; None without a json, or if it is not an object."""
        return transposed(ranges.described(url, places), names)

    def originals(self, url: str, facts: Sequence[Mapping[str, Any]]) -> Iterator[Original]:
        """See Reader.originals: read with tarfile, as training does; with blocks if no member needs another name."""
        for fact, (blocks, found) in zip(facts, samples_at(url, facts), strict=True):
            if isinstance(found, Exception):
                what = f"{url}, {fact['key']} at byte {fact['offset']} must be as its job wrote it"
                raise DataError(f"{what}, but reading it failed: {type(found).__name__}: {found}") from found
            stored = [(suffix, content) for _, suffix, content in found]
            members = training_members(stored, self.image, None if self.caption == CAPTION else fact["caption"])
            alike = members == stored and all(key == fact["key"] for key, _, _ in found)
            yield Original(members, blocks if alike else b"")

    def uid_again(self, fact: Mapping[str, Any], described: Any, image: bytes) -> bytes | None:
        """See Reader.uid_again: from the key or the json, else the hash of image and caption."""
        if self.uid == "key":
            return named_uid(fact["key"])
        stated = described.get(self._uid_field) if self._uid_field and isinstance(described, dict) else None
        found = stated_uid(stated)
        if found is None and self.uid not in ("auto", "content"):
            return named_uid(stated)
        return found or content_hash(image, fact["caption"].encode())

    def head(self, url: str, rows: int, folder: Path) -> Head:
        """See Reader.head: the first bytes, and more if the first sample is longer."""
        del rows
        most = TAR_BYTES
        while True:
            head = tar_head(url, most, folder)
            with head.telling():
                if head.whole or most >= MOST_TAR_BYTES or any(True for _ in self.head_samples(head)):
                    return head
            most *= 8

    def head_samples(self, head: Head) -> Iterable[Sample | Reject]:
        """See Reader.head_samples: the cut end of a copy is not damage of the shard."""
        for one in self.samples(head.url):
            if head.whole or not (isinstance(one, Reject) and one.kind == "tar-truncated"):
                yield one

    def cut(self, url: str, rows: int, folder: Path) -> Head:
        """See Reader.cut: copies the bytes up to the last sample. The samples in all are estimated by bytes."""
        return ranges.cut_tar(url, islice(self.samples(url), rows), folder)

    def others(self, head: Head, kinds: Collection[str]) -> Iterator[Mapping[str, object]]:
        """See Reader.others: suffixes, and fields of the json, that the first samples have."""
        return options.choices(kinds, *options.in_tar(head.url))

    @property
    def _uid_field(self) -> str:
        """The field of the json with the uid; "" if there is none."""
        return "uid" if self.uid == "auto" else self.uid[5:] if self.uid.startswith("json:") else ""

    def _cut(self, groups: list[Group], rest: Damage | None) -> Group | None:
        """The sample that the damaged end of a tar cuts; None if it cannot be told from the samples seen."""
        if rest is None or not groups:
            return None
        if rest.name is not None:
            key = key_and_suffix(rest.name)[0]
            return next((group for group in reversed(groups) if group.key == key), None)
        last = max(groups, key=lambda group: group.parts[-1][1].start)
        whole = last.suffixes & set(self.image) and self._caption_suffix in last.suffixes
        return None if whole else last

    @property
    def _caption_suffix(self) -> str:
        return "json" if self.caption.startswith("json:") else self.caption.lower()

    def _read(self, view: memoryview, position: int, group: Group) -> Sample | Reject:
        try:
            return self._sample(view, position, group)
        except SampleError as error:
            return Reject(position, group.key, error.kind, str(error), group.offset)

    def _sample(self, view: memoryview, position: int, group: Group) -> Sample:
        parts = dict(group.parts)
        if group.again:
            message = f"a key may occur once in a shard, but came again at byte {group.offset}; the first is read"
            raise SampleError("duplicate-key", message)
        if len(parts) < len(group.parts):
            names = ", ".join(sorted(member.name for _, member in group.parts))
            raise SampleError("duplicate-member", f"a suffix may occur once in a sample, but there are {names}")
        image = next((parts[suffix] for suffix in self.image if suffix in parts), None)
        if image is None:
            asked, found = ", ".join(self.image), ", ".join(sorted(parts))
            hint = dots_hint(parts, self.image, "pool.image: [{}]")
            raise SampleError("no-image", f"a sample must have a member of {asked}, but has {found}{hint}")
        fields = self._json(view, parts.get("json"))
        caption = self._caption(view, parts, fields)
        content = _read(view, image, MAX_IMAGE_BYTES, "image-too-large")
        uid, named = self._uid(fields, group.key)
        (offset, size), *apart = joined_ranges([member for _, member in group.parts])
        return Sample(
            position=position,
            key=group.key,
            uid=uid or content_hash(content, caption.encode()),
            image=content,
            image_hash=content_hash(content),
            caption=caption,
            offset=offset,
            size=size,
            extra_ranges=tuple(number for pair in apart for number in pair),
            named=named,
            plain=self._is_plain(view, group.key, parts),
        )

    def _is_plain(self, view: memoryview, key: str, parts: dict[str, Member]) -> bool:
        """Whether the sample is one picture under a name that training takes, its txt, and at most a valid json."""
        pictures = parts.keys() - {CAPTION, "json"}
        named = len(pictures) == 1 and pictures <= set(PICTURES) and self.caption == CAPTION in parts
        headers = training_key(key) == key and all(member.plain for member in parts.values())
        told = parts.get("json")
        return named and headers and (told is None or decodes("json", bytes(view[told.data : told.data + told.size])))

    def _json(self, view: memoryview, member: Member | None) -> dict[str, Any]:
        needed = self.caption.startswith("json:") or self.uid.startswith("json:")
        if member is None or not (needed or self.uid == "auto"):
            return {}
        try:
            fields = json.loads(_read(view, member, MAX_JSON_BYTES, "json-broken"))
        except (ValueError, RecursionError, SampleError) as error:
            fields = error
        if isinstance(fields, dict):
            return fields
        if needed:
            came = fields if isinstance(fields, Exception) else f"a {type(fields).__name__}"
            raise SampleError("json-broken", f"{member.name} must hold a json object, but: {came}")
        return {}

    def _caption(self, view: memoryview, parts: dict[str, Member], fields: dict[str, Any]) -> str:
        try:
            if self.caption.startswith("json:"):
                caption = fields.get(self.caption[5:])
                if not isinstance(caption, str):
                    came = f"a {type(caption).__name__}" if caption is not None else "none"
                    raise SampleError("no-caption", f"a sample must have a text {self.caption}, but has {came}")
                check_caption(caption.encode())  # json can hold halves of surrogate pairs, which no UTF-8 file can
                return caption
            member = parts.get(self._caption_suffix)
            if member is None:
                found = ", ".join(sorted(parts))
                hint = dots_hint(parts, [self._caption_suffix], "pool.caption: {}")
                raise SampleError("no-caption", f"a sample must have a {self.caption} member, but has {found}{hint}")
            return _read(view, member, MAX_CAPTION_BYTES, "caption-too-large").decode("utf-8")
        except UnicodeError as error:
            raise SampleError("caption-not-utf8", f"a caption must be UTF-8: {error}") from None

    def _uid(self, fields: dict[str, Any], key: str) -> tuple[bytes | None, str]:
        """The pool's own uid, None if the content hash takes its place; and the source of the uid."""
        if self.uid == "content":
            return None, BY_CONTENT
        if self.uid == "key":
            return named_uid(key), "key"
        if self.uid == "auto":
            stated = fields.get("uid")
            found = stated_uid(stated)
            other = "" if found or stated is None else ", where json:uid is other than 32 hex digits"
            return found, f"{BY_CONTENT}{other}" if found is None else "json:uid"
        value = fields.get(self.uid[5:])
        found = named_uid(value)
        if found is None:
            raise SampleError("no-uid", f"{self.uid} must be a text or a whole number, but {value!r:.80} came")
        return found, self.uid


def _read(view: memoryview, member: Member, most: int, kind: str) -> bytes:
    if member.size > most:
        raise SampleError(kind, f"{member.name} must have at most {most} bytes, but has {member.size}")
    return bytes(view[member.data : member.data + member.size])


def _gap(position: int, damage: Damage) -> Reject:
    message = f"{damage.message}; {damage.size} bytes from {damage.offset} on are passed over, with what they held"
    return Reject(position, "", "tar-gap", message, damage.offset)


def _truncated(position: int, key: str, damage: Damage) -> Reject:
    message = f"{damage.message}; the samples before it are kept, what follows in this shard is lost"
    return Reject(position, key, "tar-truncated", message, damage.offset)
