"""The package as a whole: what it registers, which stage imports which, its messages."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from functools import cache
from importlib.metadata import EntryPoint, distribution
from importlib.util import resolve_name
from pathlib import Path
from string import Formatter

import pytest
import spacy
import thinc.api

import spacy_mtl
from spacy_mtl.errors import Errors, Warnings

ROOT = Path(__file__).parents[1]
PACKAGE = Path(spacy_mtl.__file__).parent
STAGES = [
    *(
        "errors",
        "arguments",
        "files",
        "types",
        "concurrency",
        "products",
        "schedule",
        "storage",
        "pretrained",
        "corpora",
        "encoder",
        "listener",
        "lexical",
        "private",
    ),
    *("heads", "balancing", "training", "report", "cli"),
]
HEAVY = {"torch", "transformers", "spacy_transformers", "matplotlib"}
FOLDERS = ["spacy_mtl", "tests", "configs", "assets", "benchmarks", "scripts"]
SETUP = ConfigParser()
SETUP.optionxform = str  # type: ignore[assignment]
SETUP.read(ROOT / "setup.cfg")
ENTRIES = [
    EntryPoint(*line.split(" = "), group)  # type: ignore[call-arg]
    for group, lines in SETUP["options.entry_points"].items()
    for line in lines.strip().split("\n")
]
REGISTRIES = {"spacy": spacy.registry, "thinc": thinc.api.registry}


def find_modules() -> dict[str, Path]:
    """All modules by their names."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        modules[".".join(part for part in parts if part != "__init__")] = path
    return modules


MODULES = find_modules()


@cache
def parse(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def walk(node: ast.AST, into_functions: bool) -> Iterator[ast.AST]:
    """All nodes, or only those that run when the module is imported."""
    yield node
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if into_functions or not is_function:
            yield from walk(child, into_functions)


def get_imports(module: str, into_functions: bool = True) -> set[str]:
    """The absolute names of all that a module imports; of `from a import b` the name a.b."""
    is_package = MODULES[module].name == "__init__.py"
    package = module if is_package else module.rpartition(".")[0]
    names = set()
    for node in walk(parse(module), into_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


def get_stage(name: str) -> str | None:
    """The stage of a dotted name inside the package, None for the package and all outside."""
    first, _, rest = name.partition(".")
    stage = rest.partition(".")[0]
    return stage if first == "spacy_mtl" and stage and stage != "__version__" else None


# What is registered


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_points_resolve(entry: EntryPoint) -> None:
    installed = distribution("spacy-mtl").entry_points.select(group=entry.group, name=entry.name)
    assert [found.value for found in installed] == [entry.value], "install the package again"
    assert callable(entry.load())
    namespace, _, kind = entry.group.partition("_")
    if kind == "factories":
        shown = entry.name if entry.name == "mtl_transformer" else entry.name.removeprefix("mtl_")
        assert spacy.blank("en").get_factory_meta(entry.name).factory == shown
    else:
        found = getattr(REGISTRIES[namespace], kind).get(entry.name)
        assert found is entry.load()


def test_entry_points_are_those_of_setup_cfg() -> None:
    installed = {(e.group, e.name) for e in distribution("spacy-mtl").entry_points}
    assert installed == {(e.group, e.name) for e in ENTRIES}
    assert len(installed) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_names(entry: EntryPoint) -> None:
    patterns = {"spacy_factories": r"mtl_[a-z_]+", "spacy_cli": "mtl"}
    assert re.fullmatch(patterns.get(entry.group, r"spacy-mtl\.[A-Za-z]\w*\.v\d+"), entry.name)


def test_version() -> None:
    assert distribution("spacy-mtl").version == spacy_mtl.__version__


# Which imports which


def test_who_reads_a_clock() -> None:
    """What tells how long something took, and nothing that computes numbers."""
    clocks = {"time", "timeit", "datetime"}
    readers = {m for m in MODULES if {n.partition(".")[0] for n in get_imports(m)} & clocks}
    assert readers == {"spacy_mtl.cli.bench", "spacy_mtl.training.logger"}


@pytest.mark.parametrize("module", MODULES)
def test_a_stage_imports_only_earlier_ones(module: str) -> None:
    stage = get_stage(module)
    allowed = STAGES[: STAGES.index(stage) + 1] if stage else []
    imported = {get_stage(name) for name in get_imports(module)} - {None}
    assert imported <= set(allowed)


def test_imports_are_found() -> None:
    assert "spacy_mtl.errors.Errors" in get_imports("spacy_mtl.corpora.mixed")
    assert "transformers.AutoTokenizer" in get_imports("spacy_mtl.corpora.batching")
    assert "transformers.AutoTokenizer" not in get_imports("spacy_mtl.corpora.batching", False)


def get_closure(module: str) -> set[str]:
    """All that is imported when the module is, through modules of the package."""
    names: set[str] = set()
    todo = {module}
    while todo:
        name = todo.pop()
        names.add(name)
        # Of a.b.c there are the packages a and a.b to import, and c may be no module.
        parts = name.split(".")
        inside = {".".join(parts[:end]) for end in range(1, len(parts) + 1)} & MODULES.keys()
        for found in inside:
            todo |= (get_imports(found, into_functions=False) | {found}) - names
    return names


CHEAP = sorted({e.module for e in ENTRIES if e.group in ("spacy_factories", "spacy_cli")})


@pytest.mark.parametrize("module", CHEAP)
def test_what_spacy_loads_each_time_is_cheap(module: str) -> None:
    assert module in MODULES
    assert {name.partition(".")[0] for name in get_closure(module)} & HEAVY == set()


def test_expensive_modules_are_told_from_cheap_ones() -> None:
    heavy = {name.partition(".")[0] for name in get_closure("spacy_mtl.encoder.pipe")} & HEAVY
    assert heavy == {"torch", "transformers", "spacy_transformers"}


def test_loading_the_factories_does_not_load_transformers() -> None:
    """thinc imports torch itself where it is installed."""
    modules = ", ".join({e.module for e in ENTRIES if e.group == "spacy_factories"})
    script = f"import sys, {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    names = loaded.stdout.decode().split()
    assert "spacy_mtl.encoder.factory" in names
    assert not {"transformers", "spacy_transformers", "matplotlib"} & set(names)


# Messages


def get_codes() -> list[str]:
    """The codes in errors.py, in order."""
    return [
        target.id
        for node in parse("spacy_mtl.errors").body
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]


def is_code(node: ast.AST) -> bool:
    """Whether it is `Errors.M...` or `Warnings.W...`."""
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("Errors", "Warnings")
    )


def get_message(code: str) -> str:
    return getattr(Warnings if code.startswith("W") else Errors, code)


def test_codes_are_unique() -> None:
    codes = get_codes()
    assert len(codes) > 30 and sorted(codes) == sorted(set(codes))
    assert all(re.fullmatch(r"[MW]\d{3}", code) for code in codes)
    assert all(get_message(code).startswith(f"[{code}] ") for code in codes)


def test_codes_that_are_used_are_those_that_are_there() -> None:
    used = {
        node.attr
        for module in MODULES
        for node in ast.walk(parse(module))
        if is_code(node) and isinstance(node, ast.Attribute)
    }
    assert used == set(get_codes())


@pytest.mark.parametrize("module", MODULES)
def test_messages_get_what_they_name(module: str) -> None:
    for call in ast.walk(parse(module)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            code = call.func.value
            if is_code(code) and call.func.attr == "format":
                fields = {f for _, f, _, _ in Formatter().parse(get_message(code.attr)) if f}
                assert {keyword.arg for keyword in call.keywords} == fields, code.attr


# Files


def test_no_file_names_a_path_of_a_machine() -> None:
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        files += [p for p in (ROOT / folder).rglob("*") if p.is_file()]
    texts = {
        path.relative_to(ROOT): path.read_text(encoding="utf-8", errors="ignore")
        for path in files
        if "__pycache__" not in path.parts
    }
    assert Path("setup.cfg") in texts and Path("tests/test_package.py") in texts
    pattern = re.compile(r"(?<![\w.*-])/(?:work|tmp|home|root|Users)/")
    assert [path for path, text in texts.items() if pattern.search(text)] == []
