from pathlib import Path

import pytest
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

from spacy_mtl.annotations import get_layers
from spacy_mtl.validation.merging import find_clashes, merge_corpora

LAYERS = {name: get_layers()[name] for name in ("tags", "cats")}
VOCAB = Vocab()


def make_doc(text: str, tag: str, **cats: float) -> Doc:
    words = text.split()
    doc = Doc(VOCAB, words=words, tags=[tag] * len(words))
    doc.cats = cats
    return doc


def test_clashes() -> None:
    first = [make_doc("a b", "NN", Food=1.0), make_doc("c", "NN"), make_doc("c", "VB")]
    second = [make_doc("a b", "NN", food=1.0), make_doc("c", "VB"), make_doc("d", "NN")]
    clashes = find_clashes([first, second], LAYERS)
    assert clashes.labels == [("Food", "food")]
    assert clashes.texts == {"c ": ["tags"], "a b ": ["cats"]}
    assert find_clashes([first], LAYERS).texts == {}


def test_merged_docs(tmp_path: Path) -> None:
    DocBin(docs=[make_doc("a b", "NN", Food=1.0)]).to_disk(tmp_path / "1.spacy")
    DocBin(docs=[make_doc("a b", "VB", food=1.0)]).to_disk(tmp_path / "2.spacy")
    with pytest.warns(UserWarning) as found:
        docs = merge_corpora([tmp_path / "1.spacy", tmp_path / "2.spacy"], VOCAB, LAYERS)
    assert [doc[0].tag_ for doc in docs] == ["NN", "VB"]
    texts = sorted(str(warning.message) for warning in found)
    assert "W135" in texts[0] and "'Food and food'" in texts[0]
    assert "W136" in texts[1] and "'cats', 'tags'" in texts[1] and "'a b '" in texts[1]
