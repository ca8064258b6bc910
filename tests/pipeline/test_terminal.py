"""Text on its way to a terminal or a log: nothing ends a command, nothing commands the terminal."""

import subprocess
import sys
from pathlib import Path

import pytest

from winnow.pipeline.terminal import escape_unshown, escaped

ROOT = Path(__file__).parents[2]
_SAY = """
import sys
from winnow.pipeline.terminal import escape_unshown
escape_unshown()
text = "caf\\u00e9 \\u2014 \\u732b \\udce9"
print(text)
print(text, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "café — 猫 \\udce9".encode()),
        ("utf-8:surrogateescape", "café — 猫 \\udce9".encode()),
        ("latin-1", b"caf\xe9 \\u2014 \\u732b \\udce9"),
        ("ascii:strict", b"caf\\xe9 \\u2014 \\u732b \\udce9"),
        ("cp1252", b"caf\xe9 \x97 \\u732b \\udce9"),
    ],
)
def test_what_an_encoding_has_not_is_escaped(encoding: str, shown: bytes):
    environment = {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", _SAY], env=environment, capture_output=True, check=True)
    assert (said.stdout, said.stderr) == (shown + b"\n", shown + b"\n")


def test_a_stream_that_is_closed_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", None)
    escape_unshown()


def test_what_a_terminal_obeys_is_escaped():
    text = "\x1b[31mred\x1b[0m\r\n\u202eevil\ttab \ud83d 猫"
    assert escaped(text) == r"\x1b[31mred\x1b[0m\r\n\u202eevil\ttab \ud83d 猫"
    assert escaped(text, keep="\n") == "\\x1b[31mred\\x1b[0m\\r\n\\u202eevil\\ttab \\ud83d 猫"
