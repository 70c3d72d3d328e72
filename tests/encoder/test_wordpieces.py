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
    round_up,
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


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(2, 60) | st.integers(2, 514), max_size=120),
    st.integers(10, 200) | st.integers(1, 20000),
    st.integers(0, 40),
    st.just(0) | st.integers(1, 5000),
)
def test_batches_by_length(lengths: list[int], budget: int, spare: int, slack: int) -> None:
    sizes = numpy.array(lengths, dtype="int64")
    limit = max(lengths, default=2) + spare
    batches = list(batch_by_length(sizes, budget, limit, slack, few_shapes=slack < 1000))
    assert sorted(i for batch, _ in batches for i in batch.tolist()) == list(range(len(lengths)))
    for batch, padded in batches:
        found, area = sizes[batch], padded * len(batch)
        assert (numpy.diff(found) >= 0).all() and found[-1] <= padded <= limit
        assert padded == min(limit, round_up(found)[-1])
        assert len(batch) == 1 or area <= budget
        is_even = min(limit, round_up(found)[0]) == padded
        assert is_even or area - found.sum() <= max(slack, PADDING_SHARE * area)
    ends = [(int(sizes[batch[0]]), int(sizes[batch[-1]])) for batch, _ in batches]
    assert all(before[1] <= after[0] for before, after in pairwise(ends))


def test_batches_come_in_few_shapes() -> None:
    rng = numpy.random.default_rng(0)
    shapes, n_batches, n_padded, n_read = set(), 0, 0, 0
    for size in rng.integers(1, 2000, size=200):
        sizes = rng.gamma(2.0, 20.0, size=size).astype("int64").clip(0, 510) + 2
        for batch, padded in batch_by_length(sizes, 4096, 512):
            shapes.add((len(batch), padded))
            n_batches += 1
            n_padded, n_read = n_padded + len(batch) * padded, n_read + int(sizes[batch].sum())
    assert len(shapes) < n_batches / 15 and len({padded for _, padded in shapes}) <= 40
    assert n_padded < 1.1 * n_read


def test_lengths_are_rounded_up_by_little() -> None:
    lengths = numpy.arange(1, 2000)
    rounded = round_up(lengths)
    assert not (rounded % 4).any() and (rounded >= lengths).all()
    assert (rounded - lengths < numpy.maximum(8, lengths / 7)).all()
    assert (numpy.diff(rounded) >= 0).all()
    numpy.testing.assert_array_equal(round_up(rounded), rounded)


def test_batches_of_one_length_are_full() -> None:
    batches = list(batch_by_length(numpy.full(1000, 32), 4096, 512))
    assert [len(batch) for batch, _ in batches[:7]] == [128] * 7
    assert {padded for _, padded in batches} == {32}
    assert list(batch_by_length(numpy.zeros(0, dtype="int64"), 4096, 512)) == []


def test_slack_saves_batches() -> None:
    sizes = numpy.random.default_rng(0).integers(3, 500, size=300)
    slacks = [0, 1000, 4000, 10**6]
    n_batches = [len(list(batch_by_length(sizes, 16384, 512, n, False))) for n in slacks]
    assert n_batches == sorted(n_batches, reverse=True) and n_batches[1] < n_batches[0] / 2
    assert n_batches[-1] <= -(-512 * 300 // 16384)


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
