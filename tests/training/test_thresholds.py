import numpy
import pytest
import spacy
from conftest import CATS, make_examples, watch_encoder
from spacy.scorer import Scorer
from spacy.tokens import Doc
from spacy.training import Example

from spacy_mtl.training.thresholds import (
    MACRO,
    MICRO,
    LabelThreshold,
    find_threshold,
    find_thresholds,
    read_categories,
    score_threshold,
    set_threshold,
)

NAN = numpy.nan
SCORES = (MACRO, MICRO)


@pytest.fixture(scope="module")
def vocab():
    return spacy.blank("en").vocab


def make_data(vocab, seed: int, n: int = 25) -> list[Example]:
    """Predictions, many of them equal, and gold categories, some of them missing."""
    random = numpy.random.default_rng(seed)
    examples = []
    for _ in range(n):
        example = Example(Doc(vocab, words=["so"]), Doc(vocab, words=["so"]))
        truth = random.random(4) < 0.4
        noisy = numpy.clip(0.3 * truth + 0.7 * random.random(4), 0, 1).round(seed % 3 + 1)
        example.predicted.cats = dict(zip(CATS, noisy.tolist(), strict=True))
        known = [i for i in range(4) if random.random() < 0.8]
        example.reference.cats = {CATS[i]: float(truth[i]) for i in known}
        examples.append(example)
    return examples


@pytest.mark.parametrize("key", SCORES)
@pytest.mark.parametrize("seed", range(12))
def test_the_best_of_all(vocab, key, seed):
    """No other threshold has a better score, and scores are spaCy's."""
    examples = make_data(vocab, seed)
    probabilities, gold = read_categories(examples, CATS)
    best = find_threshold(probabilities, gold, key)

    def score(threshold: float) -> float:
        return Scorer.score_cats(examples, "cats", labels=CATS, threshold=threshold)[key]

    values = numpy.unique(probabilities)
    others = {t: score(t) for t in (*values.tolist(), *(values[1:] / 2 + values[:-1] / 2), best)}
    assert others[best] == pytest.approx(max(others.values()))
    assert others[best] > score(0.0)
    assert 0 <= best <= 1
    assert best not in probabilities[~numpy.isnan(gold)]
    for threshold, expected in others.items():
        assert score_threshold(probabilities, gold, threshold, key) == pytest.approx(expected)


@pytest.mark.parametrize("key", SCORES)
@pytest.mark.parametrize(
    ("probabilities", "gold", "expected"),
    [
        # between the last that is right and the first that is wrong
        ([0.9, 0.8, 0.4, 0.1], [1, 1, 0, 0], 0.6),
        # all are right: all the way down
        ([0.9, 0.8, 0.4], [1, 1, 1], 0.2),
        # equal ones are all in or all out
        ([0.9, 0.5, 0.5, 0.3], [1, 1, 0, 0], 0.4),
        # F = 2/3 for 1, 2/4 for 2, 4/5 for 3
        ([0.9, 0.7, 0.5, 0.1], [1, 0, 1, 0], 0.3),
        # F = 4/5 for 3 and for 2 of the answers: the wider gap
        ([0.9, 0.8, 0.7, 0.2, 0.1], [1, 1, 0, 0, 1], 0.75),
        # what is not known does not count
        ([0.9, 0.7, 0.3], [1, NAN, 0], 0.6),
    ],
)
def test_by_hand(key, probabilities, gold, expected):
    columns = (numpy.array([column]).T for column in (probabilities, gold))
    assert find_threshold(*columns, key) == pytest.approx(expected)


def test_macro_and_micro_differ():
    """A rare label wants a low threshold; a frequent one pays for it with many answers."""
    frequent = [0.9] * 8 + [0.5] * 8
    rare = [0.5] + [0.1] * 15
    probabilities = numpy.array([frequent, rare]).T
    gold = numpy.array([[1] * 8 + [0] * 8, [1] + [0] * 15]).T
    assert find_threshold(probabilities, gold, MICRO) == pytest.approx(0.7)
    assert find_threshold(probabilities, gold, MACRO) == pytest.approx(0.3)
    assert score_threshold(probabilities, gold, 0.3, MACRO) == pytest.approx((16 / 24 + 1) / 2)
    assert score_threshold(probabilities, gold, 0.7, MICRO) == pytest.approx(16 / 17)


def test_labels_without_gold():
    """They count as in spaCy, with F = 0."""
    probabilities = numpy.array([[0.9, 0.2, 0.8], [0.3, 0.1, 0.6]])
    gold = numpy.array([[1, NAN, 0], [0, NAN, 0]])
    assert find_threshold(probabilities, gold, MACRO) == pytest.approx(0.45)
    assert score_threshold(probabilities, gold, 0.6, MACRO) == pytest.approx(1 / 3)
    assert find_threshold(probabilities, gold, MICRO) == pytest.approx(0.85)


@pytest.mark.parametrize("key", SCORES)
def test_pipeline(make_nlp, monkeypatch, key):
    """One pass, and what each threshold leads to."""
    nlp = make_nlp("textcat_multilabel", config={"textcat_multilabel": {"threshold": 0.9}})
    name, head = "textcat_multilabel", nlp.get_pipe("textcat_multilabel")
    output = head.model.get_ref("output_layer")
    random = numpy.random.default_rng(1)
    output.set_param("W", 3 * random.normal(size=output.get_param("W").shape).astype("f"))
    seen = watch_encoder(monkeypatch)
    examples = make_examples(nlp)
    for eg in examples:
        del eg.reference.cats["sport"]
    found = find_thresholds(nlp, examples, name, key)
    assert len(seen) == 4
    assert found.threshold[0] == 0.9
    assert found.score[1] > found.score[0]
    for threshold, score in zip(found.threshold, found.score, strict=True):
        set_threshold(nlp, name, threshold)
        assert nlp.evaluate(examples)[key] == pytest.approx(score)
        assert nlp.config["components"][name]["threshold"] == threshold
    per_type = nlp.evaluate(examples)["cats_f_per_type"]
    assert {label.label: label.f[1] for label in found.labels} == pytest.approx(
        {label: scores["f"] for label, scores in per_type.items()}
    )
    for label in found.labels:
        if label.label == "sport":
            assert label == LabelThreshold("sport", 0, None, (0.0, 0.0))
        else:
            assert label.support == 1
            set_threshold(nlp, name, label.best)
            scores = nlp.evaluate(examples)["cats_f_per_type"][label.label]
            assert scores["f"] == pytest.approx(label.f[2])
            assert label.f[2] >= max(label.f)


def test_nothing_to_find(make_nlp):
    nlp = make_nlp("textcat_multilabel")
    for cats in ({}, dict.fromkeys(CATS, 0.0), {"music": 1.0}):
        examples = make_examples(nlp, "none")
        for eg in examples:
            eg.reference.cats = cats
        with pytest.raises(ValueError, match="M083"):
            find_thresholds(nlp, examples, "textcat_multilabel")
