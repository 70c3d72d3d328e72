"""Try the newest transformers, which spacy-transformers does not support yet.

    python scripts/newest_transformers.py [--folder FOLDER] [--version 5] [TEST_FILE ...]

Makes a virtual environment with the project and its extra `tests`, replaces transformers, and
removes spacy-transformers. There it loads a pipeline that this environment has trained, trains
another one, and runs the test files that need no stock heads, or those that are named. Run it in an
environment with the extra `tests`, by hand, not in CI: it installs about 1 GB. Exits with 1 if
anything fails.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
# Test files with one of these words need spacy-transformers.
STOCK = ("spacy_transformers", "make_stock_nlp", "STOCK_MODELS", '"spacy-transformers.Tra')
# transformers pins these. They are installed without what else they would change.
PINNED = "tokenizers", "huggingface-hub"
PIN_SCRIPT = f"""
from importlib.metadata import requires
from packaging.requirements import Requirement
found = [Requirement(line) for line in requires("transformers")]
print(*(f"{{r.name}}{{r.specifier}}" for r in found if r.name in {PINNED!r} and not r.marker))
"""
SMOKE_SCRIPT = """
import sys, tempfile, traceback
from pathlib import Path

sys.path.insert(0, sys.argv[1])
folder, mode = Path(sys.argv[2]), sys.argv[3]

import numpy
import spacy
import transformers
from conftest import PLAIN_SUM, TEXTS, build_encoder, make_examples
from spacy_mtl.training.adamw import create_adamw_v1

HEADS = {"tagger": "mtl_tagger", "ner": "mtl_ner", "textcat": "mtl_textcat"}
print("transformers", transformers.__version__, "-", mode)


def predict(nlp):
    docs = [nlp(text) for text in TEXTS]
    return [[[t.tag_ for t in doc], [str(e) for e in doc.ents], doc.cats] for doc in docs]


def encode(nlp):
    docs = [nlp.make_doc(text) for text in TEXTS]
    return nlp.get_pipe("transformer").predict(docs).data


def train(family, steps=8):
    name = str(build_encoder(family, Path(tempfile.mkdtemp())))
    nlp = spacy.blank("en")
    nlp.add_pipe(
        "mtl_transformer", name="transformer",
        config={"model": {"name": name}, "balancer": PLAIN_SUM},
    )
    for head, factory in HEADS.items():
        nlp.add_pipe(factory, name=head)
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    optimizer = create_adamw_v1(learn_rate=0.01)
    losses = []
    for _ in range(steps):
        found = nlp.update(examples, sgd=False, losses={})
        for _, pipe in nlp.pipeline:
            pipe.finish_update(optimizer)
        losses.append(sum(found[head] for head in HEADS))
    assert losses[-1] < losses[0], losses
    return nlp


def check_round_trip(nlp):
    with tempfile.TemporaryDirectory() as path:
        nlp.to_disk(path)
        loaded = spacy.load(path)
    assert predict(loaded) == predict(nlp)
    copied = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    assert predict(copied) == predict(nlp)


def save(family):
    nlp = train(family)
    nlp.to_disk(folder / family)
    numpy.save(folder / f"{family}.npy", encode(nlp))


def load(family):
    nlp = spacy.load(folder / family)
    numpy.testing.assert_allclose(encode(nlp), numpy.load(folder / f"{family}.npy"), atol=1e-4)
    print("  equal features from the saved pipeline:", family)


def train_anew(family):
    check_round_trip(train(family))
    print("  trained, saved and loaded:", family)


n_failed = 0
for family in ("bert", "roberta", "albert", "deberta", "modernbert"):
    for step in {"train": [save], "load": [load, train_anew]}[mode]:
        try:
            step(family)
        except Exception:
            traceback.print_exc()
            print("  FAILED:", step.__name__, family)
            n_failed += 1
sys.exit(min(1, n_failed))
"""


def run(*command: object) -> str:
    """Run a command.

    RETURNS (str): Its output.
    RAISES (SystemExit): If it fails.
    """
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stdout)
        sys.exit(f"{command[0]} failed with {done.returncode}")
    return done.stdout


def make_environment(folder: Path, version: str) -> Path:
    """Make the environment, unless the folder has one.

    version (str): The major version of transformers.
    RETURNS (Path): Its Python.
    """
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists():
        return python
    run(sys.executable, "-m", "venv", folder / "venv")
    pip = python, "-m", "pip", "install", "-q"
    run(*pip, "-c", ROOT / "constraints.txt", "-e", f"{ROOT}[tests]")
    run(*pip, "--no-deps", f"transformers=={version}.*")
    pins = run(python, "-c", PIN_SCRIPT).split()
    run(*pip, "--no-deps", *[pin for pin in pins if pin.startswith("tokenizers")])
    run(*pip, *[pin for pin in pins if not pin.startswith("tokenizers")])  # with new packages of it
    run(python, "-m", "pip", "uninstall", "-q", "-y", "spacy-transformers")
    return python


def needs_stock(path: Path) -> bool:
    """RETURNS (bool): Whether a test file needs spacy-transformers."""
    text = path.read_text(encoding="utf-8")
    return any(word in text for word in STOCK)


def run_tests(python: Path, paths: Sequence[Path]) -> list[Path]:
    """Run each test file in a process of its own, and print its last line.

    RETURNS (List[Path]): The files in which a test has failed.
    """
    failed = []
    for path in paths:
        command = [python, "-m", "pytest", "-n", "0", "-W", "default", path]
        done = subprocess.run(
            [*map(str, command)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines = done.stdout.strip().splitlines()
        print(f"{path.relative_to(ROOT)}: {lines[-1] if lines else done.returncode}", flush=True)
        if done.returncode not in (0, 5):  # 5: no test in it
            failed.append(path)
            print(*[line for line in lines if line.startswith(("FAILED", "ERROR"))], sep="\n")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where to make or find the environment")
    parser.add_argument("--version", default="5", help="of transformers, such as 5")
    parser.add_argument("tests", nargs="*", type=Path, help="test files, by default all that run")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    python = make_environment(folder.resolve(), options.version)
    pipelines, is_broken = Path(tempfile.mkdtemp()), False
    for interpreter, mode in ((sys.executable, "train"), (python, "load")):
        command = [str(interpreter), "-c", SMOKE_SCRIPT, str(TESTS), str(pipelines), mode]
        is_broken = subprocess.run(command).returncode != 0 or is_broken
    paths = [path.resolve() for path in options.tests]
    paths = paths or [p for p in sorted(TESTS.rglob("test_*.py")) if not needs_stock(p)]
    failed = run_tests(python, paths)
    print(f"{len(paths) - len(failed)} of {len(paths)} test files pass")
    sys.exit(is_broken or bool(failed))


if __name__ == "__main__":
    main()
