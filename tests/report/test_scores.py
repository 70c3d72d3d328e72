"""Counts of right and wrong labels, and the scores of the counts."""

from collections.abc import Sequence

import numpy
import pytest
import spacy
from conftest import CATS, TAGS, make_gold
from spacy.scorer import Scorer, get_ner_prf
from spacy.tokens import Doc, Span
from spacy.training import Example

from spacy_mtl.annotations import Comparison, Item, get_layers
from spacy_mtl.heads.textcat.scorer import score_textcat
from spacy_mtl.report.records import LabelScore, TaskRow
from spacy_mtl.report.scores import (
    NOTHING,
    count_confusions,
    count_labels,
    get_f,
    get_labels,
)
from spacy_mtl.types import Ints2d


def compare(gold: set[tuple[int, int, str]], predicted: set[tuple[int, int, str]]) -> Comparison:
    """Make the items of a doc."""
    return Comparison({Item(*item) for item in gold}, {Item(*item) for item in predicted})


GOLD = compare({(0, 2, "PER"), (4, 5, "LOC"), (6, 7, "ORG")}, {(0, 2, "PER"), (4, 5, "ORG")})
OTHER = compare({(0, 1, "PER")}, {(0, 1, "PER"), (1, 2, "PER"), (2, 3, "LOC")})
DOCS = [GOLD, None, OTHER]
ROW = TaskRow("ner", "x")


@pytest.fixture(scope="module")
def nlp():
    return spacy.blank("en")


def make_noisy(nlp, seed: int, missing: float = 0.0) -> Example:
    """Make a labelled text and a random prediction with another tokenization.

    seed (int): Chooses the text and the prediction.
    missing (float): The share of tokens without a gold tag. With any, two entities are missing too.
    """
    random = numpy.random.default_rng(seed)
    gold = make_gold(nlp.vocab, seed % 4)
    for token in gold:
        if random.random() < missing:
            token.tag_ = ""
    if missing:
        gold.set_ents(list(gold.ents), missing=[gold[i : i + 1] for i in (2, 3)])
    words = [part for word in gold for part in split(word.text, random.random() < 0.2)]
    spaces = [not (i + 1 < len(words) and words[i].startswith("~")) for i in range(len(words))]
    predicted = Doc(nlp.vocab, words=[word.strip("~") for word in words], spaces=spaces)
    for token in predicted:
        token.tag_ = str(random.choice(TAGS[seed % 4]))
    cuts = sorted(random.choice(len(predicted) + 1, 6, replace=False).tolist())
    labels = random.choice(["PERSON", "PLACE", "ORG"], 3)
    pairs = zip(cuts[::2], cuts[1::2], labels, strict=True)
    predicted.set_ents([Span(predicted, a, b, label=str(label)) for a, b, label in pairs])
    right = [ent for ent in gold.ents if random.random() < 0.5]
    for ent in right:
        span = predicted.char_span(ent.start_char, ent.end_char, label=ent.label_)
        if span and not any(token.ent_type for token in span):
            predicted.set_ents([*predicted.ents, span])
    predicted.cats = dict(zip(CATS, random.random(4).tolist(), strict=True))
    return Example(predicted, gold)


def split(word: str, is_split: bool) -> list[str]:
    return [f"~{word[:1]}", word[1:]] if is_split and len(word) > 1 else [word]


def read(
    layer: str,
    examples: Sequence[Example],
    labels: Sequence[str] = CATS,
    threshold: float | None = None,
) -> list[Comparison | None]:
    """Compare the gold and predicted items of examples."""
    return [get_layers()[layer].compare(eg, labels, threshold) for eg in examples]


def add_up(docs: Sequence[Comparison | None]) -> Ints2d:
    """Sum the counts of each label over docs."""
    return count_labels(docs, sorted(get_labels(docs))).sum(axis=0)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_tags_are_counted_like_in_spacy(nlp, missing):
    examples = [make_noisy(nlp, seed, missing) for seed in range(20)]
    assert any(len(eg.predicted) != len(eg.reference) for eg in examples)
    total = add_up(read("tags", examples)).sum(axis=0, keepdims=True)
    expected = Scorer.score_token_attr(examples, "tag")["tag_acc"]
    assert 0 < expected < 1
    assert get_f(total) == pytest.approx(expected)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_entities_are_counted_like_in_spacy(nlp, missing):
    examples = [make_noisy(nlp, seed, missing) for seed in range(20)]
    docs = read("ents", examples)
    labels, counts = sorted(get_labels(docs)), add_up(docs)
    expected = get_ner_prf(examples)
    assert get_f(counts.sum(axis=0, keepdims=True)) == pytest.approx(expected["ents_f"])
    for label, count in zip(labels, counts, strict=True):
        found, per_type = (
            LabelScore.from_counts(ROW, label, count),
            expected["ents_per_type"][label],
        )
        scores = {"p": found.p or 0.0, "r": found.r or 0.0, "f": found.f or 0.0}
        assert scores == pytest.approx(per_type)
    assert sum(expected["ents_per_type"][label]["f"] > 0 for label in labels) > 1


def test_exclusive_categories_are_counted_like_in_spacy(nlp):
    examples = [make_noisy(nlp, seed) for seed in range(40)]
    examples[3].reference.cats = {}
    examples[4].reference.cats = dict.fromkeys(CATS, 0.0)
    answers = read("cats", examples)
    assert answers[3] is answers[4] is None
    counts = count_labels(answers, sorted(CATS)).sum(axis=0)
    expected = score_textcat(examples, labels=CATS)
    assert 0 < expected["cats_score"] < 1
    assert get_f(counts) == pytest.approx(expected["cats_score"])


def test_other_categories_are_counted_like_in_spacy(nlp):
    examples = [make_noisy(nlp, seed) for seed in range(40)]
    examples[3].reference.cats = {}
    del examples[4].reference.cats["food"]
    examples[5].reference.cats = dict.fromkeys(CATS, 0.0)
    answers = read("cats", examples, threshold=0.5)
    assert answers[3] is None
    assert "food" not in get_labels(answers[4:5])
    assert answers[5].gold == set()
    counts = count_labels(answers, sorted(CATS)).sum(axis=0)
    expected = Scorer.score_cats(examples, "cats", labels=CATS, threshold=0.5)
    assert get_f(counts) == pytest.approx(expected["cats_macro_f"])


def test_docs_without_labels(nlp):
    doc = Doc(nlp.vocab, words=["so", "what"])
    for layer in ("tags", "ents", "cats"):
        assert read(layer, [Example(doc.copy(), doc)]) == [None]


def test_docs_without_entities_are_annotated(nlp):
    doc = Doc(nlp.vocab, words=["so", "what"], ents=["O", "O"])
    assert read("ents", [Example(doc.copy(), doc)]) == [compare(set(), set())]


def test_counts():
    """Each doc has counts of right, wrong and missed labels."""
    counts = count_labels(DOCS, ["LOC", "ORG", "PER"])
    assert counts.tolist() == [
        [[0, 0, 1], [0, 1, 1], [1, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[0, 1, 0], [0, 0, 0], [1, 1, 0]],
    ]
    assert get_f(counts.sum(axis=0)) == pytest.approx((0 + 0 + 4 / 5) / 3)
    assert get_f(counts.sum(axis=(0, 1))[None]) == pytest.approx(4 / 9)


@pytest.mark.parametrize(
    ("counts", "p", "r", "f", "support"),
    [
        ([3, 1, 2], 0.75, 0.6, 6 / 9, 5),
        ([0, 2, 0], 0.0, None, 0.0, 0),
        ([0, 0, 2], None, 0.0, 0.0, 2),
        ([0, 0, 0], None, None, None, 0),
    ],
)
def test_label_scores(counts, p, r, f, support):
    assert LabelScore.from_counts(ROW, "a", counts) == LabelScore("ner", "x", "a", p, r, f, support)


def test_confusions():
    assert count_confusions(DOCS) == {
        ("PER", "PER"): 2,
        ("LOC", "ORG"): 1,
        ("ORG", NOTHING): 1,
        (NOTHING, "PER"): 1,
        (NOTHING, "LOC"): 1,
    }


def test_confusions_of_several_categories():
    answers = [
        compare({(0, 3, "a"), (0, 3, "b"), (0, 3, "c")}, {(0, 3, "b"), (0, 3, "d")}),
        compare({(0, 3, "a")}, {(0, 3, "a"), (0, 3, "b")}),
    ]
    assert count_confusions(answers) == {
        **{("b", "b"): 1, ("a", "a"): 1},
        **{("a", "d"): 1, ("c", "d"): 1, (NOTHING, "b"): 1},
    }
