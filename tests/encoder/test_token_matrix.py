"""The token matrix, the rows of each doc, and streams of docs grouped by matrix."""

import pickle
import weakref
from collections.abc import Iterator
from itertools import groupby

import numpy
import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc

from spacy_mtl.encoder.token_matrix import (
    KEY,
    TokenMatrix,
    get_matrix,
    get_rows,
    group_by_matrix,
    set_rows,
)

VOCAB = spacy.blank("en").vocab


def make_docs(*lengths: int) -> list[Doc]:
    return [Doc(VOCAB, words=["a"] * length) for length in lengths]


def encode(docs: list[Doc], seed: int = 0) -> TokenMatrix:
    lengths = [len(doc) for doc in docs]
    data = numpy.random.default_rng(seed).normal(size=(sum(lengths), 4)).astype("f")
    matrix = TokenMatrix(data, lengths)
    set_rows(docs, matrix)
    return matrix


def places(groups: list[list[Doc]], docs: list[Doc]) -> list[list[int]]:
    place = {id(doc): i for i, doc in enumerate(docs)}
    return [[place[id(doc)] for doc in group] for group in groups]


# The matrix


@pytest.mark.parametrize("lengths", [[3, 0, 2], [0, 0], [], [1]])
def test_rows_of_docs(lengths: list[int]) -> None:
    docs = make_docs(*lengths)
    matrix = encode(docs)
    assert len(matrix) == len(docs)
    parts = [get_rows(doc) for doc in docs]
    for doc, part, again in zip(docs, parts, matrix.doc_data, strict=True):
        assert part is not None and part.matrix is matrix is get_matrix(doc)
        assert part.rows.shape == (len(doc), 4) and part.width == 4 and not part.is_live
        assert numpy.shares_memory(part.rows, matrix.data) == bool(len(doc))
        numpy.testing.assert_array_equal(again.rows, part.rows)
    rows = [part.rows for part in parts if part is not None]
    numpy.testing.assert_array_equal(numpy.concatenate([matrix.data[:0], *rows]), matrix.data)


def test_a_pickled_part_holds_its_own_rows_only() -> None:
    docs = make_docs(3, 2000)
    matrix = encode(docs)
    data = pickle.dumps(get_rows(docs[0]))
    loaded = pickle.loads(data).model_output.last_hidden_state
    assert len(data) < matrix.data.nbytes / 4
    numpy.testing.assert_array_equal(loaded, matrix.data[None, :3])


# Groups


@pytest.mark.parametrize(
    "batches,batch_size,expected",
    [
        ([[2, 3], [4], [1, 1]], 10, [[0, 1], [2], [3, 4]]),
        ([[0, 2, 3]], 10, [[0, 1, 2]]),
        ([[2, 0, 0, 3]], 10, [[0, 1, 2, 3]]),
        ([[2, 3, 0, 0], [4, 0]], 10, [[0, 1, 2, 3], [4, 5]]),
        ([[0, 0], [0], [5]], 10, [[0, 1], [2], [3]]),
        ([[1, 1, 1, 1, 1], [2]], 2, [[0, 1], [2, 3], [4], [5]]),
        ([[1, 1], [1, 1]], 1, [[0], [1], [2], [3]]),
        ([], 10, []),
    ],
)
def test_groups_as_encoded(
    batches: list[list[int]], batch_size: int, expected: list[list[int]]
) -> None:
    encoded = [make_docs(*lengths) for lengths in batches]
    for docs in encoded:
        encode(docs)
    docs = [doc for batch in encoded for doc in batch]
    assert places(list(group_by_matrix(docs, batch_size)), docs) == expected


def test_docs_without_rows() -> None:
    docs = make_docs(1, 0, 2, 1, 1, 3, 1, 1)
    encode(docs[3:5])
    docs[7].user_data[KEY] = None
    docs[6].user_data[KEY] = "not ours"
    groups = places(list(group_by_matrix(docs, 3)), docs)
    assert groups == [[0, 1, 2], [3, 4], [5, 6, 7]]
    assert places(list(group_by_matrix(docs, 2)), docs) == [[0, 1], [2], [3, 4], [5, 6], [7]]


def test_the_same_doc_twice() -> None:
    (doc,) = make_docs(3)
    encode([doc, doc])
    assert list(group_by_matrix([doc, doc], 10)) == [[doc, doc]]


def test_docs_that_have_got_lost() -> None:
    """An error handler may remove docs from the stream."""
    docs = make_docs(2, 3, 0, 4, 1)
    encode(docs[:3])
    encode(docs[3:])
    groups = list(group_by_matrix([docs[0], docs[2], docs[4]], 10))
    assert places(groups, docs) == [[0, 2], [4]]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 3), min_size=1, max_size=6))),
    st.integers(1, 7),
)
def test_any_stream(batches: list[tuple[bool, list[int]]], batch_size: int) -> None:
    docs, matrices = [], []
    for i, (has_rows, lengths) in enumerate(batches):
        new = make_docs(*lengths)
        if has_rows:
            encode(new, seed=i)
        docs += new
        matrices += [i if has_rows else None] * len(new)
    expected = []
    for _, run in groupby(range(len(docs)), key=matrices.__getitem__):
        numbers = list(run)
        expected += [numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)]
    assert places(list(group_by_matrix(docs, batch_size)), docs) == expected


@pytest.mark.parametrize("lengths", [[2, 3], [0, 2, 0], [2, 3, 0, 0], [0, 0], [1]])
def test_one_matrix_at_a_time(lengths: list[int]) -> None:
    """A matrix is released before the next one is requested."""
    matrices: list[weakref.ref] = []
    alive: list[int] = []

    def stream() -> Iterator[Doc]:
        for _ in range(4):
            alive.append(sum(ref() is not None for ref in matrices))
            docs = make_docs(*lengths)
            matrices.append(weakref.ref(encode(docs)))
            yield from docs

    n_groups = 0
    for group in group_by_matrix(stream(), 10):
        n_groups += 1
        assert len(matrices) == n_groups and len(group) == len(lengths)
        for doc in group:
            doc.user_data[KEY] = None  # like the last listener
    assert alive == [0] * 4 and n_groups == 4
