"""From spans of docs to wordpieces, aligned to tokens without a Python loop over either."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy
from spacy.attrs import IDX, LENGTH
from spacy.tokens import Doc, Span

from ..types import Ints1d, Ints2d

Alignment = Literal["auto", "characters", "spacy-transformers"]
CONTEXT = 64  # characters: more of the token before a span do not change how its start is read
IS_SPACE = numpy.array([chr(code).isspace() for code in range(0x3001)] + [False])  # the rest is not
LAST = numpy.iinfo("int64").max
PADDING_SHARE = 0.12  # of a batch's wordpieces; more costs time, less makes batches too small


@dataclass
class Wordpieces:
    """The wordpieces of a batch of docs, cut into sequences that the encoder can read.

    ids (Ints1d): Vocabulary ids of all W wordpieces, special tokens left out.
    bounds (Ints1d): S + 1 offsets into `ids`: sequence s is ids[bounds[s] : bounds[s + 1]].
    pieces (Ints1d): For each token in turn, the positions in `ids` of its wordpieces. A token in
        two overlapping spans has the wordpieces of both.
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
    docs: Sequence[Doc],
    spans: Sequence[Sequence[Span]],
    tokenizer: Any,
    max_length: int,
    alignment: Alignment = "characters",
) -> Wordpieces:
    """Tokenize the spans in one call and align the result to the docs' tokens.

    docs (Sequence[Doc]): D docs with N tokens in all.
    spans (Sequence[Sequence[Span]]): For each doc the spans to read; they may overlap.
    tokenizer (PreTrainedTokenizerFast): The encoder's tokenizer.
    max_length (int): The longest sequence that the encoder can read, in wordpieces and without
        special tokens. A longer span is read in several sequences, so no wordpiece is lost.
    alignment (str): "characters" tokenizes a span as a part of its doc, and aligns by
        `match_characters`. "spacy-transformers" tokenizes a span as a text of its own, and aligns
        by `match_offsets`.
    """
    by_characters = alignment == "characters"
    # The same doc may be there twice.
    firsts = offsets([len(doc) for doc in docs]).tolist()
    flat = [(span, row) for row, found in zip(firsts, spans, strict=False) for span in found]
    flat = [(span, row) for span, row in flat if len(span)]
    contexts = [get_context(span) if by_characters else ("", 0) for span, _ in flat]
    texts = [before + span.text for (before, _), (span, _) in zip(contexts, flat, strict=True)]
    # Lay the texts behind each other, so that one search finds the tokens of all of them.
    bases = offsets([len(text) + 1 for text in texts])[:-1]
    chars_of = {id(doc): doc.to_array([IDX, LENGTH]).astype("int64").T for doc in docs}
    starts, sizes, rows = [], [], []
    for (span, row), base, (before, _) in zip(flat, bases, contexts, strict=True):
        chars, n_chars = chars_of[id(span.doc)][:, span.start : span.end]
        starts.append(chars - chars[0] + base + len(before))
        sizes.append(n_chars)
        rows.append(numpy.arange(row + span.start, row + span.end))
    lengths, ids, *ranges = tokenize(tokenizer, texts, [n_chars for _, n_chars in contexts])
    tokens = numpy.stack([concat(starts), concat(starts) + concat(sizes)])
    ranges = numpy.stack(ranges) + numpy.repeat(bases, lengths)
    if by_characters:
        found, pieces = match_characters("\n".join(texts), tokens, ranges)
    else:
        found, pieces = match_offsets(tokens, ranges)
    found = concat(rows)[found]
    order = numpy.argsort(found, kind="stable")
    counts = numpy.bincount(found, minlength=sum(map(len, docs)))
    return Wordpieces(ids, cut(lengths, max_length), pieces[order], offsets(counts)[:-1])


def get_context(span: Span) -> tuple[str, int]:
    """Find the text before a span that decides how a tokenizer reads its first word.

    RETURNS (Tuple[str, int]): The end of the token before the span with the space after it, and the
        number of these characters whose wordpieces are not part of the span: all but the space.
    """
    if span.start == 0:
        return "", 0
    before = span.doc[span.start - 1]
    text = before.text_with_ws[-CONTEXT:]
    return text, len(text) - len(before.whitespace_)


def tokenize(
    tokenizer: Any, texts: Sequence[str], n_skipped: Sequence[int] = ()
) -> tuple[Ints1d, Ints1d, Ints1d, Ints1d]:
    """Tokenize texts in one call.

    n_skipped (Sequence[int]): For each text a number of characters at its start, if any: the
        wordpieces that end there are left out.
    RETURNS (Tuple[Ints1d, Ints1d, Ints1d, Ints1d]): Wordpieces per text; then for all
        wordpieces the ids and the first and behind-the-last character within their text.
    """
    encodings = get_backend(tokenizer).encode_batch(list(texts), add_special_tokens=False)
    lengths = numpy.array([len(e.ids) for e in encodings], dtype="int64")
    total = int(lengths.sum())
    ids = numpy.fromiter(chain.from_iterable(e.ids for e in encodings), "int64", total)
    chars = numpy.fromiter(
        chain.from_iterable(chain.from_iterable(e.offsets for e in encodings)), "int64", 2 * total
    ).reshape(-1, 2)
    if any(n_skipped):
        skipped = numpy.repeat(n_skipped, lengths)
        kept = (chars[:, 1] > skipped) | (skipped == 0)
        lengths = numpy.diff(offsets(kept)[offsets(lengths)])
        ids, chars = ids[kept], chars[kept]
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


def match_characters(text: str, tokens: Ints2d, pieces: Ints2d) -> tuple[Ints1d, Ints1d]:
    """Match tokens and wordpieces that share a character which is not white space. A wordpiece of
    white space only belongs to the tokens of white space only with which it shares a character.

    text (str): The text that the tokens and the wordpieces are in.
    tokens, pieces (Ints2d): The start and the end in the text of every token, ascending, and of
        every wordpiece; 2 x N and 2 x W.
    RETURNS (Tuple[Ints1d, Ints1d]): The token and the wordpiece of every match.
    """
    codes = numpy.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    n_visible = offsets(~IS_SPACE[numpy.minimum(codes, len(IS_SPACE) - 1)])
    matches = []
    for place, are_visible in ((n_visible, True), (numpy.arange(len(n_visible)), False)):
        own_tokens, own_pieces = (
            numpy.flatnonzero((n_visible[starts] < n_visible[ends]) == are_visible)
            for starts, ends in (tokens, pieces)
        )
        found, found_pieces = overlap(place[tokens[:, own_tokens]], place[pieces[:, own_pieces]])
        matches.append((own_tokens[found], own_pieces[found_pieces]))
    visible, white = matches
    return numpy.append(visible[0], white[0]), numpy.append(visible[1], white[1])


def match_offsets(tokens: Ints2d, pieces: Ints2d) -> tuple[Ints1d, Ints1d]:
    """Match tokens and wordpieces as spacy-transformers does: a wordpiece belongs to a token if it
    shares a character with the token or with the space after it.

    tokens, pieces (Ints2d): As in `match_characters`.
    RETURNS (Tuple[Ints1d, Ints1d]): The token and the wordpiece of every match.
    """
    starts = tokens[0]
    return overlap(numpy.stack([starts, numpy.append(starts[1:], LAST)[: len(starts)]]), pieces)


def overlap(tokens: Ints2d, pieces: Ints2d) -> tuple[Ints1d, Ints1d]:
    """RETURNS (Tuple[Ints1d, Ints1d]): The token and the wordpiece of every pair that overlaps."""
    (token_starts, token_ends), (starts, ends) = tokens, pieces
    first = numpy.searchsorted(token_ends, starts, side="right")
    behind = numpy.searchsorted(token_starts, ends, side="left")
    counts = numpy.where(starts < ends, numpy.maximum(behind - first, 0), 0)
    within = numpy.arange(counts.sum()) - numpy.repeat(offsets(counts)[:-1], counts)
    return numpy.repeat(first, counts) + within, numpy.repeat(numpy.arange(len(counts)), counts)


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
