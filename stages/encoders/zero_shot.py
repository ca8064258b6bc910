"""Unit vectors of images and captions by a CLIP, and open_clip's zero-shot classifier.

Use it to evaluate a model on labelled or captioned sets. Pools go through `Bank`.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import SimpleNamespace
from typing import cast

import numpy as np
import open_clip
import torch

from winnow.pipeline.errors import JobError
from winnow.stages.encoders import clip
from winnow.stages.encoders.clip_model import OpenClip
from winnow.stages.encoders.pixels.decoding import decode

PROMPT_TEMPLATES = {"openai": open_clip.OPENAI_IMAGENET_TEMPLATES, "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES}
"""open_clip's prompt templates for ImageNet: OpenAI's 80, and 7 of them that are nearly as good."""

_DECODERS = 4


def prompt_templates(asked: str | Sequence[str]) -> tuple[str, ...]:
    """Templates with one {} each for the class name: open_clip's `openai` or `simple`, or the given list.

    Raises: JobError for another name, an empty list, or a template without {} or with another brace.
    """
    if isinstance(asked, str) and asked not in PROMPT_TEMPLATES:
        raise JobError(
            f"templates must be {' or '.join(PROMPT_TEMPLATES)}, or a list of texts with {{}}, got {asked!r}"
        )
    found = [template("{}") for template in PROMPT_TEMPLATES[asked]] if isinstance(asked, str) else list(asked)
    # open_clip formats each template with the name, so any other brace would fail or change the text
    if not found or not all(text.count("{}") == text.count("{") == text.count("}") == 1 for text in found):
        raise JobError(f"a template must have {{}} once, for the class name, and no other brace, got {found}")
    return tuple(found)


class Judge:
    """One CLIP in eval mode, float32. device: a name of torch, or `auto` for the GPU if there is one."""

    def __init__(self, encoder: OpenClip, device: str = "auto", batch_size: int = 256) -> None:
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._device = torch.device(chosen)
        self._towers = clip.load_open_clip(encoder, self._device)
        self._batch_size = batch_size

    def images(self, images: Iterable[bytes]) -> Iterator[np.ndarray]:
        """Unit vectors, float32 (b, d), of encoded images in order, batch by batch. Memory: two batches.

        Raises: SampleError for an image that cannot be decoded, because an evaluation set must be complete.
        """
        preprocess = self._towers.preprocess
        left = iter(images)
        with ThreadPoolExecutor(_DECODERS) as decoders:
            while batch := list(islice(left, self._batch_size)):
                pixels = [found for _, [found] in decoders.map(lambda data: decode(data, [preprocess], False), batch)]
                with torch.inference_mode():
                    vectors = self._towers.image(preprocess.tensor(pixels, self._device))  # (b, d)
                yield _unit(vectors)

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 (n, d), of captions."""
        tokenize, text = self._text()
        found = []
        for start in range(0, len(captions), self._batch_size):
            tokens = tokenize(list(captions[start : start + self._batch_size])).to(self._device)
            with torch.inference_mode():
                found.append(_unit(text(tokens)))
        return np.concatenate(found)

    def classifier(self, classnames: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 (d, c): open_clip's mean over templates of each class name's unit vectors."""
        tokenize, text = self._text()
        weights = open_clip.build_zero_shot_classifier(
            SimpleNamespace(encode_text=text), tokenize, list(classnames), list(templates), device=self._device
        )
        return cast(np.ndarray, weights.float().cpu().numpy())

    def _text(self) -> tuple:  # type: ignore[type-arg]  # tokenizer and tower, as Towers has them
        if self._towers.tokenize is None or self._towers.text is None:
            raise JobError("zero-shot needs a model with a text tower, got an image-only one; name a CLIP model")
        return self._towers.tokenize, self._towers.text


def _unit(vectors: torch.Tensor) -> np.ndarray:
    found: np.ndarray = torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()
    return found
