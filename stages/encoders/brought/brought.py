"""The encoder `brought`: its vectors were made by another program, and are joined to the samples; no model runs."""

import json
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from winnow.pipeline import storage
from winnow.pipeline.artifact import Artifact
from winnow.pipeline.errors import JobError, PoolError
from winnow.pipeline.fingerprint import fingerprint
from winnow.pipeline.stage import Run
from winnow.stages.cuts.contract.findings import Findings
from winnow.stages.cuts.contract.finished import Readable
from winnow.stages.encoders.brought.checked import check_vectors
from winnow.stages.encoders.brought.joined import JoinedVectors
from winnow.stages.encoders.brought.vector_parts import VectorFiles
from winnow.stages.encoders.encoder import Encoder
from winnow.stages.pools.formats import FORMATS
from winnow.stages.pools.pool import Pool
from winnow.stages.pools.reader import TABLE, Reader
from winnow.stages.pools.sample_names import Names

Source = Annotated[dict[str, Any], storage.OptionsOf({"shards": storage.Files})]
"""The type of an option that is a pool: shards, format, and the options of the format."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", populate_by_name=True))
class Brought(Encoder):
    """Vectors of a pool of vectors, such as the output of clip-retrieval, beside the samples that they belong to.

    from: that pool, whose shards are parquet files, with one encoder. uid: the column of uids: 32 hex digits, UUIDs or
    16 bytes, or values of the column that pool.uid names. key: the column of keys, in place of uid; shard: the column
    of their shards, if keys repeat. url: the column of links, in place of both. Each name must occur once.
    """

    source: Source = Field(alias="from")
    uid: str = "uid"
    key: str | None = None
    shard: str | None = None
    url: str | None = None
    kind: ClassVar[str] = "brought"
    named_by: ClassVar[str] = "from"
    has_model: ClassVar[bool] = False
    pools: ClassVar[tuple[str, ...]] = ("from",)

    def __post_init__(self) -> None:
        if self.shard is not None and self.key is None:
            raise JobError(f"shard needs key, got shard = {self.shard} without key; name the column of keys too")
        given = {name: getattr(self, name) for name in ("key", "url") if getattr(self, name) is not None}
        if self.uid != "uid":
            given["uid"] = self.uid
        if len(given) > 1:
            names = ", ".join(f"{name} = {column}" for name, column in given.items())
            raise JobError(f"samples are named by one of uid, key and url, got {names}; give one of them")
        reader = self.pool.reader
        if reader.has_images or reader.suffix != TABLE:
            raise JobError(f"from must be a pool of vectors beside parquet files, but format {reader.kind} is not")
        if len(reader.encoders()) != 1:
            raise JobError(
                f"from must have the vectors of one encoder, but it has {', '.join(reader.encoders())}; name one of "
                f"them under `use`, and give each an entry of its own"
            )

    @property
    def pool(self) -> Pool:
        """The pool of vectors."""
        options = {name: value for name, value in self.source.items() if name not in ("shards", "format", "fields")}
        # through json, as the job file reads them, because a list there is a tuple here
        reader = TypeAdapter(FORMATS[self.source["format"]]).validate_json(json.dumps(options), strict=True)
        return Pool(tuple(self.source["shards"]), reader)

    @property
    def has_text(self) -> bool:  # type: ignore[override]  # it follows from the options
        """Whether the files have vectors of captions too."""
        return self.pool.reader.has_text

    def check(self) -> str:
        """See Encoder.check; the stage looks at the files."""
        return ""

    def joined(self, samples: Artifact, reader: Reader, called: str) -> JoinedVectors:
        """See Encoder.joined. Raises PoolError if files are missing."""
        names = Names(self.uid, getattr(reader, "uid", "auto") != "auto", self.key, self.shard, self.url)
        files = VectorFiles(self.pool.identities(), self.pool.reader)
        return JoinedVectors(samples, files, names, reader, called)

    def check_joined(self, made: Artifact, pool: Readable, reader: Reader, run: Run) -> Findings | None:
        """See Encoder.check_joined: those of a sample of rows are joined and compared again."""
        config: Any = (made.done() or {}).get("config", {})
        try:
            stage = self.joined(pool.samples, reader, "")
        except PoolError:
            stage = None
        if stage is None or fingerprint(stage.files, 32) != config.get("files"):
            return Findings(notes=(f"{made.name}: the files that its vectors came from are not what they were",))
        return check_vectors(stage, made, pool, run)
