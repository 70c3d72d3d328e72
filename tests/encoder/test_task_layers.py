"""Adapters and transformer layers of a task's own, alone and inside heads."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import (
    STOCK_LISTENER,
    STOCK_MODELS,
    TEXTS,
    encoder_gradient,
    encoder_module,
    make_examples,
    make_stock_nlp,
)
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.training import Example
from spacy.util import fix_random_seed
from thinc.api import Model, noop, set_dropout_rate

from spacy_mtl.encoder.task_layers import (
    BUDGET,
    build_adapter_v1,
    build_private_layers_v1,
    get_windows,
)
from spacy_mtl.training.adamw import create_adamw_v1
from spacy_mtl.weights import ModelWeights

LISTENER = {"@architectures": "spacy-mtl.TaskListener.v1"}
BLOCKS: dict[str, dict[str, Any]] = {
    "adapter": {"@architectures": "spacy-mtl.Adapter.v1", "width": 8},
    "layers": {"@architectures": "spacy-mtl.PrivateLayers.v1", "depth": 2, "window": 6},
}
KINDS = list(BLOCKS)
WIDTH = 16
HEADS = ("tagger", "ner", "textcat")


def make(kind: str, random: bool = True, **settings: Any) -> Model:
    """A model over rows instead of docs, by default with random weights everywhere."""
    fix_random_seed(0)
    if kind == "adapter":
        model: Model = build_adapter_v1(noop(), 8)
    else:
        model = build_private_layers_v1(noop(), **{"depth": 2, "heads": 4, "window": 6, **settings})
    model.initialize(X=make_docs(5))
    if random:
        generator = numpy.random.default_rng(1)
        for node in model.walk():
            for name in node.param_names:
                noise = generator.normal(scale=0.3, size=node.get_param(name).shape)
                node.set_param(name, node.get_param(name) + noise.astype("f"))
    return model


def make_docs(*lengths: int, seed: int = 0) -> list[numpy.ndarray]:
    generator = numpy.random.default_rng(seed)
    return [generator.normal(size=(n, WIDTH)).astype("f") for n in lengths]


def get_node(model: Model, name: str) -> Model:
    (node,) = [node for node in model.walk() if node.name == name]
    return node


# Alone


@pytest.mark.parametrize("kind", KINDS)
def test_starts_as_the_identity(kind: str) -> None:
    docs = make_docs(3, 0, 7, 20)
    model = make(kind, random=False)
    outputs, backprop = model(docs, is_train=True)
    gradient = make_docs(3, 0, 7, 20, seed=1)
    for found, expected in [
        *zip(outputs, docs, strict=True),
        *zip(backprop(gradient), gradient, strict=True),
    ]:
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(3, 0, 7, 20, 1, 0), (0,), (0, 0), (6,)])
def test_batched_equals_unbatched(kind: str, lengths: tuple[int, ...]) -> None:
    docs, gradient = make_docs(*lengths), make_docs(*lengths, seed=1)
    model = make(kind)
    together, backprop = model(docs, is_train=True)
    d_together = backprop(gradient)
    nodes = [node for node in model.walk() if node.grad_names]
    grads = [node.get_grad(name).copy() for node in nodes for name in sorted(node.grad_names)]
    for node in nodes:
        for name in node.grad_names:
            node.set_grad(name, numpy.zeros_like(node.get_grad(name)))
    for i, doc in enumerate(docs):
        (alone,), backprop = model([doc], is_train=True)
        (d_alone,) = backprop([gradient[i]])
        assert alone.shape == doc.shape
        numpy.testing.assert_allclose(together[i], alone, atol=1e-5)
        numpy.testing.assert_allclose(d_together[i], d_alone, atol=1e-5)
        numpy.testing.assert_allclose(model.predict([doc])[0], alone, atol=1e-5)
    alone_grads = [node.get_grad(name) for node in nodes for name in sorted(node.grad_names)]
    for found, expected in zip(grads, alone_grads, strict=True):
        numpy.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_adapter_equals_torch() -> None:
    model = make("adapter")
    docs, d_docs = make_docs(3, 0, 7), make_docs(3, 0, 7, seed=1)
    outputs, backprop = model(docs, is_train=True)
    d_inputs = backprop(d_docs)
    nodes = [get_node(model, name) for name in ("relu", "linear")]
    weights = [
        torch.tensor(node.get_param(name), requires_grad=True)
        for node in nodes
        for name in ("W", "b")
    ]
    assert [tuple(w.shape) for w in weights] == [(8, WIDTH), (8,), (WIDTH, 8), (WIDTH,)]
    x = torch.tensor(numpy.concatenate(docs), requires_grad=True)
    hidden = torch.nn.functional.linear(x, *weights[:2]).relu()
    y = x + torch.nn.functional.linear(hidden, *weights[2:])
    y.backward(torch.tensor(numpy.concatenate(d_docs)))
    numpy.testing.assert_allclose(numpy.concatenate(outputs), y.detach(), atol=1e-5)
    numpy.testing.assert_allclose(numpy.concatenate(d_inputs), x.grad, atol=1e-5)
    found = [node.get_grad(name) for node in nodes for name in ("W", "b")]
    for gradient, weight in zip(found, weights, strict=True):
        numpy.testing.assert_allclose(gradient, weight.grad, atol=1e-4)


def test_layers_equal_torch() -> None:
    """A doc of 10 tokens is read in two windows of 5, each as torch's own layers read it."""
    model = make("layers")
    node = get_node(model, "private_layers")
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
    )
    plain = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    plain.layers.load_state_dict(
        {name: torch.tensor(node.get_param(name)) for name in node.param_names}
    )
    docs, d_docs = make_docs(4, 0, 10), make_docs(4, 0, 10, seed=1)
    outputs, backprop = model(docs, is_train=True)
    d_inputs = numpy.concatenate(backprop(d_docs))
    x = torch.tensor(numpy.concatenate(docs), requires_grad=True)
    y = torch.cat([plain(part[None])[0] for part in (x[:4], x[4:9], x[9:])])
    y.backward(torch.tensor(numpy.concatenate(d_docs)))
    numpy.testing.assert_allclose(numpy.concatenate(outputs), y.detach(), atol=1e-5)
    numpy.testing.assert_allclose(d_inputs, x.grad, rtol=1e-4, atol=1e-5)
    expected = dict(plain.layers.named_parameters())
    assert expected.keys() == set(node.grad_names) and len(expected) == 24
    for name, parameter in expected.items():
        numpy.testing.assert_allclose(node.get_grad(name), parameter.grad, rtol=1e-3, atol=1e-4)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.integers(1, 12))
def test_windows(lengths: list[int], window: int) -> None:
    """Every token is in one window, among its own doc's, and windows of a doc are even."""
    doc_of = numpy.repeat(numpy.arange(len(lengths)), lengths)
    seen = []
    for places, mask in get_windows(numpy.array(lengths), window):
        assert places.shape == mask.shape and mask.shape[1] <= window
        for row, is_token in zip(places, mask, strict=True):
            tokens = row[is_token]
            assert tokens.tolist() == list(range(tokens[0], tokens[-1] + 1))
            assert len(set(doc_of[tokens])) == 1
            n = lengths[doc_of[tokens[0]]]
            assert n // -(-n // window) <= len(tokens) <= window
            seen.extend(tokens.tolist())
    assert sorted(seen) == list(range(sum(lengths)))


def test_a_long_doc_is_read_in_parts_of_bounded_size() -> None:
    (doc,) = make_docs(100_000)
    model = make("layers", depth=1, window=160)
    sizes = [mask.size for _, mask in get_windows(numpy.array([len(doc)]), 160)]
    assert sum(sizes) < 1.1 * len(doc) and max(sizes) <= BUDGET
    (found,) = model.predict([doc])
    assert found.shape == doc.shape
    numpy.testing.assert_allclose(found[:160], model.predict([doc[:160]])[0], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_the_heads(kind: str) -> None:
    docs = make_docs(5, 3)
    model = make(kind)
    plain = model.predict(docs)
    set_dropout_rate(model, 0.5)
    assert numpy.array_equal(model.predict(docs)[0], plain[0])
    outputs = []
    for seed in (0, 0, 1):
        fix_random_seed(seed)
        outputs.append(model(docs, is_train=True)[0][0].tolist())
    assert outputs[0] == outputs[1] != outputs[2]
    assert outputs[0] != plain[0].tolist()


@pytest.mark.parametrize("settings", [{"depth": 0}, {"heads": -1}, {"window": 0}, {"window": 1.5}])
def test_bad_settings_of_layers(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=rf"M058.*PrivateLayers.*{name} = "):
        make("layers", **settings)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"M058.*Adapter.*width = 0"):
        build_adapter_v1(noop(), 0)
    with pytest.raises(ValueError, match=r"M075.*heads = 3.* 16 "):
        make("layers", heads=3)


# What the optimizer and the head do with the weights


@pytest.mark.parametrize("kind", KINDS)
def test_clipped_with_the_rest_of_the_head(kind: str) -> None:
    model = make(kind)
    _, backprop = model(make_docs(5), is_train=True)
    backprop(make_docs(5, seed=1))
    gradients = [n.get_grad(name) for n in model.walk() for name in n.grad_names]
    before = numpy.concatenate([gradient.ravel() for gradient in gradients])
    assert numpy.linalg.norm(before) > 0.1
    create_adamw_v1(grad_clip=0.1).clip_model(model)
    after = numpy.concatenate([gradient.ravel() for gradient in gradients])
    assert numpy.linalg.norm(after) == pytest.approx(0.1, rel=1e-4)
    numpy.testing.assert_allclose(after, before * (0.1 / numpy.linalg.norm(before)), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_broken_gradients_are_dropped(kind: str) -> None:
    model = make(kind)
    _, backprop = model(make_docs(5), is_train=True)
    backprop([gradient * numpy.nan for gradient in make_docs(5)])
    before = model.to_bytes()
    assert ModelWeights({"model": model}).drop_broken_gradients()
    model.finish_update(create_adamw_v1(weight_decay=0.0))
    assert model.to_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_updates_and_averages_equal_torchs(kind: str) -> None:
    """Three updates against torch's AdamW: matrices are decayed, norms and biases are not."""
    model = make(kind)
    sgd = create_adamw_v1(learn_rate=0.01, weight_decay=0.1, grad_clip=0.0, average=0.5)
    names = [(node, name) for node in model.walk() for name in node.param_names]
    plain = [torch.tensor(node.get_param(name)) for node, name in names]
    groups = [
        {"params": [p for p in plain if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in plain if p.ndim == 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=0.01)
    averages = [p.clone() for p in plain]
    for step in range(3):
        _, backprop = model(make_docs(5, seed=step), is_train=True)
        # So large that it does not matter where eps stands in the formula.
        backprop([1e4 * gradient for gradient in make_docs(5, seed=step + 9)])
        for p, (node, name) in zip(plain, names, strict=True):
            p.grad = torch.tensor(node.get_grad(name))
        sgd.clip_model(model)
        model.finish_update(sgd)
        adam.step()
        decay = min(0.5, (2 + step) / (11 + step))
        averages = [decay * a + (1 - decay) * p for a, p in zip(averages, plain, strict=True)]
    for params, expected in (({}, plain), (sgd.averages, averages)):
        with model.use_params(params):
            for (node, name), array in zip(names, expected, strict=True):
                numpy.testing.assert_allclose(node.get_param(name), array, rtol=1e-3, atol=1e-4)


# In a pipeline


def behind(kind: str, *tasks: str, **settings: Any) -> dict[str, Any]:
    """The config of heads that stand behind layers of their own."""
    tok2vec = {**BLOCKS[kind], **settings, "tok2vec": LISTENER}
    return {task: {"model": {"tok2vec": tok2vec}} for task in tasks or HEADS}


def train(nlp: Language, steps: int = 3) -> None:
    fix_random_seed(0)
    sgd = create_adamw_v1(learn_rate=0.01, encoder_learn_rate=0.001)
    for _ in range(steps):
        nlp.update(make_examples(nlp), sgd=False, drop=0.1)
        for _, pipe in nlp.pipeline:
            pipe.finish_update(sgd)


def answers(nlp: Language, texts: list[str] = TEXTS) -> Any:
    found = []
    for doc in nlp.pipe([*texts, "", " "]):
        cats = {label: round(value, 4) for label, value in doc.cats.items()}
        found.append((doc.text, [t.tag_ for t in doc], [e.label_ for e in doc.ents], cats))
    return found


def gradient_of(nlp: Language, examples: list[Example], **kwargs: Any) -> numpy.ndarray:
    encoder_module(nlp).zero_grad()
    nlp.update(examples, sgd=False, drop=0.0, **kwargs)
    nlp.get_pipe("transformer").flush()
    return encoder_gradient(nlp)


def assert_close(found: numpy.ndarray, expected: numpy.ndarray) -> None:
    assert numpy.abs(expected).max() > 0
    assert numpy.abs(found - expected).max() <= 1e-5 * numpy.abs(expected).max()


@pytest.mark.usefixtures("no_zeros")
@pytest.mark.parametrize("kind", KINDS)
def test_the_encoders_gradient(make_nlp: Callable, kind: str) -> None:
    """At first what it is without, later the sum over heads in any order, silent ones or not."""
    plain, nlp = make_nlp("tagger"), make_nlp("tagger", config=behind(kind))
    output = [each.get_pipe("tagger").model.get_ref("output_layer") for each in (plain, nlp)]
    output[1].from_bytes(output[0].to_bytes())
    assert_close(gradient_of(nlp, make_examples(nlp)), gradient_of(plain, make_examples(plain)))

    nlp = make_nlp("textcat", "ner", "tagger", config=behind(kind))
    train(nlp, steps=1)
    total = gradient_of(nlp, make_examples(nlp))
    alone = [
        gradient_of(nlp, make_examples(nlp), exclude=[name for name in HEADS if name != head])
        for head in HEADS
    ]
    silent = [gradient_of(nlp, make_examples(nlp, head)) for head in HEADS]
    assert_close(total, sum(alone))
    for found, expected in zip(silent, alone, strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trips_and_batches(make_nlp: Callable, tmp_path: Path, kind: str) -> None:
    nlp = make_nlp(config=behind(kind))
    before = nlp.get_pipe("ner").model.get_ref("tok2vec").to_bytes()
    train(nlp)
    assert nlp.get_pipe("ner").model.get_ref("tok2vec").to_bytes() != before
    texts = [*TEXTS, "Porto", " ".join(TEXTS * 8)]
    expected = answers(nlp, texts)
    assert [answers(nlp, [text])[0] for text in texts] == expected[:-2]
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    fresh = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    for copy in (loaded, fresh, deepcopy(nlp)):
        assert answers(copy, texts) == expected
    loaded.replace_listeners("transformer", "ner", ["model.tok2vec.tok2vec"])
    assert answers(loaded, texts) == expected
    loaded.to_disk(tmp_path)
    assert answers(spacy.load(tmp_path), texts) == expected
    train(loaded, steps=1)


@pytest.mark.parametrize("kind", KINDS)
def test_behind_a_mix_of_layers_and_beside_other_features(make_nlp: Callable, kind: str) -> None:
    lexical = {"@architectures": "spacy-mtl.LexicalEmbed.v1", "width": 8}
    lexical |= {"attrs": ["NORM", "SHAPE"], "rows": [20, 20]}
    mix = {**LISTENER, "layers": "all"}
    layers = {"own": {**BLOCKS[kind], "tok2vec": mix}, "lexical": lexical}
    tok2vec = {"@architectures": "spacy-mtl.ConcatTok2Vec.v1", "layers": layers}
    nlp = make_nlp("ner", config={"ner": {"model": {"tok2vec": tok2vec}}})
    losses = []
    sgd = create_adamw_v1(learn_rate=0.01)
    for _ in range(12):
        losses.append(nlp.update(make_examples(nlp), sgd=sgd)["ner"])
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_stock_heads(encoder: str, kind: str) -> None:
    nlp = make_stock_nlp(encoder, "tagger", factory="mtl_transformer", initialize=False)
    nlp.remove_pipe("tagger")
    tok2vec = {**BLOCKS[kind], "tok2vec": STOCK_LISTENER}
    nlp.add_pipe("tagger", config={"model": {**STOCK_MODELS["tagger"], "tok2vec": tok2vec}})
    nlp.initialize(lambda: make_examples(nlp))
    train(nlp)
    assert all(token.tag_ for token in nlp(TEXTS[0]))
