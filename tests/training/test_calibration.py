import math

import numpy
import pytest
from conftest import make_examples, watch_encoder
from spacy.tokens import Doc
from spacy.training import Example

from spacy_mtl.heads.losses import cross_entropy, one_hot, softmax
from spacy_mtl.training.calibration import (
    BINS,
    COLDEST,
    HOTTEST,
    Bin,
    calibrate,
    fit_temperature,
    get_ece,
    keep_scores,
    make_bins,
)

TASKS = ("tagger", "ner", "textcat")


@pytest.fixture
def nlp(make_nlp):
    """A pipeline whose heads have learnt something, of which they are too sure."""
    nlp = make_nlp()
    sgd = nlp.resume_training()
    sgd.learn_rate = 0.01
    for _ in range(4):
        nlp.update(make_examples(nlp), sgd=sgd)
    for name in TASKS:
        output = nlp.get_pipe(name).model.get_ref("output_layer")
        output.set_param("W", 20 * output.get_param("W"))
    return nlp


def make_data(nlp, *tasks: str) -> list[Example]:
    """The labelled texts, and wrong labels for one of them."""
    examples = make_examples(nlp, *tasks)
    wrong = make_examples(nlp, *tasks)[3]
    for token in wrong.reference:
        token.tag_ = "NN" if "tagger" in tasks or not tasks else ""
    if "textcat" in tasks or not tasks:
        wrong.reference.cats = {"food": 1.0}
    return [*examples, wrong]


def make_nll(logits: numpy.ndarray, labels: numpy.ndarray):
    allowed = one_hot(labels, logits.shape[1], numpy)

    def nll(temperature: float) -> tuple[float, float, int]:
        loss, gradient, n = cross_entropy(logits / temperature, allowed)
        return loss, float((gradient * logits).sum()), n

    return nll


def test_bins_by_hand():
    """A bin has its upper end, not its lower one."""
    confidences = numpy.array([0.0, 1 / 15, 0.5, 0.52, 0.99, 1.0])
    bins = make_bins(confidences, numpy.array([False, True, True, False, True, True]))
    assert bins == [
        Bin(2, pytest.approx(1 / 30), 0.5),
        Bin(2, pytest.approx(0.51), 0.5),
        Bin(2, pytest.approx(0.995), 1.0),
    ]
    assert get_ece(bins) == pytest.approx((2 * (0.5 - 1 / 30) + 2 * 0.01 + 2 * 0.005) / 6)
    assert BINS == 15


def test_no_predictions():
    assert make_bins(numpy.zeros(0, dtype="f"), numpy.zeros(0, dtype=bool)) == []
    assert math.isnan(get_ece([]))


def test_true_probabilities_have_no_error():
    random = numpy.random.default_rng(0)
    p = random.random(100_000)
    assert get_ece(make_bins(p, random.random(100_000) < p)) < 0.005
    assert get_ece(make_bins(p, random.random(100_000) < p**2)) == pytest.approx(1 / 6, abs=0.01)


@pytest.mark.parametrize("truth", [0.3, 1.0, 4.0])
def test_temperature_is_found(truth):
    """Labels are drawn from the softmax at a temperature."""
    random = numpy.random.default_rng(0)
    logits = random.normal(0, 2 * truth, (20_000, 5)).astype("f")
    drawn = softmax(logits / truth).cumsum(axis=1) < random.random((20_000, 1))
    nll = make_nll(logits, drawn.sum(axis=1).clip(max=4))
    found = fit_temperature(nll)
    assert found == pytest.approx(truth, rel=0.03)
    grid = numpy.geomspace(truth / 2, truth * 2, 41)
    assert nll(found)[0] <= min(nll(t)[0] for t in grid) + 1e-6


@pytest.mark.parametrize(("sign", "edge"), [(1, COLDEST), (-1, HOTTEST)])
def test_always_right_or_wrong(sign, edge):
    logits = sign * numpy.eye(3, dtype="f")
    assert fit_temperature(make_nll(logits, numpy.arange(3))) == pytest.approx(edge, rel=1e-3)


def test_scores_that_say_nothing():
    """Those of a head that has learned nothing: no temperature is better than another."""
    assert fit_temperature(make_nll(numpy.zeros((3, 3), dtype="f"), numpy.arange(3))) == 1.0


def test_pipeline(nlp):
    """Each head has the temperature that is best for it; what is found stays."""
    before = [(doc.cats, doc.ents, [t.tag_ for t in doc]) for doc in predict(nlp)]
    data = make_data(nlp)
    found = calibrate(nlp, data)
    assert list(found) == list(TASKS)
    with keep_scores(nlp) as scored:
        for _ in nlp.pipe(eg.predicted for eg in make_data(nlp)):
            pass
    for name, calibration in found.items():
        head = nlp.get_pipe(name)
        assert calibration.temperature == (1.0, head.temperature)
        assert head.cfg["temperature"] == head.temperature != 1.0
        ((docs, scores),) = scored[name]
        gold = [Example(doc, eg.reference) for doc, eg in zip(docs, data, strict=True)]
        nll = head.make_nll(gold, scores)
        assert calibration.units == nll(1.0)[2]
        assert calibration.nll[0] == pytest.approx(nll(1.0)[0], rel=1e-4)
        assert calibration.nll[1] == pytest.approx(nll(head.temperature)[0], rel=1e-4)
        assert calibration.nll[1] <= min(nll(t)[0] for t in numpy.geomspace(0.1, 15, 60)) + 1e-5
        confidences = (head.get_confidences(gold, scores, t) for t in calibration.temperature)
        assert calibration.ece == pytest.approx([get_ece(make_bins(*c)) for c in confidences])
    after = [(doc.cats, doc.ents, [t.tag_ for t in doc]) for doc in predict(nlp)]
    assert [(list(map(str, ents)), tags) for _, ents, tags in before] == [
        (list(map(str, ents)), tags) for _, ents, tags in after
    ]
    assert [sorted(cats, key=cats.get) for cats, _, _ in before] == [
        sorted(cats, key=cats.get) for cats, _, _ in after
    ]
    assert [cats for cats, _, _ in before] != [cats for cats, _, _ in after]


def predict(nlp) -> list[Doc]:
    return list(nlp.pipe([eg.predicted for eg in make_examples(nlp)]))


def test_again(nlp):
    """It starts from the scores, not from what a temperature has made of them."""
    first = calibrate(nlp, make_data(nlp))
    second = calibrate(nlp, make_data(nlp))
    for name in TASKS:
        assert second[name].temperature[0] == first[name].temperature[1]
        assert second[name].temperature[1] == pytest.approx(first[name].temperature[1], rel=1e-4)
        assert second[name].nll[0] == pytest.approx(first[name].nll[1], rel=1e-4)


def test_one_pass(nlp, monkeypatch):
    seen = watch_encoder(monkeypatch)
    data = make_data(nlp)
    calibrate(nlp, data)
    assert sorted(map(id, seen)) == sorted(id(eg.predicted) for eg in data)


def test_missing_labels_are_missing(nlp):
    """Docs without labels change nothing, and heads without labels stay as they are."""
    expected = calibrate(nlp, make_data(nlp, "tagger"))
    assert list(expected) == ["tagger"]
    assert nlp.get_pipe("ner").temperature == 1.0
    nlp.get_pipe("tagger").set_temperature(1.0)
    empty = Example(Doc(nlp.vocab), Doc(nlp.vocab))
    found = calibrate(nlp, [*make_examples(nlp, "none"), *make_data(nlp, "tagger"), empty])
    assert found["tagger"].units == expected["tagger"].units
    assert found["tagger"].temperature == pytest.approx(expected["tagger"].temperature, rel=1e-4)
    assert found["tagger"].nll == pytest.approx(expected["tagger"].nll, rel=1e-4)


def test_same_in_any_batches(nlp):
    expected = calibrate(nlp, make_data(nlp))
    for name in TASKS:
        nlp.get_pipe(name).set_temperature(1.0)
    nlp.batch_size = 2
    found = calibrate(nlp, make_data(nlp)[::-1])
    for name in TASKS:
        assert found[name].units == expected[name].units
        assert found[name].temperature == pytest.approx(expected[name].temperature, rel=1e-3)
        assert found[name].ece == pytest.approx(expected[name].ece, abs=1e-3)


def test_threshold_and_config_move_along(make_nlp):
    nlp = make_nlp("textcat_multilabel", config={"textcat_multilabel": {"threshold": 0.3}})
    head = nlp.get_pipe("textcat_multilabel")
    output = head.model.get_ref("output_layer")
    output.set_param("b", output.ops.asarray1f([4.0, -4.0, 4.0, -4.0]))
    calibrate(nlp, make_examples(nlp))
    threshold = head.cfg["threshold"]
    assert head.temperature > 2
    assert math.log(threshold / (1 - threshold)) == pytest.approx(
        math.log(0.3 / 0.7) / head.temperature
    )
    assert nlp.config["components"]["textcat_multilabel"]["threshold"] == threshold


def test_nothing_to_calibrate(nlp, make_nlp):
    with pytest.raises(ValueError, match="M080"):
        calibrate(nlp, make_examples(nlp, "none"))
    assert all(nlp.get_pipe(name).temperature == 1.0 for name in TASKS)
    nlp.select_pipes(enable="transformer")
    with pytest.raises(ValueError, match="M079"):
        calibrate(nlp, make_examples(nlp))


def test_scores_are_kept_only_while_asked_for(nlp):
    with pytest.raises(RuntimeError), keep_scores(nlp) as scored:
        predict(nlp)
        raise RuntimeError
    predict(nlp)
    assert {name: len(kept) for name, kept in scored.items()} == dict.fromkeys(TASKS, 1)
    assert all(nlp.get_pipe(name).prediction_callback is None for name in TASKS)
