"""Finds the option that would read the samples, when the given one reads hardly any.

It does not guess: it has read the first samples with every option that it names.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, cast

import pyarrow as pa

from winnow.pipeline import storage
from winnow.pipeline.errors import WinnowError
from winnow.pipeline.terminal import escaped
from winnow.stages.pools.options import CAPTIONS, is_picture
from winnow.stages.pools.reader import Reader
from winnow.stages.pools.sample import Sample
from winnow.stages.preview.head import Head

_SAMPLES = 32

Options = Mapping[str, object]


def remedies(reader: Reader, url: str, kinds: Iterable[str]) -> list[str]:
    """Lines that name options of `pool` which read most of the first samples of a shard, best first.

    kinds: of the rejects. Empty if there is none. Cost: what `first_samples` reads of the shard, and no model.
    """
    kinds = set(kinds)
    with storage.scratch_folder() as folder:
        try:
            head = reader.head(url, _SAMPLES, folder)
            found = [line for one in reader.others(head, kinds) if (line := _tried(reader, one, head))]
        except WinnowError:  # the shard itself is broken: no option mends that
            return []
    # two options at once only where one does not do
    single = [line for count, line in found if count == 1]
    return (single or [line for _, line in found])[:2]


def _tried(reader: Reader, options: Options, head: Head) -> tuple[int, str] | None:
    """The number of options and the line that names them; None if most samples are rejected with them too."""
    try:
        other = dataclasses.replace(cast(Any, reader), **options)
        count, captions = _read(other, head)
    except WinnowError:
        return None
    named = str(options.get("caption", "")).removeprefix("json:") in CAPTIONS
    good = [text for text in captions if _reads_as_caption(text, named or "caption" not in options)]
    if 2 * len(good) <= count:
        return None
    said = ", ".join(f"pool.{name}: {_yaml(value)}" for name, value in options.items())
    shown = escaped(good[0][:60])
    return len(options), f"With {said} {len(good)} of the first {count} are read, the first with the caption '{shown}'."


def _read(reader: Reader, head: Head) -> tuple[int, list[str]]:
    """The number of samples, and the captions of the readable ones."""
    if reader.has_images:
        samples = list(islice(reader.samples(head.url), _SAMPLES))
        good = [one for one in samples if isinstance(one, Sample) and is_picture(bytes(one.image))]
        return len(samples), [one.caption for one in good]
    table: pa.Table
    table, rejects = reader.rows(head.url)
    return table.num_rows + len(rejects), table["caption"].to_pylist()


def _reads_as_caption(text: str, named: bool) -> bool:
    """Whether a text looks like a caption; a single word may be an id or a label, so only where the name says so."""
    return any(map(str.isalpha, text)) and (named or len(text.split()) > 1)


def _yaml(value: object) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value)
