from copy import deepcopy
from itertools import pairwise

import numpy
import pytest
import spacy
from conftest import TEXTS, build_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy_transformers.align import get_alignment_via_offset_mapping
from spacy_transformers.span_getters import get_strided_spans
from tokenizers import (
    AddedToken,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from spacy_mtl.encoder.model import wordpieces
from spacy_mtl.encoder.model.wordpieces import (
    PADDING_SHARE,
    Wordpieces,
    WordTable,
    batch_by_length,
    cut,
    get_backend,
    get_word_table,
    get_wordpieces,
    read_spans,
    round_up,
)

NLP = spacy.blank("en")


def build_llama_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that prepends a space to any text, and falls back to bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    special = ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    words = [f"▁{word}" for text in TEXTS for word in text.split()]
    tokenizer.train_from_iterator(words, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


TOKENIZERS = {kind: build_tokenizer(kind) for kind in ("bert", "roberta", "albert")}
# Byte-level with offsets that leave the space out, the same with a space before any text, and one
# that prepends a space whatever there is, and falls back to bytes.
ALL = {**TOKENIZERS, "trimmed": build_tokenizer("roberta"), "prefix": build_tokenizer("roberta")}
ALL["trimmed"].backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
ALL["prefix"].backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
ALL["llama"] = build_llama_tokenizer()
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


def pieces_of_tokens(pieces: Wordpieces) -> list[list[int]]:
    """RETURNS (List[List[int]]): The wordpieces of each token."""
    bounds = [*pieces.starts.tolist(), len(pieces.pieces)]
    return [pieces.pieces[start:end].tolist() for start, end in pairwise(bounds)]


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
    pieces = get_wordpieces(docs, spans, TOKENIZERS[kind], 10**6, "spacy-transformers")
    found = pieces_of_tokens(pieces)
    assert found == stock_alignment(docs, window, stride, kind)


def assert_aligned_by_characters(doc: Doc, kind: str) -> None:
    """Each token has the wordpieces that share a visible character with it; tokens of white space
    have those that hold nothing else."""
    encoding = ALL[kind].backend_tokenizer.encode(doc[:].text, add_special_tokens=False)
    pieces = get_wordpieces([doc], [[doc[:]]], ALL[kind], 10**6)
    assert pieces.ids.tolist() == encoding.ids
    for token, found in zip(doc, pieces_of_tokens(pieces), strict=True):
        own = set(range(token.idx, token.idx + len(token)))
        expected = []
        for i, (start, end) in enumerate(encoding.offsets):
            visible = {k for k in range(start, end) if not doc.text[k].isspace()}
            if own & (visible if visible or not token.is_space else set(range(start, end))):
                expected.append(i)
        assert found == expected, (kind, token.text)


@pytest.mark.parametrize("kind", ALL)
def test_alignment_by_characters(kind: str) -> None:
    for text in [*ODD_TEXTS, *TEXTS, "a\u00a0b\u3000 c \u2003 d", "x  \n\n y\t z ", "\x1c a\x85b"]:
        assert_aligned_by_characters(NLP(text), kind)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.sampled_from(sorted(ALL)))
def test_alignment_of_any_text_by_characters(text: str, kind: str) -> None:
    assert_aligned_by_characters(NLP(text.encode("utf8", "ignore").decode("utf8")), kind)


@pytest.mark.parametrize("kind", ALL)
def test_no_piece_of_the_next_word(kind: str) -> None:
    tokens = []
    for text in ("Maria likes Lisbon", "Maria flew"):
        doc = NLP(text)
        pieces = get_wordpieces([doc], [[doc[:]]], ALL[kind], 10**6)
        tokens.append(pieces.ids[pieces_of_tokens(pieces)[0]].tolist())
    assert tokens[0] == tokens[1] != []


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("window", [1, 2, 3])
def test_spans_are_read_as_parts_of_their_text(kind: str, window: int) -> None:
    """Words have the wordpieces of the whole text, also after a cut."""
    for text in [*TEXTS, "We like it (very much).  \n\n Paul  runs", "soup " + "a" * 99 + " Porto"]:
        doc = NLP(text)
        whole = get_wordpieces([doc], [[doc[:]]], ALL[kind], 10**6)
        spans = [doc[i : i + window] for i in range(0, len(doc), window)]
        cut = get_wordpieces([doc], [spans], ALL[kind], 10**6)
        for token, one, other in zip(
            doc, pieces_of_tokens(whole), pieces_of_tokens(cut), strict=True
        ):
            same = cut.ids[other].tolist() == whole.ids[one].tolist()
            assert same or token.is_space, (text, token.text)


def test_a_span_in_the_middle_of_a_word_is_read_as_such() -> None:
    doc = Doc(NLP.vocab, words=["so", "so"], spaces=[False, False])
    read = get_wordpieces([doc], [[doc[1:]]], ALL["bert"], 10**6)
    names = ALL["bert"].convert_ids_to_tokens(read.ids.tolist())
    assert names[0].startswith("##")
    stock = get_wordpieces([doc], [[doc[1:]]], ALL["bert"], 10**6, "spacy-transformers")
    names = ALL["bert"].convert_ids_to_tokens(stock.ids.tolist())
    assert not names[0].startswith("##")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=4), st.sampled_from(sorted(ALL)))
def test_any_text_is_aligned_within_bounds(texts: list[str], kind: str) -> None:
    texts = [text.encode("utf8", "ignore").decode("utf8") for text in texts]
    docs = [NLP(text) for text in texts]
    pieces = get_wordpieces(docs, get_strided_spans(docs, 6, 4), ALL[kind], 5)
    assert len(pieces.starts) == sum(map(len, docs))
    assert (numpy.diff(pieces.starts) >= 0).all()
    assert pieces.bounds[-1] == len(pieces.ids) and (pieces.lengths <= 5).all()
    assert ((pieces.pieces >= 0) & (pieces.pieces < len(pieces.ids))).all()


ODD_WORDS = ["don", "'t", "Lisbon", " ", "\n", "[MASK]", "a b", "e\u0301", "世界"]
TABLE_TEXTS = st.lists(
    st.lists(
        st.tuples(
            st.text(min_size=1, max_size=8)
            | st.sampled_from(
                ["don", "'t", "Lisbon", " ", "\n", "[MASK]", "a b", "e\u0301", "世界"]
            ),
            st.booleans(),
        ),
        max_size=12,
    ),
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(TABLE_TEXTS, st.integers(1, 6), st.integers(1, 6))
def test_words_are_cached(docs: list[list[tuple[str, bool]]], window: int, stride: int) -> None:
    """The cache gives what the tokenizer says of the whole text, whatever words it has seen."""
    made = [
        Doc(
            NLP.vocab,
            words=[word.encode("utf8", "ignore").decode("utf8") or "x" for word, _ in doc],
            spaces=[space for _, space in doc],
        )
        for doc in docs
    ]
    spans = get_strided_spans(made, window, min(window, stride))
    flat = [span for found in spans for span in found if len(span)]
    for alignment in ("characters", "spacy-transformers"):
        table = get_word_table(TOKENIZERS["bert"], alignment)  # type: ignore[arg-type]
        expected = read_spans(flat, TOKENIZERS["bert"], alignment)  # type: ignore[arg-type]
        assert table is not None
        for _ in range(2):
            found = table.read_spans(flat)
            for name, values in vars(expected).items():
                assert getattr(found, name).tolist() == values.tolist(), (name, alignment)


def test_full_cache_of_words_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpieces, "TABLE_SIZE", 20)
    table = WordTable(TOKENIZERS["bert"], "characters")
    for text in TEXTS * 2:
        doc = NLP(text)
        expected = read_spans([doc[:]], TOKENIZERS["bert"], "characters")
        assert table.read_spans([doc[:]]).ids.tolist() == expected.ids.tolist()
        assert len(table._words.ids) <= 20 + len(expected.ids)


@pytest.mark.parametrize("kind", sorted({*ALL} - {"bert"}))
def test_no_cache_for_tokenizers_that_read_across_spaces(kind: str) -> None:
    assert get_word_table(ALL[kind], "characters") is None


def test_changed_tokenizer_has_a_new_cache() -> None:
    tokenizer = build_tokenizer("bert")
    doc = NLP("Maria flew to qxqx .")
    before = get_wordpieces([doc], [[doc[:]]], tokenizer, 100)
    tokenizer.add_tokens(["qxqx"])
    after = get_wordpieces([doc], [[doc[:]]], tokenizer, 100)
    assert after.ids.tolist() != before.ids.tolist()
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    cased = get_wordpieces([doc], [[doc[:]]], tokenizer, 100)
    assert cased.ids.tolist() != after.ids.tolist()
    tokenizer.add_tokens([AddedToken("to qx", lstrip=True)])
    assert get_word_table(tokenizer, "characters") is None


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
