"""Token vectors that stay on docs, compared with those of spacy-transformers."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
from conftest import PLAIN_SUM, TEXTS, WIDTH, make_examples, watch_encoder
from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import fix_random_seed

DOC_TENSOR, TRF_DATA = "spacy-mtl.doc_tensor.v1", "spacy-mtl.trf_data.v1"
SPANS = {"@span_getters": "spacy-transformers.strided_spans.v1", "window": 128, "stride": 96}


def make(
    encoder: str, setter: str | None, factory: str = "mtl_transformer", **model: Any
) -> Language:
    """Make a pipeline of an encoder, and of a tagger if the encoder is ours."""
    fix_random_seed(0)
    nlp = spacy.blank("en")
    config: dict[str, Any] = {"model": {"name": encoder, "get_spans": SPANS}}
    if setter:
        config["set_extra_annotations"] = {"@annotation_setters": setter}
    if factory == "mtl_transformer":
        config["balancer"] = PLAIN_SUM
    nlp.add_pipe(factory, name="transformer", config=config)
    if factory == "mtl_transformer":
        nlp.add_pipe("mtl_tagger", name="tagger")
    nlp.initialize(lambda: make_examples(nlp))
    return nlp


def read_token_vectors(doc: Doc) -> numpy.ndarray:
    """Pool `doc._.trf_data` to tokens, as code for spacy-transformers does."""
    data = doc._.trf_data
    rows = data.model_output.last_hidden_state.reshape(-1, WIDTH)
    assert numpy.array_equal(rows, data.tensors[0].reshape(-1, WIDTH))
    return numpy.stack([rows[data.align[i].dataXd.ravel()].mean(0) for i in range(len(doc))])


@pytest.fixture(scope="module")
def expected(encoder: str) -> list[numpy.ndarray]:
    """Return the token vectors of spacy-transformers."""
    return [read_token_vectors(doc) for doc in make(encoder, None, "transformer").pipe(TEXTS)]


@pytest.mark.parametrize("layers", [None, "all"])
def test_doc_tensor(encoder: str, expected: list[numpy.ndarray], layers: str | None) -> None:
    nlp = make(encoder, DOC_TENSOR)
    if layers:
        listener = {"@architectures": "spacy-mtl.TaskListener.v1", "layers": layers}
        nlp.add_pipe("mtl_ner", name="ner", config={"model": {"tok2vec": listener}})
        nlp.initialize(lambda: make_examples(nlp))
    docs = list(nlp.pipe([*TEXTS, ""]))
    for doc, vectors in zip(docs, expected, strict=False):
        assert doc.tensor.dtype == "float32" and doc.tensor.base is None
        assert numpy.allclose(doc.tensor, vectors, atol=1e-5)
        assert numpy.array_equal(doc[1].vector, doc.tensor[1]) and doc._.trf_data is None
    assert docs[-1].tensor.shape == (0, WIDTH)
    again = Doc(nlp.vocab).from_bytes(docs[0].to_bytes())
    assert numpy.array_equal(again.tensor, docs[0].tensor)


def test_trf_data(encoder: str, expected: list[numpy.ndarray]) -> None:
    nlp = make(encoder, TRF_DATA)
    for doc, vectors in zip(nlp.pipe(TEXTS), expected, strict=True):
        assert numpy.allclose(read_token_vectors(doc), vectors, atol=1e-5)
        assert numpy.allclose(doc._.trf_data.last_hidden_layer_state.dataXd, vectors, atol=1e-5)
        again = Doc(nlp.vocab).from_bytes(doc.to_bytes())
        assert numpy.allclose(read_token_vectors(again), vectors, atol=1e-5)
    assert make(encoder, None)(TEXTS[0])._.trf_data is None


@pytest.mark.parametrize("setter", [DOC_TENSOR, TRF_DATA])
def test_predictions_and_training_are_the_same(
    encoder: str, setter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for nlp in (make(encoder, None), make(encoder, setter)):
        sgd = nlp.create_optimizer()
        for _ in range(3):
            nlp.update(make_examples(nlp), sgd=sgd, annotates=["transformer", "tagger"])
        nlp.to_disk(tmp_path)
        nlp = spacy.load(tmp_path)
        seen = watch_encoder(monkeypatch)
        docs = list(nlp.pipe(TEXTS))
        assert len(seen) == len(TEXTS)
        found.append([[token.tag_ for token in doc] for doc in docs])
        monkeypatch.undo()
    assert found[0] == found[1]
