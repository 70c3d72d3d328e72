from copy import deepcopy
from itertools import pairwise

import numpy
import pytest
import spacy
from conftest import build_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy_transformers.align import get_alignment_via_offset_mapping
from spacy_transformers.span_getters import get_strided_spans

from spacy_mtl.encoder.wordpieces import (
    PADDING_SHARE,
    batch_by_length,
    cut,
    get_backend,
    get_wordpieces,
)

NLP = spacy.blank("en")
TOKENIZERS = {kind: build_tokenizer(kind) for kind in ("bert", "roberta", "albert")}
ODD_TEXTS = [
    "",
    " ",
    "a",
    "\n\n  \t",
    "Hello   world \n again",
    "word" * 3000,
    "👩‍👩‍👧 family 👍🏽 ok",
    "zero\u200dwidth\u200bjoiners\ufeff",
    "مرحبا بالعالم",
    "你好，世界。",
    "สวัสดีชาวโลก",
    "control \x01\x02 \x7f characters",
    "é e\u0301 ﬁ ½ İstanbul ẞ",
]


def stock_alignment(docs: list[Doc], window: int, stride: int, kind: str) -> list[list[int]]:
    """For each token its wordpieces as spacy-transformers aligns them, special tokens left out."""
    spans = [s for doc_spans in get_strided_spans(docs, window, stride) for s in doc_spans]
    if not spans:
        return []
    batch = TOKENIZERS[kind](
        [span.text for span in spans],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_tensors="np",
        padding="longest",
        return_special_tokens_mask=False,
    )
    align = get_alignment_via_offset_mapping(spans, batch["offset_mapping"])
    # from places in the padded batch to places in the wordpieces laid behind each other
    place = numpy.cumsum(batch["attention_mask"].ravel()) - 1
    ends = numpy.cumsum(align.lengths)
    flat = place[align.dataXd] if len(align.dataXd) else align.dataXd
    return [a.tolist() for a in numpy.split(flat, ends[:-1])]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("window,stride", [(128, 96), (4, 3), (3, 3)])
def test_alignment_equals_stock(kind: str, window: int, stride: int) -> None:
    docs = [NLP(text) for text in ODD_TEXTS if text]
    spans = get_strided_spans(docs, window, stride)
    pieces = get_wordpieces(docs, spans, TOKENIZERS[kind], 10**6)
    bounds = [*pieces.starts.tolist(), len(pieces.pieces)]
    found = [pieces.pieces[start:end].tolist() for start, end in pairwise(bounds)]
    assert found == stock_alignment(docs, window, stride, kind)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=4), st.sampled_from(sorted(TOKENIZERS)))
def test_any_text_is_aligned_within_bounds(texts: list[str], kind: str) -> None:
    texts = [text.encode("utf8", "ignore").decode("utf8") for text in texts]
    docs = [NLP(text) for text in texts]
    pieces = get_wordpieces(docs, get_strided_spans(docs, 6, 4), TOKENIZERS[kind], 5)
    assert len(pieces.starts) == sum(map(len, docs))
    assert (numpy.diff(pieces.starts) >= 0).all()
    assert pieces.bounds[-1] == len(pieces.ids) and (pieces.lengths <= 5).all()
    assert ((pieces.pieces >= 0) & (pieces.pieces < len(pieces.ids))).all()


def test_long_spans_are_cut_into_equal_parts_and_lose_nothing() -> None:
    numpy.testing.assert_array_equal(cut(numpy.array([3, 10, 0, 4]), 4), [0, 3, 6, 9, 13, 13, 17])
    numpy.testing.assert_array_equal(cut(numpy.array([3, 4]), 4), [0, 3, 7])
    numpy.testing.assert_array_equal(cut(numpy.zeros(0, dtype="int64"), 4), [0])


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(10, 200))
def test_batches_by_length(lengths: list[int], budget: int) -> None:
    sizes = numpy.array(lengths, dtype="int64")
    batches = batch_by_length(sizes, budget)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        padded = int(sizes[batch].max()) * len(batch)
        assert len(batch) == 1 or padded <= budget
        assert padded - sizes[batch].sum() <= PADDING_SHARE * padded


def test_tokenizer_that_would_cut_and_fill() -> None:
    """A tokenizer.json may switch on truncation and padding."""
    tokenizer = deepcopy(TOKENIZERS["bert"])
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    doc = NLP("Maria Keller flew to Lisbon on Friday .")
    pieces = get_wordpieces([doc], [[doc[:]]], tokenizer, 100)
    expected = get_wordpieces([doc], [[doc[:]]], TOKENIZERS["bert"], 100)
    numpy.testing.assert_array_equal(pieces.ids, expected.ids)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_special_tokens_of_a_tokenizer_that_pads(kind: str) -> None:
    tokenizer = deepcopy(TOKENIZERS[kind])
    tokenizer.backend_tokenizer.enable_padding(length=50)
    framed = get_backend(tokenizer).encode("a", add_special_tokens=True)
    assert framed.special_tokens_mask[0] == framed.special_tokens_mask[-1] == 1
    assert len(framed.ids) < 6
