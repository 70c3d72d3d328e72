"""Several heads of one kind in a pipeline: each learns and is scored by its own labels only."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spacy
from conftest import CATS, make_examples
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from thinc.api import Adam

from spacy_mtl.corpora.mixed import create_mixed_corpus_v1
from spacy_mtl.corpora.scope import mark
from spacy_mtl.heads.siblings import ANSWERS, ScoredHead
from spacy_mtl.report.evaluation import evaluate
from spacy_mtl.training.calibration import calibrate
from spacy_mtl.training.checkpoints import create_task_checkpoints_v1
from spacy_mtl.training.logger import create_progress_logger_v1
from spacy_mtl.training.scoreboard import find_keys
from spacy_mtl.training.thresholds import find_thresholds

KINDS = ["tagger", "morphologizer", "ner", "textcat", "textcat_multilabel"]
# For each kind the labels of two heads, and one that they have in common.
LABELS = {
    "tagger": (["NNP", "VBD", "."], ["NN", "VBD", "DT"]),
    "morphologizer": (
        ["POS=PROPN", "POS=VERB", "Tense=Past", "_"],
        ["POS=NOUN", "POS=VERB", "Number=Sing", "Number=Plur", "_"],
    ),
    "ner": (["PERSON", "DATE"], ["PLACE", "ORG", "DATE"]),
    "textcat": (["travel", "food"], ["sport", "technology", "food"]),
    "textcat_multilabel": (["travel", "food"], ["sport", "technology", "food"]),
}
KEYS = {
    "tagger": "tag_acc",
    "morphologizer": "morph_acc",
    "ner": "ents_f",
    "textcat": "cats_score",
    "textcat_multilabel": "cats_score",
}


@pytest.fixture
def make_pair(make_nlp: Callable[..., Language]) -> Callable[..., Language]:
    """A function that makes a pipeline with the heads "a" and "b" of a kind."""

    def make(kind: str, labels: Any = None, **settings: Any) -> Language:
        pipes = (f"a=mtl_{kind}", f"b=mtl_{kind}")
        nlp = make_nlp(*pipes, initialize=False, config=settings)
        for name, own in zip("ab", labels or LABELS[kind], strict=True):
            nlp.config["initialize"]["components"][name] = {"labels": own}
        nlp.initialize(lambda: make_examples(nlp))
        return nlp

    return make


def read(nlp: Language, **corpora: list[Example]) -> list[Example]:
    """Examples of corpora, each of which has labels for the component with its name."""
    readers = {name: (lambda nlp, examples=own: examples) for name, own in corpora.items()}
    reader = create_mixed_corpus_v1(readers, {name: [name] for name in corpora})
    return list(reader(nlp))


def mark_all(examples: list[Example], *names: str) -> list[Example]:
    for example in examples:
        mark(example.reference, names)
    return examples


def train(nlp: Language, examples: list[Example], n: int = 40) -> None:
    sgd = Adam(0.01)
    for _ in range(n):
        nlp.update(examples, sgd=sgd)


def make_example(nlp: Language, text: str, **labels: Any) -> Example:
    return Example.from_dict(nlp.make_doc(text), labels)


pytestmark = pytest.mark.filterwarnings("ignore:.W014.*share the categories")


# Labels


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_is_silent_on_other_corpora(make_pair: Callable[..., Language], kind: str) -> None:
    nlp = make_pair(kind)
    losses = nlp.update(read(nlp, a=make_examples(nlp)), sgd=False, losses={})  # type: ignore[arg-type]
    assert losses["a"] > 0 == losses["b"]
    both = read(nlp, a=make_examples(nlp), b=make_examples(nlp))
    alone = nlp.update(make_examples(nlp), sgd=False, losses={})  # type: ignore[arg-type]
    mixed = nlp.update(both, sgd=False, losses={})  # type: ignore[arg-type]
    assert [mixed[name] for name in "ab"] == pytest.approx([alone[name] for name in "ab"])


@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_class_weights_are_of_own_docs(
    make_nlp: Callable[..., Language], kind: str
) -> None:
    loss = {"loss": {"@misc": "spacy-mtl.UnitLoss.v1", "class_weights": "balanced"}}
    if kind == "ner":
        loss["model"] = {"crf": False}  # type: ignore[dict-item]
    pipes = (f"a=mtl_{kind}", f"b=mtl_{kind}")
    nlp = make_nlp(*pipes, initialize=False, config={"a": loss, "b": loss})
    first, second = make_examples(nlp)[:2], make_examples(nlp)[2:]
    for example, cat in zip(second, ("sport", "food"), strict=True):
        example.reference.cats = {"sport": 0.0, "food": 0.0, cat: 1.0}
    nlp.initialize(lambda: read(nlp, a=first, b=second))
    alone = make_nlp(f"b=mtl_{kind}", initialize=False, config={"b": loss})
    alone.initialize(lambda: second)
    found, expected = (pipeline.get_pipe("b").cfg for pipeline in (nlp, alone))  # type: ignore[attr-defined]
    assert sorted(found["labels"]) == sorted(expected["labels"])
    assert found["class_weights"] == expected["class_weights"]
    assert set(nlp.get_pipe("a").labels) != set(expected["labels"])  # type: ignore[attr-defined]


def test_persons_and_foods(make_pair: Callable[..., Language]) -> None:
    """The head of persons learns nothing from the other corpus, in which no person is labelled."""
    nlp = make_pair("ner", (["PER"], ["FOOD"]))
    texts = ["Maria flew to Lisbon", "Maria ate soup"]
    people = [make_example(nlp, text, entities=[(0, 5, "PER")]) for text in texts]
    people += [make_example(nlp, "they ate soup", entities=[])]
    foods = [make_example(nlp, "Maria ate soup", entities=[(10, 14, "FOOD")])]
    train(nlp, read(nlp, a=people, b=foods), 80)
    doc = nlp("Maria ate soup")
    assert ("Maria", "PER") in [(ent.text, ent.label_) for ent in doc.ents]
    assert ("soup", "FOOD") in [(ent.text, ent.label_) for ent in doc.ents]


def test_types_of_other_heads_are_no_entities(make_pair: Callable[..., Language]) -> None:
    nlp = make_pair("ner", (["PERSON"], ["PLACE"]))
    train(nlp, make_examples(nlp))
    doc = nlp("Maria Keller flew to Lisbon on Friday .")
    assert [(e.text, e.label_) for e in doc.ents] == [
        ("Maria Keller", "PERSON"),
        ("Lisbon", "PLACE"),
    ]
    assert [span.text for span in doc.spans["ner"]] == ["Maria Keller", "Lisbon"]
    assert len(doc.spans["ner"].attrs["scores"]) == 2
    assert (doc.spans["ner"].attrs["scores"] > 0.5).all()


def test_labels_that_no_head_of_the_corpus_knows(
    make_pair: Callable[..., Language], tmp_path: Path
) -> None:
    """Another head of the kind knows them, but the corpus is not for it."""
    make_pair("ner", (["PERSON", "DATE", "ORG"], ["PLACE"])).to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    nlp.update(mark_all(make_examples(nlp), "a", "b"), sgd=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"M071.*'a'.*\['PLACE'\]"):
        nlp.update(mark_all(make_examples(nlp), "a"), sgd=False)  # type: ignore[arg-type]


# Answers


def test_heads_share_a_group_of_spans(make_pair: Callable[..., Language]) -> None:
    nlp = make_pair("ner", (["X"], ["X", "Y"]))
    a, b = (nlp.get_pipe(name) for name in "ab")
    doc = Doc(nlp.vocab, words=list("abcd"))
    for _ in range(2):
        a.set_annotations([doc], [[(2, 4, "X", 0.5)]])  # type: ignore[attr-defined]
        b.set_annotations([doc], [[(0, 1, "Y", 0.25), (3, 4, "Y", 0.75)]])  # type: ignore[attr-defined]
        group = doc.spans["ner"]
        assert [(s.start, s.end, s.label_) for s in group] == [(0, 1, "Y"), (2, 4, "X")]
        assert group.attrs["scores"].tolist() == [0.25, 0.5]
        assert [(s.start, s.end, s.label_) for s in doc.ents] == [(0, 1, "Y"), (2, 4, "X")]
    assert doc.user_data[ANSWERS] == {
        "a": [(4, 7, "X", 0.5)],
        "b": [(0, 1, "Y", 0.25), (6, 7, "Y", 0.75)],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_alone_keeps_no_answers(make_nlp: Callable[..., Language], kind: str) -> None:
    nlp = make_nlp(kind, "lone=mtl_tagger" if kind == "ner" else "lone=mtl_ner")
    assert ANSWERS not in nlp("Maria flew").user_data
    assert f"{kind}_{KEYS[kind]}" not in nlp.evaluate(make_examples(nlp))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_any_head(make_pair: Callable[..., Language], kind: str) -> None:
    """A head that defines no answers of its own has those of its layer."""
    nlp = make_pair(kind)
    train(nlp, make_examples(nlp), 8)
    head: Any = nlp.get_pipe("a")
    doc = nlp("Maria Keller flew to Lisbon on Friday .")
    nlp.get_pipe("transformer").set_annotations([doc], nlp.get_pipe("transformer").predict([doc]))  # type: ignore[attr-defined]
    (prediction,) = head.predict([doc])
    expected = head.get_answer(doc, prediction)
    found = ScoredHead.get_answer(head, doc, prediction)
    assert found == ([answer[:3] for answer in expected] if kind == "ner" else expected)


def test_answers_of_two_taggers(make_pair: Callable[..., Language]) -> None:
    nlp = make_pair("tagger")
    train(nlp, make_examples(nlp))
    doc = nlp("Maria Keller flew to Lisbon on Friday .")
    doc = Doc(nlp.vocab).from_bytes(doc.to_bytes())
    assert list(doc.user_data[ANSWERS]["a"]) == [token.tag_ for token in doc]
    assert set(doc.user_data[ANSWERS]["b"]) <= set(LABELS["tagger"][1])


def test_categories_in_common(make_nlp: Callable[..., Language]) -> None:
    nlp = make_nlp("a=mtl_textcat", "b=mtl_textcat_multilabel", initialize=False)
    nlp.config["initialize"]["components"]["b"] = {"labels": ["food", "other"]}
    with pytest.warns(UserWarning, match=r"W014.*\['a', 'b'\].*\['food'\]"):
        nlp.initialize(lambda: make_examples(nlp))


# Scores


@pytest.mark.parametrize("kind", KINDS)
def test_each_head_is_scored_as_if_alone(
    make_pair: Callable[..., Language], make_nlp: Callable[..., Language], kind: str
) -> None:
    """By its own answers, on the docs that are for it, whatever the other one writes."""
    nlp = make_pair(kind)
    train(nlp, make_examples(nlp), 8)
    first, second = mark_all(make_examples(nlp), "a"), mark_all(make_examples(nlp)[:2], "b")
    scores = nlp.evaluate(first + second)
    parts = []
    for name, examples in (("a", first), ("b", second)):
        with nlp.select_pipes(enable=["transformer", name]):
            alone = nlp.evaluate(mark_all(examples, name))
        parts.append(alone[KEYS[kind]])
        assert scores[f"{name}_{KEYS[kind]}"] == pytest.approx(alone[KEYS[kind]])
    assert scores[KEYS[kind]] == pytest.approx(sum(parts) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_no_docs_for_a_head(make_pair: Callable[..., Language], kind: str) -> None:
    nlp = make_pair(kind)
    scores = nlp.evaluate(mark_all(make_examples(nlp), "a"))
    assert scores[f"b_{KEYS[kind]}"] is None
    assert scores[KEYS[kind]] == scores[f"a_{KEYS[kind]}"] is not None


@pytest.mark.parametrize("kind", ["tagger", "ner"])
def test_labels_of_the_other_head_are_no_errors(
    make_pair: Callable[..., Language], kind: str
) -> None:
    """In docs that are for both heads."""
    labels = {"tagger": (["NNP"], ["VBD"]), "ner": (["PERSON", "DATE"], ["PLACE", "ORG"])}[kind]
    nlp = make_pair(kind, labels)
    examples = make_examples(nlp)
    for example in examples:
        gold = example.reference
        answers = {
            "tagger": ["NNP"] * len(gold),
            "ner": [(e.start_char, e.end_char, e.label_, 1.0) for e in gold.ents],
        }
        own = answers[kind] if kind == "tagger" else [a for a in answers[kind] if a[2] in labels[0]]
        example.predicted.user_data[ANSWERS] = {"a": own}
    scores = nlp.get_pipe("a").score(examples)  # type: ignore[attr-defined]
    others = [t for eg in examples for t in eg.reference if t.tag_ != "VBD"]
    right = sum(t.tag_ == "NNP" for t in others) / len(others)
    assert scores[f"a_{KEYS[kind]}"] == pytest.approx(1.0 if kind == "ner" else right)


# Whatever follows scores


@pytest.mark.parametrize("kind", KINDS)
def test_own_scores_are_followed(make_pair: Callable[..., Language], kind: str) -> None:
    nlp = make_pair(kind)
    own = {name: f"{name}_{KEYS[kind]}" for name in "ab"}
    assert find_keys(nlp, {}) == own
    info = {"step": 0, "epoch": 0, "score": 0.0, "losses": {}, "words": 1}
    info["other_scores"] = {own["a"]: 0.25, own["b"]: 0.75, KEYS[kind]: 0.5}
    stdout = io.StringIO()
    for create in (create_progress_logger_v1, create_task_checkpoints_v1):
        log_step, _ = create()(nlp, stdout, stdout)  # type: ignore[operator]
        log_step(dict(info))
        assert nlp.meta.pop("task_scores") == {"a": 0.25, "b": 0.75}
    assert f"{own['a']} 25.00" in stdout.getvalue() and f"{own['b']} 75.00" in stdout.getvalue()


def test_a_given_score(make_pair: Callable[..., Language]) -> None:
    nlp = make_pair("ner")
    assert find_keys(nlp, {"a": "a_ents_r"}) == {"a": "a_ents_r", "b": "b_ents_f"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_reads_own_answers(
    make_pair: Callable[..., Language], kind: str, tmp_path: Path
) -> None:
    nlp = make_pair(kind)
    train(nlp, make_examples(nlp), 8)
    nlp.to_disk(tmp_path / "model")
    examples = [*mark_all(make_examples(nlp)[:2], "a"), *mark_all(make_examples(nlp), "b")]
    data = DocBin(docs=[eg.reference for eg in examples], store_user_data=True)
    data.to_disk(tmp_path / "data.spacy")
    found = evaluate(tmp_path / "model", tmp_path / "data.spacy", ["a", "b"])
    for name, own in (("a", slice(0, 2)), ("b", slice(2, 6))):
        answers = found.tasks[name].docs
        labels = set(nlp.get_pipe(name).labels)  # type: ignore[attr-defined]
        assert any(answers[own]) and sum(map(bool, answers)) == sum(map(bool, answers[own]))
        predicted = {item.label for answer in answers if answer for item in answer.predicted}
        layer = nlp.get_pipe(name).layer  # type: ignore[attr-defined]
        assert {part for label in predicted for part in layer.split_label(label)} <= labels


def test_calibration_and_thresholds_read_own_docs(make_pair: Callable[..., Language]) -> None:
    nlp = make_pair("textcat_multilabel", (CATS[:2], CATS[1:]))
    train(nlp, make_examples(nlp), 4)
    examples = [*mark_all(make_examples(nlp), "a"), *mark_all(make_examples(nlp)[:2], "b")]
    found = find_thresholds(nlp, examples, "b")
    assert {label.label: label.support for label in found.labels} == {
        "technology": 1,
        "food": 0,
        "sport": 0,
    }
    units = {name: c.units for name, c in calibrate(nlp, examples).items()}
    assert units == {"a": 4 * 2, "b": 2 * 3}
