"""AdamW updates the encoder as torch does, the heads as thinc does, and no frozen weights."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy
import pytest
import torch
from conftest import encoder_module, encoder_weights, make_examples
from spacy.language import Language
from spacy.util import registry
from thinc.api import (
    Adam,
    Config,
    Linear,
    Model,
    Optimizer,
    Relu,
    chain,
    constant,
    fix_random_seed,
    warmup_linear,
)

from spacy_mtl.training.adamw import AdamW, create_adamw_v1

HEADS = ("tagger", "ner", "textcat")


def make_module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Embedding(7, 6), torch.nn.Linear(6, 5), torch.nn.LayerNorm(5)
    )


def set_gradients(module: torch.nn.Module, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)


def make_reference(module: torch.nn.Module, **settings: Any) -> torch.optim.AdamW:
    """torch's AdamW with decay of matrices only."""
    matrices = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, fused=True, **settings)


def assert_equal_modules(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    for p, q in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q)


def get_arrays(module: torch.nn.Module) -> dict[str, bytes]:
    return {name: p.detach().numpy().tobytes() for name, p in module.named_parameters()}


# The encoder


def test_five_steps_of_torch() -> None:
    found, expected = make_module(), make_module()
    betas, eps = (0.8, 0.95), 1e-6
    sgd = create_adamw_v1(0.5, 0.01, 0.1, 0.0, *betas, eps)
    reference = make_reference(expected, lr=0.01, betas=betas, eps=eps)
    for step in range(5):
        set_gradients(found, step)
        set_gradients(expected, step)
        sgd.step_module(1, found)
        reference.step()
        assert_equal_modules(found, expected)


def test_norms_and_biases_do_not_decay() -> None:
    module = make_module()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    sgd = create_adamw_v1(encoder_learn_rate=0.5, weight_decay=0.1)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    sgd.step_module(1, module)
    for name, parameter in module.named_parameters():
        factor = 0.95 if name in ("0.weight", "1.weight") else 1.0
        torch.testing.assert_close(parameter, factor * before[name])


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
def test_clipping_is_by_the_norm_of_the_component(scale: float) -> None:
    found, expected = make_module(), make_module()
    sgd = create_adamw_v1(encoder_learn_rate=0.01, weight_decay=0.1, grad_clip=0.7)
    reference = make_reference(expected, lr=0.01)
    for step in range(3):
        set_gradients(found, step, scale**step)
        set_gradients(expected, step, scale**step)
        sgd.step_module(1, found)
        torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.7)
        norm = torch.cat([p.grad.ravel() for p in found.parameters()]).norm()
        assert norm <= 0.7 + 1e-5
        reference.step()
        assert_equal_modules(found, expected)


def test_frozen_parameters_do_not_count_for_the_norm() -> None:
    found, expected = make_module(), make_module()
    sgd = create_adamw_v1(encoder_learn_rate=0.01, weight_decay=0.1, freeze=["0.*"])
    expected[0].requires_grad_(False)
    reference = make_reference(expected[1:], lr=0.01)
    for step in range(3):
        set_gradients(found, step)
        set_gradients(expected, step)
        found[0].weight.grad *= 1000
        sgd.step_module(1, found)
        torch.nn.utils.clip_grad_norm_(expected[1:].parameters(), 1.0)
        reference.step()
        assert_equal_modules(found, expected)


def test_without_a_gradient_nothing_moves() -> None:
    """Neither decay nor momentum moves a parameter without a gradient."""
    module = make_module()
    sgd = create_adamw_v1(encoder_learn_rate=0.1, weight_decay=0.1)
    set_gradients(module, 0)
    sgd.step_module(1, module)
    before = get_arrays(module)
    set_gradients(module, 1)
    module[1].weight.grad = None
    sgd.step_module(1, module)
    after = get_arrays(module)
    assert [name for name in after if after[name] == before[name]] == ["1.weight"]


def test_modules_do_not_share_moments() -> None:
    one, other, expected = make_module(), make_module(), make_module()
    sgd = create_adamw_v1(encoder_learn_rate=0.1)
    for step in range(3):
        set_gradients(one, step)
        sgd.step_module(1, one)
    set_gradients(other, 5)
    set_gradients(expected, 5)
    sgd.step_module(2, other)
    create_adamw_v1(encoder_learn_rate=0.1).step_module(1, expected)
    assert_equal_modules(other, expected)


def test_a_module_that_was_loaded_anew_begins_anew() -> None:
    """`from_bytes` puts another module in the place of the first."""
    first, second, expected = make_module(), make_module(), make_module()
    sgd = create_adamw_v1(encoder_learn_rate=0.1)
    set_gradients(first, 0)
    sgd.step_module(1, first)
    set_gradients(second, 1)
    set_gradients(expected, 1)
    sgd.step_module(1, second)
    create_adamw_v1(encoder_learn_rate=0.1).step_module(1, expected)
    assert_equal_modules(second, expected)


# Learning rates


def test_schedules_of_encoder_and_heads() -> None:
    sgd = create_adamw_v1([0.5, 0.4, 0.3], warmup_linear(1.0, 2, 4))
    rates = []
    for _ in range(4):
        rates.append((sgd.learn_rate, sgd.encoder_learn_rate))
        sgd.step_schedules()
    assert rates == [(0.5, 0.0), (0.4, 0.5), (0.3, 1.0), (0.3, 0.5)]


def test_each_step_takes_the_rate_of_its_time() -> None:
    rates = [0.1, 0.02, 0.3]
    found, expected = make_module(), make_module()
    sgd = create_adamw_v1(encoder_learn_rate=list(rates), grad_clip=0, weight_decay=0.1)
    reference = make_reference(expected)
    for step, rate in enumerate(rates):
        for group in reference.param_groups:
            group["lr"] = rate
        set_gradients(found, step)
        set_gradients(expected, step)
        sgd.step_module(1, found)
        reference.step()
        sgd.step_schedules()
        assert_equal_modules(found, expected)


def test_numbers_stay() -> None:
    sgd = create_adamw_v1(0.5, 0.25)
    sgd.step_schedules()
    assert (sgd.learn_rate, sgd.encoder_learn_rate) == (0.5, 0.25)


# Heads


def make_head() -> Model:
    fix_random_seed(0)
    model = chain(Relu(nO=4, nI=3), Linear(nO=2, nI=4))
    return model.initialize()


def set_head_gradients(model: Model, seed: int) -> None:
    generator = numpy.random.default_rng(seed)
    for node in model.walk():
        for name in node.param_names:
            node.set_grad(name, generator.normal(size=node.get_param(name).shape).astype("f"))


def get_params(model: Model) -> list[numpy.ndarray]:
    return [node.get_param(name).copy() for node in model.walk() for name in node.param_names]


def get_gradients(model: Model) -> list[numpy.ndarray]:
    return [node.get_grad(name).copy() for node in model.walk() for name in node.param_names]


def test_heads_are_updated_by_thincs_adam() -> None:
    settings = {"beta1": 0.8, "beta2": 0.95, "eps": 1e-6}
    sgd = create_adamw_v1(0.05, 7.0, 0.1, 1.0, **settings)
    decayed, plain = (Adam(0.05, L2=L2, grad_clip=1.0, **settings) for L2 in (0.1, 0.0))
    generator = numpy.random.default_rng(0)
    for shape, reference in (((4, 3), decayed), ((5,), plain), ((2, 3, 2), decayed)):
        found = generator.normal(size=shape).astype("f")
        expected = found.copy()
        for _ in range(5):
            gradient = generator.normal(size=shape).astype("f")
            found, after = sgd(shape, found, gradient.copy())
            expected, _ = reference(shape, expected, gradient.copy())
            assert found.tobytes() == expected.tobytes()
            assert after.shape == shape and not after.any()
    assert sgd.L2 == 0.1


def test_decay_of_heads_is_decoupled() -> None:
    """Decay is a share of the weights, independent of the gradient, and of matrices only."""
    sgd = create_adamw_v1(0.5, weight_decay=0.1)
    for shape, factor in (((2, 3), 0.95), ((3,), 1.0)):
        weights, _ = sgd(shape, numpy.ones(shape, "f"), numpy.zeros(shape, "f"))
        assert weights == pytest.approx(numpy.full(shape, factor, "f"))


def test_the_decay_survives_an_error() -> None:
    sgd = create_adamw_v1(weight_decay=0.1)
    with pytest.raises(ValueError):
        sgd("key", numpy.ones(3, "f"), numpy.ones(2, "f"))
    assert sgd.L2 == 0.1


@pytest.mark.parametrize("grad_clip", [0.5, 1000.0, 0.0])
def test_gradients_of_a_head_are_clipped_together(grad_clip: float) -> None:
    model = make_head()
    set_head_gradients(model, 0)
    tensors = [torch.nn.Parameter(torch.zeros(g.shape)) for g in get_gradients(model)]
    for tensor, gradient in zip(tensors, get_gradients(model), strict=True):
        tensor.grad = torch.tensor(gradient)
    if grad_clip:
        torch.nn.utils.clip_grad_norm_(tensors, grad_clip)
    create_adamw_v1(grad_clip=grad_clip).clip_model(model)
    for tensor, gradient in zip(tensors, get_gradients(model), strict=True):
        numpy.testing.assert_allclose(gradient, tensor.grad, rtol=1e-5)


def test_clipping_a_head_that_has_no_gradient() -> None:
    model = make_head()
    create_adamw_v1().clip_model(model)
    assert not any(node.has_grad(name) for node in model.walk() for name in node.param_names)


# What stays as it is


def test_numbers_below_zero() -> None:
    names = ("learn_rate", "encoder_learn_rate", "weight_decay", "grad_clip", "eps")
    for name in names:
        for value in (-1.0, float("nan")):
            with pytest.raises(ValueError, match=f"M058.*{name} = {value}"):
                create_adamw_v1(**{name: value})


@pytest.mark.parametrize("name", ["beta1", "beta2"])
@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_betas(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"M058.*{name} = {value}.*> 0 and < 1"):
        create_adamw_v1(**{name: value})


def test_averages_of_a_frozen_encoder_inside_a_head(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger")
    nlp.replace_listeners("transformer", "tagger", ["model.tok2vec"])
    sgd = create_adamw_v1(average=0.9, freeze=["embeddings*"])
    head = nlp.get_pipe("tagger")
    before = head.model.to_bytes()
    for _ in range(2):
        nlp.update(make_examples(nlp), sgd=sgd, drop=0.0)
    after = head.model.to_bytes()
    assert after != before
    with head.model.use_params(sgd.averages):
        assert head.model.to_bytes() not in (before, after)


def test_a_pattern_that_matches_nothing() -> None:
    module = make_module()
    set_gradients(module, 0)
    sgd = create_adamw_v1(freeze=["0.*", "layers.*"])
    with pytest.raises(ValueError, match=r"M041.*'layers\.\*'.*'0\.weight'"):
        sgd.step_module(1, module)


def update(nlp: Language, sgd: Optimizer, steps: int = 1, *tasks: str, **kwargs: Any) -> list[Any]:
    """Train as spaCy's loop does, without dropout.

    RETURNS (List[Dict[str, float]]): The losses of each step.
    """
    history = []
    for _ in range(steps):
        history.append(nlp.update(make_examples(nlp, *tasks), sgd=False, losses={}, **kwargs))
        for name, pipe in nlp.pipeline:
            if name not in kwargs.get("exclude", ()):
                pipe.finish_update(sgd)
        sgd.step_schedules()
    return history


def test_frozen_parameters_are_byte_equal(make_nlp: Callable) -> None:
    nlp = make_nlp(*HEADS)
    before = get_arrays(encoder_module(nlp))
    freeze = ["embeddings.*", "encoder.layer.0.*", "*.1.output.dense.bia?"]
    update(nlp, create_adamw_v1(freeze=freeze), 3)
    after = get_arrays(encoder_module(nlp))
    still = {name for name in after if after[name] == before[name]}
    frozen = {n for n in after if n.startswith(("embeddings.", "encoder.layer.0."))}
    # No head reads the pooler, so it has no gradient.
    pooler = {"pooler.dense.weight", "pooler.dense.bias"}
    # Softmax does not see what is added to all keys: a gradient of 0 but for rounding.
    key = "encoder.layer.1.attention.self.key.bias"
    assert still - {key} == frozen | pooler | {"encoder.layer.1.output.dense.bias"}
    assert len(frozen) > 10 and len(after) > len(still)


def test_an_unknown_pattern_in_a_pipeline(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger")
    with pytest.raises(ValueError, match=r"M041.*encoder\.layers"):
        update(nlp, create_adamw_v1(freeze=["encoder.layers.0.*"]))


def test_frozen_components_are_byte_equal(make_nlp: Callable) -> None:
    nlp = make_nlp(*HEADS)
    frozen = nlp.get_pipe("ner").to_bytes()
    tagger, encoder = nlp.get_pipe("tagger").to_bytes(), encoder_weights(nlp)
    update(nlp, create_adamw_v1(), 3, exclude=["ner"])
    assert nlp.get_pipe("ner").to_bytes() == frozen
    assert nlp.get_pipe("tagger").to_bytes() != tagger and encoder_weights(nlp) != encoder


def test_a_frozen_encoder_is_byte_equal(make_nlp: Callable) -> None:
    nlp = make_nlp(*HEADS)
    encoder, tagger = encoder_weights(nlp), nlp.get_pipe("tagger").to_bytes()
    update(nlp, create_adamw_v1(), 3, exclude=["transformer"], annotates=["transformer"])
    assert encoder_weights(nlp) == encoder
    assert nlp.get_pipe("tagger").to_bytes() != tagger


def test_silent_heads_are_byte_equal(make_nlp: Callable) -> None:
    """Momentum moves no head without labels, and not the encoder if no head has labels."""
    nlp = make_nlp(*HEADS)
    sgd = create_adamw_v1()
    update(nlp, sgd, 2)
    ner = nlp.get_pipe("ner").to_bytes()
    update(nlp, sgd, 2, "tagger")
    assert nlp.get_pipe("ner").to_bytes() == ner
    everything = nlp.to_bytes()
    update(nlp, sgd, 2, "none")
    assert nlp.to_bytes() == everything


def test_training_learns(make_nlp: Callable) -> None:
    nlp = make_nlp(*HEADS)
    sgd = create_adamw_v1(0.02, 0.002)
    history = update(nlp, sgd, 60)
    for head in HEADS:
        assert history[-1][head] < 0.1 * history[0][head]
    doc = nlp(make_examples(nlp)[0].predicted)
    gold = make_examples(nlp)[0].reference
    assert [t.tag_ for t in doc] == [t.tag_ for t in gold]
    assert doc.cats["travel"] == max(doc.cats.values())


def test_rate_zero_trains_heads_alone(make_nlp: Callable) -> None:
    nlp = make_nlp(*HEADS)
    encoder, tagger = encoder_weights(nlp), nlp.get_pipe("tagger").to_bytes()
    update(nlp, create_adamw_v1(encoder_learn_rate=0.0), 2)
    assert encoder_weights(nlp) == encoder
    assert nlp.get_pipe("tagger").to_bytes() != tagger


def test_same_seed_same_weights(make_nlp: Callable) -> None:
    one, other = make_nlp(*HEADS), make_nlp(*HEADS)
    update(one, create_adamw_v1(), 3)
    update(other, create_adamw_v1(), 3)
    assert one.to_bytes() == other.to_bytes()


CONFIG = """
[training]
max_steps = 8

[training.optimizer]
@optimizers = "spacy-mtl.AdamW.v1"
weight_decay = 0.1
grad_clip = 0.5
freeze = ["embeddings.*"]

[training.optimizer.learn_rate]
@schedules = "warmup_linear.v1"
warmup_steps = 4
total_steps = ${training.max_steps}
initial_rate = 0.002

[training.optimizer.encoder_learn_rate]
@schedules = "warmup_linear.v1"
warmup_steps = 2
total_steps = ${training.max_steps}
initial_rate = 0.0003
"""


def test_from_a_config() -> None:
    sgd = registry.resolve(Config().from_str(CONFIG))["training"]["optimizer"]
    assert isinstance(sgd, AdamW)
    assert (sgd.L2, sgd.grad_clip, sgd.freeze) == (0.1, 0.5, ["embeddings.*"])
    expected = zip(warmup_linear(0.002, 4, 8), warmup_linear(0.0003, 2, 8), strict=False)
    for rates in islice(expected, 10):
        assert (sgd.learn_rate, sgd.encoder_learn_rate) == rates
        sgd.step_schedules()


def test_defaults_from_a_config() -> None:
    config = {"optimizer": {"@optimizers": "spacy-mtl.AdamW.v1"}}
    sgd = registry.resolve(config)["optimizer"]
    assert (sgd.learn_rate, sgd.encoder_learn_rate, sgd.L2, sgd.freeze) == (1e-3, 1e-4, 0.01, [])


def test_constant_schedules() -> None:
    sgd = create_adamw_v1(constant(0.1), constant(0.2))
    sgd.step_schedules()
    assert (sgd.learn_rate, sgd.encoder_learn_rate) == (0.1, 0.2)
