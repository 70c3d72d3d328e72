"""The layer of parts of speech and features together."""

import json
from collections.abc import Sequence

import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from spacy_mtl.annotations import find_main_layer
from spacy_mtl.annotations.morphosyntax import Morphosyntax, remove_features
from spacy_mtl.corpora.counts import count_docs

VOCAB = spacy.blank("en").vocab
LAYER = Morphosyntax()
FULL = ["POS=NOUN|Case=Nom|Number=Sing", "POS=PUNCT|_", "POS=X", "Case=Acc", "_", ""]


def make_doc(labels: Sequence[str], words: Sequence[str] = ()) -> Doc:
    """RETURNS (Doc): A doc of tokens with these labels. Without a part, it is missing."""
    doc = Doc(VOCAB, words=list(words or [f"t{i}" for i in range(len(labels))]))
    for token, label in zip(doc, labels, strict=True):
        parts = label.split("|") if label else []
        features = [part for part in parts if not part.startswith("POS=")]
        token.pos_ = "".join(part[4:] for part in parts if part.startswith("POS="))
        if features:
            token.set_morph("|".join(features))
    return doc


def test_labels() -> None:
    doc = make_doc(FULL)
    assert LAYER.get_labels(doc) == FULL[:-1]
    parts = ["Case=Acc", "Case=Nom", "Number=Sing", "POS=NOUN", "POS=PUNCT", "POS=X", "_"]
    assert LAYER.find_labels([doc, doc]) == parts
    counts = count_docs([doc, make_doc([""])], {"it": LAYER}).tasks["it"]
    assert (counts.units, counts.missing) == (5, 1)
    assert counts.labels == dict.fromkeys(parts, 1) | {"_": 2}


def test_missing() -> None:
    for doc in (Doc(VOCAB), make_doc(["", ""])):
        assert not LAYER.is_annotated(doc)
        assert LAYER.get_labels(doc) is None
        assert LAYER.compare(Example(doc.copy(), doc), []) is None
    for label in ("POS=X", "_", "Case=Acc"):
        assert LAYER.is_annotated(make_doc(["", label]))


def test_copy_and_strip() -> None:
    LAYER.copy(make_doc(FULL), target := make_doc([""] * 4), start=2)
    assert LAYER.get_answer(target) == LAYER.get_answer(make_doc(FULL[2:]))
    assert str(target[1].morph) == "Case=Acc" and not target[3].has_morph()
    LAYER.strip(target)
    assert not LAYER.is_annotated(target)


def test_answers_can_be_stored() -> None:
    answer = json.loads(json.dumps(LAYER.get_answer(make_doc(FULL))))
    LAYER.set_answer(doc := make_doc([""] * 6), answer)
    assert LAYER.get_answer(doc) == LAYER.get_answer(make_doc(FULL))
    assert doc[0].morph.to_dict() == {"Case": "Nom", "Number": "Sing"}
    LAYER.set_answer(doc := make_doc([""] * 5), answer)  # the tokens have changed
    assert not LAYER.is_annotated(doc)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"POS=NOUN", "Number=Sing"}, ["Case=Nom", *FULL[1:5]]),
        ({"Case=Nom", "Number=Sing", "Case=Acc"}, ["POS=NOUN|_", "POS=PUNCT|_", "POS=X", "_", "_"]),
        ({"Case=Nom", "Number=Sing", "Case=Acc", "_"}, ["POS=NOUN", "POS=PUNCT", "POS=X"]),
        ({"_"}, [FULL[0], "POS=PUNCT", "POS=X", "Case=Acc"]),
    ],
)
def test_removed_labels(labels: set[str], expected: list[str]) -> None:
    """Without "_" a token that has lost its features is known to have none."""
    LAYER.remove_labels(doc := make_doc(FULL), labels)
    assert LAYER.get_labels(doc) == expected


def test_removed_features() -> None:
    assert remove_features("", {"Case=Nom"}) == ""
    assert remove_features("_", {"Case=Nom"}) == "_"


def test_gold_for_other_tokens() -> None:
    gold = make_doc(["POS=NOUN|Case=Nom", "POS=VERB|_", "POS=VERB|Case=Acc", "_"])
    predicted = Doc(VOCAB, words=["t0", "t1t2", "t", "3"], spaces=[True, True, False, True])
    found = LAYER.read_gold(Example(predicted, gold)).tolist()
    texts = [[VOCAB.strings[value] for value in row] for row in found]
    assert texts == [["NOUN", "Case=Nom"], ["VERB", ""], ["", "_"], ["", "_"]]


def test_comparison_leaves_out_what_is_missing() -> None:
    found = make_doc(["POS=VERB|Case=Nom"] * 6)
    comparison = LAYER.compare(Example(found, make_doc(FULL)), [])
    assert comparison is not None
    assert {item.start: item.label for item in comparison.gold} == dict(enumerate(FULL[:5]))
    assert {item.start: item.label for item in comparison.predicted} == {
        0: "POS=VERB|Case=Nom",
        1: "POS=VERB|Case=Nom",
        2: "POS=VERB",
        3: "Case=Nom",
        4: "Case=Nom",
    }


def test_main_layer_of_a_component() -> None:
    nlp: Language = spacy.blank("en")
    for factory in ("mtl_morphologizer", "morphologizer", "mtl_tagger", "merge_entities"):
        nlp.add_pipe(factory)
    layers = {name: find_main_layer(nlp, name) for name in nlp.pipe_names}
    assert type(layers["mtl_morphologizer"]) is Morphosyntax
    names = {name: layer and layer.name for name, layer in layers.items()}
    assert names == {
        "mtl_morphologizer": "morphs",
        "morphologizer": "morphs",
        "mtl_tagger": "tags",
        "merge_entities": None,
    }
