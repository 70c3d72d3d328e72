"""`mtl_qa`: answers, no answers, wrong gold answers, long contexts and scores."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy
import pytest
import spacy
from conftest import make_examples
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import Adam

from spacy_mtl.annotations.spans import Answers
from spacy_mtl.heads.qa.decoding import find_answer
from spacy_mtl.heads.qa.pipe import MultiTaskReader
from spacy_mtl.heads.qa.scorer import score_answers
from spacy_mtl.pairs import make_pair

Make = Callable[..., Language]
SCORES = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=9)
CONTEXT = "Mira took the boat to Tarn on Monday and came back by train ."


def get_head(nlp: Language) -> MultiTaskReader:
    head = nlp.get_pipe("qa")
    assert isinstance(head, MultiTaskReader)
    return head


def make_question(nlp: Language, question: str, answer: str, context: str = CONTEXT) -> Example:
    gold = make_pair(nlp, question, context)
    first = len(nlp.make_doc(question)) + 1
    start = gold[first:].text.find(answer) + gold[first].idx
    span = gold.char_span(start, start + len(answer), label="x") if answer else None
    gold.spans["answers"] = [span] if span is not None else []
    return Example(Doc(nlp.vocab, words=[t.text for t in gold]), gold)


@given(SCORES, st.integers(1, 12))
def test_the_best_answer(scores: list[tuple[float, float]], most: int) -> None:
    starts, ends = numpy.array(scores).T
    n = len(starts)
    spans = [(i, j + 1) for i, j in product(range(n), repeat=2) if i <= j < i + most]
    start, end, best = find_answer(starts, ends, most)
    assert best == max(starts[i] + ends[j - 1] for i, j in spans)
    assert (start, end) in spans and best == starts[start] + ends[end - 1]


def test_learns_answers_and_their_absence(make_nlp: Make) -> None:
    nlp = make_nlp("qa", initialize=False)

    def make() -> list[Example]:
        return [
            make_question(nlp, "Where did she go ?", "Tarn"),
            make_question(nlp, "When did she go ?", "on Monday"),
            make_question(nlp, "How did she come back ?", "by train"),
            make_question(nlp, "What did she eat ?", ""),
            make_question(nlp, "Who paid ?", ""),
        ]

    nlp.initialize(make)
    sgd = Adam(0.005)
    for _ in range(100):
        losses = nlp.update(make(), sgd=sgd, losses={})
    assert losses["qa"] < 0.3
    scores = nlp.evaluate(make())
    assert scores["qa_exact"] == scores["qa_f1"] == scores["qa_no_answer_f"] == 1.0
    doc = nlp(make_pair(nlp, "Where did she go ?", CONTEXT))
    (answer,), group = doc.spans["answers"], doc.spans["answers"]
    assert answer.text == "Tarn" and 0.5 < group.attrs["scores"][0] <= 1
    get_head(nlp).cfg["null_threshold"] = -1000.0
    assert not nlp(make_pair(nlp, "Where did she go ?", CONTEXT)).spans["answers"]
    get_head(nlp).cfg["null_threshold"] = 1000.0
    assert nlp(make_pair(nlp, "Who paid ?", CONTEXT)).spans["answers"]


def test_docs_without_a_question(make_nlp: Make) -> None:
    nlp = make_nlp("qa")
    for doc in nlp.pipe(["", "No question.", make_pair(nlp, "Who?", "")]):
        assert [*doc.spans["answers"]] == []


def test_several_gold_answers(make_nlp: Make) -> None:
    nlp = make_nlp("qa")
    example = make_question(nlp, "Where ?", "Tarn")
    gold = example.reference
    gold.spans["answers"] = [*gold.spans["answers"], Span(gold, 4, 5, "y")]
    allowed = get_head(nlp).get_targets([example])
    assert allowed.sum(axis=1).tolist() == [2, 2] and not allowed[:, 0].any()


@pytest.mark.parametrize("place", [(0, 1), (2, 3), (1, 5)])
def test_an_answer_outside_of_the_context(make_nlp: Make, place: tuple[int, int]) -> None:
    nlp = make_nlp("qa", initialize=False)
    example = make_question(nlp, "Who left", "Mira")
    example.reference.spans["answers"] = [Span(example.reference, *place)]
    with pytest.raises(ValueError, match=r"M294.*'qa'.*Who left"):
        nlp.initialize(lambda: [example])


def test_gold_docs_that_are_no_pairs(make_nlp: Make) -> None:
    nlp = make_nlp("qa", initialize=False)
    gold = nlp.make_doc("No pair here")
    gold.spans["answers"] = []
    with pytest.raises(ValueError, match=r"M293.*'qa'.*No pair here"):
        nlp.initialize(lambda: [Example(nlp.make_doc("No pair here"), gold)])


def test_an_answer_after_the_first_window(make_nlp: Make) -> None:
    """The encoder reads the question with each window."""
    spans = {"@span_getters": "spacy-mtl.sentence_spans.v1", "window": 12}
    model = make_nlp("qa").get_pipe_config("transformer")["model"]
    nlp = make_nlp("qa", initialize=False, config={"transformer": {"model": model}})
    encoder: Any = nlp.get_pipe("transformer")
    nlp.initialize(lambda: make_examples(nlp))
    encoder.model.attrs["get_spans"] = spacy.registry.resolve({"g": spans})["g"]
    long = "She read a book . " * 6 + CONTEXT

    def make() -> list[Example]:
        return [
            make_question(nlp, "Where did she go ?", "Tarn", long),
            make_question(nlp, "When did she go ?", "on Monday", long),
        ]

    sgd = Adam(0.005)
    for _ in range(100):
        nlp.update(make(), sgd=sgd)
    assert nlp.evaluate(make())["qa_exact"] == 1.0


def test_scores() -> None:
    nlp = spacy.blank("en")
    pairs = [("The boat,", "boat"), ("Tarn", "to Tarn"), ("", "Tarn"), ("", ""), ("Tarn", "")]
    examples = []
    for found, gold in pairs:
        docs = [nlp.make_doc(text or "nothing") for text in (found, gold)]
        for doc, text in zip(docs, (found, gold), strict=True):
            doc.spans["answers"] = [doc[:]] if text else []
        example = Example(docs[0].copy(), docs[0])
        example.predicted, example.reference = docs
        examples.append(example)
    scores = score_answers(examples)
    assert scores["qa_exact"] == pytest.approx(2 / 5)
    assert scores["qa_f1"] == pytest.approx((1 + 2 / 3 + 0 + 1 + 0) / 5)
    assert scores["qa_no_answer_f"] == pytest.approx(2 * 1 / 4)
    assert set(score_answers(examples, spans_key="other").values()) == {None}
    assert Answers("a").name == "spans_a"
