"""spaCy's own commands on our components."""

from collections.abc import Callable
from pathlib import Path

import pytest
import spacy
from conftest import TEXTS, make_gold
from spacy.cli.debug_data import debug_data
from spacy.cli.evaluate import evaluate
from spacy.tokens import DocBin

SHOWN = {
    "tagger": "11 label(s) in train data",
    "ner": "Low number of examples for label 'PLACE' (2)",
    "textcat": "Text Classification (Exclusive Classes)",
    "textcat_multilabel": "Text Classification (Multilabel)",
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    vocab = spacy.blank("en").vocab
    path = tmp_path / "gold.spacy"
    DocBin(docs=[make_gold(vocab, i) for i in range(len(TEXTS))]).to_disk(path)
    return path


def test_evaluate_draws_entities(make_nlp: Callable, corpus: Path, tmp_path: Path) -> None:
    make_nlp("ner").to_disk(tmp_path / "model")
    with pytest.warns(UserWarning, match="W006"):  # a new head has not found any
        evaluate(str(tmp_path / "model"), corpus, displacy_path=tmp_path)
    assert TEXTS[0] in (tmp_path / "entities.html").read_text(encoding="utf8")


@pytest.mark.parametrize("head", SHOWN)
def test_debug_data_counts_the_labels(
    make_nlp: Callable, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture, head: str
) -> None:
    nlp = make_nlp(head, initialize=False)
    config = nlp.config.copy()
    assert config["components"][head]["factory"] == f"mtl_{head}"
    config["paths"].update(train=str(corpus), dev=str(corpus))
    config.to_disk(tmp_path / "config.cfg")
    with pytest.raises(SystemExit):  # it finds so few examples an error
        debug_data(tmp_path / "config.cfg", silent=False)
    assert SHOWN[head] in capsys.readouterr().out
