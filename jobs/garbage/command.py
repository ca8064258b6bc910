"""The command `winnow gc` with its options: lists what no job of a store needs, and removes it when told to."""

from typing import Annotated

import typer


def gc(
    store: Annotated[str, typer.Argument(help="URL of a store")],
    remove: Annotated[bool, typer.Option("--remove", help="remove what is listed")] = False,
    hours: Annotated[
        float, typer.Option(min=0, help="keep what was written, or used by an unfinished run, within this many hours")
    ] = 24.0,
    plain: Annotated[bool, typer.Option("--json", help="print one JSON document on stdout")] = False,
) -> None:
    """List the artifacts that no job record of a store needs, with their bytes. With --remove, remove them."""
    from rich.console import Console

    from winnow.jobs.console import print_json
    from winnow.jobs.garbage.removal import remove_unneeded
    from winnow.jobs.garbage.show import document, table
    from winnow.jobs.garbage.survey import survey
    from winnow.pipeline import storage

    store = storage.absolute(store.rstrip("/"))
    found = remove_unneeded(store, hours * 3600) if remove else survey(store, hours * 3600)
    if plain:
        print_json(document(store, found, remove))
        return
    console = Console()
    for line in table(store, found, remove):
        console.print(line, highlight=False, markup=False, soft_wrap=isinstance(line, str))
