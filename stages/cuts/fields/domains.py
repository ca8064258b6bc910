"""The registered domain of a link: what somebody registered, such as example.co.uk of http://a.b.example.co.uk/c.jpg.

The list of public suffixes lies in the wheel of publicsuffixlist; nothing is fetched. Only its part of registries
counts, so a.blogspot.com is of blogspot.com.
"""

import re
from functools import cache, lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_HOST = r"^\s*(?:[A-Za-z][A-Za-z0-9+.-]*:)?(?://)?(?:[^/?#@]*@)?(?P<host>\[[^\]/?#]*\]|[^/?#:\s]*)"
_ADDRESS = re.compile(r"[0-9]+(\.[0-9]+){3}|\[.*\]")


def registered_domains(links: pa.ChunkedArray) -> pa.Array:
    """The registered domain of each link, in lower case and punycode: string (n,), null for null and without a host.

    An address of numbers, a name without a dot and a public suffix itself stay as they are. Cost: one look-up for each
    different host.
    """
    hosts = pc.struct_field(pc.extract_regex(links, _HOST), "host")
    hosts = pc.utf8_lower(hosts).combine_chunks() if isinstance(hosts, pa.ChunkedArray) else pc.utf8_lower(hosts)
    known = hosts.dictionary_encode()
    domains = pa.array([_domain(host) for host in known.dictionary.to_pylist()], pa.string())
    return domains.take(known.indices)


@lru_cache(maxsize=1 << 17)  # about 20 MB; hosts come back in the next shard, and a look-up takes some microseconds
def _domain(host: str) -> str | None:
    host = host.strip(".")
    if not host or _ADDRESS.fullmatch(host):
        return host or None
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError:  # no name that a registry has; a group of its own all the same
            return host
    return _suffixes().privatesuffix(host) or host


@cache
def _suffixes() -> Any:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(only_icann=True)
