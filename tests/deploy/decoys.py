"""Folders of a user that are called as winnow's own: whoever imports one of them fails."""

from pathlib import Path

FLOORS = ("pipeline", "stages", "jobs")


def plant(folder: Path) -> None:
    """Put packages called as the three floors into a folder; importing one raises."""
    for floor in FLOORS:
        (folder / floor).mkdir(parents=True)
        (folder / floor / "__init__.py").write_text(f"raise ImportError('{floor} of the user, not of winnow')\n")
