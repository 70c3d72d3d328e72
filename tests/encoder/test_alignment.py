"""The setting `alignment`: an encoder predicts with the setting of its training."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
from conftest import TEXTS, build_encoder, make_examples, make_stock_nlp
from spacy.language import Language

from spacy_mtl.encoder.model.transformer import SharedTransformer, build_shared_transformer_v1
from spacy_mtl.training.adamw import create_adamw_v1

OLD = "spacy-transformers"


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> str:
    """RETURNS: An encoder whose wordpieces include the space before a word."""
    return str(build_encoder("roberta", tmp_path_factory.mktemp("roberta")))


@pytest.fixture
def make(make_nlp: Callable, roberta: str) -> Callable:
    return partial(make_nlp, name=roberta)


def get_encoders(nlp: Language) -> list[SharedTransformer]:
    """RETURNS (List[SharedTransformer]): All encoders of a pipeline, including those in heads."""
    models = [pipe.model for _, pipe in nlp.pipeline]
    return [
        node for model in models for node in model.walk() if isinstance(node, SharedTransformer)
    ]


def get_alignments(nlp: Language) -> set[str]:
    return {model.alignment for model in get_encoders(nlp)}


def train(nlp: Language) -> None:
    sgd = create_adamw_v1(learn_rate=0.01, encoder_learn_rate=0.001)
    for _ in range(2):
        nlp.update(make_examples(nlp), sgd=sgd)
    nlp.get_pipe("transformer").flush()


def answers(nlp: Language) -> list[Any]:
    """RETURNS (List[Any]): The probabilities of tags, entities and categories."""
    docs = list(nlp.pipe([*TEXTS, " ".join(TEXTS * 12)]))
    scores = [float(x) for doc in docs for g in doc.spans.values() for x in g.attrs["scores"]]
    return [[doc.cats for doc in docs], scores, [[t.tag_ for t in doc] for doc in docs]]


def save_as_before(nlp: Language, path: Path) -> Path:
    """Save a pipeline in the format of version 0.1.0, without this setting."""
    for model in get_encoders(nlp):
        del model.attrs["alignment"]
    nlp.to_disk(path)
    file = path / "config.cfg"
    lines = file.read_text(encoding="utf8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("alignment =")]
    assert len(kept) < len(lines)
    file.write_text("".join(kept), encoding="utf8")
    return path


def test_a_new_encoder(make: Callable, tmp_path: Path) -> None:
    nlp, old = make(), make(model={"alignment": OLD})
    assert get_alignments(nlp) == {"characters"} and get_alignments(old) == {OLD}
    for i, each in enumerate((nlp, old)):
        train(each)
        each.to_disk(tmp_path / str(i))
        loaded = spacy.load(tmp_path / str(i))
        assert get_alignments(loaded) == get_alignments(each)
        assert answers(loaded) == answers(each)
    assert answers(nlp) != answers(old)
    with pytest.raises(ValueError, match=r"M058.*'words'"):
        build_shared_transformer_v1("", lambda docs: [], alignment="words")  # type: ignore[arg-type]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_pipeline_saved_before(make: Callable, tmp_path: Path, replaced: bool) -> None:
    nlp = make(model={"alignment": OLD})
    train(nlp)
    if replaced:
        nlp.replace_listeners("transformer", "ner", ["model.tok2vec"])
    expected = answers(nlp)
    loaded = spacy.load(save_as_before(nlp, tmp_path / "before"))
    assert len(get_encoders(loaded)) == 1 + replaced
    assert get_alignments(loaded) == {OLD} and answers(loaded) == expected
    loaded.to_disk(tmp_path / "again")
    assert answers(spacy.load(tmp_path / "again")) == expected
    sourced = spacy.blank("en")
    for name in loaded.pipe_names:
        sourced.add_pipe(name, source=loaded)
    sourced.replace_listeners("transformer", "textcat", ["model.tok2vec"])
    assert answers(sourced) == expected
    sourced.to_disk(tmp_path / "sourced")
    assert answers(spacy.load(tmp_path / "sourced")) == expected
    # An initialized pipeline adopts the loaded setting.
    if not replaced:
        other = make()
        other.from_disk(tmp_path / "before")
        assert answers(other) == expected
    # A new encoder from the same config uses the new rule.
    config = spacy.util.load_config(tmp_path / "before" / "config.cfg")
    fresh = spacy.blank("en").from_config(config)
    fresh.initialize(lambda: make_examples(fresh))
    assert get_alignments(fresh) == {"characters"}


def test_the_config_overrides_the_saved_setting(make: Callable, tmp_path: Path) -> None:
    nlp = make()
    path = save_as_before(nlp, tmp_path)
    changed = {"components.transformer.model.alignment": "characters"}
    assert get_alignments(spacy.load(path, config=changed)) == {"characters"}


def test_copies_keep_the_alignment(make: Callable) -> None:
    for given in ("auto", OLD):
        (model,) = get_encoders(make("tagger", model={"alignment": given}))
        assert model.copy().alignment == model.alignment
        assert model.copy().configured_alignment == given


@pytest.mark.parametrize("replaced", [False, True])
def test_pipelines_taken_over(roberta: str, tmp_path: Path, replaced: bool) -> None:
    """Stock pipelines predict as before, also after further training or replacing."""
    stock = make_stock_nlp(roberta, "tagger", "textcat")
    stock.to_disk(tmp_path)
    file = tmp_path / "config.cfg"
    config = file.read_text(encoding="utf8").replace(
        'factory = "transformer"', 'factory = "mtl_transformer"'
    )
    file.write_text(config, encoding="utf8")
    ours = spacy.load(tmp_path)
    assert get_alignments(ours) == {OLD}
    if replaced:
        ours.replace_listeners("transformer", "textcat", ["model.tok2vec"])
        ours.to_disk(tmp_path)
        ours = spacy.load(tmp_path)
        assert get_alignments(ours) == {OLD} and len(get_encoders(ours)) == 2
        again = spacy.blank("en").from_config(ours.config)
        again.initialize(lambda: make_examples(again))
        assert get_alignments(again) == {OLD}
    text = " ".join(TEXTS * 12)
    for name in ("tagger", "textcat"):
        found, expected = (
            numpy.asarray(nlp.get_pipe(name).model.predict([encoded(nlp, text)])[0])
            for nlp in (ours, stock)
        )
        numpy.testing.assert_allclose(found, expected, atol=1e-5)


def encoded(nlp: Language, text: str) -> Any:
    return nlp.get_pipe("transformer")(nlp.make_doc(text))
