"""Tars that are sound, with samples that are not: members missing, too many, or not what they should be."""

import json
from typing import Any
from uuid import UUID

import numpy as np

from tests.corpus.case import BAD, Case
from tests.corpus.pictures import PICTURES
from tests.corpus.tars import END, MID, MID_TXT, entries, entry, sound, tar
from tests.pools import jpeg

UID = "0123456789abcdef" * 2


def contents() -> list[Case]:
    """Samples whose members are missing, too many, or not what they should be."""

    def one(name: str, members: dict[str, bytes], *outcomes: str, **more: Any) -> Case:
        middle = entries(*((f"mid.{suffix}", content) for suffix, content in members.items()))
        return tar(name, middle, *(outcomes or ("mid",)), **more)

    def text(name: str, caption: bytes, kind: str | None = None) -> Case:
        read = {} if kind else {"mid": caption.decode()}
        return one(name, {"jpg": jpeg(7), "txt": caption}, f"{BAD}{kind}" if kind else "mid", captions=read)

    def fact(name: str, content: bytes | None, kind: str | None, **options: str) -> Case:
        """All three samples have a json, but the middle one's is this."""
        members = {"jpg": jpeg(7), "txt": b"words", **({} if content is None else {"json": content})}
        middle = entries(*((f"mid.{suffix}", part) for suffix, part in members.items()))
        whole = _told("first", name) + middle + _told("last", name) + END
        outcomes = ("first", f"{BAD}{kind}" if kind else "mid", "last")
        return Case(name, "webdataset", {"shard.tar": whole}, outcomes, None, options)

    uid, again = {"uid": "json:uid"}, sound("again", "a")
    said = json.dumps({"uid": UID, "c": "said"}).encode()
    return [
        one("no image", {"txt": b"words", "json": b"{}"}, f"{BAD}no-image", says={"no-image": "but has json, txt"}),
        one("no caption", {"jpg": jpeg(7), "json": b"{}"}, f"{BAD}no-caption"),
        text("an empty caption", b""),
        text("a caption of one space", b" "),
        text("a caption in Latin-1", "café".encode("latin-1"), "caption-not-utf8"),
        text("a caption in UTF-16", "words".encode("utf-16"), "caption-not-utf8"),
        text("a caption cut in a letter", "猫".encode()[:2], "caption-not-utf8"),
        text("a caption of a megabyte", b"words " * 180_000, "caption-too-large"),
        text("a caption of 64 KiB", b"words " * 10_922),
        text("a word of 60,000 letters", bytes(np.random.default_rng(0).integers(97, 123, 60_000).astype(np.uint8))),
        text("a caption with a mark of its order", b"\xef\xbb\xbfa picture of words"),
        text("a caption with NUL", b"a\0picture\0of words"),
        text("a caption with terminal codes", b"\x1b[2J\r\n\x07words"),
        text("a caption with html", b"<script>alert(1)</script> words"),
        one("two captions", {"jpg": jpeg(7), "txt": b"a", "TXT": b"b"}, f"{BAD}duplicate-member"),
        one("two images", {"png": b"junk", "jpg": jpeg(7), "txt": b"the jpg counts"}),
        tar("the same member twice", MID + MID_TXT, f"{BAD}duplicate-member"),
        tar("a key that comes again", again + MID + again, "again", "mid", f"{BAD}duplicate-key"),
        fact("json is broken, and not asked", b"{", None),
        fact("json is a list, and not asked", b"[1]", None),
        fact("json has no uid, and it is not asked", b"{}", None),
        fact("a uid of another form, and it is not asked", b'{"uid": "12"}', None),
        fact("json is broken", b"{", "json-broken", **uid),
        fact("json is a list", b"[1]", "json-broken", **uid),
        fact("json is no text", b"\xff\xfe\xfd", "json-broken", **uid),
        fact("json of 100,000 brackets", b"[" * 100_000, "json-broken", **uid),
        fact("json with a number of a million digits", b'{"uid": ' + b"9" * 1_000_000 + b"}", "json-broken", **uid),
        fact("json in UTF-16", json.dumps({"uid": UID}).encode("utf-16"), None, **uid),
        fact("no json", None, "no-uid", **uid),
        fact("json without the uid that others have", b"{}", "no-uid", **uid),
        fact("a uid of 31 digits", json.dumps({"uid": UID[:31]}).encode(), None, **uid),
        fact("a uid that is no hex", json.dumps({"uid": "g" * 32}).encode(), None, **uid),
        fact("a uid that is a number", b'{"uid": 12345678901234567890123456789012}', None, **uid),
        fact("a uid that is half a letter", b'{"uid": "\\ud800"}', None, **uid),
        fact("a uid with dashes", json.dumps({"uid": str(UUID(UID))}).encode(), None, **uid),
        fact("a uid that is null", b'{"uid": null}', "no-uid", **uid),
        fact("a uid that is an empty text", b'{"uid": ""}', "no-uid", **uid),
        fact("a uid that is a fraction", b'{"uid": 1.5}', "no-uid", **uid),
        fact("a uid that is true", b'{"uid": true}', "no-uid", **uid),
        fact("a uid in a list", b'{"uid": ["a"]}', "no-uid", **uid),
        one("keys for uids", {"jpg": jpeg(7), "txt": b"words"}, options={"uid": "key"}),
        fact("a uid in capitals", json.dumps({"uid": UID.upper()}).encode(), None, **uid),
        fact("a caption in json", said, None, caption="json:c"),
        fact("json without the caption", b"{}", "no-caption", caption="json:c"),
        fact("a caption in json that is null", b'{"c": null}', "no-caption", caption="json:c"),
        fact("a caption in json that is a number", b'{"c": 3}', "no-caption", caption="json:c"),
        fact("half a letter in json", b'{"c": "\\ud800"}', "caption-not-utf8", caption="json:c"),
        fact("a megabyte in json", json.dumps({"c": "x" * 1_000_000}).encode(), "caption-too-large", caption="json:c"),
    ]


def _told(key: str, case: str) -> bytes:
    """A sound sample with its uid and caption in a json too."""
    number = sum(ord(letter) * (at + 1) for at, letter in enumerate(case + key))
    told = {"uid": f"{number:032x}", "c": f"the {key} sample of {case}"}
    return sound(key, case) + entry(f"{key}.json", json.dumps(told).encode())


def images() -> list[Case]:
    """Each picture of corpus_images under the name mid.jpg."""
    return [
        tar(
            f"image: {name}",
            entries(("mid.jpg", content), ("mid.txt", b"words")),
            f"{BAD}{kind}" if kind else "mid",
        )
        for name, (content, kind, _) in PICTURES.items()
    ]
