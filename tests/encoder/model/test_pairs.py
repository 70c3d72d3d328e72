"""Docs of two texts are read as the tokenizer's pairs."""

import json
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import FAMILIES, TEXTS, build_encoder
from transformers import AutoModel, AutoTokenizer

from spacy_mtl.encoder.model.spans import configure_sentence_spans
from spacy_mtl.encoder.model.transformer import build_shared_transformer_v1
from spacy_mtl.pairs import make_pair

NLP = spacy.blank("en")


def make_model(folder: Path, window: int = 100, runtime: Any = "auto") -> Any:
    spans = configure_sentence_spans(window)
    model = build_shared_transformer_v1(str(folder), spans, {}, {}, runtime=runtime)
    model.initialize()
    return model


def build(family: str, path: Path) -> Path:
    """RETURNS (Path): An encoder. Those with segments say so in the config of their tokenizer."""
    folder = build_encoder(family, path)
    if family in ("bert", "electra", "albert"):
        file = folder / "tokenizer_config.json"
        config = json.loads(file.read_text())
        config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        file.write_text(json.dumps(config))
    return folder


def encode(folder: Path, first: str, second: str) -> tuple[torch.Tensor, list[int]]:
    """RETURNS (Tuple[Tensor, List[int]]): Hugging Face's hidden states of a pair, and the word of
    each, -1 for special tokens. Words are counted over both texts.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    module = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    inputs = tokenizer(first, second, return_tensors="pt")
    if "token_type_ids" not in tokenizer.model_input_names:
        inputs.pop("token_type_ids", None)
    with torch.no_grad():
        states = module(**inputs).last_hidden_state[0]
    ranges = [[*re.finditer(r"\S+", text)] for text in (first, second)]
    n = len(ranges[0])
    words = []
    for text, (start, end) in zip(inputs.sequence_ids(0), inputs[0].offsets, strict=True):
        own = ranges[text or 0]
        place = next((i for i, m in enumerate(own) if start < m.end() and m.start() < end), None)
        words.append(-1 if text is None or place is None else place + n * text)
    return states, words


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_those_of_hugging_face(family: str, tmp_path: Path) -> None:
    folder = build(family, tmp_path)
    model = make_model(folder)
    pairs = [(TEXTS[0], TEXTS[1]), (TEXTS[3], TEXTS[2])]
    plain = NLP(TEXTS[2])
    docs = [make_pair(NLP, *pairs[0]), plain, make_pair(NLP, *pairs[1])]
    matrix = model.predict(docs)
    for doc, (start, end), texts in zip(
        docs, matrix.bounds, [pairs[0], None, pairs[1]], strict=True
    ):
        if texts is None:
            alone = model.predict([plain]).data
            numpy.testing.assert_allclose(matrix.data[start:end], alone, atol=1e-5)
            continue
        states, words = encode(folder, *texts)
        n = len(texts[0].split())
        for i in range(len(doc)):
            if i == n:  # the separator
                last = len(words) - words[::-1].index(n - 1)
                own = range(last, words.index(n))
            else:
                own = [place for place, word in enumerate(words) if word == i - (i > n)]
            expected = states[list(own)].mean(dim=0)
            numpy.testing.assert_allclose(matrix.data[start + i], expected, atol=2e-5)


def test_every_window_sees_the_first_text(tmp_path: Path) -> None:
    """Rows of the second text depend on the first text in each window, not on other windows."""
    folder = build("bert", tmp_path)
    model = make_model(folder, window=8)
    second = " ".join(TEXTS)

    def get_rows(first: str, second: str) -> numpy.ndarray:
        return model.predict([make_pair(NLP, first, second)]).data[len(first.split()) + 1 :]

    rows, other = get_rows("Who left ?", second), get_rows("Who came ?", second)
    assert (numpy.abs(rows - other).max(axis=1) > 1e-4).all()
    changed = get_rows("Who left ?", second[: second.rindex(" work")] + " dinner .")
    differs = numpy.abs(rows - changed).max(axis=1) > 1e-4
    assert not differs[:20].any() and differs[-2]


def test_runtimes_agree_in_training(tmp_path: Path) -> None:
    folder = build("bert", tmp_path)
    docs = [make_pair(NLP, TEXTS[0], TEXTS[1]), NLP(TEXTS[2]), make_pair(NLP, "a", "b c " * 20)]
    found = []
    for runtime in ("eager", "cpu"):
        model = make_model(folder, runtime=runtime)
        matrix, backward = model(docs, is_train=True)
        d_rows = numpy.random.default_rng(0).normal(size=matrix.data.shape).astype("f")
        backward(d_rows)
        weight = model.transformer.embeddings.token_type_embeddings.weight
        found.append((matrix.data, weight.grad.numpy()))
    numpy.testing.assert_allclose(found[0][0], found[1][0], atol=1e-4)
    numpy.testing.assert_allclose(found[0][1], found[1][1], atol=1e-3)
    assert (numpy.abs(found[0][1]).sum(axis=1) > 0).all()
