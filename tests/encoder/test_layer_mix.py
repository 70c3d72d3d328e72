"""Listeners that read a learned mix of the encoder's layers."""

from collections.abc import Callable
from copy import deepcopy
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import (
    TEXTS,
    WIDTH,
    encoder_gradient,
    encoder_module,
    encoder_weights,
    make_examples,
    make_stock_nlp,
)
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed
from thinc.api import Model

from spacy_mtl.encoder.layer_mix import get_numbers, mix_layers
from spacy_mtl.encoder.listener import build_task_listener_v1
from spacy_mtl.encoder.model.transformer import build_shared_transformer_v1
from spacy_mtl.encoder.stock_names import configure_strided_spans
from spacy_mtl.encoder.token_matrix import TokenMatrix, set_rows
from spacy_mtl.training.adamw import create_adamw_v1

LISTENER = {"@architectures": "spacy-mtl.TaskListener.v1"}
HEADS = ("tagger", "ner", "textcat")
BALANCERS = [
    {"@misc": "spacy-mtl.StaticWeights.v1"},
    *({"@misc": "spacy-mtl.ConFIG.v1", "level": v} for v in ("features", "last_layer", "params")),
]
NLP = spacy.blank("en")
pytestmark = pytest.mark.usefixtures("no_zeros")


def asking(layers: Any = "all", *tasks: str, **settings: Any) -> dict[str, Any]:
    """The config of heads that read layers."""
    listener = {**LISTENER, "layers": layers, **settings}
    return {task: {"model": {"tok2vec": listener}} for task in tasks or ("ner",)}


def get_mix(nlp: Language, task: str = "ner") -> Model:
    (mix,) = [node for node in nlp.get_pipe(task).model.walk() if node.name == "mix_layers"]
    return mix


def train(nlp: Language, steps: int = 3, **kwargs: Any) -> None:
    fix_random_seed(0)
    sgd = create_adamw_v1(learn_rate=0.01, encoder_learn_rate=0.001)
    for _ in range(steps):
        nlp.update(make_examples(nlp), sgd=False, drop=0.1, **kwargs)
        for name, pipe in nlp.pipeline:
            if name not in kwargs.get("exclude", []):
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
    """Equal to 1e-5 of the largest, which is not zero."""
    assert numpy.abs(expected).max() > 0
    assert numpy.abs(found - expected).max() <= 1e-5 * numpy.abs(expected).max()


# Numbers


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, ()),
        ("all", (0, 1, 2, 3, 4, 5, 6)),
        ([6], (6,)),
        ([-1, 0, 6, -7, 3], (0, 3, 6)),
    ],
)
def test_numbers(layers: Any, expected: tuple[int, ...]) -> None:
    assert get_numbers(layers, 6) == expected
    assert get_numbers(list(expected) or None, 6) == expected


@pytest.mark.parametrize("layers", [[], [7], [0, -8], "last", ["all"], [1.5]])
def test_layers_that_the_encoder_lacks(layers: Any) -> None:
    with pytest.raises(ValueError, match=r"M073.* to 6\."):
        get_numbers(layers, 6)


def test_layers_are_checked_when_the_listener_is_linked(make_nlp: Callable) -> None:
    with pytest.raises(ValueError, match=r"M073.*\[5\].* to 2\."):
        make_nlp("ner", config=asking([5]))
    with pytest.raises(ValueError, match="M073"):
        make_nlp("ner", config=asking([]))


# What the encoder gives


def test_states_of_every_family(any_encoder: str) -> None:
    """Against Hugging Face's own list of hidden states; the last rows are as without layers."""
    model = build_shared_transformer_v1(any_encoder, configure_strided_spans(64, 64), {}, {})
    model.initialize()
    doc = NLP("Maria")
    plain = model.predict([doc])
    model.attrs["layers"] = "all"
    matrix = model.predict([doc])
    assert matrix.layers == (0, 1, 2) and matrix.width == WIDTH
    (rows,) = set_rows([doc], matrix)
    assert rows.rows.tolist() == plain.data.tolist()
    before, after = model.special_ids
    ids = model.tokenizer("Maria", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        output = model.transformer(torch.tensor([before + ids + after]), output_hidden_states=True)
    own = slice(len(before), len(before) + len(ids))
    # ModernBERT normalizes the last state, but not in the list.
    layers = [*output.hidden_states[:-1], output.last_hidden_state]
    expected = torch.stack([states[0, own].mean(0) for states in layers])
    numpy.testing.assert_allclose(rows.get_layers([0, 1, 2])[0], expected, atol=1e-5)


def test_nothing_changes_unless_a_listener_asks(make_nlp: Callable) -> None:
    nlp = make_nlp()
    seen = []
    module = encoder_module(nlp)
    hook = module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(set(kwargs)), with_kwargs=True
    )
    nlp(TEXTS[0])
    nlp.update(make_examples(nlp), sgd=False)
    hook.remove()
    assert seen and not any("output_hidden_states" in names for names in seen)
    assert nlp.get_pipe("transformer").model.attrs["layers"] is None
    assert not any(node.name == "mix_layers" for node in nlp.get_pipe("ner").model.walk())


def test_only_the_layers_asked_for_are_kept(make_nlp: Callable) -> None:
    nlp = make_nlp(config=asking([0], "ner") | asking([-1, 0], "textcat"))
    encoder = nlp.get_pipe("transformer")
    matrix = encoder.predict([nlp.make_doc(text) for text in TEXTS])
    assert matrix.layers == (0, 2) and matrix.data.shape == (34, 2 * WIDTH)
    nlp.remove_pipe("textcat")
    assert encoder.predict([nlp.make_doc("a")]).layers == (0, 2)
    nlp.remove_pipe("ner")
    assert encoder.predict([nlp.make_doc("a")]).layers == ()
    assert encoder.predict([nlp.make_doc("")]).data.shape == (0, WIDTH)


def test_rows_of_some_layers_and_their_gradient() -> None:
    generator = numpy.random.default_rng(0)
    cube = generator.normal(size=(5, 3, 4)).astype("f")
    docs = [Doc(NLP.vocab, words=["a"] * n) for n in (3, 0, 2)]
    rows = set_rows(docs, TokenMatrix(cube.reshape(5, 12), [3, 0, 2], (0, 4, 6)))
    for row, part in zip(rows, (cube[:3], cube[:0], cube[3:]), strict=True):
        assert row.rows.tolist() == part[:, 2].tolist()
        for numbers, blocks in [((0, 4, 6), [0, 1, 2]), ([0, 6], [0, 2]), ([4], [1])]:
            found = row.get_layers(numbers)
            assert found.shape == (len(part), len(blocks), 4)
            assert found.tolist() == part[:, blocks].tolist()
            weight = generator.normal(size=found.shape).astype("f")
            spread = row.spread_layers(weight, numbers)
            # The one is the transpose of the other.
            assert (spread * part.reshape(-1, 12)).sum() == pytest.approx((weight * found).sum())


def test_rows_of_an_encoder_that_was_not_told(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger")
    listener = build_task_listener_v1("elsewhere", layers=[1])
    doc = nlp.make_doc("a")
    set_rows([doc], nlp.get_pipe("transformer").predict([doc]))
    with pytest.raises(ValueError, match=r"M074.*\[1\].*the last one only"):
        listener.layers[0].predict([doc])


# The mix


def start_mix(n_layers: int, seed: int = 0) -> tuple[Model, list[numpy.ndarray], list]:
    """A mix with random weights, of docs some of which are empty."""
    generator = numpy.random.default_rng(seed)
    docs = [generator.normal(size=(n, n_layers, 4)).astype("f") for n in (3, 0, 5)]
    received: list[Any] = []
    source: Model = Model("source", lambda model, X, is_train: (docs, received.append))
    mix = mix_layers(source)
    mix.initialize(X=[NLP("a")])
    return mix, docs, received


def test_the_mix_starts_near_the_uppermost_layer() -> None:
    for n_layers in (2, 7):
        mix, docs, _ = start_mix(n_layers)
        assert mix.get_dim("nO") == 4 and mix.get_param("s").shape == (n_layers,)
        for found, doc in zip(mix.predict([]), docs, strict=True):
            expected = 0.9 * doc[:, -1] + 0.1 * doc[:, :-1].mean(axis=1)
            numpy.testing.assert_allclose(found, expected, atol=1e-6)
    mix, docs, _ = start_mix(1)
    assert [y.tolist() for y in mix.predict([])] == [doc[:, 0].tolist() for doc in docs]


@pytest.mark.parametrize("n_layers", [1, 3, 13])
def test_the_mix_and_its_gradients_equal_torchs(n_layers: int) -> None:
    mix, docs, received = start_mix(n_layers)
    generator = numpy.random.default_rng(1)
    mix.set_param("s", generator.normal(size=n_layers).astype("f"))
    mix.set_param("gamma", numpy.array([1.7], dtype="f"))
    outputs, backprop = mix([], is_train=True)
    d_outputs = [generator.normal(size=y.shape).astype("f") for y in outputs]
    backprop(d_outputs)

    s, gamma = (torch.tensor(mix.get_param(name), requires_grad=True) for name in ("s", "gamma"))
    h = torch.tensor(numpy.concatenate(docs), requires_grad=True)
    expected = gamma * (torch.softmax(s, 0)[:, None] * h).sum(1)
    expected.backward(torch.tensor(numpy.concatenate(d_outputs)))
    numpy.testing.assert_allclose(numpy.concatenate(outputs), expected.detach(), atol=1e-5)
    numpy.testing.assert_allclose(numpy.concatenate(received[0]), h.grad, atol=1e-5)
    numpy.testing.assert_allclose(mix.get_grad("s"), s.grad, atol=1e-4)
    numpy.testing.assert_allclose(mix.get_grad("gamma"), gamma.grad, atol=1e-4)


# Gradients in the pipeline


@pytest.mark.parametrize("factor", [1.0, 0.25, 0.0])
def test_gradient_equals_plain_torch(make_nlp: Callable, factor: float) -> None:
    """Encoder, mix and head against the same written down in torch; `grad_factor` scales what
    the encoder gets, and leaves the mix alone."""
    nlp = make_nlp("tagger", config=asking([0, -1], "tagger", grad_factor=factor))
    mix, head = get_mix(nlp, "tagger"), nlp.get_pipe("tagger").model.get_ref("output_layer")
    mix.set_param("s", numpy.array([0.3, -0.4], dtype="f"))
    examples = make_examples(nlp)
    found = gradient_of(nlp, examples)

    module, tokenizer = encoder_module(nlp), nlp.get_pipe("transformer").model.tokenizer
    s, gamma = (torch.tensor(mix.get_param(name), requires_grad=True) for name in ("s", "gamma"))
    weight, bias = torch.tensor(head.get_param("W")), torch.tensor(head.get_param("b"))
    labels = nlp.get_pipe("tagger").labels
    module.zero_grad()
    losses = []
    for eg in examples:
        encoding = tokenizer(eg.text, return_offsets_mapping=True, return_tensors="pt")
        chars = encoding.pop("offset_mapping")[0].tolist()
        encoding.pop("token_type_ids", None)
        states = module(**encoding, output_hidden_states=True).hidden_states
        hidden = gamma * torch.einsum("k,ksh->sh", s.softmax(0), torch.cat([states[0], states[2]]))
        for token, gold in zip(eg.predicted, eg.reference, strict=True):
            span = range(token.idx, token.idx + len(token))
            own = [i for i, (start, end) in enumerate(chars) if start < end and start in span]
            logits = weight @ hidden[own].mean(dim=0) + bias
            target = torch.tensor(labels.index(gold.tag_))
            losses.append(torch.nn.functional.cross_entropy(logits, target))
    torch.stack(losses).mean().backward()
    expected = encoder_gradient(nlp)
    if factor:
        assert_close(found, factor * expected)
    else:
        assert not found.any()
    # Sums in which nearly everything cancels out.
    numpy.testing.assert_allclose(mix.get_grad("s"), s.grad, rtol=1e-3, atol=1e-7)
    numpy.testing.assert_allclose(mix.get_grad("gamma"), gamma.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("order", list(permutations(HEADS)))
def test_sum_over_heads_in_any_order(make_nlp: Callable, order: tuple[str, ...]) -> None:
    nlp = make_nlp(*order, config=asking("all", "ner") | asking([0], "textcat"))
    examples = make_examples(nlp)
    total = gradient_of(nlp, examples)
    alone = [
        gradient_of(nlp, examples, exclude=[name for name in HEADS if name != head])
        for head in HEADS
    ]
    assert all(numpy.abs(gradient).max() > 0 for gradient in alone)
    assert_close(total, sum(alone))


@pytest.mark.parametrize("speaker", HEADS)
def test_silent_heads_lose_nothing(make_nlp: Callable, speaker: str) -> None:
    nlp = make_nlp(config=asking("all", "ner") | asking([0], "textcat"))
    only = gradient_of(nlp, make_examples(nlp, speaker))
    others = [head for head in HEADS if head != speaker]
    assert_close(only, gradient_of(nlp, make_examples(nlp), exclude=others))


def test_other_heads_do_not_notice(make_nlp: Callable) -> None:
    """Their gradient and their answers are as if nobody asked for more."""
    plain, nlp = make_nlp(), make_nlp(config=asking())
    for name in ("transformer", "tagger", "textcat"):
        nlp.get_pipe(name).model.from_bytes(plain.get_pipe(name).model.to_bytes())
    found = [gradient_of(each, make_examples(each), exclude=["ner"]) for each in (plain, nlp)]
    assert_close(found[1], found[0])
    for mine, theirs in zip(answers(nlp), answers(plain), strict=True):
        assert (mine[1], mine[3]) == (theirs[1], theirs[3])


def test_stock_heads_beside_it(encoder: str) -> None:
    plain, nlp = (make_stock_nlp(encoder, factory="mtl_transformer") for _ in range(2))
    nlp.add_pipe("mtl_ner", name="entities", config=asking()["ner"])
    examples = make_examples(nlp)
    nlp.get_pipe("entities").initialize(lambda: examples, nlp=nlp)
    options = [{}, {"exclude": ["entities"]}]
    found = [
        gradient_of(each, make_examples(each), **kwargs)
        for each, kwargs in zip((plain, nlp), options, strict=True)
    ]
    assert nlp.get_pipe("transformer").model.attrs["layers"] == [0, 1, 2]
    assert_close(found[1], found[0])
    docs = [next(each.pipe([TEXTS[0]])) for each in (plain, nlp)]
    assert docs[0].cats == docs[1].cats and docs[0].to_json()["tokens"]


@pytest.mark.parametrize("balancer", BALANCERS)
def test_balancers_and_diagnostics(make_nlp: Callable, balancer: dict[str, Any]) -> None:
    nlp = make_nlp(balancer=balancer, config=asking())
    before, s = encoder_weights(nlp), get_mix(nlp).get_param("s").copy()
    train(nlp)
    nlp.get_pipe("transformer").flush()
    found = nlp.get_pipe("transformer").diagnostics.take()
    assert {task: values["updates"] for task, values in found.items()} == dict.fromkeys(HEADS, 3)
    assert all(values["grad_norm"] > 0 for values in found.values())
    assert set(nlp.get_pipe("transformer").diagnostics.take_cosines()) == {
        "ner|tagger",
        "ner|textcat",
        "tagger|textcat",
    }
    assert encoder_weights(nlp) != before and (get_mix(nlp).get_param("s") != s).all()


# One answer, however it is asked and wherever it is kept


def test_same_answers_in_any_batch(make_nlp: Callable) -> None:
    nlp = make_nlp(config=asking("all", *HEADS))
    train(nlp)
    texts = [*TEXTS, "Porto", " ".join(TEXTS * 8)]
    expected = [answers(nlp, [text])[0] for text in texts]
    assert answers(nlp, texts)[:-2] == expected
    assert answers(nlp, texts[::-1])[-3::-1] == expected
    assert all(doc._.trf_data is None for doc in nlp.pipe(texts))


def test_round_trips(make_nlp: Callable, tmp_path: Path) -> None:
    nlp = make_nlp(config=asking([0, -1], "ner", "textcat"))
    train(nlp)
    expected = answers(nlp)
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    copies = [loaded, deepcopy(nlp), spacy.blank("en").from_config(nlp.config)]
    copies[2].from_bytes(nlp.to_bytes())
    sourced = spacy.blank("en")
    for name in nlp.pipe_names:
        sourced.add_pipe(name, source=nlp)
    for copy in [*copies, sourced]:
        assert get_mix(copy).get_param("s").tolist() == get_mix(nlp).get_param("s").tolist()
        assert answers(copy) == expected
    assert loaded.get_pipe("ner").to_bytes() == nlp.get_pipe("ner").to_bytes()
    alone = spacy.load(tmp_path, exclude=["tagger", "textcat"])
    assert [found[2] for found in answers(alone)] == [found[2] for found in expected]
    train(loaded, steps=1)
    assert get_mix(loaded).get_param("s").tolist() != get_mix(nlp).get_param("s").tolist()


@pytest.mark.parametrize("layers", ["all", [1]])
def test_replace_listeners(make_nlp: Callable, tmp_path: Path, layers: Any) -> None:
    nlp = make_nlp(config=asking(layers))
    train(nlp)
    other = deepcopy(nlp)
    other.replace_listeners("transformer", "ner", ["model.tok2vec"])
    assert answers(other) == answers(nlp)
    assert other.get_pipe("transformer").model.attrs["layers"] is None
    other.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert answers(loaded) == answers(nlp)
    # It trains as it would behind the shared encoder.
    examples = make_examples(nlp, "ner")
    expected = gradient_of(nlp, examples)
    ner = loaded.get_pipe("ner")
    (own,) = [node for node in ner.model.walk() if node.name == "transformer"]
    own.transformer.zero_grad()
    ner.update(make_examples(loaded, "ner"))
    found = [
        torch.zeros_like(p) if p.grad is None else p.grad for p in own.transformer.parameters()
    ]
    assert_close(numpy.concatenate([g.numpy().ravel() for g in found]), expected)
    expected = get_mix(nlp).get_grad("s")
    numpy.testing.assert_allclose(get_mix(loaded).get_grad("s"), expected, rtol=1e-3, atol=1e-7)


def test_a_replaced_listener_is_initialized_anew(make_nlp: Callable) -> None:
    nlp = make_nlp(config=asking("all"))
    nlp.replace_listeners("transformer", "ner", ["model.tok2vec"])
    again = spacy.blank("en").from_config(nlp.config)
    again.initialize(lambda: make_examples(again))
    assert get_mix(again).get_param("s").tolist()[:2] == [0, 0]
    again.update(make_examples(again), sgd=create_adamw_v1())


def test_replacing_keeps_the_settings_of_a_listener_inside(
    make_nlp: Callable, tmp_path: Path
) -> None:
    """spaCy hands over the whole block `tok2vec`, in which the listener may stand anywhere."""
    tok2vec = {
        "@architectures": "spacy-mtl.ConcatTok2Vec.v1",
        "layers": {
            "mix": {**LISTENER, "layers": "all", "grad_factor": 0.5},
            "last": {**LISTENER, "grad_factor": 0.25},
        },
    }
    nlp = make_nlp("ner", "tagger", config={"ner": {"model": {"tok2vec": tok2vec}}})
    train(nlp)
    expected = answers(nlp)
    paths = [f"model.tok2vec.layers.{name}" for name in ("mix", "last")]
    nlp.replace_listeners("transformer", "ner", paths)
    assert answers(nlp) == expected
    blocks = nlp.config["components"]["ner"]["model"]["tok2vec"]["layers"]
    assert [blocks[name]["grad_factor"] for name in ("mix", "last")] == [0.5, 0.25]
    assert [blocks[name].get("layers") for name in ("mix", "last")] == ["all", None]
    nlp.to_disk(tmp_path)
    assert answers(spacy.load(tmp_path)) == expected


def test_two_listeners_of_one_head(make_nlp: Callable) -> None:
    """In either order: what one leaves on a doc at initialization serves the other."""
    blocks = {"last": LISTENER, "mix": {**LISTENER, "layers": [0]}}
    for names in permutations(blocks):
        layers = {name: blocks[name] for name in names}
        tok2vec = {"@architectures": "spacy-mtl.ConcatTok2Vec.v1", "layers": layers}
        nlp = make_nlp("ner", config={"ner": {"model": {"tok2vec": tok2vec}}})
        assert nlp.get_pipe("ner").model.get_ref("output_layer").get_dim("nI") == 2 * WIDTH
        train(nlp, steps=1)
        assert nlp(TEXTS[0])._.trf_data is None


def test_training_with_averages_and_frozen_parts(make_nlp: Callable) -> None:
    nlp = make_nlp(config=asking("all", "ner", "tagger"))
    frozen, s = nlp.get_pipe("tagger").to_bytes(), get_mix(nlp).get_param("s").copy()
    weights = encoder_weights(nlp)
    train(nlp, exclude=["transformer", "tagger"], annotates=["transformer"])
    assert nlp.get_pipe("tagger").to_bytes() == frozen and encoder_weights(nlp) == weights
    assert (get_mix(nlp).get_param("s") != s).all()
    sgd = create_adamw_v1(learn_rate=0.1, average=0.9)
    for _ in range(3):
        nlp.update(make_examples(nlp), sgd=sgd)
    mix = get_mix(nlp)
    now = mix.get_param("s").copy()
    with nlp.get_pipe("ner").model.use_params(sgd.averages):
        assert (mix.get_param("s") != now).all()
    assert mix.get_param("s").tolist() == now.tolist()
