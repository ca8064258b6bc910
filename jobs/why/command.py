"""The command `winnow why` with its options: prints what became of a sample, and writes its picture if asked."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

_SIDE = 1024  # pixels of a re-encoded picture


def why(
    store: Annotated[str, typer.Argument(help="URL of a store")],
    name: Annotated[str, typer.Argument(help="name of a finished job in the store", metavar="JOB")],
    uid: Annotated[str | None, typer.Argument(help="uid of the sample: 32 hex digits", metavar="[UID]")] = None,
    shard: Annotated[str | None, typer.Option(help="number, URL or end of the URL of an input shard")] = None,
    key: Annotated[str | None, typer.Option(help="key of the sample in the shard; finds rejected samples too")] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="write the sample's image, byte for byte")] = None,
    thumbnail: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the image re-encoded as WebP, safe to look at")
    ] = None,
    ranks: Annotated[
        bool, typer.Option("--ranks/--no-ranks", help="show the sample's rank, which needs a pass over all shards")
    ] = True,
    plain: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="reading threads; one per core by default")] = None,
) -> None:
    """Show what became of one sample of a finished job: its values, the cut that decided, and by how much."""
    from winnow.jobs.console import print_json
    from winnow.jobs.why.explain import explain
    from winnow.jobs.why.place import picture
    from winnow.jobs.why.show import show_why
    from winnow.pipeline import storage
    from winnow.pipeline.machine import cores

    found = explain(store, name, uid, shard, key, ranks=ranks, workers=workers or cores())
    if image is not None:
        storage.write_bytes(str(image), picture(found.job, found.place))
    if thumbnail is not None:
        from winnow.stages.encoders.pixels.thumbnail import thumbnail as made_anew  # PIL is not needed otherwise

        storage.write_bytes(str(thumbnail), made_anew(picture(found.job, found.place), _SIDE, 90))
    if plain:
        print_json(found.record())
    else:
        show_why(found, Console())
