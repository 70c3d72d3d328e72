"""The package as a whole: its registrations, imports, messages and house rules."""

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

import spacy
import thinc.api
from catalogue import Registry

import spacy_mtl
from spacy_mtl.errors import Errors, Warnings

ROOT = Path(__file__).parents[1]
PACKAGE = Path(spacy_mtl.__file__).parent
STAGES = [
    *("errors", "smoke_test", "extras", "arguments", "files", "types", "concurrency", "schedule"),
    *("storage", "wheels", "compat", "pretrained", "weights", "loading", "contracts"),
    *(
        "attributes",
        "pairs",
        "annotations",
        "card",
        "corpora",
        "encoder",
        "heads",
        "balancing",
        "training",
        "report",
        "search",
        "validation",
        "checks",
    ),
    *("cli", "api"),
]
HEAVY = {"torch", "transformers", "spacy_transformers", "matplotlib", "optuna", "sqlalchemy"}
FOLDERS = ["spacy_mtl", "tests", "configs", "assets", "benchmarks", "docs", "scripts"]
SETUP = ConfigParser()
SETUP.optionxform = str  # type: ignore[assignment]
SETUP.read(ROOT / "setup.cfg")
ENTRIES = [
    EntryPoint(*line.split(" = "), group)  # type: ignore[call-arg]
    for group, lines in SETUP["options.entry_points"].items()
    for line in lines.strip().split("\n")
]
REGISTRIES = {"spacy": spacy.registry, "thinc": thinc.api.registry}
OWN = "spacy_mtl_"  # the groups of the package's own registries begin with it


def find_modules() -> dict[str, Path]:
    """Return the path of each module by its dotted name."""
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
    """Yield all nodes, or only the nodes that run when the module is imported."""
    yield node
    for child in ast.iter_child_nodes(node):
        is_later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_typing = isinstance(child, ast.If) and get_dotted(child.test) == "TYPE_CHECKING"
        if into_functions or not (is_later or is_typing):
            yield from walk(child, into_functions)


def get_imports(module: str, into_functions: bool = True) -> set[str]:
    """Return the absolute names that a module imports. `from a import b` gives a.b."""
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
    """Return the stage of a dotted name. None for `spacy_mtl` itself and for other packages."""
    first, _, rest = name.partition(".")
    stage = rest.partition(".")[0]
    return stage if first == "spacy_mtl" and stage and stage != "__version__" else None


# Registrations


def test_installed_entry_points_are_those_of_setup_cfg() -> None:
    installed = {(e.group, e.name, e.value) for e in distribution("spacy-mtl").entry_points}
    assert installed == {(e.group, e.name, e.value) for e in ENTRIES}, "install the package again"
    assert len(installed) == len(ENTRIES)


def resolves(entry: EntryPoint) -> bool:
    """Tell whether the registry of an entry point finds its object."""
    namespace, _, kind = entry.group.partition("_")
    if kind == "factories":
        names = {"mtl_lemmatizer": "trainable_lemmatizer", "mtl_paircat": "textcat"}
        # Components that no command of spaCy knows.
        own = ("mtl_transformer", "mtl_vectors", "mtl_relation", "mtl_regression", "mtl_qa")
        own += ("mtl_seq2seq",)
        names |= {name: name for name in own}
        shown = names.get(entry.name, entry.name.removeprefix("mtl_"))
        return spacy.blank("en").get_factory_meta(entry.name).factory == shown
    if entry.group.startswith(OWN):
        registry = Registry(("spacy_mtl", entry.group.removeprefix(OWN)), entry_points=True)
    else:
        registry = getattr(REGISTRIES[namespace], kind)
    return registry.get(entry.name) is entry.load()


def test_entry_points_resolve() -> None:
    assert [entry.name for entry in ENTRIES if not resolves(entry)] == []


def get_pattern(group: str) -> str:
    """Return the pattern of the names of a group of entry points."""
    if group.startswith(OWN):
        return r"[a-z_]+"
    patterns = {"spacy_factories": r"mtl_[a-z0-9_]+", "spacy_cli": "mtl"}
    return patterns.get(group, r"spacy-mtl\.[A-Za-z]\w*\.v\d+")


def test_names() -> None:
    assert [e.name for e in ENTRIES if not re.fullmatch(get_pattern(e.group), e.name)] == []


def test_version() -> None:
    assert distribution("spacy-mtl").version == spacy_mtl.__version__


# Imports


def get_roots(names: set[str]) -> set[str]:
    """Return the top-level packages of dotted names."""
    return {name.partition(".")[0] for name in names}


def test_only_displays_read_a_clock() -> None:
    """The clock is for messages about duration. No number that a model computes depends on it."""
    clocks = {"time", "timeit", "datetime"}
    readers = {module for module in MODULES if get_roots(get_imports(module)) & clocks}
    names = ("cli.bench", "cli.report", "search.run", "training.logger", "training.loop")
    displays = {f"spacy_mtl.{name}" for name in names}
    assert readers - displays == set()


def test_a_stage_imports_only_earlier_stages() -> None:
    stages = {stage for module in MODULES if (stage := get_stage(module))}
    assert stages - set(STAGES) == set(), "give the new stage its place in STAGES"
    offenders = [
        f"{module} imports {name}"
        for module in MODULES
        for name in sorted(get_imports(module))
        if (imported := get_stage(name))
        and STAGES.index(imported) > STAGES.index(get_stage(module) or STAGES[0])
    ]
    assert offenders == []


def test_imports_are_found() -> None:
    assert "spacy_mtl.errors.Errors" in get_imports("spacy_mtl.corpora.mixed")
    assert "transformers.AutoTokenizer" in get_imports("spacy_mtl.corpora.batching")
    assert "transformers.AutoTokenizer" not in get_imports("spacy_mtl.corpora.batching", False)


def get_closure(module: str) -> set[str]:
    """Return the names that are imported when the module is, also through other modules of ours."""
    names: set[str] = set()
    todo = {module}
    while todo:
        name = todo.pop()
        names.add(name)
        # To import a.b.c imports a and a.b, too; c may be a function of a.b.
        parts = name.split(".")
        inside = {".".join(parts[:end]) for end in range(1, len(parts) + 1)} & MODULES.keys()
        for found in inside:
            todo |= (get_imports(found, into_functions=False) | {found}) - names
    return names


CHEAP = sorted({e.module for e in ENTRIES if e.group in ("spacy_factories", "spacy_cli")})


def test_modules_that_spacy_always_loads_are_cheap() -> None:
    assert set(CHEAP) <= MODULES.keys()
    assert [module for module in CHEAP if get_roots(get_closure(module)) & HEAVY] == []


def test_expensive_modules_are_told_from_cheap_ones() -> None:
    assert get_roots(get_closure("spacy_mtl.encoder.pipe")) & HEAVY == {"torch", "transformers"}


def test_loading_factories_and_commands_loads_no_heavy_package() -> None:
    """torch is not checked here: thinc imports it."""
    script = f"import spacy.cli, {', '.join(CHEAP)}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    names = loaded.stdout.decode().split()
    assert set(CHEAP) <= set(names)
    assert not (HEAVY - {"torch"}) & set(names)


# Messages


def get_codes() -> list[str]:
    """Return the codes of errors.py, in order."""
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
    """Tell whether a node is `Errors.M...` or `Warnings.W...`."""
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


def test_every_code_is_used_and_defined() -> None:
    used = {
        node.attr
        for module in MODULES
        for node in ast.walk(parse(module))
        if is_code(node) and isinstance(node, ast.Attribute)
    }
    assert used == set(get_codes())


def get_offending_codes(module: str) -> list[str]:
    """Return the codes whose `format` call gets other fields than the message names."""
    return [
        f"{module} {call.func.value.attr}"
        for call in ast.walk(parse(module))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "format"
        and isinstance(call.func.value, ast.Attribute)
        and is_code(call.func.value)
        and {keyword.arg for keyword in call.keywords} != get_fields(call.func.value.attr)
    ]


def get_fields(code: str) -> set[str]:
    """Return the names in braces of a message."""
    return {field for _, field, _, _ in Formatter().parse(get_message(code)) if field}


def test_messages_get_the_fields_that_they_name() -> None:
    assert [code for module in MODULES for code in get_offending_codes(module)] == []


# House rules

CPU_RUNTIME = "spacy_mtl.encoder.runtime.cpu"
# Modules outside the CPU runtime that may patch torch, and why.
PATCHES = {
    "spacy_mtl.cli.bench": "option --threads",
    "spacy_mtl.encoder.model.serialization": (
        "loads an encoder without random weights first. torch.device('meta') would empty buffers "
        "too, and buffers that are not in the state dict have no other source"
    ),
}
PATCHING_BASES = {"TorchFunctionMode", "TorchDispatchMode", "Tensor", "Parameter"}
PATCHING_CALLS = {"set_num_threads", "set_num_interop_threads"}


def get_dotted(node: ast.AST) -> str:
    """Return `a.b.c` for an attribute of an attribute of a name, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (first := get_dotted(node.value)):
        return f"{first}.{node.attr}"
    return ""


def patches_torch(node: ast.AST) -> bool:
    """Tell whether a node changes how torch computes, or reaches into its private parts."""
    if isinstance(node, ast.ClassDef):
        return any(get_dotted(base).rpartition(".")[2] in PATCHING_BASES for base in node.bases)
    if isinstance(node, ast.Attribute):
        name = get_dotted(node)
        is_set = isinstance(node.ctx, ast.Store)
        return bool(re.match(r"torch\.(ops|_[a-zA-Z]\w*)\b", name)) or (
            name.startswith("torch.") and (is_set or node.attr in PATCHING_CALLS)
        )
    if isinstance(node, ast.Import | ast.ImportFrom):
        source = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        paths = [f"{source}{alias.name}".split(".") for alias in node.names]
        return any(
            root == "torch" and any(p.startswith("_") or p in PATCHING_CALLS for p in parts)
            for root, *parts in paths
        )
    return False


def find_patches(source: ast.Module) -> list[int]:
    """Return the lines that patch torch."""
    return sorted({node.lineno for node in ast.walk(source) if patches_torch(node)})  # type: ignore[attr-defined]


def test_patches_are_found() -> None:
    lines = (
        "from torch._C import DispatchKey",
        "class Fast(TorchFunctionMode): pass",
        "class Marked(torch.Tensor): pass",
        "import torch._inductor",
        "torch.ops.mkldnn._linear_pointwise(x)",
        "torch.set_num_threads(1)",
        "torch.nn.functional.linear = fast",
        "torch._foreach_add_(a, b)",
        "x = torch.nn.functional.linear(y, z)",
    )
    assert find_patches(ast.parse("\n".join(lines))) == list(range(1, len(lines)))


def test_only_the_cpu_runtime_patches_torch() -> None:
    others = [module for module in MODULES if not module.startswith(CPU_RUNTIME)]
    offenders = {module: lines for module in others if (lines := find_patches(parse(module)))}
    assert {m: lines for m, lines in offenders.items() if m not in PATCHES} == {}
    assert PATCHES.keys() <= offenders.keys(), "take what patches no more out of PATCHES"


# Modules that may use `hasattr`, and why no type can take its place.
HASATTR = {
    "spacy_mtl.encoder.model.lora": "the layers of peft with this setting have no common class",
    "spacy_mtl.encoder.runtime.cpu.capability": "builds of torch differ in their functions",
    "spacy_mtl.compat": "versions of transformers differ in their functions",
    "spacy_mtl.encoder.stock_names": "spacy-transformers adds registries to spaCy when it loads",
}
MAX_ANY = 12  # mentions of `Any` per 1,000 lines


def is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def test_contracts_are_types() -> None:
    users = {m for m in MODULES for node in ast.walk(parse(m)) if is_name(node, "hasattr")}
    assert users == HASATTR.keys(), "use isinstance with a class or a protocol"


def test_few_values_have_the_type_any() -> None:
    counts = {m: sum(is_name(node, "Any") for node in ast.walk(parse(m))) for m in MODULES}
    n_lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values())
    worst = sorted(counts.items(), key=lambda item: -item[1])[:10]
    assert 1000 * sum(counts.values()) <= MAX_ANY * n_lines, worst


# Files


def test_no_file_names_a_path_of_a_machine() -> None:
    files = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
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
