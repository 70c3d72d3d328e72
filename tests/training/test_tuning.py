"""Learning rates and unfreezing by encoder layer, and averages of all weights."""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import TEXTS, build_encoder, encoder_module, make_examples, make_gold
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import load_config, registry
from spacy.vocab import Vocab
from thinc.api import Linear, PyTorchWrapper, chain
from transformers import AutoConfig, AutoModel

from spacy_mtl.encoder.model.backward import get_depths
from spacy_mtl.training.adamw import AdamW, create_adamw_v1

CONFIG = Path(__file__).parents[2] / "configs" / "mtl_cpu.cfg"
EMBEDDINGS = re.compile("embed|relative_attention_bias")


def load(folder: str) -> torch.nn.Module:
    return AutoModel.from_pretrained(folder)


def get_depth(name: str, n: int) -> int:
    """The number of a parameter's layer by its name, for the families of these tests."""
    if EMBEDDINGS.search(name):
        return 0
    layer = re.search(r"(?:^|\.)layers?\.(\d+)\.", name)
    return int(layer[1]) + 1 if layer else n


def count_layers(module: torch.nn.Module) -> int:
    return 1 if module.config.model_type == "albert" else 2  # type: ignore[union-attr]


def set_gradients(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def get_arrays(module: torch.nn.Module) -> dict[str, bytes]:
    return {name: p.detach().numpy().tobytes() for name, p in module.named_parameters()}


def step(sgd: AdamW, module: torch.nn.Module, seed: int) -> set[str]:
    """RETURNS (Set[str]): The names of the parameters that changed."""
    before = get_arrays(module)
    set_gradients(module, seed)
    sgd.step_module(1, module)
    return {name for name, array in get_arrays(module).items() if array != before[name]}


# Layers


def test_layer_decay_is_torchs_with_a_rate_for_each_parameter(any_encoder: str) -> None:
    found, expected = load(any_encoder), load(any_encoder)
    n = count_layers(found)
    sgd = create_adamw_v1(encoder_learn_rate=0.01, weight_decay=0.1, grad_clip=0, layer_decay=0.5)
    groups = [
        {
            "params": [p],
            "lr": 0.01 * 0.5 ** (n - get_depth(name, n)),
            "weight_decay": 0.1 if p.ndim > 1 else 0.0,
        }
        for name, p in expected.named_parameters()
    ]
    assert {group["lr"] for group in groups} == {0.01 * 0.5**i for i in range(n + 1)}
    reference = torch.optim.AdamW(groups, fused=True)
    for seed in range(2):
        step(sgd, found, seed)
        set_gradients(expected, seed)
        reference.step()
        for p, q in zip(found.parameters(), expected.parameters(), strict=True):
            assert torch.equal(p, q)


def test_layers_whose_parts_are_listed_apart() -> None:
    config = AutoConfig.for_model("xlm", vocab_size=20, emb_dim=8, n_layers=3, n_heads=2)
    depths = get_depths(AutoModel.from_config(config))
    assert depths["embeddings.weight"] == depths["layer_norm_emb.weight"] == 0
    for i in range(3):
        for part in ("attentions.{}.q_lin", "layer_norm1.{}", "ffns.{}.lin1", "layer_norm2.{}"):
            assert depths[part.format(i) + ".weight"] == i + 1


def test_unfreezing_from_the_top(any_encoder: str) -> None:
    module = load(any_encoder)
    n, names = count_layers(module), set(get_arrays(module))
    sgd = create_adamw_v1(encoder_learn_rate=0.01, unfreeze_steps=2)
    for i in range(2 * (n + 2) + 1):
        assert step(sgd, module, i) == {name for name in names if get_depth(name, n) > n - i // 2}
    assert step(sgd, module, 0) == names


def test_unfreezing_with_frozen_layers_and_rates(encoder: str) -> None:
    """Frozen layers do not change, have no moments, and do not count for the norm."""
    found, expected = load(encoder), load(encoder)
    settings: Any = {"freeze": ["*.layer.1.*"], "layer_decay": 0.5, "unfreeze_steps": 1}
    sgd = create_adamw_v1(encoder_learn_rate=0.01, weight_decay=0, grad_clip=0.7, **settings)
    rates = {2: 0.01, 1: 0.005, 0: 0.0025}
    named = [item for item in expected.named_parameters() if ".layer.1." not in item[0]]
    named.sort(key=lambda item: (-get_depth(item[0], 2), item[1].ndim == 1))  # norms sum up so
    groups = [{"params": [p], "lr": rates[get_depth(name, 2)]} for name, p in named]
    reference = torch.optim.AdamW(groups, weight_decay=0, fused=True)
    for i in range(5):
        moved = step(sgd, found, i)
        set_gradients(expected, i)
        for name, p in named:
            p.grad = p.grad if get_depth(name, 2) > 2 - i else None
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 0.7)
        reference.step()
        assert moved == {name for name, p in named if p.grad is not None}
        for p, q in zip(found.parameters(), expected.parameters(), strict=True):
            assert torch.equal(p, q)


FROZEN: dict[str, tuple[list[str], Callable[[str], bool]]] = {
    "embeddings": (["embeddings*"], lambda name: "embed" in name),
    "first layer": (["*.layer.0.*"], lambda name: ".layer.0." in name),
    "several layers": (["*.layer.[0-1].*"], lambda name: ".layer." in name),
    "both": (["embeddings*", "*.layer.0.*"], lambda n: "embed" in n or ".layer.0." in n),
    "all but the heads": (["*"], lambda name: True),
}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_patterns_of_freeze(family: str, tmp_path: Path) -> None:
    module = load(str(build_encoder(family, tmp_path)))
    for patterns, is_frozen in FROZEN.values():
        names = get_arrays(module)
        frozen = {name for name in names if any(fnmatchcase(name, p) for p in patterns)}
        assert frozen == {name for name in names if is_frozen(name)} != set()
        sgd = create_adamw_v1(encoder_learn_rate=0.01, freeze=patterns, average=0.9)
        assert step(sgd, module, 0) == set(names) - frozen
        assert sgd.averages is not None
        assert sgd.averages.keys() == {f"pytorch_1_{name}" for name in names.keys() - frozen}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_only_the_embeddings_learn(family: str, tmp_path: Path) -> None:
    module = load(str(build_encoder(family, tmp_path)))
    names = get_arrays(module)
    patterns = ["*.layer.*", *(["pooler*"] if any("pooler" in name for name in names) else [])]
    learnt = step(create_adamw_v1(encoder_learn_rate=0.01, freeze=patterns), module, 0)
    assert learnt == {name for name in names if "embed" in name} != set()


# Averages


def get_decay(n: int, average: float) -> float:
    return min(average, (1 + n) / (10 + n))


def get_weights(nlp: Language) -> dict[Any, numpy.ndarray]:
    """Copies of all weights of the encoder and the heads."""
    found = {name: p.detach().numpy().copy() for name, p in encoder_module(nlp).named_parameters()}
    for name, pipe in nlp.pipeline[1:]:
        for i, node in enumerate(pipe.model.walk()):  # type: ignore[attr-defined]
            found |= {(name, i, key): node.get_param(key).copy() for key in node.param_names}
    return found


def average_all(history: list[dict[Any, numpy.ndarray]], average: float) -> dict[Any, Any]:
    means = dict(history[0])
    for n, weights in enumerate(history[1:], 1):
        decay = get_decay(n, average)
        means = {key: decay * mean + (1 - decay) * weights[key] for key, mean in means.items()}
    return means


def assert_close(found: dict[Any, Any], expected: dict[Any, Any]) -> None:
    assert found.keys() == expected.keys()
    for key in found:
        numpy.testing.assert_allclose(found[key], expected[key], rtol=1e-5, atol=1e-7)


def get_bytes(weights: dict[Any, numpy.ndarray]) -> dict[Any, bytes]:
    return {key: array.tobytes() for key, array in weights.items()}


def update(nlp: Language, sgd: AdamW, steps: int, *tasks: str) -> list[dict[Any, numpy.ndarray]]:
    """RETURNS (List[Dict[Any, numpy.ndarray]]): The weights before and after each step."""
    history = [get_weights(nlp)]
    for _ in range(steps):
        nlp.update(make_examples(nlp, *tasks), sgd=False, losses={})  # type: ignore[arg-type]
        for _, pipe in nlp.pipeline:
            pipe.finish_update(sgd)  # type: ignore[attr-defined]
        history.append(get_weights(nlp))
    return history


@pytest.mark.parametrize("average", [0.25, 0.999])
def test_averages_of_a_module(average: float) -> None:
    module = torch.nn.Sequential(torch.nn.Embedding(7, 6), torch.nn.Linear(6, 5))
    sgd = create_adamw_v1(encoder_learn_rate=0.1, average=average)
    means = {name: p.detach().clone() for name, p in module.named_parameters()}
    for n in range(1, 6):
        step(sgd, module, n)
        for name, p in module.named_parameters():
            means[name].lerp_(p.detach(), 1 - get_decay(n, average))
        assert sgd.averages is not None and len(sgd.averages) == len(means) == 3
        for name, mean in means.items():
            assert torch.equal(sgd.averages[f"pytorch_1_{name}"], mean)
            assert sgd.averages[f"pytorch_1_{name}"].device == mean.device


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_averages_of_encoder_and_heads(make_nlp: Callable, precision: str) -> None:
    nlp = make_nlp(model={"precision": precision})
    pipe, docs = nlp.get_pipe("transformer"), [nlp.make_doc(text) for text in TEXTS]
    sgd = create_adamw_v1(0.05, 0.02, freeze=["embeddings*"], average=0.9)
    history = update(nlp, sgd, 3)
    raw, expected = get_bytes(history[-1]), average_all(history, 0.9)
    pointers = [p.data_ptr() for p in encoder_module(nlp).parameters()]
    before = pipe.predict(docs).data
    for _ in range(2):
        with nlp.use_params(sgd.averages):
            found = get_weights(nlp)
            assert_close(found, expected)
            frozen = [key for key in found if found[key].tobytes() == raw[key]]
            assert {key for key in frozen if key[:10] == "embeddings"}
            assert len(frozen) < len(found) / 2
            predicted = pipe.predict(docs).data
            numpy.testing.assert_array_equal(predicted, pipe.model.copy().predict(docs).data)
            assert numpy.abs(predicted - before).max() > 1e-3
        assert get_bytes(get_weights(nlp)) == raw
        assert [p.data_ptr() for p in encoder_module(nlp).parameters()] == pointers
        numpy.testing.assert_array_equal(pipe.predict(docs).data, before)


def test_averaging_leaves_training_as_it_is(make_nlp: Callable) -> None:
    """Averages do not change training, even if the pipeline uses them between steps."""
    plain, averaged = make_nlp(), make_nlp()
    update(plain, create_adamw_v1(), 3)
    sgd = create_adamw_v1(average=0.9)
    for _ in range(3):
        update(averaged, sgd, 1)
        with averaged.use_params(sgd.averages):
            averaged(TEXTS[0])
    assert averaged.to_bytes() == plain.to_bytes()


def test_weights_are_back_after_an_error(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger")
    sgd = create_adamw_v1(average=0.9)
    update(nlp, sgd, 2)
    model, raw = nlp.get_pipe("transformer").model, get_arrays(encoder_module(nlp))
    with pytest.raises(KeyError), model.layers[0].shims[0].use_params(sgd.averages):
        assert get_arrays(encoder_module(nlp)) != raw
        raise KeyError
    assert get_arrays(encoder_module(nlp)) == raw


def test_the_averages_of_a_silent_head_wait(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger", "ner")
    sgd = create_adamw_v1(average=0.9)
    history = update(nlp, sgd, 2)
    update(nlp, sgd, 2, "tagger")
    ner = [key for key in history[0] if key[0] == "ner"]
    expected = average_all([{key: w[key] for key in ner} for w in history], 0.9)
    with nlp.use_params(sgd.averages):
        found = get_weights(nlp)
    assert_close({key: found[key] for key in ner}, expected)


def test_torch_layers_of_a_head() -> None:
    """Averages of torch layers include frozen tensors: thinc replaces all tensors or none."""
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    layers[0].bias.requires_grad_(False)
    model: Any = chain(PyTorchWrapper(layers), Linear(2, 4))
    model.initialize()
    sgd = create_adamw_v1(0.1, average=0.9)

    def get_all() -> dict[str, numpy.ndarray]:
        found = {name: t.numpy().copy() for name, t in layers.state_dict().items()}
        return found | {name: model.layers[1].get_param(name).copy() for name in ("W", "b")}

    X = numpy.random.default_rng(0).normal(size=(6, 3)).astype("f")
    history = [get_all()]
    for _ in range(4):
        Y, backprop = model.begin_update(X)
        backprop(Y - 1)
        sgd.clip_model(model)
        model.finish_update(sgd)
        history.append(get_all())
    expected = average_all(history, 0.9)
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        expected[name] = history[-1][name]
    with model.use_params(sgd.averages):
        assert_close(get_all(), expected)
    assert get_bytes(get_all()) == get_bytes(history[-1])
    assert history[0]["0.bias"].tobytes() == history[-1]["0.bias"].tobytes()


# spacy train


def test_training_evaluates_and_saves_the_averages(encoder: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.spacy"
    DocBin(docs=[make_gold(Vocab(), i) for i in range(4)], store_user_data=True).to_disk(corpus)
    overrides = {
        "paths.train": str(corpus),
        "paths.dev": str(corpus),
        "paths.encoder": encoder,
        "system.gpu_allocator": None,
        "training.max_steps": 4,
        "training.eval_frequency": 3,
        "training.optimizer.average": 0.9,
        "training.optimizer.layer_decay": 0.8,
        "training.optimizer.learn_rate": 0.05,
        "training.optimizer.encoder_learn_rate": 0.02,
        "training.optimizer.freeze": ["embeddings*"],
        # The best is then the last that was evaluated, after 4 of 5 updates.
        "training.score_weights": {"tag_acc": 0.0, "ents_f": 0.0, "cats_score": 0.0},
        "training.before_update": {"@callbacks": "test.WeightsBeforeUpdate.v1"},
    }
    history: list[dict[Any, numpy.ndarray]] = []

    @registry.callbacks("test.WeightsBeforeUpdate.v1")
    def create_callback() -> Callable:
        return lambda nlp, args: history.append(get_weights(nlp))

    nlp = init_nlp(load_config(CONFIG, overrides=overrides))
    train(nlp, tmp_path)
    raw = get_weights(nlp)
    best, last = (spacy.load(tmp_path / name) for name in ("model-best", "model-last"))
    assert len(history) == 5
    assert_close(get_weights(last), average_all([*history, raw], 0.9))
    found = get_weights(best)
    assert_close(found, average_all(history, 0.9))
    raw = history[-1]
    same = {key for key in raw if found[key].tobytes() == raw[key].tobytes()}
    assert {key[0] for key in found.keys() - same} >= {"tagger", "ner", "textcat"}
    assert any("encoder.layer.0" in key for key in found.keys() - same)
    assert all(("embeddings" in key) == (key in same) for key in raw if "layer.0." in key)
    # What was evaluated is what was saved.
    scores = best.evaluate(make_examples(best))
    for key in ("tag_acc", "ents_f", "cats_score"):
        assert scores[key] == pytest.approx(best.meta["performance"][key])
    best.to_disk(tmp_path / "again")
    assert get_bytes(get_weights(spacy.load(tmp_path / "again"))) == get_bytes(found)


# Defaults and bad values


def test_defaults_change_nothing(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger")
    sgd = create_adamw_v1()
    update(nlp, sgd, 1)
    assert sgd.averages is None
    ((module, adam),) = sgd.modules.values()
    shapes = [[p.shape for p in group["params"]] for group in adam.param_groups]
    sizes = [p.shape for p in module.parameters()]
    assert shapes == [[s for s in sizes if len(s) > 1], [s for s in sizes if len(s) == 1]]
    assert [(g["lr"], g["weight_decay"]) for g in adam.param_groups] == [(1e-4, 0.01), (1e-4, 0.0)]


@pytest.mark.parametrize(
    ("name", "values", "code"),
    [
        ("layer_decay", [0.0, -0.5, 1.1, float("nan")], "M058"),
        ("average", [1.0, -0.1, 1.5, float("nan")], "M058"),
        ("unfreeze_steps", [-1], "M058"),
    ],
)
def test_bad_values(name: str, values: list[Any], code: str) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"{code}.*{name} = {value}"):
            create_adamw_v1(**{name: value})


@pytest.mark.parametrize("settings", [{"layer_decay": 0.9}, {"unfreeze_steps": 5}])
def test_an_encoder_without_layers(settings: dict[str, Any]) -> None:
    module = torch.nn.Sequential(torch.nn.Embedding(7, 6), torch.nn.Linear(6, 5))
    set_gradients(module, 0)
    with pytest.raises(ValueError, match=r"M046.*Sequential"):
        create_adamw_v1(**settings).step_module(1, module)
