"""The model card of saved pipelines."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spacy
import srsly
from conftest import make_examples, make_gold, run_spacy
from spacy.cli.package import package
from spacy.language import Language
from spacy.tokens import DocBin

from spacy_mtl import card
from spacy_mtl.training.calibration import calibrate

CONFIG = Path(__file__).parents[1] / "configs" / "mtl_cpu.cfg"


@pytest.fixture(scope="module")
def make_run(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that trains by a command, and returns the output folder."""
    folder = tmp_path_factory.mktemp("card")
    vocab = spacy.blank("en").vocab
    for part, indices in (("train", range(4)), ("dev", range(2))):
        docs = [make_gold(vocab, i) for i in indices]
        DocBin(docs=docs, store_user_data=True).to_disk(folder / f"{part}.spacy")
    options = {
        "paths.train": folder / "train.spacy",
        "paths.dev": folder / "dev.spacy",
        "paths.encoder": encoder,
        "components.transformer.model.precision": "float32",
        "training.max_steps": 2,
        "training.eval_frequency": 1,
    }

    def train(*command: str) -> Path:
        output = folder / "-".join(command)
        args = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
        run_spacy(*command, str(CONFIG), "--output", str(output), *args)
        return output

    return train


@pytest.fixture(scope="module")
def run(make_run: Callable[..., Path]) -> Path:
    return make_run("train")


def read_tables(text: str) -> list[list[str]]:
    """Return the cells of each row of each table, without formats."""
    rows = [line.replace("`", "").split("|")[1:-1] for line in text.splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in row] for row in rows]


@pytest.mark.parametrize("model", ["model-best", "model-last"])
def test_training_writes_a_card(run: Path, model: str, encoder: str) -> None:
    text = (run / model / "README.md").read_text(encoding="utf8")
    meta = srsly.read_json(run / model / "meta.json")
    rows = read_tables(text)
    assert text.startswith("# Pipeline for tagger, ner, textcat\n")
    assert "ner_loss" in meta["performance"] and "loss" not in text.lower()
    for key, task in (("tag_acc", "tagger"), ("ents_f", "ner"), ("cats_score", "textcat")):
        assert [task, key, f"{100 * meta['performance'][key]:.1f}"] in rows
    tokens = [8 + 10 + 9 + 7, 8 + 10]
    assert ["Corpus", "Docs", "Words", "tagger", "ner", "textcat"] in rows
    assert ["train", "4", str(tokens[0]), str(tokens[0]), "6", "4"] in rows
    assert ["dev", "2", str(tokens[1]), str(tokens[1]), "4", "2"] in rows
    facts = {row[0]: row[1] for row in rows if len(row) == 2}
    assert facts["Seed"] == "0" and facts["License"].startswith("not given")
    assert facts["Encoder transformer"].startswith(f"{encoder}, 0.0 million parameters")
    assert "max_steps 2" in facts["Others"] and "spacy-mtl.AdamW.v1" in facts["Optimizer"]
    assert "spacy-mtl 0." in facts["Saved with"]
    assert "Not calibrated" in text and "not calibrated: they" in text


def test_both_commands_write_the_same_card(run: Path, make_run: Callable[..., Path]) -> None:
    other = make_run("mtl", "train")
    cards = [(r / "model-best" / "README.md").read_text(encoding="utf8") for r in (run, other)]
    assert cards[0] == cards[1]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of spaCy
def test_a_package_keeps_the_card(run: Path, tmp_path: Path) -> None:
    package(run / "model-best", tmp_path, name="news", create_sdist=False, create_wheel=False)
    text = (run / "model-best" / "README.md").read_text(encoding="utf8")
    found = [path.read_text(encoding="utf8") for path in tmp_path.rglob("README.md")]
    assert found == [text, text]


def test_calibration(run: Path, tmp_path: Path) -> None:
    nlp = spacy.load(run / "model-best")
    before = make_examples(nlp)
    found = calibrate(nlp, before)
    nlp.to_disk(tmp_path / "a")
    nlp = spacy.load(tmp_path / "a")
    nlp.to_disk(tmp_path / "b")
    for folder in ("a", "b"):
        text = (tmp_path / folder / "README.md").read_text(encoding="utf8")
        assert "ot calibrated" not in text
        for task, own in found.items():
            percents = ["-" if math.isnan(error) else f"{100 * error:.1f}" for error in own.ece]
            row = [task, str(own.units), f"{own.temperature[1]:.3f}", *percents]
            assert row in read_tables(text)
        assert ["train", "4", "34", "34", "6", "4"] in read_tables(text)


def test_text_of_others_is_kept(make_nlp: Callable[..., Language], tmp_path: Path) -> None:
    nlp = make_nlp("tagger")
    nlp.to_disk(tmp_path)
    path = tmp_path / "README.md"
    text = path.read_text(encoding="utf8")
    assert "not evaluated" in text and "Not counted" in text
    path.write_text(f"My notes\n{card.MARK}", encoding="utf8")
    nlp.to_disk(tmp_path)
    assert path.read_text(encoding="utf8") == text
    path.write_text("My notes", encoding="utf8")
    nlp.to_disk(tmp_path)
    assert path.read_text(encoding="utf8") == "My notes"


def test_a_component_alone_writes_no_card(
    make_nlp: Callable[..., Language], tmp_path: Path
) -> None:
    nlp = make_nlp("tagger")
    pipe: Any = nlp.get_pipe("transformer")
    pipe.to_disk(tmp_path / "transformer")
    nlp.to_disk(tmp_path / "nlp")
    (tmp_path / "nlp" / "README.md").unlink()
    pipe.to_disk(tmp_path / "nlp" / "copy")
    assert not [*tmp_path.rglob("README.md")]


def test_labels_in_a_table() -> None:
    texts = {"a|b": r"`a\|b`", "``": "``` `` ```", "": "` `", "a\nb": "`a b`"}
    assert {text: card.code(text) for text in texts} == texts
    assert card.describe_labels([*"abcdefghijklmnopqrstuvw"]).endswith("`t` and 3 more")
