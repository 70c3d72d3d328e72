"""How every head annotates a stream of docs."""

from collections.abc import Callable
from typing import Any

import numpy
import pytest
from conftest import TEXTS, make_examples
from spacy.language import Language
from spacy.tokens import Doc

from spacy_mtl.encoder import model as encoder_model
from spacy_mtl.encoder.model import get_wordpieces

HEADS = ["tagger", "ner", "textcat", "textcat_multilabel"]


@pytest.fixture(params=HEADS)
def head(request: Any) -> str:
    return request.param


def watch(nlp: Language, head: str) -> list[list[str]]:
    """RETURNS (List[List[str]]): The texts that the head predicts together, as it does."""
    pipe: Any = nlp.get_pipe(head)
    predict, groups = pipe.predict, []

    def watched(docs: Any) -> Any:
        groups.append([doc.text for doc in docs])
        return predict(docs)

    pipe.predict = watched
    return groups


def test_docs_are_annotated_as_encoded(make_nlp: Callable[..., Language], head: str) -> None:
    nlp = make_nlp(head)
    groups, texts = watch(nlp, head), [*TEXTS, "", TEXTS[0], ""]
    assert [doc.text for doc in nlp.pipe(texts, batch_size=3)] == texts
    assert groups == [texts[:3], texts[3:6], texts[6:]]


def test_a_smaller_batch_size_of_its_own(make_nlp: Callable[..., Language], head: str) -> None:
    nlp = make_nlp(head)
    groups = watch(nlp, head)
    docs = nlp.pipe(TEXTS, batch_size=4, component_cfg={head: {"batch_size": 3}})
    assert [doc.text for doc in docs] == TEXTS
    assert groups == [TEXTS[:3], TEXTS[3:]]


def test_a_stream_is_not_read_ahead(make_nlp: Callable[..., Language], head: str) -> None:
    nlp = make_nlp(head)
    taken = []
    stream = nlp.pipe((taken.append(text) or text for text in TEXTS * 3), batch_size=2)
    for n, _ in enumerate(stream):
        assert len(taken) == 2 * (n // 2 + 1)


def test_an_error_costs_the_docs_of_its_group(make_nlp: Callable[..., Language], head: str) -> None:
    nlp = make_nlp(head)
    pipe: Any = nlp.get_pipe(head)
    predict, lost = pipe.predict, []

    def failing(docs: list[Doc]) -> Any:
        if any(doc.text == TEXTS[2] for doc in docs):
            raise KeyError("no such thing")
        return predict(docs)

    pipe.predict = failing
    with pytest.raises(KeyError, match="no such thing"):
        list(nlp.pipe(TEXTS, batch_size=2))

    def handler(name: str, proc: Any, docs: list[Doc], error: Exception) -> None:
        lost.append((name, proc, [doc.text for doc in docs], type(error)))

    nlp.set_error_handler(handler)
    texts = [*TEXTS, *TEXTS[:2]]
    assert [doc.text for doc in nlp.pipe(texts, batch_size=2)] == [*TEXTS[:2], *TEXTS[:2]]
    assert lost == [(head, pipe, TEXTS[2:], KeyError)]


def test_an_error_of_the_encoder(
    make_nlp: Callable[..., Language], head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its docs go no further; those of other batches do."""
    nlp = make_nlp(head)
    lost: list[tuple[str, int]] = []

    def failing(docs: list[Doc], *args: Any) -> Any:
        if docs[0].text == TEXTS[0]:
            raise KeyError
        return get_wordpieces(docs, *args)

    monkeypatch.setattr(encoder_model, "get_wordpieces", failing)
    nlp.set_error_handler(lambda name, proc, docs, error: lost.append((name, len(docs))))
    assert [doc.text for doc in nlp.pipe(TEXTS, batch_size=2)] == TEXTS[2:]
    assert lost == [("transformer", 2)]


def test_a_broken_gradient_leaves_the_heads_weights_alone(
    make_nlp: Callable[..., Language],
) -> None:
    nlp = make_nlp("tagger")
    tagger: Any = nlp.get_pipe("tagger")
    output = tagger.model.get_ref("output_layer")
    before = output.get_param("W").copy()
    sgd = nlp.create_optimizer()
    examples = make_examples(nlp)
    nlp.update(examples, sgd=False)
    output.get_grad("W")[0, 0] = numpy.nan
    tagger.finish_update(sgd)
    numpy.testing.assert_array_equal(output.get_param("W"), before)
    nlp.update(examples, sgd=False)
    tagger.finish_update(sgd)
    after = output.get_param("W")
    assert numpy.isfinite(after).all() and (after != before).any()
