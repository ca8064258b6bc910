"""The arrows of the house, executed: who may import whom, one home per heavy library, how a file opens."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from winnow.stages.cuts.kinds import OWN
from winnow.stages.encoders.kinds import ENCODERS
from winnow.stages.pools.formats import FORMATS

ROOT = Path(__file__).parents[1]
FLOORS = ("jobs", "stages", "pipeline")  # each may import itself and those after it
MAX_LINES = 300
MAX_ENTRIES = 22  # modules and packages of a folder

LONGER = f"Longer than {MAX_LINES} lines because "
"""How a sentence in the docstring of a longer file begins."""

HOMES = {
    "ray": tuple(
        f"pipeline/executors/{name}.py"
        for name in ("on_ray", "ray_dispatch", "ray_faults", "ray_local", "ray_metrics", "ray_pool", "ray_worker")
    ),
    "fsspec": ("pipeline/storage/backends.py", "pipeline/storage/opening.py"),
    "s3fs": (),  # fsspec finds its back ends by the URL
    "gcsfs": (),
    "faiss": ("stages/kernels/kmeans.py",),
    "torch": ("stages/encoders/",),
    "torchvision": ("stages/encoders/",),
    "open_clip": ("stages/encoders/",),
    "timm": ("stages/encoders/",),
    "jinja2": ("jobs/report/page.py",),
    "plotly": ("jobs/report/page.py",),
    "PIL": (
        "stages/encoders/",
        "jobs/lab/bench/decode.py",
        "jobs/quickstart/drawing.py",
        "jobs/quickstart/world.py",
        "jobs/lab/datacomp/damage.py",
    ),  # decoded here, drawn there
}
"""Files, or folders that end in a slash, which may import a library."""

BETWEEN_STAGES = {
    ("captions", "column"): "is the column whose other numbers are made shard by shard",
    ("density", "clusters"): "clusters the survivors before it decides, and reads their centroids",
    ("duplicates", "clusters"): "clusters the survivors before it compares them, and reads their centroids",
    ("duplicates", "fixpoint"): "compares bytes, then meaning",
    ("duplicates", "near"): "compares bytes with another job's, then meaning",
    ("fixpoint", "clusters"): "reads cells and centroids",
    ("prototypes", "clusters"): "clusters the survivors before it decides",
    ("image_based", "clusters"): "clusters the survivors before the target votes",
    ("image_based", "target"): "names the target that votes",
    ("feature_mapping", "clusters"): "clusters the survivors before the target votes",
    ("feature_mapping", "target"): "names the target that votes",
    ("normsim", "score"): "takes the norms as a joined column",
    ("normsim", "target"): "reads the vectors that it compares with",
    ("target", "vectors"): "embeds images as the stage that embedded the pool",
    ("mix", "similarity"): "takes the cosine of an encoder as one of its values",
    ("mix", "score"): "joins users' columns as its values, and takes its sums as a joined column",
    ("coverage", "similarity"): "takes the cosine of an encoder as its score",
    ("coverage", "score"): "joins a user's column as its score",
    ("cap", "groups"): "counts the samples of each group before it decides",
    ("cap", "clusters"): "clusters the samples first, if clusters are the groups",
    ("cap", "capping"): "its options name the stage by which it decides",
    ("capping", "similarity"): "orders a group by the cosine of an encoder",
    ("groups", "clusters"): "counts the samples of each cluster",
}
"""The only stage modules that import another one that leaves an artifact, and why."""

FILES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))

OWN_POLICIES = ("jobs/lab/", "jobs/quickstart/")
"""Folders whose files write jobs of their own, so they name cuts as a user does."""

NO_CUT = {
    "jobs/filter_network/evaluate.py": {"score"},  # any column of scores; a column of the vectors
    "jobs/filter_network/training.py": {"epochs"},  # of a training
    "jobs/loader.py": {"random"},  # the module of Python
    "jobs/verify/values.py": {"similarity"},  # a column of the vectors
    "jobs/verify/verify.py": {"similarity"},  # the check of that column
    "stages/clusters/clustered.py": {"random"},  # an order
    "stages/clusters/members.py": {"random"},  # an order
    "stages/columns/language.py": {"score"},  # a column: how sure the model is
    "stages/cuts/contract/drawn.py": {"epochs"},  # a column, and a number of the report
    "stages/cuts/fields/cap.py": {"similarity"},  # an option: the encoder whose cosine orders a group
    "stages/cuts/fields/capping.py": {"cap"},  # the stage by which that cut decides
    "stages/cuts/density.py": {"random"},  # an order
    "stages/cuts/semantic/against/near.py": {"duplicates"},  # the stage by which that cut decides
    "stages/cuts/semantic/compare.py": {"similarity"},  # a column of the vectors
    "stages/cuts/semantic/fixpoint.py": {"duplicates"},  # the stage by which that cut decides
    "stages/survivors.py": {"similarity"},  # a column
    "stages/vector_files.py": {"similarity"},  # a column
    "stages/vectors.py": {"similarity"},  # a column
    "stages/encoders/weights.py": {"random"},  # weights
}
"""Texts that are the name of a cut, and mean something else."""

CONTRACT = {"cut", "contract", "kinds", "keeping"}
"""What of stages/cuts/ other files may import: what holds for every cut."""

ASK_THE_CUT = [
    path
    for path in FILES
    if not path.is_relative_to(ROOT / "stages/cuts") and not path.relative_to(ROOT).as_posix().startswith(OWN_POLICIES)
]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, those inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("winnow.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name(path)}: imports are absolute, so that the arrows can be read"
            assert node.module
            module = node.module.removeprefix("winnow.")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def lines_with(pattern: re.Pattern[str], path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if pattern.search(line)]


def leaves_an_artifact(path: Path) -> bool:
    """Whether a file defines a stage: a class that sets `name`, or of a cut `kind`, which its stage is named by."""
    named = {"name", "kind"} if name(path).startswith("stages/cuts/") else {"name"}
    return any(
        isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id in named
        and node.value is not None
        and ast.unparse(node.annotation).startswith("ClassVar")
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.ClassDef)
        for node in statement.body
    )


def at_home(path: Path, homes: tuple[str, ...]) -> bool:
    return any(name(path) == home or (home.endswith("/") and name(path).startswith(home)) for home in homes)


def test_there_is_something_to_check():
    assert len(FILES) > 30
    assert sum(leaves_an_artifact(path) for path in FILES) > 8


def test_arrows_point_from_jobs_to_stages_to_pipeline():
    above = {floor: FLOORS[:i] for i, floor in enumerate(FLOORS)}
    wrong = [
        f"{name(path)} imports {module}"
        for path in FILES
        for module in imports(path)
        if module.partition(".")[0] in (*above[path.relative_to(ROOT).parts[0]], "tests", "deploy")
    ]
    assert not wrong


_WORD = re.compile(r"[A-Za-z]+(?:_[a-z]+)*")


def cuts_named(source: str) -> set[str]:
    """The cuts that a text names, by their kinds: as a class, and as a string or a part of one.

    A string with a blank is prose; of any other, such as the label `density.clusters`, each word counts.
    """
    nodes = [*ast.walk(ast.parse(source))]
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
    texts = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in prose]
    words = {word for text in texts if not set(text) & {" ", "\n"} for word in _WORD.findall(text)}
    names = {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    imported = {alias.name for n in nodes if isinstance(n, ast.ImportFrom) for alias in n.names}
    return {kind for kind, cut in OWN.items() if kind in words or cut.__name__ in names | words | imported}


@pytest.mark.parametrize(
    "planted",
    [
        "{'density': 1, 'mine': 2}[cut.kind]",
        "ABOUT = {'density': 'far samples stay'}",
        "stage.label == 'density'",
        "label.startswith('density.')",
        "label in ('pool', 'density.clusters')",
        "match label:\n    case 'density':\n        pass",
        "match cut:\n    case Density():\n        pass",
        "match cut:\n    case density.Density(fraction=f):\n        pass",
        "isinstance(cut, Density)",
        "type(cut) is kinds.Density",
        "type(cut).__name__ == 'Density'",
        "from winnow.stages.cuts.density import Density as D",
        "getattr(kinds, 'Density')",
    ],
)
def test_a_cut_that_is_named_is_seen(planted: str) -> None:
    assert cuts_named(planted) == {"density"}


@pytest.mark.parametrize("path", ASK_THE_CUT, ids=name)
def test_who_asks_a_cut_knows_no_kind_of_it(path: Path) -> None:
    """No table by kind, no comparison of a kind, no class of a kind: a cut's own file holds all that is special."""
    assert cuts_named(path.read_text()) == NO_CUT.get(name(path), set())
    assert {module.split(".")[2] for module in imports(path) if module.startswith("stages.cuts.")} <= CONTRACT


@pytest.mark.parametrize("path", sorted((ROOT / "stages/cuts").rglob("*.py")), ids=name)
def test_a_cut_knows_no_other_kind(path: Path) -> None:
    """In stages/cuts/ too, only the list of winnow's own cuts has more than one kind; none asks which one came."""
    text = path.read_text()
    defined = {node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    own = {kind for kind, cut in OWN.items() if cut.__name__ in defined}
    expected = set(OWN) if path.stem == "kinds" else own | NO_CUT.get(name(path), set())
    assert cuts_named(text) <= expected
    asked = re.compile(r"\b(cut|options)\.kind (==|!=|in|not in)|isinstance\((cut|options),|getattr\((cut|options), \"")
    assert lines_with(asked, path) == []


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_library_has_one_home(library):
    users = [path for path in FILES if any(m.partition(".")[0] == library for m in imports(path))]
    assert [name(path) for path in users if not at_home(path, HOMES[library])] == []


def test_arrow_gets_no_threads_that_could_outlive_the_interpreter():
    # of what the house uses, these start some, but no writer; a join does too, unless it is told
    threaded = re.compile(
        r"\bpq\.(read_\w+|Parquet(?!Writer)\w+)\(|pyarrow\.dataset|\.(to_pandas|group_by)\(|\.join\(.*\bkeys="
    )
    users = {name(path) for path in FILES for line in lines_with(threaded, path) if "use_threads=False" not in line}
    # a dataset that people ask for: its file says how it stays clear of Python's buffers
    assert users == {"jobs/finished_job.py"}, "a parquet file is read by winnow.pipeline.parquet_file, which says why"


def test_stages_meet_in_their_artifacts():
    stages = {name(path).removesuffix(".py").replace("/", "."): path for path in FILES if leaves_an_artifact(path)}
    found = {
        (path.stem, module.rpartition(".")[2])
        for path in stages.values()
        for module in imports(path)
        if module in stages and stages[module] != path
    }
    assert found == set(BETWEEN_STAGES)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_opens_with_one_line_and_stays_a_small_room(path):
    text = path.read_text()
    assert text.startswith('"""'), "the first line says what the file makes, decides or guards"
    documented = ast.get_docstring(ast.parse(text), clean=False)
    assert documented
    first, *rest = documented.split("\n")
    assert first.endswith("."), "the first line is a whole sentence"
    assert not rest or not rest[0], "what follows the first line stands apart"
    assert small_or_explained(text), f"split it, or say in its docstring: {LONGER}…"


def small_or_explained(text: str) -> bool:
    """Whether a file is a small room, or says in its docstring why it is not; a short one must not say so."""
    reason = LONGER in " ".join((ast.get_docstring(ast.parse(text)) or "").split())
    return reason == (len(text.splitlines()) > MAX_LINES)


def test_a_long_file_without_a_reason_is_seen() -> None:
    first, why = "Reads pools.", f"{LONGER.replace(' because', chr(10) + 'because')}a format is one file."
    short, long = "x = 1\n" * 10, "x = 1\n" * MAX_LINES
    assert small_or_explained(f'"""{first}"""\n{short}')
    assert not small_or_explained(f'"""{first}"""\n{long}')
    assert small_or_explained(f'"""{first}\n\n{why}\n"""\n{long}')
    assert not small_or_explained(f'"""{first}\n\n{why}\n"""\n{short}'), "it was split since"
    assert not small_or_explained(f'"""{first}"""\n# {why.replace(chr(10), " ")}\n{long}'), "not in the docstring"


def crowded(files: Iterable[str]) -> dict[str, int]:
    """Folders with more modules and packages than a reader takes in, and how many they have.

    files: paths with slashes. `__init__.py` does not count.
    """
    inside: dict[str, set[str]] = {}
    for file in files:
        folders = file.split("/")
        for depth in range(1, len(folders)):
            inside.setdefault("/".join(folders[:depth]), set()).add(folders[depth])
    counts = {folder: len(entries - {"__init__.py"}) for folder, entries in inside.items()}
    return {folder: count for folder, count in counts.items() if count > MAX_ENTRIES}


def test_no_folder_is_crowded() -> None:
    assert crowded(map(name, FILES)) == {}


def test_a_crowded_folder_is_seen() -> None:
    full = ["a/b/__init__.py", "a/b/room/c.py", "a/b/room/d.py", *(f"a/b/{i}.py" for i in range(MAX_ENTRIES - 1))]
    assert crowded(full) == {}
    assert crowded([*full, "a/b/one_more.py"]) == {"a/b": MAX_ENTRIES + 1}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_what_is_public_is_documented(path):
    silent = [
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    assert silent == []


READERS_AND_ENCODERS = {kind.__name__: name for table in (FORMATS, ENCODERS) for name, kind in table.items()}
TABLES = {"stages/pools/formats.py", "stages/encoders/kinds.py"}
"""Where the classes themselves are listed and told from other things."""


def questions(source: str, kinds: Mapping[str, str]) -> list[str]:
    """Where a text asks which kind something is: isinstance, comparisons with classes or names, tables by them.

    kinds: names in a job file, by names of classes.
    """

    def words(node: ast.AST) -> set[str]:
        """Every name in an expression, the last part of dotted ones."""
        nodes = list(ast.walk(node))
        return {n.id for n in nodes if isinstance(n, ast.Name)} | {
            n.attr for n in nodes if isinstance(n, ast.Attribute)
        }

    def texts(node: ast.AST) -> set[object]:
        return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}

    def named(node: ast.AST) -> bool:
        return bool(words(node) & {*kinds} or texts(node) & {*kinds.values()})

    def asks(node: ast.AST) -> bool:
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kind]) | ast.MatchClass(cls=kind):
                return bool(words(kind) & {*kinds, "Reader", "Encoder"})
            case ast.Compare():
                asked = words(node) & {*kinds} or texts(node) & {*kinds}  # __name__ == "Parquet"
                return bool(asked or (words(node) & {"kind", "format"} and named(node)))
            case ast.Match(subject=subject, cases=cases):
                return any(named(case.pattern) for case in cases) and bool(words(subject) & {"kind", "format"})
            case ast.Dict(keys=keys):
                found = [key for key in keys if key is not None and named(key)]
                return len(found) > 1 or any(words(key) & {*kinds} for key in found)
            case ast.Subscript(value=ast.Dict(keys=keys), slice=asked_for):
                asked = words(asked_for) & {"kind", "format"}
                return bool(asked) and any(named(key) for key in keys if key is not None)
        return False

    return [ast.unparse(node) for node in ast.walk(ast.parse(source)) if asks(node)]


@pytest.mark.parametrize(
    "planted",
    [
        "isinstance(job.pool.reader, Parquet | Webdataset)",
        "isinstance(encoder, encoders.OpenClip)",
        "issubclass(found, Reader)",
        "type(reader) is Datacomp",
        "kind in (Timm, OpenClip)",
        "reader.kind == 'webdataset'",
        "pool.format in ('datacomp', 'vectors')",
        "{'webdataset': 1, 'parquet': 2}[reader.kind]",
        "{Webdataset: 1, Parquet: 2}[type(reader)]",
        "{Webdataset: 1}.get(type(reader), 0)",
        "{'webdataset': 1}[reader.kind]",
        "match reader:\n    case Webdataset():\n        pass",
        "match reader.kind:\n    case 'webdataset':\n        pass",
        "type(reader).__name__ == 'Webdataset'",
    ],
)
def test_a_question_for_the_kind_is_seen(planted: str):
    assert questions(planted, READERS_AND_ENCODERS)


def test_nobody_asks_which_kind_a_reader_or_an_encoder_is():
    asked = {name(path): found for path in FILES if (found := questions(path.read_text(), READERS_AND_ENCODERS))}
    assert {path: found for path, found in asked.items() if path not in TABLES} == {}


def test_no_two_test_files_have_one_name():
    """pytest imports a file by its name alone, and would take the second for the first."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_every_test_mirrors_a_file():
    mirrored = {
        f"tests/{where.parent.relative_to(ROOT).as_posix()}/test_{where.stem}.py"
        for path in FILES
        for where in [path.parent if path.stem == "__init__" else path]
    }
    # tests/jobs and tests/stages hold walks through several files too
    engine = {name(path) for path in (ROOT / "tests/pipeline").rglob("test_*.py")}
    assert engine - mirrored == set()
