"""Loading files of components that are cut off, changed or foreign."""

import ast
import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spacy
import srsly
from conftest import make_examples
from spacy.language import Language

import spacy_mtl
from spacy_mtl.storage import check_type
from spacy_mtl.training.adamw import create_adamw_v1

HEADS = ["tagger", "ner", "textcat", "cats=mtl_textcat_multilabel"]
LOADS = ("torch.load", "torch.jit.load", "numpy.load")
# the heads for categories share them
pytestmark = pytest.mark.filterwarnings("ignore:.W014:UserWarning")
NAMES = ["transformer", "tagger", "ner", "textcat", "cats"]
STOP = {
    "@misc": "spacy-mtl.EarlyStopping.v1",
    "balancer": {"@misc": "spacy-mtl.UncertaintyWeights.v1"},
    "patience": {"ner": 1},
}


@pytest.fixture(scope="module")
def folder(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    nlp = spacy.blank("en")
    model = {"name": encoder}
    nlp.add_pipe("mtl_transformer", name="transformer", config={"model": model, "balancer": STOP})
    for head in HEADS:
        name, _, factory = head.partition("=")
        nlp.add_pipe(factory or f"mtl_{name}", name=name)
    nlp.initialize(lambda: make_examples(nlp))
    nlp.update(make_examples(nlp), sgd=create_adamw_v1())
    path = tmp_path_factory.mktemp("pipeline")
    nlp.to_disk(path)
    return path


@pytest.fixture
def nlp(folder: Path) -> Language:
    return spacy.load(folder)


def refuse(pipe: Any, folder: Path, tmp_path: Path, file: str, content: bytes, match: str) -> None:
    """Check that loading from a folder and from bytes fails, naming the file and the component."""
    damaged = tmp_path / "damaged"
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(folder / pipe.name, damaged)
    (damaged / file).write_bytes(content)
    part = Path(file).stem
    message = f"M007. Can't read the {part} of '{pipe.name}' from "
    with pytest.raises(ValueError, match=match) as caught:
        pipe.from_disk(damaged, exclude=["vocab"])
    assert message[6:] + str(damaged / file) in str(caught.value)
    assert caught.value.__cause__ is not None
    data = srsly.msgpack_dumps({part: content})
    with pytest.raises(ValueError, match=match) as caught:
        pipe.from_bytes(data, exclude=["vocab"])
    assert message[6:] + "bytes" in str(caught.value)
    assert gc.isenabled()


@pytest.mark.parametrize("name", NAMES)
def test_models_that_are_cut_off_or_foreign(
    nlp: Language, folder: Path, tmp_path: Path, name: str
) -> None:
    pipe, whole = nlp.get_pipe(name), (folder / name / "model").read_bytes()
    fits = {name, *(("textcat", "cats") if name in ("textcat", "cats") else ())}
    others = [(folder / other / "model").read_bytes() for other in NAMES if other not in fits]
    cuts = [whole[:n] for n in (0, 1, 10, len(whole) // 3, len(whole) // 2, len(whole) - 1)]
    noise = [b"noise" * 100, b"{}", b"\x93\x01\x02\x03", b"\x80", whole + b"x", b"\x91" * 5000]
    for content in [*cuts, *noise, *others]:
        refuse(pipe, folder, tmp_path, "model", content, "M007")


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_changed_byte_of_a_head_is_found(
    nlp: Language, folder: Path, tmp_path: Path, name: str
) -> None:
    pipe: Any = nlp.get_pipe(name)
    weights = pipe.model.get_ref("output_layer").get_param("W").tobytes()
    changed = bytearray((folder / name / "model").read_bytes())
    changed[changed.index(weights) + 5] ^= 1
    refuse(pipe, folder, tmp_path, "model", bytes(changed), "M048.*'params'")


def test_files_without_checksums(nlp: Language, folder: Path, tmp_path: Path) -> None:
    """spacy-mtl 0.1.0 and thinc save such files."""
    docs = list(nlp.pipe(["Maria flew to Lisbon ."]))
    for name in NAMES[1:]:
        pipe: Any = nlp.get_pipe(name)
        pipe.model.to_disk(tmp_path / "model")
        assert b"checksums" not in (tmp_path / "model").read_bytes()
        pipe.from_disk(tmp_path, exclude=["vocab", "cfg"])
    assert [doc.to_json() for doc in nlp.pipe(["Maria flew to Lisbon ."])] == [
        doc.to_json() for doc in docs
    ]


@pytest.mark.parametrize("name", NAMES)
def test_cfg(nlp: Language, folder: Path, tmp_path: Path, name: str) -> None:
    pipe = nlp.get_pipe(name)
    deep = b"[" * 100_000
    for content in (b"", b'{"labels": [', b"\xff\xfe", b"[1]", b"5", deep):
        refuse(pipe, folder, tmp_path, "cfg", content, "M049.*'cfg'")
    if name == "transformer":
        return
    for wrong in (
        {"labels": 5},
        {"labels": [5]},
        {"temperature": "hot"},
        {"temperature": float("nan")},
        {"temperature": True},
        {"class_weights": {"A": "much"}},
        {"loss_steps": -1},
        {"spans_key": [1]},
    ):
        match = f"M049.*'cfg.{next(iter(wrong))}"
        refuse(pipe, folder, tmp_path, "cfg", json.dumps(wrong).encode(), match)


def test_labels_of_another_head(nlp: Language, folder: Path, tmp_path: Path) -> None:
    for name in NAMES[1:]:
        pipe: Any = nlp.get_pipe(name)
        pipe.cfg["labels"] = ["A", "B", "C", "D", "E", "F", "G"]
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        pipe.to_disk(tmp_path / name, exclude=["vocab"])
        with pytest.raises(ValueError, match=rf"M007.*{name}.*M035.*'{name}'"):
            pipe.from_disk(tmp_path / name, exclude=["vocab"])


def test_vocab(nlp: Language, folder: Path, tmp_path: Path) -> None:
    for name in NAMES:
        pipe: Any = nlp.get_pipe(name)
        path = tmp_path / name
        pipe.to_disk(path)
        pipe.from_disk(path)
        (path / "vocab" / "strings.json").write_text('["a", ')
        with pytest.raises(
            ValueError, match=f"M007. Can't read the vocab of '{name}' from .*vocab"
        ):
            pipe.from_disk(path)
        with pytest.raises(ValueError, match=f"M007. Can't read the vocab of '{name}' from bytes"):
            pipe.from_bytes(srsly.msgpack_dumps({"vocab": b"noise"}))
        for data in (b"", b"noise", srsly.msgpack_dumps([1])):
            with pytest.raises(ValueError, match=f"M007. Can't read the message of '{name}'"):
                pipe.from_bytes(data)


def test_balancer(nlp: Language, folder: Path, tmp_path: Path) -> None:
    pipe: Any = nlp.get_pipe("transformer")
    file = "balancer.json"
    before = pipe.balancer.state_dict()
    assert set(before["balancer"]["log_variances"]) >= {"tagger", "ner"}
    nested = b'{"balancer": ' * 100_000
    for content in (b"", b'{"best": ', nested, b"[" * 100_000):
        refuse(pipe, folder, tmp_path, file, content, "M049.*'balancer' is .*JSON")
    wrong: dict[str, Any] = {
        "EarlyStopping": [],
        "EarlyStopping.best": [1],
        "EarlyStopping.best.ner": "high",
        "EarlyStopping.waited.ner": 1.5,
        "EarlyStopping.stopped": {"ner": 1},
        r"EarlyStopping.stopped\[0\]": [1],
        "UncertaintyWeights": 5,
        "UncertaintyWeights.log_variances": [1],
        "UncertaintyWeights.log_variances.ner": float("nan"),
    }
    for entry, value in wrong.items():
        method, *path = entry.removesuffix(r"\[0\]").split(".")
        for key in reversed(path):
            value = {key: value}
        state = {"balancer": value} if method == "UncertaintyWeights" else value
        refuse(pipe, folder, tmp_path, file, json.dumps(state).encode(), f"M049.*'{entry}'")
    pipe.from_disk(folder / "transformer", exclude=["vocab"])
    assert pipe.balancer.state_dict() == before


def test_types() -> None:
    kind = dict[str, tuple[float, int]]
    assert check_type({"a": [1, 2]}, kind, "x") == {"a": (1, 2)}
    assert check_type(None, str | None, "x") is None
    for value, entry in [
        ({"a": [1]}, "x.a"),
        ({"a": [1, 2.0]}, r"x.a\[1\]"),
        ({"a": [10**400, 1]}, r"x.a\[0\]"),
        ({"a": [float("inf"), 1]}, r"x.a\[0\]"),
        ({"a": [True, 1]}, r"x.a\[0\]"),
        ({1: [1, 1]}, "x.1"),
        (None, "x"),
    ]:
        with pytest.raises(ValueError, match=f"M049.*'{entry}'"):
            check_type(value, kind, "x")


def test_nothing_in_the_package_unpickles() -> None:
    """Only one place calls `torch.load`, for tensors only. Nothing else reads pickles."""
    loads = []
    for path in sorted(Path(spacy_mtl.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not {"pickle", "joblib", "cloudpickle", "dill", "marshal"} & names
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in LOADS:
                loads.append(ast.unparse(node))
    assert len(loads) == 1 and "weights_only=True" in loads[0]


def test_old_bytes_of_a_pipe(make_nlp: Callable) -> None:
    """`balancer` is the key in bytes, `balancer.json` the file."""
    pipe = make_nlp("tagger").get_pipe("transformer")
    assert set(srsly.msgpack_loads(pipe.to_bytes())) == {"cfg", "vocab", "model", "balancer"}
