"""Tables of links and captions: rows without one of the two, texts that are not UTF-8, names of columns in use."""

import pyarrow as pa

from tests.corpus.case import BAD, Case
from tests.corpus.rows import parquet

UIDS = [f"{n:032x}" for n in range(1, 4)]


def links() -> list[Case]:
    """The cases: each has a sound row before and after the one in question."""
    urls, captions = [f"https://example.org/{n}.jpg" for n in range(3)], ["a cat", "a dog", "a bird"]

    def one(name: str, *outcomes: str, names: tuple[str, str] = ("url", "caption"), **columns: object) -> Case:
        table = {"uid": UIDS, names[0]: urls, names[1]: captions, **columns}
        return Case(f"links: {name}", "links", {"p.parquet": parquet(pa.table(table))}, outcomes)

    def bad(kind: str) -> tuple[str, ...]:
        return (UIDS[0], f"{BAD}{kind}", UIDS[2])

    return [
        one("sound", *UIDS),
        one("LAION's names", *UIDS, names=("URL", "TEXT")),
        one("large texts", *UIDS, url=pa.array(urls, pa.large_string()), caption=pa.array(captions, pa.string_view())),
        one("a null link", *bad("no-url"), url=[urls[0], None, urls[2]]),
        one("an empty link", *bad("no-url"), url=[urls[0], "", urls[2]]),
        one("a link that is not UTF-8", *bad("no-url"), url=pa.array([b"https://a", b"https://\xff", b"https://c"])),
        one("a null caption", *bad("no-caption"), caption=[captions[0], None, captions[2]]),
        one(
            "a caption that is not UTF-8",
            *bad("caption-not-utf8"),
            caption=pa.array([b"a cat", b"\xff\xfe", b"a bird"]),
        ),
    ]
