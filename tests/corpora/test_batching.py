"""Batches by wordpieces: no batch is too large, no doc is lost, the order stays."""

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import spacy
from conftest import TEXTS
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import registry
from spacy.vocab import Vocab
from thinc.api import Config
from transformers import AutoTokenizer

from spacy_mtl.corpora.batching import READ_AHEAD, count_wordpieces, create_wordpiece_batcher_v1
from spacy_mtl.encoder.model.wordpieces import get_wordpieces

VOCAB = Vocab()
AWKWARD = [
    "",
    " ",
    "\n\n",
    "Maria KELLER",
    "unrecognisable \t antidisestablishmentarianism",
    "naïve café 東京 🙂 zero\u200bwidth",
    "[CLS] a [PAD]",
]


def make_doc(*lengths: int) -> Doc:
    """RETURNS (Doc): A doc whose words count as these numbers of wordpieces."""
    return Doc(VOCAB, words=["x" * 4 * length for length in lengths])


def make_docs(*lengths: int) -> list[Doc]:
    """RETURNS (List[Doc]): Docs that count as these numbers of wordpieces. 0 is an empty doc."""
    return [make_doc(*[length][: bool(length)]) for length in lengths]


def batch(lengths: list[int], size: int, **settings: Any) -> list[list[int]]:
    """RETURNS: The lengths of the docs of each batch."""
    batches = create_wordpiece_batcher_v1(size, **settings)(make_docs(*lengths))
    return [count_wordpieces(docs, None) for docs in batches]


def test_batches_are_as_full_as_the_order_allows() -> None:
    assert batch([3, 3, 4, 1, 9, 2, 8, 1], 10) == [[3, 3, 4], [1, 9], [2, 8], [1]]
    assert batch([6, 5, 6, 4, 1], 10) == [[6], [5], [6, 4], [1]]


def test_an_oversize_item_is_alone() -> None:
    assert batch([2, 11, 2, 30, 11, 3], 10) == [[2], [11], [2], [30], [11], [3]]
    assert batch([2, 11, 2, 30, 11, 3], 10, discard_oversize=True) == [[2, 2, 3]]
    assert batch([10, 11], 10, discard_oversize=True) == [[10]]


def test_nothing_to_batch() -> None:
    assert batch([], 10) == []
    assert batch([11], 10, discard_oversize=True) == []
    assert batch([0, 0, 10, 0], 10) == [[0, 0, 10, 0]]


@given(st.lists(st.integers(0, 12)), st.integers(1, 10), st.booleans())
def test_properties(lengths: list[int], size: int, discard: bool) -> None:
    docs = make_docs(*lengths)
    batches = list(create_wordpiece_batcher_v1(size, discard_oversize=discard)(docs))
    kept = [d for d, n in zip(docs, lengths, strict=True) if n <= size or not discard]
    assert [id(doc) for docs in batches for doc in docs] == [id(doc) for doc in kept]
    totals = [sum(count_wordpieces(docs, None)) for docs in batches]
    for docs, total in zip(batches, totals, strict=True):
        assert docs
        assert total <= size or (len(docs) == 1 and not discard)
    for total, following in zip(totals, batches[1:], strict=False):  # no batch ends too early
        assert total + count_wordpieces(following[:1], None)[0] > size


def test_the_estimate_is_four_characters_a_wordpiece() -> None:
    words = ["a", "four", "fives", "exactly8", "ninechars", "."]
    assert count_wordpieces([Doc(VOCAB, words=words)], None) == [1 + 1 + 2 + 2 + 3 + 1]
    assert count_wordpieces([Doc(VOCAB)], None) == [0]


def test_the_estimate_is_of_tokens_not_of_spaces() -> None:
    one = Doc(VOCAB, words=["word", "word"], spaces=[True, False])
    other = Doc(VOCAB, words=["word", "word"], spaces=[False, False])
    assert count_wordpieces([one, other], None) == [2, 2]


@pytest.mark.parametrize("tokenizer", [None, "encoder"])
def test_examples_count_as_their_predicted_docs(encoder: str, tokenizer: str | None) -> None:
    nlp = spacy.blank("en")
    docs = [nlp(text) for text in TEXTS]
    examples = [Example(doc, Doc(nlp.vocab, words=["gold"])) for doc in docs]
    name = encoder if tokenizer else None
    assert count_wordpieces(examples, name) == count_wordpieces(docs, name)
    make_batches = create_wordpiece_batcher_v1(30, tokenizer=name)
    of_docs = [[doc.text for doc in docs] for docs in make_batches(docs)]
    assert [[eg.predicted.text for eg in egs] for egs in make_batches(examples)] == of_docs


def test_the_tokenizer_counts_what_the_encoder_reads(encoder: str) -> None:
    nlp = spacy.blank("en")
    docs = [nlp.make_doc(text) for text in [*TEXTS, *AWKWARD, " ".join(TEXTS * 40)]]
    counts = count_wordpieces(docs, encoder)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    for doc, found in zip(docs, counts, strict=True):
        read = get_wordpieces([doc], [[doc[:]]], tokenizer, max_length=1 << 20)
        assert found == len(read.ids)
        assert found == len(tokenizer(doc.text, add_special_tokens=False)["input_ids"])
    assert counts[:4] != count_wordpieces(docs[:4], None)
    assert counts[-1] > 1000  # not truncated to the encoder's maximum


def test_a_tokenizer_that_truncates_and_pads(encoder: str, tmp_path: Path) -> None:
    """The tokenizer.json of all-MiniLM-L6-v2 has such settings."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    tokenizer.save_pretrained(tmp_path)
    nlp = spacy.blank("en")
    docs = [nlp.make_doc(text) for text in ["one", *TEXTS]]
    assert count_wordpieces(docs, str(tmp_path)) == count_wordpieces(docs, encoder)


def test_sizes_by_the_tokenizer(encoder: str) -> None:
    nlp = spacy.blank("en")
    docs = [nlp.make_doc(text) for text in TEXTS * 5]
    longest = max(count_wordpieces(docs, encoder))
    batches = list(create_wordpiece_batcher_v1(2 * longest, tokenizer=encoder)(docs))
    assert [doc.text for docs in batches for doc in docs] == TEXTS * 5
    assert all(sum(count_wordpieces(docs, encoder)) <= 2 * longest for docs in batches)
    assert all(len(docs) >= 2 for docs in batches[:-1])


def test_endless_streams_are_read_only_a_little_ahead() -> None:
    read = count()

    def stream() -> Iterator[Doc]:
        for i in read:
            yield make_doc(1 + i % 3)

    batches = list(islice(create_wordpiece_batcher_v1(10)(stream()), 100))
    assert len(batches) == 100
    assert next(read) <= sum(map(len, batches)) + READ_AHEAD


@pytest.mark.parametrize("size", [0, -5, float("nan")])
def test_size_must_be_positive(size: Any) -> None:
    with pytest.raises(ValueError, match=f"M058.*size = {size}"):
        create_wordpiece_batcher_v1(size)


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    batches = create_wordpiece_batcher_v1(10, tokenizer=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"M001.*nothing"):
        next(batches(make_docs(1)))


def test_from_a_config() -> None:
    config = Config().from_str(
        """
        [training]

        [training.batcher]
        @batchers = "spacy-mtl.batch_by_wordpieces.v1"
        size = 4
        discard_oversize = true
        """
    )
    batcher = registry.resolve(config)["training"]["batcher"]
    docs = make_docs(3, 5, 1, 2)
    assert list(batcher(docs)) == [[docs[0], docs[2]], [docs[3]]]
