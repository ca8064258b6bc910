"""Bad and odd inputs, each generated here with what must become of it: read right, one reject of its kind, or failed.

The broken part of a shard lies between a sound sample `first` and a sound sample `last` wherever the shard can hold
them, so that what is intact is seen to be read.
"""

from tests.corpus.case import BAD, Case
from tests.corpus.contents import contents, images
from tests.corpus.links import links
from tests.corpus.rows import rows
from tests.corpus.structures import structures
from tests.corpus.training import training
from tests.corpus.vectors import WITNESS, vectors

__all__ = ["BAD", "CORPUS", "WITNESS", "Case"]

CORPUS: tuple[Case, ...] = (*structures(), *contents(), *images(), *training(), *rows(), *links(), *vectors())
"""Every case; their names differ."""
