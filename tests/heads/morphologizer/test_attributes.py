"""From labels to outputs, and from choices to the values of tokens."""

import math

import numpy
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from spacy.parts_of_speech import IDS

from spacy_mtl.heads.morphologizer.attributes import (
    Attributes,
    get_allowed,
    get_attributes,
    is_label,
    make_hashes,
    merge_features,
    normalize,
    number_rows,
)

VOCAB = spacy.blank("en").vocab
LABELS = ("Case=Acc", "Case=Nom", "Gender=Fem,Masc", "POS=NOUN", "POS=VERB", "_")
OUTPUTS = ["POS=NOUN", "POS=VERB", "Case=_", "Case=Acc", "Case=Nom", "Gender=_", "Gender=Fem,Masc"]


def read(attributes: Attributes, *tokens: tuple[str, str]) -> list[list[str]]:
    """RETURNS (List[List[str]]): The allowed outputs of tokens with parts of speech and morphs."""
    rows = [(IDS[pos], VOCAB.morphology.add(morph) if morph else 0) for pos, morph in tokens]
    allowed = get_allowed(attributes, numpy.array(rows, dtype="uint64"), [VOCAB.strings])
    return [[attributes.outputs[i] for i in numpy.flatnonzero(row)] for row in allowed]


def test_outputs() -> None:
    attributes = get_attributes(LABELS)
    assert attributes.outputs == OUTPUTS
    assert attributes.groups == {"POS": slice(0, 2), "Case": slice(2, 5), "Gender": slice(5, 7)}
    assert [attributes.places[name] for name in OUTPUTS] == list(range(7))
    assert attributes.has_morph
    assert get_attributes(("Case=Nom",)).groups == {"Case": slice(0, 2)}
    assert not get_attributes(("POS=X",)).has_morph
    assert get_attributes(("POS=X", "_")).has_morph


@pytest.mark.parametrize("label", ["Case=Nom", "POS=NOUN", "_", "Gender=Fem,Masc", "Typo[a]=Yes"])
def test_labels(label: str) -> None:
    assert is_label(label)


@pytest.mark.parametrize(
    "label",
    ["", "Case", "Case=", "=Nom", "Case=_", "POS=", "POS=N", "POS", "A=b|C=d", "A=b=c", "="],
)
def test_other_labels(label: str) -> None:
    assert not is_label(label)


def test_normalize() -> None:
    assert normalize("Gender=Masc,Fem") == "Gender=Fem,Masc"
    assert normalize("_") == "_"


def test_allowed_outputs() -> None:
    """A missing or unknown value allows all; known features rule out all others."""
    attributes = get_attributes(LABELS)
    pos, case, gender = ([*OUTPUTS[group]] for group in attributes.groups.values())
    assert read(attributes, ("NOUN", "Case=Nom")) == [["POS=NOUN", "Case=Nom", "Gender=_"]]
    assert read(attributes, ("VERB", "_")) == [["POS=VERB", "Case=_", "Gender=_"]]
    assert read(attributes, ("VERB", ""), ("", "")) == [["POS=VERB", *case, *gender], OUTPUTS]
    assert read(attributes, ("", "Gender=Fem,Masc")) == [[*pos, "Case=_", "Gender=Fem,Masc"]]
    unheard = read(attributes, ("ADJ", "Case=Gen|Number=Sing"))
    assert unheard == [[*pos, *case, "Gender=_"]]


def test_hashes() -> None:
    attributes = get_attributes(LABELS)
    choices = numpy.array([[0, 2, 0], [1, 0, 0], [0, 1, 1], [0, 2, 0]])
    values = make_hashes(attributes, choices, VOCAB)
    assert values.dtype == "uint64"
    texts = [tuple(VOCAB.strings[value] for value in row) for row in values.tolist()]
    expected = ["Case=Nom", "_", "Case=Acc|Gender=Fem,Masc", "Case=Nom"]
    assert texts == list(zip(["NOUN", "VERB", "NOUN", "NOUN"], expected, strict=True))
    assert make_hashes(attributes, choices[:0], VOCAB).shape == (0, 2)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(("POS=X",), (IDS["X"], "")), (("POS=X", "_"), (IDS["X"], "_")), (("Case=Nom",), (0, "_"))],
)
def test_hashes_of_one_part(labels: tuple[str, ...], expected: tuple[int, str]) -> None:
    ((pos, morph),) = make_hashes(get_attributes(labels), numpy.zeros((1, 1), dtype="i"), VOCAB)
    assert (int(pos), VOCAB.strings[int(morph)]) == expected


@given(arrays("int64", st.tuples(st.integers(1, 9), st.integers(0, 5)), elements=st.integers(0, 3)))
def test_numbers_of_rows(choices: numpy.ndarray) -> None:
    first, numbers = number_rows(choices, [4] * choices.shape[1])
    assert (choices[first][numbers] == choices).all()
    assert len(first) == len({*map(tuple, choices.tolist())})


def test_numbers_of_rows_of_many_columns() -> None:
    """The number of possible rows is larger than any integer of 64 bits."""
    random = numpy.random.default_rng(0)
    kinds = random.integers(0, 9, size=(20, 60))
    assert math.log2(9) * 60 > 64
    choices = kinds[random.integers(0, 20, size=200)]
    first, numbers = number_rows(choices, [9] * 60)
    assert (choices[first][numbers] == choices).all()
    assert len(first) == len({*map(tuple, choices.tolist())})


def test_merged_features() -> None:
    pairs = [("Case=Nom", "Case=Acc|Number=Sing"), ("", "_"), ("_", "A=b"), ("B=c", "A=b")]
    columns = zip(*pairs, strict=True)
    hashes = [numpy.array([VOCAB.morphology.add(m) if m else 0 for m in c], "u8") for c in columns]
    merged = [VOCAB.strings[value] for value in merge_features(VOCAB, *hashes).tolist()]
    assert merged == ["Case=Acc|Number=Sing", "_", "A=b", "A=b|B=c"]
