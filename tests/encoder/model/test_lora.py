"""Only adapters learn, and the saved encoder is a plain one."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import TEXTS, build_encoder, encoder_module, encoder_weights, make_examples
from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import fix_random_seed
from thinc.api import Adam
from transformers import AutoModel

from spacy_mtl.encoder.model.lora import LoRA, create_lora_v1, merge
from spacy_mtl.training.adamw import create_adamw_v1

LORA = {"@misc": "spacy-mtl.LoRA.v1", "rank": 2, "alpha": 8.0}
ADAPTED = [
    f"encoder.layer.{i}.attention.self.{part}" for i in (0, 1) for part in ("query", "value")
]


def get_shim(nlp: Language) -> Any:
    return nlp.get_pipe("transformer").model.layers[0].shims[0]  # type: ignore[attr-defined]


def get_weights(nlp: Language) -> dict[str, bytes]:
    module = encoder_module(nlp)
    return {name: p.detach().numpy().tobytes() for name, p in module.named_parameters()}


def get_moved(nlp: Language, before: dict[str, bytes]) -> set[str]:
    return {name for name, weights in get_weights(nlp).items() if weights != before[name]}


def update(nlp: Language, n: int = 3, sgd: Any = None, seed: int = 0) -> None:
    fix_random_seed(seed)
    sgd = sgd or create_adamw_v1(0.01, 0.01)
    for _ in range(n):
        nlp.update(make_examples(nlp), sgd=False)  # type: ignore[arg-type]
        for _, pipe in nlp.pipeline:
            pipe.finish_update(sgd)  # type: ignore[attr-defined]


def encode(nlp: Language) -> numpy.ndarray:
    return nlp.get_pipe("transformer").predict([nlp.make_doc(text) for text in TEXTS]).data  # type: ignore[attr-defined]


def answers(doc: Doc) -> Any:
    cats = {label: round(value, 4) for label, value in doc.cats.items()}
    return [t.tag_ for t in doc], [(e.text, e.label_) for e in doc.ents], cats


@pytest.fixture
def lora_nlp(make_nlp: Callable[..., Language]) -> Language:
    return make_nlp(model={"lora": LORA})


# What learns


def test_only_adapters_and_heads_learn(any_encoder: str, make_nlp: Callable) -> None:
    nlp = make_nlp(name=any_encoder, model={"lora": LORA})
    before, heads = get_weights(nlp), nlp.to_bytes(exclude=["transformer"])
    update(nlp)
    moved = get_moved(nlp, before)
    adapters = {name for name in before if "lora_" in name}
    assert moved == adapters != set()
    assert {n for n, p in encoder_module(nlp).named_parameters() if p.requires_grad} == adapters
    assert nlp.to_bytes(exclude=["transformer"]) != heads
    loaded = {n: p.numpy() for n, p in AutoModel.from_pretrained(any_encoder).state_dict().items()}
    base = {n.replace(".base_layer", ""): w for n, w in before.items() if n not in adapters}
    assert base == {name: loaded[name].tobytes() for name in base}


def test_stock_optimizers_train_adapters(lora_nlp: Language) -> None:
    before = get_weights(lora_nlp)
    update(lora_nlp, sgd=Adam(0.01))
    assert get_moved(lora_nlp, before) == {name for name in before if "lora_" in name}


def test_adapters_begin_with_no_effect(make_nlp: Callable) -> None:
    lora, plain = make_nlp(model={"lora": LORA}), make_nlp()
    numpy.testing.assert_array_equal(encode(lora), encode(plain))


@pytest.mark.parametrize(
    "targets,expected",
    [
        (["query", "value"], ADAPTED),
        (["layer.1.attention.self.query"], [ADAPTED[2]]),
        (r".*\.layer\.0\..*\.(query|value)", ADAPTED[:2]),
        (["word_embeddings", "0.attention.self.query"], ["embeddings.word_embeddings", ADAPTED[0]]),
    ],
)
def test_targets(encoder: str, targets: Any, expected: list[str]) -> None:
    module = AutoModel.from_pretrained(encoder)
    adapted = LoRA(3, 6.0, 0.0, targets).add_to(module)
    assert adapted.model is module
    learning = {n: p for n, p in module.named_parameters() if p.requires_grad}
    assert {n.partition(".lora_")[0] for n in learning} == set(expected)
    assert all(3 in p.shape for p in learning.values())


def test_all_linear_layers_but_the_pooler(encoder: str) -> None:
    module = AutoModel.from_pretrained(encoder)
    linear = [n for n, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)]
    assert create_lora_v1().find_targets(module) == linear[:-1] and linear[-1] == "pooler.dense"
    assert create_lora_v1(target_modules=["dense"]).find_targets(module) == [
        name for name in linear[:-1] if name.endswith("dense")
    ]


def test_gradient_methods_see_the_adapters(make_nlp: Callable) -> None:
    balancer = {"@misc": "spacy-mtl.ConFIG.v1", "level": "last_layer"}
    nlp = make_nlp(model={"lora": LORA}, balancer=balancer)
    before = get_weights(nlp)
    update(nlp)
    assert get_moved(nlp, before) == {name for name in before if "lora_" in name}


# Predictions


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_predictions_read_merged_weights(make_nlp: Callable, precision: str) -> None:
    nlp = make_nlp(model={"lora": LORA, "precision": precision})
    dtype = getattr(torch, precision)
    first = encode(nlp)
    update(nlp)
    shim, module = get_shim(nlp), encoder_module(nlp)
    found = encode(nlp)
    assert numpy.abs(found - first).max() > 0.01
    merged = shim.for_prediction.get(shim.adapted, dtype)
    assert shim.for_prediction.get(shim.adapted, dtype) is merged is not module
    expected = {
        n.replace(".base_layer", "") for n, p in module.named_parameters() if "lora_" not in n
    }
    assert {name for name, _ in merged.named_parameters()} == expected
    assert {p.dtype for p in merged.parameters()} == {dtype} and not merged.training
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        one, other = (m.eval()(input_ids=ids).last_hidden_state for m in (merged, module))
    torch.testing.assert_close(
        one.float(), other, atol=1e-5 if precision == "float32" else 0.1, rtol=0
    )
    if precision == "float32":  # layers without adapters need no memory
        shared = [(n, p) for n, p in merged.named_parameters() if n.startswith("embeddings")]
        own = dict(module.named_parameters())
        assert shared and all(p.data_ptr() == own[n].data_ptr() for n, p in shared)
    update(nlp, 1)
    assert numpy.abs(encode(nlp) - found).max() > 1e-3


def test_an_encoder_without_adapters_is_merged_already(encoder: str) -> None:
    module = AutoModel.from_pretrained(encoder)
    assert merge(module) is module


# Saving


def test_saved_encoders_need_no_peft(
    lora_nlp: Language, make_nlp: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(lora_nlp)
    lora_nlp.to_disk(tmp_path / "model")
    expected = encode(lora_nlp)
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
            patch.setitem(sys.modules, name, None)
        loaded = spacy.load(tmp_path / "model")
        numpy.testing.assert_allclose(encode(loaded), expected, atol=1e-5)
        loaded.to_bytes()
    assert get_weights(loaded).keys() == get_weights(make_nlp()).keys()
    assert loaded.config["components"]["transformer"]["model"]["lora"]["rank"] == 2
    for text in TEXTS:
        assert answers(loaded(text)) == answers(lora_nlp(text))
    merged = merge(get_shim(lora_nlp).adapted)
    pairs = zip(merged.parameters(), encoder_module(loaded).parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


def test_saving_does_not_disturb_training(make_nlp: Callable, tmp_path: Path) -> None:
    """Predictions do not change the weights either: they are byte-equal."""
    saved, plain = make_nlp(model={"lora": LORA}), make_nlp(model={"lora": LORA})
    optimizers = [create_adamw_v1(0.01, 0.01) for _ in range(2)]
    for i in range(3):
        for nlp, sgd in zip((saved, plain), optimizers, strict=True):
            update(nlp, 1, sgd, seed=i)
        before = get_weights(saved)
        saved.to_bytes()
        saved.to_disk(tmp_path / str(i))
        encode(saved)
        assert get_weights(saved) == before == get_weights(plain)


def test_saving_averages(lora_nlp: Language) -> None:
    """Only adapters are averaged. The other weights do not change."""
    sgd = create_adamw_v1(0.01, 0.01, average=0.9)
    update(lora_nlp, sgd=sgd)
    before = get_weights(lora_nlp)
    with lora_nlp.use_params(sgd.averages):  # type: ignore[arg-type]
        changed = get_moved(lora_nlp, before)
        found, data = encode(lora_nlp), lora_nlp.to_bytes()
    assert changed == {name for name in before if "lora_" in name}
    assert get_weights(lora_nlp) == before
    loaded = spacy.util.load_model_from_config(lora_nlp.config).from_bytes(data)
    numpy.testing.assert_allclose(encode(loaded), found, atol=1e-5)


def test_reading_weights_in_training_drops_adapters(lora_nlp: Language) -> None:
    data, found = lora_nlp.to_bytes(), encode(lora_nlp)
    update(lora_nlp)
    lora_nlp.from_bytes(data)
    numpy.testing.assert_array_equal(encode(lora_nlp), found)
    assert get_shim(lora_nlp).adapted is None
    update(lora_nlp, 1)
    assert get_shim(lora_nlp).adapted.model is encoder_module(lora_nlp)


def test_trained_further_with_new_adapters(lora_nlp: Language, tmp_path: Path) -> None:
    update(lora_nlp)
    lora_nlp.to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    found, merged = encode(nlp), get_weights(nlp)
    assert get_shim(nlp).adapted is None
    update(nlp)
    base = {
        n.replace(".base_layer", ""): w for n, w in get_weights(nlp).items() if "lora_" not in n
    }
    assert base == merged
    assert numpy.abs(encode(nlp) - found).max() > 0.01


def test_adapters_can_be_left_out_of_further_training(lora_nlp: Language, tmp_path: Path) -> None:
    update(lora_nlp)
    lora_nlp.to_disk(tmp_path)
    nlp = spacy.load(tmp_path, config={"components.transformer.model.lora": None})
    found = encode(nlp)
    numpy.testing.assert_allclose(found, encode(lora_nlp), atol=1e-5)
    before = get_weights(nlp)
    update(nlp)
    assert get_moved(nlp, before) == {n for n in before if not n.startswith("pooler")}


def test_replaced_listeners_have_merged_weights(lora_nlp: Language, tmp_path: Path) -> None:
    update(lora_nlp)
    expected = [answers(lora_nlp(text)) for text in TEXTS]
    lora_nlp.replace_listeners("transformer", "ner", ["model.tok2vec"])
    lora_nlp.to_disk(tmp_path)
    for nlp in (lora_nlp, spacy.load(tmp_path)):
        assert [answers(nlp(text)) for text in TEXTS] == expected
    encoder = lora_nlp.get_pipe("ner").model.get_ref("tok2vec").layers[0]  # type: ignore[attr-defined]
    assert not any("lora_" in name for name, _ in encoder.transformer.named_parameters())


def test_frozen_encoders_get_no_adapters(lora_nlp: Language, tmp_path: Path) -> None:
    lora_nlp.to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    before = encoder_weights(nlp)
    nlp.update(make_examples(nlp), exclude=["transformer"], annotates=["transformer"])
    assert encoder_weights(nlp) == before and get_shim(nlp).adapted is None


# With the settings of the optimizer


def test_layers_that_are_frozen_or_wait(lora_nlp: Language) -> None:
    before = get_weights(lora_nlp)
    adapters = {name for name in before if "lora_" in name}
    top = {name for name in adapters if ".layer.1." in name}
    sgd = create_adamw_v1(0.01, 0.01, freeze=["embeddings*"], layer_decay=0.5, unfreeze_steps=2)
    update(lora_nlp, 2, sgd)
    assert get_moved(lora_nlp, before) == set()
    update(lora_nlp, 2, sgd)
    assert get_moved(lora_nlp, before) == top
    update(lora_nlp, 2, sgd)
    assert get_moved(lora_nlp, before) == adapters


def test_adapters_of_chosen_layers(lora_nlp: Language) -> None:
    before = get_weights(lora_nlp)
    update(lora_nlp, sgd=create_adamw_v1(0.01, 0.01, freeze=["*.layer.0.*"]))
    moved = get_moved(lora_nlp, before)
    assert moved == {name for name in before if "lora_" in name and ".layer.1." in name}


# Errors


@pytest.mark.parametrize("name,value", [("rank", 0), ("alpha", 0.0), ("dropout", 1.0)])
def test_numbers_without_meaning(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"M058.*{name} = {value}"):
        create_lora_v1(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("targets", [["query", "q_lin"], "q_lin", "q_(lin", ["attention"]])
def test_targets_that_are_not_there(make_nlp: Callable, targets: Any) -> None:
    target = "attention" if targets == ["attention"] else r"q_\(?lin"
    with pytest.raises(ValueError, match=rf"M067.*'{target}'.*layer.1.output.dense"):
        make_nlp(model={"lora": {**LORA, "target_modules": targets}})


def test_peft_is_missing(make_nlp: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r'(?s)M068.*peft.*pip install "peft<'):
        make_nlp(model={"lora": LORA})


@pytest.mark.parametrize("freeze", [["*"], ["*lora_?.*", "embeddings*"], ["*.layer.*"]])
def test_all_adapters_frozen(lora_nlp: Language, freeze: list[str]) -> None:
    with pytest.raises(ValueError, match=r"M069.*lora_A"):
        update(lora_nlp, sgd=create_adamw_v1(freeze=freeze))


def test_adapters_beside_random_weights(make_nlp: Callable) -> None:
    with pytest.raises(ValueError, match="M072"):
        make_nlp(model={"lora": LORA, "pretrained": False})


def test_unknown_setting(make_nlp: Callable) -> None:
    with pytest.raises(ValueError, match="ranks"):
        make_nlp(model={"lora": {**LORA, "ranks": 3}})


def test_dropout_of_adapters(tmp_path: Path) -> None:
    module = AutoModel.from_pretrained(build_encoder("bert", tmp_path))
    LoRA(2, 4.0, 0.25, ["query"]).add_to(module)
    rates = [m.p for n, m in module.named_modules() if n.endswith("lora_dropout.default")]
    assert rates == [0.25, 0.25]
