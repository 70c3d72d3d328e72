"""ModernBERT: rotary positions, local attention in some layers, byte-level BPE."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import TEXTS, WIDTH, build_encoder
from spacy.tokens import Doc

from spacy_mtl.encoder.model.transformer import SharedTransformer, build_shared_transformer_v1
from spacy_mtl.encoder.runtime.cpu.packing import can_pack
from spacy_mtl.encoder.stock_names import get_doc_spans

NLP = spacy.blank("en")


def make_model(folder: Path, **options: Any) -> SharedTransformer:
    model: Any = build_shared_transformer_v1(str(folder), get_doc_spans, **options)
    model.initialize()
    return model


def make_docs() -> list[Doc]:
    """Some are longer than the window of local attention."""
    return [NLP(text) for text in [*TEXTS, " ".join(TEXTS), "x", " ".join(TEXTS * 3)]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder("modernbert", tmp_path_factory.mktemp("modernbert"))


def pool_plainly(model: SharedTransformer, doc: Doc) -> torch.Tensor:
    """The rows of a doc by transformers and torch alone."""
    batch = model.tokenizer(doc.text, return_offsets_mapping=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    chars = batch.pop("offset_mapping")[0].tolist()
    (states,) = model.transformer(**batch).last_hidden_state
    rows = []
    for token in doc:
        places = [
            i
            for i, (start, end) in enumerate(chars)
            if doc.text[max(start, token.idx) : min(end, token.idx + len(token))].strip()
        ]
        rows.append(states[places].mean(dim=0))
    return torch.stack(rows)


@pytest.mark.parametrize("runtime", ["eager", "cpu"])
def test_rows_equal_those_of_the_plain_module(folder: Path, runtime: str) -> None:
    model = make_model(folder, runtime=runtime)
    assert model.transformer.config._attn_implementation == "sdpa"
    docs = make_docs()
    found = model.predict(docs).data
    expected = torch.cat([pool_plainly(model, doc) for doc in docs]).detach().numpy()
    assert found.shape == expected.shape == (sum(map(len, docs)), WIDTH)
    numpy.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("runtime", ["eager", "cpu"])
def test_gradients_equal_those_of_the_plain_module(folder: Path, runtime: str) -> None:
    model, docs = make_model(folder, runtime=runtime), make_docs()
    matrix, backprop = model.begin_update(docs)
    d_matrix = numpy.random.default_rng(0).normal(size=matrix.data.shape).astype("f")
    backprop(d_matrix)  # type: ignore[arg-type]
    weights = list(model.transformer.named_parameters())
    found = {name: p.grad.clone() for name, p in weights if p.grad is not None}
    model.transformer.zero_grad()
    rows = torch.cat([pool_plainly(model, doc) for doc in docs])
    (rows * torch.from_numpy(d_matrix)).sum().backward()
    expected = {name: p.grad for name, p in weights if p.grad is not None}
    assert found.keys() == expected.keys() and len(expected) > 8
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6 * largest)


def test_sequences_are_not_packed(folder: Path) -> None:
    """Positions are relative, so another sequence before it would change the first."""
    assert not can_pack(make_model(folder).transformer)


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_each_token_has_its_own_wordpieces(folder: Path, add_prefix_space: bool) -> None:
    """Also after a round trip."""
    model = make_model(folder, tokenizer_config={"add_prefix_space": add_prefix_space})
    loaded: Any = build_shared_transformer_v1("none", get_doc_spans)
    loaded.from_bytes(model.to_bytes())
    docs = [NLP("Maria Keller flew , unfaßbar , to  Lisbon's 東京 ."), NLP(TEXTS[0])]
    pieces = model.get_wordpieces(docs)
    assert loaded.get_wordpieces(docs).ids.tolist() == pieces.ids.tolist()
    first = model.tokenizer.convert_ids_to_tokens([int(pieces.ids[0])])[0]
    assert first.startswith("Ġ") == add_prefix_space
    tokens = [token for doc in docs for token in doc]
    ends = [*pieces.starts[1:], len(pieces.pieces)]
    for token, start, end in zip(tokens, pieces.starts, ends, strict=True):
        ids = pieces.ids[pieces.pieces[start:end]].tolist()
        assert model.tokenizer.decode(ids).strip() == token.text.strip()
