"""Writes the tree of docs/code.md from the first line of every file.

`python -m tests.tree`
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/code.md"
START, END = "<!-- tree -->", "<!-- /tree -->"
FOLDERS = ("jobs", "stages", "pipeline", "deploy")


def tree() -> str:
    """A nested list of links, folders after the files beside them, each with its first line."""
    return "\n".join(line for name in FOLDERS for line in _folder(ROOT / name, 0))


def with_tree(page: str) -> str:
    """The page with the tree of today; ValueError where it lacks the marks."""
    before, _, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{PAGE.name} must have the marks {START} and {END}, one after the other")
    return f"{before}{START}\n{tree()}\n{END}{after}"


def first_line(path: Path) -> str:
    """First line of a module's docstring, or of another file's comment below `#!`; empty where it has none."""
    text = path.read_text()
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    if text.startswith("#!"):
        text = text.partition("\n")[2]
    return text.partition("\n")[0].lstrip("# ") if text.startswith("#") else ""


def _folder(folder: Path, depth: int) -> Iterator[str]:
    package = folder / "__init__.py"
    yield _entry(f"{folder.name}/", folder, first_line(package) if package.exists() else "", depth)
    for path in sorted(folder.iterdir()):
        told = path.suffix in (".py", ".sh", ".yaml") or path.name == "Dockerfile"
        if told and path.name not in ("__init__.py", "__main__.py"):
            yield _entry(path.name, path, first_line(path), depth + 1)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name != "__pycache__":
            yield from _folder(path, depth + 1)


def _entry(name: str, path: Path, line: str, depth: int) -> str:
    link = f"{'  ' * depth}- [{name}](../{path.relative_to(ROOT)})"
    return f"{link}: {line}" if line else link


if __name__ == "__main__":
    PAGE.write_text(with_tree(PAGE.read_text()))
