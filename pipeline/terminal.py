"""Escapes text for a terminal or a log, so that a caption or a path cannot control it or end a command."""

import io
import sys


def escape_unshown() -> None:
    """Make stdout and stderr escape characters that their encoding lacks, such as ± in ASCII or half a surrogate pair.

    This replaces the stream's own error handler (`PYTHONIOENCODING=latin-1:strict`): a dash in a caption must not end a
    run.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None if the stream is closed
            stream.reconfigure(errors="backslashreplace")


def escaped(text: str, keep: str = "") -> str:
    """The text with control characters, such as escapes and direction marks, written as \\x1b and the like.

    keep: characters that stay, such as the newline in a text of several lines.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
