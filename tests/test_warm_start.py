"""Training that starts from a trained pipeline or encoder, or from random weights."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
from conftest import (
    TEXTS,
    build_encoder,
    encoder_module,
    encoder_weights,
    make_examples,
    make_gold,
)
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import load_config_from_str
from spacy.vocab import Vocab
from thinc.api import Config
from transformers import AutoModel

from spacy_mtl.pretrained import load_pretrained
from spacy_mtl.training.adamw import create_adamw_v1

HEADS = ("tagger", "ner", "textcat")
TRAINING = """
[corpora]
[corpora.train]
@readers = "spacy.Corpus.v1"
path = {path}
[corpora.dev]
@readers = "spacy.Corpus.v1"
path = {path}
[training]
seed = 0
gpu_allocator = null
max_steps = 3
eval_frequency = 3
[training.optimizer]
@optimizers = "spacy-mtl.AdamW.v1"
encoder_learn_rate = 0.01
"""


def update(nlp: Language, n: int = 3) -> None:
    sgd = create_adamw_v1(0.01, 0.01)
    for _ in range(n):
        nlp.update(make_examples(nlp), sgd=False)  # type: ignore[arg-type]
        for _, pipe in nlp.pipeline:
            pipe.finish_update(sgd)  # type: ignore[attr-defined]


def train_in(nlp: Language, folder: Path) -> None:
    folder.mkdir()
    train(nlp, folder)


def answers(nlp: Language, *heads: str) -> list[Any]:
    """RETURNS: The predictions of some heads for all texts."""
    found = []
    for doc in map(nlp, TEXTS):
        said: dict[str, Any] = {
            "tagger": [token.tag_ for token in doc],
            "ner": [(ent.text, ent.label_) for ent in doc.ents],
            "textcat": {label: round(value, 4) for label, value in doc.cats.items()},
        }
        found.append([said[head] for head in heads])
    return found


def get_rows(nlp: Language) -> numpy.ndarray:
    docs: list[Doc] = [nlp.make_doc(text) for text in TEXTS]
    return nlp.get_pipe("transformer").predict(docs).data  # type: ignore[attr-defined]


@pytest.fixture
def source(make_nlp: Callable[..., Language], tmp_path: Path) -> Path:
    """RETURNS: The folder of a trained pipeline."""
    nlp = make_nlp()
    update(nlp)
    nlp.to_disk(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def configure(encoder: str, tmp_path: Path) -> Callable[..., Config]:
    """A function that makes a config to train by.

    components (Dict[str, Any]): The sections of the components.
    """
    file = tmp_path / "corpus.spacy"
    DocBin(docs=[make_gold(Vocab(), i) for i in range(4)]).to_disk(file)

    def configure(**components: dict[str, Any]) -> Config:
        config = load_config_from_str(TRAINING.format(path=f'"{file.as_posix()}"'))
        config["nlp"] = {"lang": "en", "pipeline": list(components)}
        config["components"] = components
        return config

    return configure


def new(factory: str, **settings: Any) -> dict[str, Any]:
    return {"factory": f"mtl_{factory}", **settings}


# Trained weights


def test_all_is_sourced(source: Path, configure: Callable[..., Config], tmp_path: Path) -> None:
    names = ("transformer", *HEADS)
    nlp = init_nlp(configure(**{name: {"source": str(source)} for name in names}))
    trained = spacy.load(source)
    assert nlp.pipe_names == list(names)
    assert encoder_weights(nlp) == encoder_weights(trained)
    assert answers(nlp, *HEADS) == answers(trained, *HEADS)
    before = [nlp.get_pipe(name).to_bytes(exclude=["vocab"]) for name in names]  # type: ignore[attr-defined]
    train_in(nlp, tmp_path / "further")
    after = spacy.load(tmp_path / "further" / "model-last")
    for name, data in zip(names, before, strict=True):
        assert after.get_pipe(name).to_bytes(exclude=["vocab"]) != data  # type: ignore[attr-defined]


def test_an_encoder_with_new_heads(
    source: Path, configure: Callable[..., Config], tmp_path: Path
) -> None:
    nlp = init_nlp(
        configure(
            transformer={"source": str(source)},
            pos=new("tagger"),
            topic=new("textcat"),
            ner=new("ner"),
        )
    )
    assert encoder_weights(nlp) == encoder_weights(spacy.load(source))
    for name in ("pos", "topic"):
        assert not nlp.get_pipe(name).model.get_ref("output_layer").get_param("W").any()  # type: ignore[attr-defined]
    train_in(nlp, tmp_path / "new")
    assert encoder_weights(nlp) != encoder_weights(spacy.load(source))


@pytest.mark.parametrize("head", HEADS)
def test_a_head_with_its_own_encoder(
    source: Path, configure: Callable[..., Config], head: str, encoder: str, tmp_path: Path
) -> None:
    """Its predictions stay those of its source pipeline while the others learn."""
    others = [name for name in HEADS if name != head]
    config = configure(
        transformer=new("transformer", model={"name": encoder}),
        **{name: new(name) for name in others},
        **{head: {"source": str(source), "replace_listeners": ["model.tok2vec"]}},
    )
    config["training"]["frozen_components"] = [head]
    nlp = init_nlp(config)
    expected = answers(spacy.load(source), head)
    assert answers(nlp, head) == expected
    assert encoder_weights(nlp) != encoder_weights(spacy.load(source))
    train_in(nlp, tmp_path / "own")
    assert answers(spacy.load(tmp_path / "own" / "model-last"), head) == expected


def test_a_head_behind_a_new_encoder(
    source: Path, configure: Callable[..., Config], encoder: str
) -> None:
    """It starts with its own weights, and learns together with the encoder."""
    balancer = {"@misc": "spacy-mtl.StaticWeights.v1", "weights": {"ner": 3.0}}
    shared = new("transformer", model={"name": encoder}, balancer=balancer)
    nlp = init_nlp(configure(transformer=shared, tagger=new("tagger"), ner={"source": str(source)}))
    trained = spacy.load(source)
    assert nlp.get_pipe("ner").model.to_bytes() == trained.get_pipe("ner").model.to_bytes()  # type: ignore[attr-defined]
    update(nlp)
    assert nlp.get_pipe("ner").model.to_bytes() != trained.get_pipe("ner").model.to_bytes()  # type: ignore[attr-defined]
    found = nlp.get_pipe("transformer").diagnostics.take()  # type: ignore[attr-defined]
    assert {task: means["weight"] for task, means in found.items()} == {"tagger": 1.0, "ner": 3.0}
    assert all(means["updates"] == 3 and means["loss"] > 0 for means in found.values())


def test_sourced_with_adapters(
    make_nlp: Callable[..., Language], configure: Callable[..., Config], tmp_path: Path
) -> None:
    """Adapters are new. The old ones are merged into the weights, which do not change."""
    nlp = make_nlp(model={"lora": {"@misc": "spacy-mtl.LoRA.v1", "rank": 2}})
    update(nlp)
    nlp.to_disk(tmp_path / "source")
    merged = dict(encoder_module(spacy.load(tmp_path / "source")).named_parameters())
    names = ("transformer", *HEADS)
    nlp = init_nlp(configure(**{name: {"source": str(tmp_path / "source")} for name in names}))
    train_in(nlp, tmp_path / "further")
    found = dict(encoder_module(nlp).named_parameters())
    base = {n.replace(".base_layer", ""): p for n, p in found.items() if "lora_" not in n}
    assert len(base) < len(found) and base.keys() == merged.keys()
    assert all((base[name] == merged[name]).all() for name in base)
    after = spacy.load(tmp_path / "further" / "model-last")
    numpy.testing.assert_allclose(get_rows(after), get_rows(nlp), atol=1e-5)


# Widths that differ


@pytest.fixture
def narrow(tmp_path: Path) -> str:
    """RETURNS: The folder of an encoder with 16 values per token instead of 32."""
    folder = build_encoder("bert", tmp_path / "narrow")
    config = AutoModel.from_pretrained(folder).config
    config.hidden_size = 16
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("way", ["new encoder", "sourced encoder", "in Python"])
def test_another_width(
    source: Path, configure: Callable[..., Config], narrow: str, way: str, tmp_path: Path
) -> None:
    other = spacy.blank("en")
    other.add_pipe("mtl_transformer", name="transformer", config={"model": {"name": narrow}})
    other.initialize()
    message = r"M070.*'ner' was made for 32.*'transformer' gives 16"
    if way == "in Python":
        with pytest.raises(ValueError, match=message):
            other.add_pipe("ner", source=spacy.load(source))
        return
    encoder = new("transformer", model={"name": narrow})
    if way == "sourced encoder":
        other.to_disk(tmp_path / "other")
        encoder = {"source": str(tmp_path / "other")}
    with pytest.raises(ValueError, match=message):
        init_nlp(configure(transformer=encoder, ner={"source": str(source)}))


# Random weights


def test_random_weights(encoder: str, make_nlp: Callable[..., Language], tmp_path: Path) -> None:
    """They have the same architecture, depend on the seed, and are saved like other weights."""
    folder = shutil.copytree(encoder, tmp_path / "doubled")  # no weights by the tests' own seed
    module = AutoModel.from_pretrained(folder)
    module.load_state_dict({name: 2 * p for name, p in module.state_dict().items()})
    module.save_pretrained(folder)
    nlp, same, trained = (
        make_nlp(name=str(folder), model={"pretrained": pretrained})
        for pretrained in (False, False, True)
    )
    one, other = (dict(encoder_module(x).named_parameters()) for x in (nlp, trained))
    assert {n: p.shape for n, p in one.items()} == {n: p.shape for n, p in other.items()}
    matrices = [name for name, p in one.items() if p.ndim > 1]
    assert all((one[name] != other[name]).float().mean() > 0.9 for name in matrices)
    assert encoder_weights(same) == encoder_weights(nlp)
    tokenizers = [x.get_pipe("transformer").model.tokenizer for x in (nlp, trained)]  # type: ignore[attr-defined]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
    update(nlp)
    assert encoder_weights(nlp) != encoder_weights(same)
    nlp.to_disk(tmp_path / "model")
    loaded = spacy.load(tmp_path / "model")
    assert loaded.config["components"]["transformer"]["model"]["pretrained"] is False
    assert encoder_weights(loaded) == encoder_weights(nlp)


def test_random_weights_need_no_trained_ones(encoder: str, tmp_path: Path) -> None:
    for file in Path(encoder).iterdir():
        if "model" not in file.name:
            shutil.copy(file, tmp_path)
    with pytest.raises(ValueError, match="M001"):
        load_pretrained(str(tmp_path), {}, {})
    loaded = load_pretrained(str(tmp_path), {}, {"num_hidden_layers": 1}, pretrained=False)
    assert len(loaded.transformer.encoder.layer) == 1
    with pytest.raises(ValueError, match=r"M001.*no-such-folder"):
        load_pretrained("./no-such-folder", {}, {}, pretrained=False)


# Labels that differ


@pytest.mark.parametrize("head", HEADS)
def test_labels_that_a_trained_head_does_not_know(
    source: Path, configure: Callable[..., Config], head: str, tmp_path: Path
) -> None:
    """A new head finds labels in the data. A trained head cannot learn new labels."""
    gold = make_gold(Vocab(), 0)
    gold[1].tag_ = "NEW"
    gold.ents = [gold.char_span(0, 5, "NEW")]
    gold.cats |= {"NEW": 0.0}
    DocBin(docs=[make_gold(Vocab(), i) for i in range(4)] + [gold]).to_disk(
        tmp_path / "corpus.spacy"
    )
    names = [name for name in HEADS if name != head]
    sourced = {name: {"source": str(source)} for name in ("transformer", head)}
    nlp = init_nlp(configure(**sourced, **{name: new(name) for name in names}))
    assert all("NEW" in nlp.get_pipe(name).labels for name in names)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=rf"M071.*'{head}'.*'NEW'"):
        train_in(nlp, tmp_path / "further")
