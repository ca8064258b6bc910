"""A model judged by itself: its vectors are those that a job embeds, in any batches; templates are open_clip's."""

import numpy as np
import open_clip
import pytest

from tests.pools import jpeg, tiny_clip
from winnow.pipeline.errors import JobError, SampleError
from winnow.stages.encoders import Bank, Encoding, OpenClip
from winnow.stages.encoders.zero_shot import Judge, prompt_templates
from winnow.stages.pools.sample import Sample


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> OpenClip:
    return tiny_clip(tmp_path_factory.mktemp("judged"))


def test_vectors_are_those_that_a_job_embeds(encoder: OpenClip) -> None:
    images, captions = [jpeg(n) for n in range(7)], [f"text {n}" for n in range(7)]
    samples = [Sample(n, f"{n}", bytes(16), images[n], bytes(16), captions[n]) for n in range(7)]
    [batch] = Bank.open({"clip": encoder}, Encoding()).encode(iter(samples))
    for size in (2, 7, 100):
        judge = Judge(encoder, "cpu", size)
        np.testing.assert_allclose(np.concatenate(list(judge.images(images))), batch.vectors["clip.image"], atol=1e-3)
        np.testing.assert_allclose(judge.texts(captions), batch.vectors["clip.text"], atol=1e-3)


def test_a_class_is_the_mean_of_its_prompts(encoder: OpenClip) -> None:
    judge = Judge(encoder, "cpu")
    names, templates = ["dog", "old cat"], ("a {}.", "two {}s", "{}")
    mean = np.stack([judge.texts([text.format(name) for text in templates]).mean(0) for name in names], axis=1)
    np.testing.assert_allclose(judge.classifier(names, templates), mean / np.linalg.norm(mean, axis=0), atol=1e-6)


def test_an_image_that_cannot_be_decoded_is_no_picture_to_judge_by(encoder: OpenClip) -> None:
    with pytest.raises(SampleError, match="no image format"):
        list(Judge(encoder, "cpu").images([jpeg(0), b"no picture"]))


def test_templates_are_open_clips_own() -> None:
    assert [text.format("cat") for text in prompt_templates("openai")] == [
        template("cat") for template in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]
    assert len(prompt_templates("simple")) == len(open_clip.SIMPLE_IMAGENET_TEMPLATES)
    assert prompt_templates(["a {}"]) == ("a {}",)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("clip", "templates must be openai or simple, or a list of texts with {}, got 'clip'"),
        ([], "a template must have {} once, for the class name, and no other brace, got \\[\\]"),
        (["a {}", "a dog"], "a template must have {} once, for the class name"),
        (["a {} of {}"], "and no other brace"),
        (["a {} {name}"], "and no other brace"),
    ],
)
def test_what_is_no_template_is_said(asked: str | list[str], message: str) -> None:
    with pytest.raises(JobError, match=message):
        prompt_templates(asked)
