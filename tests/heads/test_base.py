"""How every head annotates a stream of docs."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
from conftest import HEADS, TEXTS, make_examples
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed

from spacy_mtl.encoder.model import transformer as encoder_model
from spacy_mtl.encoder.model.wordpieces import get_wordpieces
from spacy_mtl.heads.base import Head
from spacy_mtl.training.adamw import create_adamw_v1


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


def test_empty_docs_keep_no_rows(make_nlp: Callable[..., Language], head: str) -> None:
    nlp = make_nlp(head)
    docs = [nlp(""), *nlp.pipe(["", "a", "", ""], batch_size=1), *nlp.pipe(["", ""])]
    assert not any(doc._.trf_data for doc in docs)


@pytest.mark.parametrize("pooling", ["attention", "label_attention"])
def test_first_docs_without_tokens(
    make_nlp: Callable[..., Language], head: str, pooling: str
) -> None:
    """Sizes come from the labels and the encoder."""
    config = {"model": {"pooling": pooling}} if head.startswith("textcat") else {}
    nlp = make_nlp(head, config={head: config}, initialize=False)
    empty = Example(Doc(nlp.vocab), Doc(nlp.vocab))
    nlp.initialize(lambda: [empty] * 12 + make_examples(nlp))
    expected = make_nlp(head, config={head: config})
    found, same = (pipeline.get_pipe(head).model.to_bytes() for pipeline in (nlp, expected))  # type: ignore[attr-defined]
    assert found == same


# In training


def test_a_broken_batch_leaves_an_own_encoder_alone(
    make_nlp: Callable[..., Language], monkeypatch: pytest.MonkeyPatch
) -> None:
    nlp = make_nlp("tagger", "ner")
    nlp.replace_listeners("transformer", "tagger", ["model.tok2vec"])
    head: Any = nlp.get_pipe("tagger")
    sgd = create_adamw_v1()
    before = head.model.to_bytes()
    with monkeypatch.context() as patch:
        compute_loss = head.loss

        def broken(examples: Any, scores: Any) -> Any:
            loss, gradient, n = compute_loss(examples, scores)
            return loss, gradient * numpy.nan, n

        patch.setattr(head, "loss", broken)
        with numpy.errstate(invalid="ignore"):
            nlp.update(make_examples(nlp, "tagger"), sgd=sgd)
    assert head.model.to_bytes() == before
    losses = nlp.update(make_examples(nlp, "tagger"), sgd=sgd, losses={})
    losses = nlp.update(make_examples(nlp, "tagger"), sgd=sgd, losses={})
    assert numpy.isfinite(losses["tagger"]) and head.model.to_bytes() != before


def test_tokens_merged_before_a_head_learns(make_nlp: Callable[..., Language]) -> None:
    nlp = make_nlp("tagger", "ner")
    examples = make_examples(nlp)
    encoder: Any = nlp.get_pipe("transformer")
    encoder.update(examples)
    for example in examples:
        with example.predicted.retokenize() as retokenizer:
            retokenizer.merge(example.predicted[:2])
    for name in ("tagger", "ner"):
        with pytest.raises(ValueError, match=f"M078.*at '{name}'"):
            nlp.get_pipe(name).update(examples)  # type: ignore[attr-defined]


def test_annotates_behind_a_frozen_encoder(make_nlp: Callable[..., Language], head: str) -> None:
    nlp = make_nlp(head)
    annotates = ["transformer", head]
    losses = nlp.update(
        make_examples(nlp), sgd=False, exclude=["transformer"], annotates=annotates, losses={}
    )
    assert losses[head] > 0


def test_what_is_loaded_replaces_all(make_nlp: Callable[..., Language], head: str) -> None:
    nlp = make_nlp(head)
    pipe: Any = nlp.get_pipe(head)
    saved, before = pipe.to_bytes(), dict(pipe.cfg)
    pipe.cfg |= {key: 5 for key in pipe.LEARNED_STATE if key in ("temperature", "loss_steps")}
    pipe.from_bytes(saved)
    assert pipe.cfg == before


def test_initialized_again(make_nlp: Callable[..., Language], head: str) -> None:
    """Nothing of the training before is left."""
    nlp = make_nlp(head)
    pipe: Any = nlp.get_pipe(head)
    fix_random_seed(0)
    nlp.initialize(lambda: make_examples(nlp))
    before, cfg = pipe.model.to_bytes(), dict(pipe.cfg)
    nlp.update(make_examples(nlp), sgd=create_adamw_v1())
    pipe.cfg["loss_steps"] = 7
    pipe.is_frozen = True
    assert pipe.model.to_bytes() != before
    fix_random_seed(0)
    nlp.initialize(lambda: make_examples(nlp))
    assert pipe.model.to_bytes() == before and not pipe.is_frozen
    threshold = cfg.pop("threshold", None)
    assert pipe.cfg.pop("threshold", None) == pytest.approx(threshold)
    assert pipe.cfg == cfg


def test_rehearsing_changes_nothing(make_nlp: Callable[..., Language], head: str) -> None:
    nlp = make_nlp(head)
    before = nlp.get_pipe(head).model.to_bytes()  # type: ignore[attr-defined]
    assert nlp.rehearse(make_examples(nlp), sgd=create_adamw_v1()) == {}
    assert nlp.get_pipe(head).model.to_bytes() == before  # type: ignore[attr-defined]


def test_two_heads_learn_on_with_labels_of_their_own(
    make_nlp: Callable[..., Language], tmp_path: Path
) -> None:
    nlp = make_nlp("people=mtl_ner", "places=mtl_ner", initialize=False)
    examples = make_examples(nlp)
    found = sorted({ent.label_ for eg in examples for ent in eg.reference.ents})
    assert len(found) > 1
    for name, labels in (("people", found[:1]), ("places", found[1:])):
        nlp.config["initialize"]["components"][name] = {"labels": labels}
    nlp.initialize(lambda: examples)
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    losses = loaded.update(make_examples(loaded), sgd=False, losses={})
    assert losses["people"] > 0 < losses["places"]


def test_the_learned_state_is_replaced(make_nlp: Callable[..., Language], head: str) -> None:
    """Also where the new state lacks an entry."""
    nlp = make_nlp(head)
    pipe: Any = nlp.get_pipe(head)
    initial = pipe.state_dict()
    assert json.loads(json.dumps(initial)) == initial
    state = {key: 2.0 if key == "temperature" else value for key, value in initial.items()}
    state |= {"loss_steps": 3, "is_frozen": True}
    pipe.load_state_dict(state)
    assert pipe.state_dict() == state
    assert (pipe.cfg["loss_steps"], pipe.is_frozen) == (3, True)
    pipe.load_state_dict({})
    assert pipe.state_dict() == initial
    with pytest.raises(ValueError, match=rf"M049.*{head}\.loss_steps"):
        pipe.load_state_dict({"loss_steps": -1})
    assert pipe.state_dict() == initial


def test_balanced_weights_of_a_head_without_classes(make_nlp: Callable[..., Language]) -> None:
    pipe: Any = make_nlp("tagger").get_pipe("tagger")
    pipe.count_outputs = partial(Head.count_outputs, pipe)
    with pytest.raises(ValueError, match=r"M039.*'tagger'"):
        pipe.balance_classes([])
