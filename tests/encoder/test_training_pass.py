"""No gradient is lost, whichever heads have labels and in whatever order they run."""

import gc
import weakref
from collections.abc import Callable, Iterable
from itertools import permutations
from typing import Any

import numpy
import pytest
import torch
from conftest import (
    TEXTS,
    encoder_gradient,
    encoder_module,
    encoder_weights,
    make_examples,
    make_gold,
    make_stock_nlp,
)
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Adam

from spacy_mtl.training.adamw import create_adamw_v1

HEADS = ("tagger", "ner", "textcat")
pytestmark = pytest.mark.usefixtures("no_zeros")


def gradient_of(nlp: Language, examples: Iterable[Example], **kwargs: Any) -> numpy.ndarray:
    """RETURNS: The encoder's gradient after one update without an optimizer."""
    encoder_module(nlp).zero_grad()
    nlp.update(list(examples), sgd=False, drop=0.0, **kwargs)
    nlp.get_pipe("transformer").flush()
    return encoder_gradient(nlp)


def assert_close(found: numpy.ndarray, expected: numpy.ndarray) -> None:
    """Check that gradients are equal to 1e-5 of the largest one."""
    assert numpy.abs(found - expected).max() <= 1e-5 * numpy.abs(expected).max()


def share_weights(nlp: Language, other: Language) -> None:
    for name in nlp.pipe_names:
        if name in other.pipe_names:
            other.get_pipe(name).from_bytes(nlp.get_pipe(name).to_bytes())


@pytest.mark.parametrize("order", list(permutations(HEADS)))
def test_sum_over_heads_in_any_order(make_nlp: Callable, order: tuple[str, ...]) -> None:
    nlp = make_nlp(*order)
    examples = make_examples(nlp)
    total = gradient_of(nlp, examples)
    alone = [
        gradient_of(nlp, examples, exclude=[name for name in HEADS if name != head])
        for head in HEADS
    ]
    assert all(numpy.abs(gradient).max() > 0 for gradient in alone)
    assert_close(total, sum(alone))


@pytest.mark.parametrize("order", list(permutations(HEADS)))
@pytest.mark.parametrize("speaker", HEADS)
def test_heads_without_gold_do_not_silence_others(
    make_nlp: Callable, order: tuple[str, ...], speaker: str
) -> None:
    nlp = make_nlp(*order)
    only = gradient_of(nlp, make_examples(nlp, speaker))
    expected = gradient_of(nlp, make_examples(nlp), exclude=[h for h in HEADS if h != speaker])
    assert numpy.abs(only).max() > 0
    assert_close(only, expected)


def test_stock_loses_the_gradient_of_a_batch_with_tags_only(encoder: str) -> None:
    stock = make_stock_nlp(encoder, "tagger", "ner")
    set_output(stock)
    encoder_module(stock).zero_grad()
    stock.update(make_examples(stock, "tagger"), sgd=False)
    assert numpy.abs(encoder_gradient(stock)).max() == 0

    ours = make_stock_nlp(encoder, "tagger", "ner", factory="mtl_transformer")
    set_output(ours)
    assert numpy.abs(gradient_of(ours, make_examples(ours, "tagger"))).max() > 0


def set_output(nlp: Language) -> None:
    """The stock tagger is initialized with zeros too."""
    for node in nlp.get_pipe("tagger").model.walk():
        if node.name == "softmax":
            values = numpy.random.default_rng(0).normal(size=node.get_param("W").shape)
            node.set_param("W", values.astype("f"))


def test_stock_heads_give_the_gradient_of_stock(encoder: str) -> None:
    stock = make_stock_nlp(encoder)
    set_output(stock)
    ours = make_stock_nlp(encoder, factory="mtl_transformer")
    share_weights(stock, ours)
    encoder_module(stock).zero_grad()
    stock.update(make_examples(stock), sgd=False, drop=0.0)
    expected = encoder_gradient(stock)
    found = gradient_of(ours, make_examples(ours))
    assert numpy.abs(expected).max() > 0
    assert_close(found, expected)


def test_gradient_equals_plain_torch(make_nlp: Callable) -> None:
    """The encoder's gradient equals that of a plain torch implementation."""
    nlp = make_nlp("tagger")
    examples = make_examples(nlp)
    found = gradient_of(nlp, examples)

    module = encoder_module(nlp)
    tokenizer = nlp.get_pipe("transformer").model.tokenizer
    head = nlp.get_pipe("tagger").model.get_ref("output_layer")
    weight, bias = torch.tensor(head.get_param("W")), torch.tensor(head.get_param("b"))
    labels = nlp.get_pipe("tagger").labels
    module.zero_grad()
    losses = []
    for eg in examples:
        encoding = tokenizer(eg.text, return_offsets_mapping=True, return_tensors="pt")
        chars = encoding.pop("offset_mapping")[0].tolist()
        encoding.pop("token_type_ids", None)
        hidden = module(**encoding).last_hidden_state[0]
        for token, gold in zip(eg.predicted, eg.reference, strict=True):
            span = range(token.idx, token.idx + len(token))
            own = [i for i, (s, e) in enumerate(chars) if s < e and s in span]
            logits = weight @ hidden[own].mean(dim=0) + bias
            target = torch.tensor(labels.index(gold.tag_))
            losses.append(torch.nn.functional.cross_entropy(logits, target))
    torch.stack(losses).mean().backward()
    assert_close(found, encoder_gradient(nlp))


def test_accumulated_batches_add_up(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger", "ner")
    examples = make_examples(nlp)
    encoder = nlp.get_pipe("transformer")
    first = gradient_of(nlp, examples[:2])
    second = gradient_of(nlp, examples[2:])
    encoder_module(nlp).zero_grad()
    nlp.update(examples[:2], sgd=False)
    nlp.update(examples[2:], sgd=False)
    encoder.flush()
    assert_close(encoder_gradient(nlp), first + second)


def test_a_last_batch_without_labels_keeps_earlier_gradients(make_nlp: Callable) -> None:
    """With accumulate_gradient the last part may have no labels at all."""
    nlp = make_nlp("tagger", "ner")
    before = encoder_weights(nlp)
    nlp.update(make_examples(nlp, "tagger"), sgd=False)
    nlp.update(make_examples(nlp, "textcat"), sgd=False)
    encoder = nlp.get_pipe("transformer")
    encoder.finish_update(create_adamw_v1())
    assert encoder_weights(nlp) != before
    assert encoder.balancer.steps == 1


@pytest.mark.parametrize("tasks", [HEADS, ("tagger",), ("ner",)])
def test_update_with_sgd_equals_the_training_loop(
    make_nlp: Callable, tasks: tuple[str, ...]
) -> None:
    """`nlp.update(sgd=sgd)` calls the encoder's finish_update before the heads have run."""
    with_sgd, loop = make_nlp(*HEADS), make_nlp(*HEADS)
    assert encoder_weights(with_sgd) == encoder_weights(loop)
    sgd, loop_sgd = create_adamw_v1(), create_adamw_v1()
    for _ in range(3):
        with_sgd.update(make_examples(with_sgd, *tasks), sgd=sgd, drop=0.0)
        loop.update(make_examples(loop, *tasks), sgd=False, drop=0.0)
        for _, pipe in loop.pipeline:
            pipe.finish_update(loop_sgd)
    with_sgd.get_pipe("transformer").flush()
    assert encoder_weights(with_sgd) == encoder_weights(loop)


def test_update_with_sgd_acts_at_once_when_all_have_spoken(make_nlp: Callable) -> None:
    nlp = make_nlp(*HEADS)
    before = encoder_weights(nlp)
    nlp.update(make_examples(nlp), sgd=create_adamw_v1())
    assert encoder_weights(nlp) != before


def test_stock_heads_train_with_sgd(encoder: str) -> None:
    nlp = make_stock_nlp(encoder, factory="mtl_transformer")
    set_output(nlp)
    before = encoder_weights(nlp)
    nlp.update(make_examples(nlp), sgd=Adam(0.001))
    nlp(TEXTS[0])
    assert encoder_weights(nlp) != before


def test_skipped_stock_listeners_keep_nothing(encoder: str) -> None:
    """A stock parser without labels must not raise "Mismatched IDs" in a later batch."""
    nlp = make_stock_nlp(encoder, "tagger", "ner", factory="mtl_transformer")
    nlp.update(make_examples(nlp, "tagger")[:2], sgd=False)
    nlp.update(make_examples(nlp)[2:], sgd=False)
    nlp.get_pipe("transformer").flush()
    for listener in nlp.get_pipe("transformer").listeners:
        assert listener._backprop is None and listener._outputs is None


def test_frozen_head_still_gets_features(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger", "ner")
    frozen = nlp.get_pipe("ner").to_bytes()
    sgd = create_adamw_v1()
    nlp.update(make_examples(nlp), sgd=sgd, exclude=["ner"], annotates=["ner"])
    assert nlp.get_pipe("ner").to_bytes() == frozen


def test_frozen_annotating_encoder(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger", "ner")
    encoder, tagger = encoder_weights(nlp), nlp.get_pipe("tagger").to_bytes()
    sgd = create_adamw_v1()
    for _ in range(2):
        nlp.update(make_examples(nlp), sgd=sgd, exclude=["transformer"], annotates=["transformer"])
    assert encoder_weights(nlp) == encoder
    assert nlp.get_pipe("tagger").to_bytes() != tagger


def test_frozen_encoder_that_does_not_annotate(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger")
    with pytest.raises(ValueError, match="M012"):
        nlp.update(make_examples(nlp), sgd=False, exclude=["transformer"])


@pytest.mark.parametrize("annotating", [["transformer"], ["tagger"], ["transformer", "tagger"]])
def test_annotating_while_training(make_nlp: Callable, annotating: list[str]) -> None:
    """Annotating during an update does not encode again and loses no gradient."""
    nlp = make_nlp("tagger", "ner")
    examples = make_examples(nlp)
    expected = gradient_of(nlp, examples)
    found = gradient_of(nlp, examples, annotates=annotating)
    assert_close(found, expected)


def test_an_update_leaves_no_garbage(make_nlp: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docs, rows and pass are freed before the next update, although they are linked."""
    nlp = make_nlp(*HEADS)
    examples, held = make_examples(nlp), []
    encode = nlp.get_pipe("transformer").model.begin_update

    def remember(docs: list[Doc]) -> Any:
        matrix, backprop = encode(docs)
        held.extend(map(weakref.ref, (docs[0], matrix, backprop)))
        return matrix, backprop

    monkeypatch.setattr(nlp.get_pipe("transformer").model, "begin_update", remember)
    gc.disable()
    try:
        nlp.update(examples, sgd=create_adamw_v1())
        assert len(held) == 3 and not any(ref() for ref in held)
    finally:
        gc.enable()


def test_grad_factor(make_nlp: Callable) -> None:
    def with_factor(factor: float) -> numpy.ndarray:
        listener = {"@architectures": "spacy-mtl.TaskListener.v1", "grad_factor": factor}
        nlp = make_nlp("tagger", config={"tagger": {"model": {"tok2vec": listener}}})
        return gradient_of(nlp, make_examples(nlp))

    full = with_factor(1.0)
    assert_close(with_factor(0.25), 0.25 * full)
    assert numpy.abs(with_factor(0.0)).max() == 0


def test_a_late_gradient_is_an_error(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger")
    encoder, tagger = nlp.get_pipe("transformer"), nlp.get_pipe("tagger")
    examples = make_examples(nlp)
    encoder.update(examples)
    scores, backprop = tagger.model.begin_update([eg.predicted for eg in examples])
    encoder.flush()
    with pytest.raises(ValueError, match="M010"):
        backprop(scores)


def test_batches_without_labels_or_tokens_change_nothing(make_nlp: Callable) -> None:
    nlp = make_nlp(*HEADS)
    sgd = create_adamw_v1()
    nlp.update(make_examples(nlp), sgd=sgd)
    before = [pipe.model.to_bytes() for _, pipe in nlp.pipeline]
    golds = [make_gold(nlp.vocab, i, ()) for i in range(4)]
    bare = [Example(Doc(nlp.vocab, words=TEXTS[i].split()), gold) for i, gold in enumerate(golds)]
    empty = Example(Doc(nlp.vocab), Doc(nlp.vocab))
    for batch in (bare, [empty], [empty, *bare]):
        losses = nlp.update(batch, sgd=sgd, losses={})
        for _, pipe in nlp.pipeline:
            pipe.finish_update(sgd)
        assert losses == dict.fromkeys(nlp.pipe_names, 0.0)
    assert [pipe.model.to_bytes() for _, pipe in nlp.pipeline] == before


def test_losses_of_the_encoder_are_the_weighted_sum(make_nlp: Callable) -> None:
    weights = {"tagger": 2.0, "ner": 0.0, "textcat": 0.5}
    balancer = {"@misc": "spacy-mtl.StaticWeights.v1", "weights": weights}
    nlp = make_nlp(*HEADS, balancer=balancer)
    losses: dict[str, float] = {}
    nlp.update(make_examples(nlp), sgd=False, losses=losses)
    nlp.get_pipe("transformer").flush()
    expected = sum(weights[head] * losses[head] for head in HEADS)
    assert losses["transformer"] == pytest.approx(expected, rel=1e-6)


def test_diagnostics(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger", "ner")
    losses: dict[str, float] = {}
    nlp.update(make_examples(nlp), sgd=False, losses=losses)
    nlp.update(make_examples(nlp, "tagger"), sgd=False, losses=losses)
    nlp.get_pipe("transformer").flush()
    found = nlp.get_pipe("transformer").diagnostics.take()
    assert found["tagger"]["updates"] == 2 and found["ner"]["updates"] == 1
    assert found["tagger"]["loss"] == pytest.approx(losses["tagger"] / 2, rel=1e-6)
    assert found["ner"]["grad_norm"] > 0 and found["ner"]["weight"] == 1
    n_words = sum(len(text.split()) for text in TEXTS)
    assert found["tagger"]["units"] == 2 * n_words and found["ner"]["units"] == n_words
    assert nlp.get_pipe("transformer").diagnostics.take() == {}
