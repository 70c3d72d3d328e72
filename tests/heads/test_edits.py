"""Edits of forms to lemmas."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.pipeline._edit_tree_internals.edit_trees import EditTrees
from spacy.strings import StringStore

from spacy_mtl.heads.edits import LONGEST, apply_edit, find_edit, parse_edit

WORDS = st.text(alphabet="abcABCé ß", min_size=1, max_size=8) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8
)
IDENTITY = [0, 0, None, None]


@pytest.mark.parametrize(
    ("form", "lemma", "edit"),
    [
        ("dogs", "dog", ["lower", [0, 1, None, ["s", ""]]]),
        ("Dogs", "dog", ["lower", [0, 1, None, ["s", ""]]]),
        ("The", "the", ["lower", IDENTITY]),
        ("Maria", "Maria", ["keep", IDENTITY]),
        ("LISBON", "Lisbon", ["capitalize", IDENTITY]),
        ("NASA", "NASA", ["keep", IDENTITY]),
        ("i", "I", ["keep", ["i", "I"]]),
        ("ge-", "x", ["lower", ["ge-", "x"]]),
        ("gekauft", "kaufen", ["lower", [2, 1, ["ge", ""], ["t", "en"]]]),
    ],
)
def test_edits(form, lemma, edit):
    label = find_edit(form, lemma)
    assert json.loads(label) == edit
    assert apply_edit(label, form) == lemma


@given(WORDS, WORDS)
def test_an_edit_gives_back_its_lemma(form, lemma):
    label = find_edit(form, lemma)
    if form.isspace():
        assert label is None
    else:
        assert apply_edit(label, form) == lemma
        assert json.loads(label) == [*parse_edit(label)]


@given(WORDS, WORDS, WORDS)
def test_trees_do_what_spacys_do(form, lemma, other):
    trees = EditTrees(StringStore())
    form, lemma, other = form.lower(), lemma.lower(), other.lower()
    if not form.isspace() and lemma == lemma.lower() and form == form.lower():
        expected = trees.apply(trees.add(form, lemma), other.lower())
        assert apply_edit(find_edit(form, lemma), other) == (expected or None)


def test_what_has_no_edit():
    assert find_edit("dog", "") is None
    assert find_edit(" \n", "dog") is None
    assert find_edit("x" * 10_000, "y" * 10_000) is None
    assert find_edit("x", "y" * (LONGEST + 1)) is None
    assert find_edit("x" * LONGEST, "y") is not None


def test_an_edit_that_does_not_fit():
    assert apply_edit(find_edit("dogs", "dog"), "cat") is None
    assert apply_edit(find_edit("gekauft", "kaufen"), "ge") is None
    assert apply_edit(find_edit("dogs", "dog"), "s") is None  # nothing would be left
    assert apply_edit('["lower",[1,0,null,null]]', "cat") is None


@pytest.mark.parametrize(
    "label",
    [
        *("", "dog", "[]", "null", "3", '["lower"]', '["lower",null]', '["upper",["s",""]]'),
        *('["lower",["s"]]', '["lower",["s",1]]', '["lower",[0,1,null]]', '[["lower"],["s",""]]'),
        *('["lower",[-1,1,null,null]]', '["lower",[true,1,null,null]]', '["lower",[0,0.5,0,0]]'),
        *('["lower",[0,1,null,["s",""],null]]', '["lower",[0,0,null,[1,2]]]', "[" * 5000),
        '["lower",' + "[0,1,null," * 200 + "null" + "]" * 201,
    ],
)
def test_labels_that_are_no_edits(label):
    assert parse_edit(label) is None
