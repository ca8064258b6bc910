"""Reads img2dataset's tars into samples; refuses, one reject each, samples without image, caption or end."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import JobError, SampleError
from pipeline.storage import local_view
from pipeline.uid import content_hash, is_uid_hex
from stages.formats.sample import Reject, Sample
from stages.formats.tar_members import Damage, Member, list_members


@dataclass(frozen=True)
class Webdataset:
    """A pool of tars in which the members of a sample share a key.

    The key is a member's path up to the first dot of its base name; the rest, lower-cased, is its suffix.
    Members without a suffix belong to no sample. A sample's members may lie anywhere in the shard.

    image: suffixes of images; of several in one sample the first named here counts.
    caption: the suffix of the caption's member, or `json:FIELD`.
    uid: `auto`, the json's `uid` where it is 32 hex digits, else the content hash of image and caption;
        `content`, always that hash; `json:FIELD`, which every sample must then have.
    Raises JobError for options that name nothing.
    """

    image: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    caption: str = "txt"
    uid: str = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.image, str) or not self.image or not all(self.image):
            raise JobError(f"pool.image must be a list of suffixes, but {self.image!r} came; write [jpg, png]")
        if self.caption in ("", "json:"):
            raise JobError(f"pool.caption must be a suffix or json:FIELD, but {self.caption!r} came")
        if self.uid not in ("auto", "content") and not (self.uid.startswith("json:") and self.uid[5:]):
            raise JobError(f"pool.uid must be auto, content or json:FIELD, but {self.uid!r} came")
        object.__setattr__(self, "image", tuple(suffix.lower() for suffix in self.image))

    def samples(self, url: str) -> Iterator[Sample | Reject]:
        """Every sample of the shard once, in the order of their first members.

        Image bytes are the sample's own copy and may be kept. After damage, what came before is read, and
        one reject of kind `tar-truncated` stands for the sample that is cut; what else was lost nobody knows.
        Kinds: no-image, no-caption, caption-not-utf8, json-broken, duplicate-member, no-uid, tar-truncated.
        Raises ShardError when the file is no tar.
        """
        with local_view(url) as view:
            members, damage = list_members(view, url)
            groups = _group(members)
            cut = self._cut_key(groups, members, damage)
            if cut:
                groups.setdefault(cut, [])
            for position, (key, group) in enumerate(groups.items()):
                if damage and key == cut:
                    yield _truncated(position, key, damage)
                    continue
                try:
                    yield self._sample(view, position, key, group)
                except SampleError as error:
                    yield Reject(position, key, error.kind, str(error), group[0][1].start)
            if damage and not cut:
                yield _truncated(len(groups), "", damage)

    def _cut_key(
        self, groups: dict[str, list[tuple[str, Member]]], members: list[Member], damage: Damage | None
    ) -> str:
        """Key of the sample that damage cut; "" when none of those seen can be told to be it."""
        if damage is None:
            return ""
        if damage.name is not None:
            return _split(damage.name)[0]
        last = next((key for key in (_split(member.name)[0] for member in reversed(members)) if key), "")
        suffixes = {suffix for suffix, _ in groups.get(last, [])}
        whole = suffixes & set(self.image) and self._caption_suffix in suffixes
        return "" if whole else last

    @property
    def _caption_suffix(self) -> str:
        return "json" if self.caption.startswith("json:") else self.caption.lower()

    def _sample(self, view: memoryview, position: int, key: str, group: list[tuple[str, Member]]) -> Sample:
        parts = dict(group)
        if len(parts) < len(group):
            names = ", ".join(sorted(member.name for _, member in group))
            raise SampleError("duplicate-member", f"a suffix may occur once in a sample, but there are {names}")
        image = next((parts[suffix] for suffix in self.image if suffix in parts), None)
        if image is None:
            asked, found = ", ".join(self.image), ", ".join(sorted(parts))
            raise SampleError("no-image", f"a sample must have a member of {asked}, but has {found}")
        fields = self._json(view, parts.get("json"))
        caption = self._caption(view, parts, fields)
        content = _read(view, image)
        (offset, size), *apart = _ranges([member for _, member in group])
        return Sample(
            position=position,
            key=key,
            uid=self._uid(fields) or content_hash(content, caption.encode()),
            image=content,
            image_hash=content_hash(content),
            caption=caption,
            offset=offset,
            size=size,
            extra_ranges=tuple(number for pair in apart for number in pair),
        )

    def _json(self, view: memoryview, member: Member | None) -> dict[str, Any]:
        needed = self.caption.startswith("json:") or self.uid.startswith("json:")
        if member is None or not (needed or self.uid == "auto"):
            return {}
        try:
            fields = json.loads(_read(view, member))
        except (ValueError, RecursionError) as error:
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
                caption.encode()  # json can hold halves of surrogate pairs, which no UTF-8 file can
                return caption
            member = parts.get(self._caption_suffix)
            if member is None:
                found = ", ".join(sorted(parts))
                raise SampleError("no-caption", f"a sample must have a {self.caption} member, but has {found}")
            return _read(view, member).decode("utf-8")
        except UnicodeError as error:
            raise SampleError("caption-not-utf8", f"a caption must be UTF-8: {error}") from None

    def _uid(self, fields: dict[str, Any]) -> bytes | None:
        """The pool's own uid; None where the content hash takes its place."""
        if self.uid == "content":
            return None
        field = "uid" if self.uid == "auto" else self.uid[5:]
        stated = fields.get(field)
        if is_uid_hex(stated):
            return bytes.fromhex(str(stated))
        if self.uid == "auto":
            return None
        raise SampleError("no-uid", f"{self.uid} must be 32 hex digits, but {stated!r:.80} came")


def _split(name: str) -> tuple[str, str]:
    """Key and suffix of a member; ("", "") when it belongs to no sample."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return (folder + slash + stem, suffix.lower()) if stem and dot else ("", "")


def _group(members: list[Member]) -> dict[str, list[tuple[str, Member]]]:
    """Suffix and member of each key, keys and members in tar order."""
    groups: dict[str, list[tuple[str, Member]]] = {}
    for member in members:
        key, suffix = _split(member.name)
        if key:
            groups.setdefault(key, []).append((suffix, member))
    return groups


def _ranges(members: list[Member]) -> list[tuple[int, int]]:
    """Byte ranges (offset, size) that cover exactly these members, given in tar order; neighbours joined."""
    starts = [m.start for i, m in enumerate(members) if i == 0 or members[i - 1].end != m.start]
    ends = [m.end for i, m in enumerate(members) if i + 1 == len(members) or members[i + 1].start != m.end]
    return [(start, end - start) for start, end in zip(starts, ends, strict=True)]


def _read(view: memoryview, member: Member) -> bytes:
    return bytes(view[member.data : member.data + member.size])


def _truncated(position: int, key: str, damage: Damage) -> Reject:
    message = f"{damage.message}; the samples before it are kept, what follows in this shard is lost"
    return Reject(position, key, "tar-truncated", message, damage.offset)
