"""Runs the tests that spacy-transformers and spaCy install with themselves on our components.

    python scripts/upstream_tests.py

Every test runs twice: with the stock components as a control, and with ours in their place:
`mtl_transformer` for `transformer`, and our heads over `spacy.HashEmbedCNN.v2` for `tagger`, `ner`,
`textcat` and `textcat_multilabel`. Hub names are replaced by tiny encoders that are made on the
spot. A test that passes with stock and fails with ours must be listed in `upstream_tests.json`,
under the reason. Any other failure makes the script fail, and so does a listed test that passes.

The wheels of spacy 3.8 and spacy-transformers 1.4 include their tests. If a build does not, unpack
the source (`pip download --no-deps --no-binary :all: spacy`) and add its folder to PYTHONPATH.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).resolve().parent
SUITES = {
    "spacy-transformers": ["spacy_transformers.tests"],
    "spacy": [
        "spacy.tests.pipeline.test_tagger",
        "spacy.tests.parser.test_ner",
        "spacy.tests.pipeline.test_textcat",
    ],
}
# Which factory takes the place of a stock one.
OURS = {
    "spacy-transformers": {"transformer": "mtl_transformer"},
    "spacy": {n: f"mtl_{n}" for n in ("tagger", "ner", "textcat", "textcat_multilabel")},
}
HASH_EMBED = {
    "@architectures": "spacy.HashEmbedCNN.v2",
    "pretrained_vectors": None,
    "width": 96,
    "depth": 4,
    "embed_size": 2000,
    "window_size": 1,
    "maxout_pieces": 3,
    "subword_features": True,
}
# The family of the tiny encoder that stands for a hub name: the first whose name is part of it.
FAMILIES = ("distilbert", "xlm-roberta", "roberta", "albert", "gpt2", "xlnet")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--suite", choices=SUITES, help="both by default")
    parser.add_argument("--logs", type=Path, help="a folder to save pytest's output in")
    args = parser.parse_args()
    names = [args.suite] if args.suite else list(SUITES)
    known = json.loads((HERE / "upstream_tests.json").read_text(encoding="utf8"))
    is_clean = True
    with tempfile.TemporaryDirectory() as folder:
        for suite in names:
            stock, ours = (
                run(suite, parts, Path(folder), args.logs) for parts in ("stock", "ours")
            )
            passed = {test for test, is_passed in stock.items() if is_passed}
            failed = {test for test in passed if not ours.get(test)}
            reasons = {test: reason for reason, tests in known[suite].items() for test in tests}
            print(
                f"{suite}: {len(passed)} of {len(stock)} tests pass with stock components, ", end=""
            )
            print(f"{len(passed) - len(failed)} of these with ours")
            for reason, tests in known[suite].items():
                print(f"  {len(failed.intersection(tests)):3} known: {reason}")
            for message, tests in {
                "fails, and is not listed": failed - reasons.keys(),
                "is listed, and passes": reasons.keys() & passed - failed,
                "is listed, and fails with stock or is not there": reasons.keys() - passed,
            }.items():
                for test in sorted(tests):
                    is_clean = False
                    print(f"  {test} {message}")
    return not is_clean


def run(suite: str, components: str, folder: Path, logs: Path | None = None) -> dict[str, bool]:
    """RETURNS (Dict[str, bool]): Whether each test passes; skipped tests are left out."""
    report = folder / f"{suite}-{components}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "upstream_tests"]
    command += ["-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report}"]
    command += ["--import-mode=importlib", "-c", os.devnull, "--pyargs", *SUITES[suite]]
    paths = [str(HERE), str(HERE.parent / "tests"), os.environ.get("PYTHONPATH", "")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1",
        "UPSTREAM_COMPONENTS": suite if components == "ours" else "",
        "UPSTREAM_ENCODERS": str(folder),
    }
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    if not report.is_file():
        sys.exit(f"pytest did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
        (logs / f"{suite}-{components}.txt").write_text(done.stdout, encoding="utf8")
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("skipped") is None:
            is_passed = case.find("failure") is None and case.find("error") is None
            found[f"{Path(case.get('file', '')).stem}::{case.get('name')}"] = is_passed
    return found


# What follows runs inside of pytest, which loads this file as a plugin.


def pytest_configure(config: pytest.Config) -> None:
    replace_hub(Path(os.environ["UPSTREAM_ENCODERS"]))
    if suite := os.environ["UPSTREAM_COMPONENTS"]:
        replace_components(OURS[suite])


def replace_hub(folder: Path) -> None:
    """Let transformers read tiny encoders in the place of those on the hub."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    autos: list[Any] = [AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer]
    for auto in autos:
        read = auto.from_pretrained.__func__

        def from_pretrained(cls: Any, name: Any, *args: Any, read: Any = read, **kw: Any) -> Any:
            return read(cls, find_encoder(str(name), folder), *args, **kw)

        auto.from_pretrained = classmethod(from_pretrained)


def find_encoder(name: str, folder: Path) -> str:
    """RETURNS (str): The folder of the tiny encoder that stands for a hub name."""
    family = next((family for family in FAMILIES if family in name.lower()), None)
    if family is None or Path(name).exists():
        return name
    path = folder / family
    if not path.exists():
        make_encoder(family, path)
    return str(path)


def make_encoder(family: str, path: Path) -> None:
    """Save a tiny encoder with random weights, and a tokenizer of the class that the family has."""
    from conftest import build_encoder, build_tokenizer
    from transformers import AutoConfig, AutoModel, DistilBertTokenizerFast, GPT2TokenizerFast

    if family == "gpt2":
        tokenizer = GPT2TokenizerFast(
            tokenizer_object=build_tokenizer("roberta").backend_tokenizer,
            unk_token="<unk>",
            pad_token="<pad>",
        )
        tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
        size = {"vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 2, "n_head": 2}
    elif family == "xlnet":
        tokenizer = build_tokenizer("albert")
        size = {"vocab_size": len(tokenizer), "d_model": 32, "n_layer": 2, "n_head": 2}
        size["d_inner"] = 64
    else:
        build_encoder(family, path)
        if family == "distilbert":  # there are tests of the slow tokenizer
            backend = build_tokenizer("bert").backend_tokenizer
            DistilBertTokenizerFast(tokenizer_object=backend).save_pretrained(path)
        return
    AutoModel.from_config(AutoConfig.for_model(family, **size)).save_pretrained(path)
    tokenizer.save_pretrained(path)


def replace_components(ours: dict[str, str]) -> None:
    """Let spaCy make our components in the place of its own."""
    import spacy
    from spacy.language import Language

    add_pipe = Language.add_pipe

    def add_ours(self: Language, factory_name: str, name: Any = None, **kwargs: Any) -> Any:
        if kwargs.get("source") is None and factory_name in ours:
            name, factory_name = name or factory_name, ours[factory_name]
        return add_pipe(self, factory_name, name, **kwargs)

    Language.add_pipe = add_ours  # type: ignore[method-assign]
    spacy.blank("en")  # imports the factories
    for factory in ours.values():
        meta: Any = Language.get_factory_meta(factory)
        if "tok2vec" in meta.default_config["model"]:
            meta.default_config["model"]["tok2vec"] = HASH_EMBED


if __name__ == "__main__":
    sys.exit(main())
