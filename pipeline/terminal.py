"""Escapes text for a terminal or a log, so that a caption or a path cannot control it or end a command."""

import io
import sys


def escape_unshown() -> None:
    """From here on stdout and stderr escape what their encoding has not, such as ± in ASCII or half a surrogate pair.

    What a stream's own handler was (`PYTHONIOENCODING=latin-1:strict`) counts no more: a dash in a caption is no reason
    to end a run.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")


def escaped(text: str, keep: str = "") -> str:
    """The text without what a terminal obeys, such as an escape or a mark that turns its direction: those as \\x1b.

    keep: characters that stay, such as a line's end in a text of several lines.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
