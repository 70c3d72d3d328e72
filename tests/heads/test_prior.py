"""The bias that heads start with: the frequencies of their labels."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import srsly
from conftest import CATS, ENTS, HEADS, TAGS, make_examples, make_gold
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from spacy_mtl.corpora.scope import mark
from spacy_mtl.heads.losses import sigmoid, softmax
from spacy_mtl.heads.ner.crf import TransitionScores, forward_backward
from spacy_mtl.heads.ner.tagging import make_chain
from spacy_mtl.heads.prior import count_masks, get_log_odds, get_log_shares


def get_output(nlp: Language, head: str, param: str = "b") -> numpy.ndarray:
    return nlp.get_pipe(head).model.get_ref("output_layer").get_param(param)  # type: ignore


def test_softmax_and_sigmoid_of_the_bias() -> None:
    counts = numpy.array([[7, 3], [0, 10], [2, 8]], dtype="f")
    shares = softmax(get_log_shares(counts)[None])[0]
    numpy.testing.assert_allclose(shares, [8 / 12, 1 / 12, 3 / 12], rtol=1e-6)
    odds = sigmoid(get_log_odds(counts)[None])[0]
    numpy.testing.assert_allclose(odds, [8 / 12, 1 / 12, 3 / 12], rtol=1e-6)


def test_masks_without_annotation_are_not_counted() -> None:
    masks = [[True, False, False], [True] * 3, [False] * 3, [True, True, False]]
    found = count_masks([numpy.array(masks[:2]), numpy.array(masks[2:])], 3)
    assert found.tolist() == [[1, 0], [0, 1], [0, 2]]


def test_tags(make_nlp: Callable[..., Language]) -> None:
    nlp = make_nlp("tagger")
    counts = Counter(tag for tags in TAGS for tag in tags)
    smoothed = numpy.array([counts[label] + 1 for label in nlp.get_pipe("tagger").labels])
    found = softmax(get_output(nlp, "tagger")[None])[0]
    numpy.testing.assert_allclose(found, smoothed / smoothed.sum(), rtol=1e-5)
    assert not get_output(nlp, "tagger", "W").any()


@pytest.mark.parametrize("pooling", ["mean", "label_attention"])
def test_categories(make_nlp: Callable[..., Language], pooling: str) -> None:
    config = {"model": {"pooling": pooling}}
    heads = {"a": "mtl_textcat", "b": "mtl_textcat_multilabel"}
    for name, factory in heads.items():
        nlp = make_nlp(f"{name}={factory}", initialize=False, config={name: config})
        examples = make_examples(nlp)
        # One more doc of the first category, and one whose other categories are not known.
        golds = [make_gold(nlp.vocab, 0), make_gold(nlp.vocab, 1)]
        golds[1].cats = {CATS[1]: 1.0}
        nlp.initialize(lambda: examples + [Example(gold.copy(), gold) for gold in golds])  # noqa: B023
        found = get_output(nlp, name)[[nlp.get_pipe(name).labels.index(cat) for cat in CATS]]
        if name == "a":
            numpy.testing.assert_allclose(numpy.exp(found), numpy.array([3, 3, 2, 2]) / 10)
        else:
            numpy.testing.assert_allclose(
                sigmoid(found[None])[0], [3 / 7, 3 / 8, 2 / 7, 2 / 7], rtol=1e-6
            )


@pytest.mark.parametrize("scheme", ["bio", "biluo"])
@pytest.mark.parametrize("crf", [True, False])
def test_entities(make_nlp: Callable[..., Language], scheme: str, crf: bool) -> None:
    nlp = make_nlp("ner", config={"ner": {"scheme": scheme, "model": {"crf": crf}}})
    ner: Any = nlp.get_pipe("ner")
    masks = ner.get_targets(make_examples(nlp))
    smoothed = masks.sum(axis=0) + 1
    shares = smoothed / smoothed.sum()
    bias = get_output(nlp, "ner")
    if not crf:
        numpy.testing.assert_allclose(softmax(bias[None])[0], shares, rtol=1e-5)
        return
    # The start and the end of a doc shift the marginals of tokens near them.
    chain = make_chain(tuple(ner.tags), ner.cfg["scheme"])
    lattice = forward_backward(numpy.tile(bias, (400, 1)), chain, [400])
    found = lattice.marginals[100:-100].mean(axis=0)
    numpy.testing.assert_allclose(found, shares, rtol=0.02)


@pytest.mark.parametrize("crf", [True, False])
def test_long_and_rare_entities(make_nlp: Callable[..., Language], crf: bool) -> None:
    """The chain has rare entities of several tokens as often as the corpus."""
    nlp = make_nlp("ner", initialize=False, config={"ner": {"model": {"crf": crf}}})
    gold = Doc(nlp.vocab, words=["a"] * 4000)
    spans = [spacy.tokens.Span(gold, i, i + 4, label="LONG") for i in range(0, 4000, 500)]
    spans += [spacy.tokens.Span(gold, i, i + 1, label="SHORT") for i in range(10, 4000, 100)]
    gold.set_ents(spans)
    nlp.initialize(lambda: [Example(gold.copy(), gold)])
    ner: Any = nlp.get_pipe("ner")
    assert ner.counts["B-LONG"] == [8, 3992] and ner.counts["I-LONG"] == [16, 3984]
    chain: TransitionScores = make_chain(tuple(ner.tags), "biluo")
    if crf:
        lattice = forward_backward(numpy.tile(get_output(nlp, "ner"), (2000, 1)), chain, [2000])
        found = lattice.marginals[500:-500].mean(axis=0)
    else:
        found = softmax(get_output(nlp, "ner")[None])[0]
    expected = {"O": 3928, "B-LONG": 8, "I-LONG": 16, "L-LONG": 8, "U-SHORT": 40}
    for tag, n in expected.items():
        assert found[ner.tags.index(tag)] == pytest.approx(n / 4000, rel=0.2)


@pytest.mark.parametrize("head", HEADS)
def test_only_labels_for_this_head_count(make_nlp: Callable[..., Language], head: str) -> None:
    nlp, expected = make_nlp(head, initialize=False), make_nlp(head)
    other = make_examples(nlp)
    for example in other:
        mark(example.reference, ["another"])
    bare = [Example(Doc(nlp.vocab, words=["x"]), Doc(nlp.vocab, words=["x"]))]
    nlp.initialize(lambda: [*make_examples(nlp), *other, *bare])
    assert nlp.get_pipe(head).counts == expected.get_pipe(head).counts  # type: ignore
    numpy.testing.assert_array_equal(get_output(nlp, head), get_output(expected, head))


# Files of labels


@pytest.mark.parametrize("head", HEADS)
def test_counts_travel_in_files_of_labels(
    make_nlp: Callable[..., Language], head: str, tmp_path: Path
) -> None:
    """A run that reads such a file starts like one that reads the whole corpus."""
    whole = make_nlp(head)
    srsly.write_json(tmp_path / "labels.json", whole.get_pipe(head).label_data)  # type: ignore
    nlp = make_nlp(head, initialize=False)
    reader = {"@readers": "spacy.read_labels.v1", "path": str(tmp_path / "labels.json")}
    nlp.config["initialize"]["components"][head] = {"labels": reader}
    nlp.initialize(lambda: make_examples(nlp)[:1])
    assert nlp.get_pipe(head).label_data == whole.get_pipe(head).label_data  # type: ignore
    assert nlp.get_pipe(head).model.to_bytes() == whole.get_pipe(head).model.to_bytes()  # type: ignore


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("make", [list, lambda labels: {"labels": labels}])
def test_labels_without_counts(
    make_nlp: Callable[..., Language], head: str, make: Callable[[list[str]], Any]
) -> None:
    """Files of earlier versions hold a list. The examples of `initialize` are counted then."""
    expected = make_nlp(head)
    nlp = make_nlp(head, initialize=False)
    given = make(list(expected.get_pipe(head).labels))  # type: ignore
    nlp.config["initialize"]["components"][head] = {"labels": given}
    nlp.initialize(lambda: make_examples(nlp))
    numpy.testing.assert_array_equal(get_output(nlp, head), get_output(expected, head))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"labels": ["NN"], "counts": [["VB", 1, 2]]}, r"M170.*'tagger'.*'NN', 'VB'"),
        ({"labels": ["NN"], "counts": [["NN", 1]]}, r"M049.*tagger\.labels\.counts\[0\]"),
        ({"labels": ["NN"], "counts": [["NN", 1, -2]]}, r"M049.*tagger\.labels\.counts\[0\]"),
        ({"labels": "NN"}, r"M049.*tagger\.labels\.labels"),
        ({"counts": []}, r"M049.*tagger\.labels\.labels"),
    ],
)
def test_wrong_label_data(make_nlp: Callable[..., Language], data: Any, message: str) -> None:
    nlp = make_nlp("tagger", initialize=False)
    nlp.config["initialize"]["components"]["tagger"] = {"labels": data}
    with pytest.raises(ValueError, match=message):
        nlp.initialize(lambda: make_examples(nlp))


# Heads that have learned


@pytest.mark.parametrize("head", HEADS)
def test_a_loaded_head_keeps_its_bias(
    make_nlp: Callable[..., Language], head: str, tmp_path: Path
) -> None:
    nlp = make_nlp(head)
    learned = get_output(nlp, head)
    learned += 1.0
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    loaded.resume_training()
    numpy.testing.assert_array_equal(get_output(loaded, head), learned)
    sourced = spacy.blank("en")
    for name in loaded.pipe_names:
        sourced.add_pipe(name, source=loaded)
    numpy.testing.assert_array_equal(get_output(sourced, head), learned)


def test_class_weights_count(make_nlp: Callable[..., Language]) -> None:
    """The weighted loss has its minimum, of all constant scores, at the bias."""
    loss = {"@misc": "spacy-mtl.UnitLoss.v1", "class_weights": "balanced"}
    nlp = make_nlp("tagger", config={"tagger": {"loss": loss}})
    numpy.testing.assert_allclose(numpy.ptp(get_output(nlp, "tagger")), 0.0, atol=1e-6)
    for head, class_weights in {
        "textcat": {"food": 3.0},
        "textcat_multilabel": {"food": 3.0},
    }.items():
        loss = {"@misc": "spacy-mtl.UnitLoss.v1", "class_weights": class_weights}
        nlp = make_nlp(head, config={head: {"loss": loss}})
        i = nlp.get_pipe(head).labels.index("food")  # type: ignore
        bias = get_output(nlp, head)[i]
        expected = 4 / 10 if head == "textcat" else 4 / 8
        p = numpy.exp(bias) if head == "textcat" else sigmoid(numpy.array([[bias]]))[0, 0]
        assert p == pytest.approx(expected)


def test_entities_are_found_early(make_nlp: Callable[..., Language]) -> None:
    """The first loss is that of the frequencies, not the logarithm of the number of tags."""
    nlp = make_nlp("ner")
    n_tokens, n_entities = sum(map(len, TAGS)), sum(map(len, ENTS))
    loss = nlp.update(make_examples(nlp), losses={})["ner"]
    share = n_entities / n_tokens
    assert loss < 5 * share * -numpy.log(share)
