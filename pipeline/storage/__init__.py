"""Storage by URL (local, memory, s3, gs …): reading, listing, and atomic writing of files and objects.

Import storage functions from here: URLs (urls.py), reading (opening.py), listing (listing.py, tree.py), writing
(writing.py, commits.py), removing (removing.py), temporary folders (scratch.py) and the shards of a pool
(shard_names.py). Every write goes through `committing`, which makes a file appear under its final name whole or not at
all. fsspec's back ends take credentials from the environment; no URL, log or artifact holds them.
"""

from winnow.pipeline.storage.backends import is_absence
from winnow.pipeline.storage.commits import check_commits
from winnow.pipeline.storage.listing import (
    Identity,
    check_distinct,
    exists,
    folders,
    identify,
    identity_of,
    listing,
    present,
)
from winnow.pipeline.storage.opening import (
    local_view,
    open_exact,
    open_read,
    read_bytes,
    read_if_there,
    read_range,
    read_text,
)
from winnow.pipeline.storage.places import File, FileName, Files, OptionsOf, from_file, placed, rooted, rooted_pattern
from winnow.pipeline.storage.removing import remove, remove_folder
from winnow.pipeline.storage.scratch import scratch_folder
from winnow.pipeline.storage.shard_names import expand
from winnow.pipeline.storage.tree import Found, tree
from winnow.pipeline.storage.urls import absolute, home, is_shared, join, name_of, parent_of, redacted
from winnow.pipeline.storage.writing import (
    committed_bytes,
    committing,
    copy,
    local_path,
    remove_abandoned,
    remove_abandoned_folders,
    write_bytes,
)

__all__ = [
    "File",
    "FileName",
    "Files",
    "Found",
    "Identity",
    "OptionsOf",
    "absolute",
    "check_commits",
    "check_distinct",
    "committed_bytes",
    "committing",
    "copy",
    "exists",
    "expand",
    "folders",
    "from_file",
    "home",
    "identify",
    "identity_of",
    "is_absence",
    "is_shared",
    "join",
    "listing",
    "local_path",
    "local_view",
    "name_of",
    "open_exact",
    "open_read",
    "parent_of",
    "placed",
    "present",
    "read_bytes",
    "read_if_there",
    "read_range",
    "read_text",
    "redacted",
    "remove",
    "remove_abandoned",
    "remove_abandoned_folders",
    "remove_folder",
    "rooted",
    "rooted_pattern",
    "scratch_folder",
    "tree",
    "write_bytes",
]  # fmt: skip
