"""From spans of docs to wordpieces, aligned to tokens without a Python loop over either."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy
from spacy.attrs import IDX
from spacy.tokens import Doc, Span

from ..types import Ints1d

PADDING_SHARE = 0.12  # of a batch's wordpieces; more costs time, less makes batches too small


@dataclass
class Wordpieces:
    """The wordpieces of a batch of docs, cut into sequences that the encoder can read.

    ids (Ints1d): Vocabulary ids of all W wordpieces, special tokens left out.
    bounds (Ints1d): S + 1 offsets into `ids`: sequence s is ids[bounds[s] : bounds[s + 1]].
    pieces (Ints1d): For each token in turn, the positions in `ids` of the wordpieces that
        overlap it. A token in two overlapping spans has the wordpieces of both.
    starts (Ints1d): For each of the N tokens of the batch, where its wordpieces start in `pieces`.
    """

    ids: Ints1d
    bounds: Ints1d
    pieces: Ints1d
    starts: Ints1d

    @property
    def lengths(self) -> Ints1d:
        return numpy.diff(self.bounds)


def get_wordpieces(
    docs: Sequence[Doc], spans: Sequence[Sequence[Span]], tokenizer: Any, max_length: int
) -> Wordpieces:
    """Tokenize the spans in one call and align the result to the docs' tokens.

    docs (Sequence[Doc]): D docs with N tokens in all.
    spans (Sequence[Sequence[Span]]): For each doc the spans to read; they may overlap.
    tokenizer (PreTrainedTokenizerFast): The encoder's tokenizer.
    max_length (int): The longest sequence that the encoder can read, in wordpieces and without
        special tokens. A longer span is read in several sequences, so no wordpiece is lost.
    """
    # The same doc may be there twice.
    firsts = offsets([len(doc) for doc in docs]).tolist()
    flat = [(span, row) for row, found in zip(firsts, spans, strict=False) for span in found]
    flat = [(span, row) for span, row in flat if len(span)]
    texts = [span.text for span, _ in flat]
    lengths, ids, char_starts, char_ends = tokenize(tokenizer, texts)
    # Lay the texts behind each other, so that one search finds the tokens of all of them.
    bases = offsets([len(text) + 1 for text in texts])[:-1]
    char_of = {id(doc): doc.to_array(IDX).astype("int64") for doc in docs}
    tiles, rows = [], []
    for (span, row), base in zip(flat, bases, strict=True):
        chars = char_of[id(span.doc)][span.start : span.end]
        tiles.append(chars - chars[0] + base)
        rows.append(numpy.arange(row + span.start, row + span.end))
    shift = numpy.repeat(bases, lengths)
    pieces, starts = align(
        concat(tiles), concat(rows), char_starts + shift, char_ends + shift, sum(map(len, docs))
    )
    return Wordpieces(ids, cut(lengths, max_length), pieces, starts)


def tokenize(tokenizer: Any, texts: Sequence[str]) -> tuple[Ints1d, Ints1d, Ints1d, Ints1d]:
    """RETURNS (Tuple[Ints1d, Ints1d, Ints1d, Ints1d]): Wordpieces per text; then for all
    wordpieces the ids and the first and behind-the-last character within their text.
    """
    encodings = get_backend(tokenizer).encode_batch(list(texts), add_special_tokens=False)
    lengths = numpy.array([len(e.ids) for e in encodings], dtype="int64")
    total = int(lengths.sum())
    ids = numpy.fromiter(chain.from_iterable(e.ids for e in encodings), "int64", total)
    chars = numpy.fromiter(
        chain.from_iterable(chain.from_iterable(e.offsets for e in encodings)), "int64", 2 * total
    ).reshape(-1, 2)
    return lengths, ids, chars[:, 0], chars[:, 1]


def get_backend(tokenizer: Any) -> Any:
    """RETURNS (tokenizers.Tokenizer): What tokenizes, without the truncation and the padding that a
    tokenizer.json may carry, which would cut or fill texts silently. While another thread
    tokenizes, it can be read but not changed.
    """
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    return backend


def align(
    tiles: Ints1d, rows: Ints1d, char_starts: Ints1d, char_ends: Ints1d, n_tokens: int
) -> tuple[Ints1d, Ints1d]:
    """Find the wordpieces of each token: all that share a character with it or with the space
    behind it, which is how spacy-transformers aligns by offsets.

    tiles (Ints1d): First character of every token of every span, ascending.
    rows (Ints1d): The row of each of these tokens in the batch.
    char_starts, char_ends (Ints1d): Characters of every wordpiece, on the same axis.
    n_tokens (int): Tokens in the batch, N.
    RETURNS (Tuple[Ints1d, Ints1d]): `pieces` and `starts` of Wordpieces.
    """
    seen = numpy.flatnonzero(char_ends > char_starts)
    first = numpy.searchsorted(tiles, char_starts[seen], side="right") - 1
    last = numpy.searchsorted(tiles, char_ends[seen] - 1, side="right") - 1
    counts = last - first + 1
    pieces = numpy.repeat(seen, counts)
    within = numpy.arange(counts.sum()) - numpy.repeat(offsets(counts)[:-1], counts)
    tokens = rows[numpy.repeat(first, counts) + within] if len(pieces) else pieces
    order = numpy.argsort(tokens, kind="stable")
    return pieces[order], offsets(numpy.bincount(tokens, minlength=n_tokens))[:-1]


def cut(lengths: Ints1d, max_length: int) -> Ints1d:
    """RETURNS (Ints1d): Bounds of the sequences, those over `max_length` cut into equal parts."""
    parts = numpy.maximum(1, -(-lengths // max_length))
    if (parts == 1).all():
        return offsets(lengths)
    cuts = [
        start + (numpy.arange(n) * length) // n
        for start, length, n in zip(offsets(lengths)[:-1], lengths, parts, strict=True)
    ]
    return numpy.append(concat(cuts), lengths.sum())


def batch_by_length(
    lengths: Ints1d,
    budget: int,
    limit: int,
    slack: int = 0,
    few_shapes: bool = True,
    padding_share: float = PADDING_SHARE,
) -> Iterator[tuple[Ints1d, int]]:
    """Group sequences of nearly the same length, so that little is spent on padding.

    lengths (Ints1d): Wordpieces per sequence, special tokens included.
    budget (int): Wordpieces per batch, padding included. A longer sequence is alone.
    limit (int): The longest sequence that the encoder can read.
    slack (int): Wordpieces of padding that are cheaper than another batch.
    few_shapes (bool): Whether numbers of sequences are rounded down: a CPU's library compiles code
        for each shape, and keeps it.
    padding_share (float): How much of a batch may be padding even if that is more.
    YIELDS (Tuple[Ints1d, int]): Indices of the sequences of a batch, shortest first, and the
        length to pad them to.
    """
    order = numpy.argsort(lengths, kind="stable")
    ascending = lengths[order]
    padded = numpy.minimum(round_up(ascending), limit)
    sums = offsets(ascending)

    def fits(start: int, end: int) -> bool:
        area = padded[end - 1] * (end - start)
        padding = area - (sums[end] - sums[start])
        is_even = padded[end - 1] == padded[start] or padding <= max(slack, padding_share * area)
        return area <= budget and is_even

    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and fits(start, end + 1):
            end += 1
        if few_shapes:
            end -= (end - start) % step_of(end - start)
        yield order[start:end], int(padded[end - 1])
        start = end


def step_of(size: int) -> int:
    """RETURNS (int): What to round a size down by, to leave 1, 2, 3, 4, 6, 8, 12, 16, ..."""
    return 1 << max(0, size.bit_length() - 2)


def round_up(lengths: Ints1d) -> Ints1d:
    """RETURNS (Ints1d): The next multiples of 4, over 32 of 8, over 128 of 16, over 256 of 32."""
    step = numpy.select([lengths <= 32, lengths <= 128, lengths <= 256], [4, 8, 16], 32)
    return -(-lengths // step) * step


def offsets(lengths: Any) -> Ints1d:
    """RETURNS (Ints1d): 0 and the running sum: where each part starts, and the end."""
    return numpy.concatenate([[0], numpy.cumsum(lengths)]).astype("int64")


def concat(arrays: list[Any]) -> Any:
    return numpy.concatenate(arrays) if arrays else numpy.zeros(0, dtype="int64")
