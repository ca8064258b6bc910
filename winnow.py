"""winnow as one package: in a checkout its floors `pipeline`, `stages` and `jobs` lie beside this file."""

from pathlib import Path

__path__ = [str(Path(__file__).parent)]
