"""Renders labelled pictures to try Pocket DataComp without any data.

`python -m winnow.jobs.lab.datacomp.demo --folder out/datacomp-demo`. The same sizes and seed give the same bytes.
"""

import io
from pathlib import Path
from random import Random
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from winnow.jobs.quickstart.drawing import draw
from winnow.jobs.quickstart.scenes import NOUNS, SUBJECTS, imagine

CLASSES = NOUNS[:10]
SIDE = 40
"""Pixels of a side. The pictures are small, because the model that reads them is small."""


def render_demo(folder: Path, train: int, test: int, seed: int = 0) -> None:
    """Write labelled pictures with random classes, unless they exist. About 2 ms per picture."""
    if (folder / "classnames.txt").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("test", test)):
        labels = [Random(f"{seed}/{name}/{at}/label").randrange(len(CLASSES)) for at in range(count)]
        images = [_picture(label, Random(f"{seed}/{name}/{at}")) for at, label in enumerate(labels)]
        pq.write_table(pa.table({"image": images, "label": labels}), folder / f"{name}.parquet")
    (folder / "classnames.txt").write_text("".join(f"{noun}\n" for noun in CLASSES))  # last


def _picture(label: int, rng: Random) -> bytes:
    concept = rng.choice([concept for concept in SUBJECTS if concept.noun == CLASSES[label]])
    buffer = io.BytesIO()
    draw(imagine(concept, rng), rng).resize((SIDE, SIDE)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def main(
    folder: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("out/datacomp-demo"),
    train: Annotated[int, typer.Option(min=100, help="number of pictures for the pool and the clean set")] = 8000,
    test: Annotated[int, typer.Option(min=100, help="number of pictures for the evaluation")] = 1000,
) -> None:
    """Render labelled pictures."""
    render_demo(folder, train, test)


if __name__ == "__main__":
    typer.run(main)
