"""`winnow evaluate`: `filter` evaluates a score against known truth, `model` a CLIP on labels and captions."""

from collections.abc import Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from winnow.pipeline.errors import JobError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Evaluate a filter's score on a pool with known truth, or a CLIP on labelled and captioned sets.",
)

JsonFile = Annotated[str | None, typer.Option("--json", metavar="FILE", help="also write the numbers to a JSON file")]


@app.command(name="filter")
def filter_(
    store: Annotated[str, typer.Argument(help="URL of a store")],
    name: Annotated[str, typer.Argument(help="name of a finished job in the store", metavar="JOB")],
    truth: Annotated[str, typer.Option(help="parquet with the uid and the true kind of each sample")],
    score: Annotated[str | None, typer.Option(help="column of the score, such as clip.similarity")] = None,
    what: Annotated[str, typer.Option(help="column of the truth with the kind")] = "what",
    good: Annotated[list[str] | None, typer.Option(help="kinds of right pairs; clean by default; repeatable")] = None,
    bad: Annotated[
        list[str] | None, typer.Option(help="kinds of wrong pairs; by default all others; repeatable")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Show the ROC AUC of a finished job's score, and its precision at several kept fractions."""
    from winnow.jobs.filter_network import evaluate
    from winnow.pipeline import storage

    known = evaluate.Truth.read(truth, what, good or ["clean"], bad or [])
    _show(evaluate.filter_quality(storage.absolute(store.rstrip("/")), name, score, known), json_file)


@app.command()
def model(
    model: Annotated[str, typer.Option(help="a model of open_clip, or a configuration .json")],
    pretrained: Annotated[str | None, typer.Option(help="weights: a checkpoint file or a tag")] = None,
    images: Annotated[str | None, typer.Option(help="labelled images: tars or parquet")] = None,
    classnames: Annotated[str | None, typer.Option(help="file with one class name per line")] = None,
    templates: Annotated[
        list[str] | None, typer.Option(help="prompts: openai, simple, or texts with {}; repeatable")
    ] = None,
    label: Annotated[str | None, typer.Option(help="column or tar member of labels; by default label, cls")] = None,
    image: Annotated[str, typer.Option(help="column of images in parquet")] = "image",
    pairs: Annotated[str | None, typer.Option(help="captioned images for retrieval: tars")] = None,
    captions: Annotated[str, typer.Option(help="member with the caption, or json:FIELD")] = "txt",
    device: Annotated[str, typer.Option(help="device: auto, cpu, cuda:0 …")] = "auto",
    json_file: JsonFile = None,
) -> None:
    """Measure zero-shot accuracy on labelled images, or retrieval recall on captioned images."""
    if (images is None) == (pairs is None) or (images is None) != (classnames is None):
        raise JobError("evaluate model needs either --images with --classnames, or --pairs; run it once for each")
    from winnow.jobs.filter_network import evaluate
    from winnow.pipeline import storage
    from winnow.stages.encoders import OpenClip
    from winnow.stages.encoders.zero_shot import Judge, prompt_templates  # torch takes three seconds to import

    asked = templates or ["openai"]
    texts = prompt_templates(asked[0] if len(asked) == 1 and "{}" not in asked[0] else asked)
    judge = Judge(OpenClip(model, pretrained), device)
    if images is not None and classnames is not None:
        numbers = evaluate.zero_shot(judge, storage.expand([images]), classnames, texts, label, image)
    else:
        numbers = evaluate.retrieval(judge, storage.expand([pairs or ""]), captions)
    _show(numbers, json_file)


def _show(numbers: Mapping[str, object], json_file: str | None) -> None:
    table = Table("", "")
    table.columns[1].justify = "right"
    for key, value in numbers.items():
        for name, number in value.items() if isinstance(value, Mapping) else [("", value)]:
            # kinds come from the user's truth, so they may contain markup
            table.add_row(Text(f"{key.replace('_', ' ')} {name}".strip()), _text(number))
    Console().print(table)
    if json_file is not None:
        from winnow.pipeline.artifact import write_json

        write_json(json_file, numbers)


def _text(number: object) -> str:
    if isinstance(number, float):
        return f"{number:.4f}"
    return f"{number:,}" if isinstance(number, int) else str(number)
