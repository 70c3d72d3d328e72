"""Tokenizes spans of docs to wordpieces and aligns these to tokens, vectorized over the batch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, repeat
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy
from spacy.attrs import IDX, LENGTH, ORTH, SPACY
from spacy.tokens import Doc, Span
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from ...concurrency import make_lock
from ...pairs import SEPARATOR, UNORDERED, find_texts, is_ordered
from ...types import Floats1d, Ints1d, Ints2d

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

Alignment = Literal["auto", "characters", "spacy-transformers"]
CONTEXT = 64  # characters before a span that decide how its first word is read, at most
IS_SPACE = numpy.array(
    [chr(code).isspace() for code in range(0x3001)] + [False]
)  # no later character is a space
LAST = numpy.iinfo("int64").max
ODD, CONTEXT_ODD = numpy.uint64(0x9E3779B97F4A7C15), numpy.uint64(0xC2B2AE3D27D4EB4F)
TABLE_SIZE = 2**19  # wordpieces that are kept
PADDING_SHARE = 0.12  # largest share of padding in a batch; smaller makes batches too small


TABLES: WeakKeyDictionary["PreTrainedTokenizerFast", dict[object, "WordTable"]] = (
    WeakKeyDictionary()
)


@dataclass
class Wordpieces:
    """The wordpieces of a batch of docs, cut into sequences that the encoder can read.

    ids (Ints1d): Vocabulary ids of all W wordpieces, without special tokens.
    bounds (Ints1d): S + 1 offsets into `ids`: sequence s is ids[bounds[s] : bounds[s + 1]].
    pieces (Ints1d): The positions in `ids` of each token's wordpieces, token by token. A token in
        two overlapping spans has the wordpieces of both.
    starts (Ints1d): The position in `pieces` where each token's wordpieces start, N.
    segments (Optional[Ints1d]): The segment of each wordpiece, W: that of the second text in a doc
        of two texts, otherwise 0. None if all are 0.
    """

    ids: Ints1d
    bounds: Ints1d
    pieces: Ints1d
    starts: Ints1d
    segments: Ints1d | None = None

    @property
    def lengths(self) -> Ints1d:
        return numpy.diff(self.bounds)


def get_wordpieces(
    docs: Sequence[Doc],
    spans: Sequence[Sequence[Span]],
    tokenizer: "PreTrainedTokenizerFast",
    max_length: int,
    alignment: Alignment = "characters",
) -> Wordpieces:
    """Tokenize spans and align the wordpieces to the docs' tokens. In a doc of two texts, each span
    of the second text follows the first text and the tokenizer's separator; if their order has no
    meaning, also the other way round.

    docs (Sequence[Doc]): D docs with N tokens in all.
    spans (Sequence[Sequence[Span]]): For each doc the spans to read; they may overlap.
    tokenizer (PreTrainedTokenizerFast): The encoder's tokenizer.
    max_length (int): The longest sequence that the encoder can read, in wordpieces and without
        special tokens. A longer span becomes several sequences, so no wordpiece is lost.
    alignment (str): "characters" tokenizes a span as a part of its doc, and aligns by
        `match_characters`. "spacy-transformers" tokenizes a span as a text of its own, and aligns
        by `match_offsets`.
    """
    # The same doc may occur twice.
    firsts = offsets([len(doc) for doc in docs]).tolist()
    flat: list[tuple[Span, int]] = []
    seconds: list[int] = []  # the spans that follow another text in the same sequence
    separators: list[int] = []  # the separator of each
    for row, doc, found in zip(firsts, docs, spans, strict=False):
        pair = find_texts(doc)
        if pair is None:
            flat += [(span, row) for span in found if len(span)]
            continue
        first, second = pair
        orders = [(first, second)] if is_ordered(doc) else [(first, second), (second, first)]
        for before, after in orders:
            for span in found:
                start, end = max(span.start, after.start), min(span.end, after.end)
                if start < end:
                    seconds.append(len(flat) + 1)
                    separators.append(row + first.end)
                    flat += [(before, row), (doc[start:end], row)]
    flat_spans = [span for span, _ in flat]
    table = get_word_table(tokenizer, alignment)
    if table is None:
        read = read_spans(flat_spans, tokenizer, alignment)
    else:
        read = table.read_spans(flat_spans)
    rows = concat([numpy.arange(row + span.start, row + span.end) for span, row in flat])
    found, pieces = rows[read.tokens], read.pieces
    ids, lengths, segments = read.ids, read.lengths, None
    if seconds:
        read, segments, marks = join_pairs(read, seconds, *get_separator(tokenizer))
        ids, lengths = read.ids, read.lengths
        n_marks = len(marks) // len(seconds)
        found = numpy.append(found, numpy.repeat(separators, n_marks))
        pieces = numpy.append(read.pieces, marks)
    if (numpy.diff(found) < 0).any():
        order = numpy.argsort(found, kind="stable")
        found, pieces = found[order], pieces[order]
    counts = numpy.bincount(found, minlength=firsts[-1])
    return Wordpieces(ids, cut(lengths, max_length), pieces, offsets(counts)[:-1], segments)


def get_separator(tokenizer: "PreTrainedTokenizerFast") -> tuple[list[int], int]:
    """RETURNS (Tuple[List[int], int]): The ids of the special tokens between the texts of a pair,
    and the segment of the second text.
    """
    pair = get_backend(tokenizer).encode("a", "b", add_special_tokens=True)
    (texts,) = numpy.nonzero(numpy.array(pair.special_tokens_mask) == 0)
    gap = numpy.flatnonzero(numpy.diff(texts) > 1)
    if not len(gap):  # the tokenizer has no template for pairs
        mark = tokenizer.sep_token_id  # type: ignore[attr-defined]
        return [] if mark is None else [mark], 0
    first, second = texts[gap[0]], texts[gap[0] + 1]
    has_segments = "token_type_ids" in tokenizer.model_input_names  # type: ignore[attr-defined]
    return pair.ids[first + 1 : second], pair.type_ids[second] if has_segments else 0


def join_pairs(
    read: "SpanPieces", seconds: Sequence[int], separator: Sequence[int], segment: int
) -> tuple["SpanPieces", Ints1d, Ints1d]:
    """Join spans of second texts to the first texts before them.

    read (SpanPieces): The wordpieces of S spans.
    seconds (Sequence[int]): The spans of second texts.
    separator (Sequence[int]): The ids between both texts.
    segment (int): The segment of second texts.
    RETURNS (Tuple[SpanPieces, Ints1d, Ints1d]): The wordpieces of the sequences, with separators;
        the segment of each wordpiece; and the positions of the separators.
    """
    is_second = numpy.zeros(len(read.lengths), dtype="int64")
    is_second[list(seconds)] = 1
    shifts = numpy.cumsum(is_second) * len(separator)
    ends = offsets(read.lengths)[1:] + shifts
    starts = ends - read.lengths
    moved = numpy.arange(len(read.ids)) + numpy.repeat(shifts, read.lengths)
    marks = (starts[is_second == 1][:, None] + numpy.arange(-len(separator), 0)).ravel()
    ids = numpy.zeros(len(moved) + len(marks), dtype=read.ids.dtype)
    ids[moved], ids[marks] = read.ids, list(separator) * len(seconds)
    segments = numpy.zeros(len(ids), dtype="int64")
    segments[moved] = numpy.repeat(is_second * segment, read.lengths)
    # A sequence ends where the next span begins a sequence of its own.
    is_last = numpy.append(is_second[1:] == 0, True)
    lengths = numpy.diff(ends[is_last], prepend=0)
    return SpanPieces(lengths, ids, read.tokens, moved[read.pieces]), segments, marks


def share_pieces(pieces: Wordpieces, lengths: Sequence[int]) -> tuple[Wordpieces, Floats1d]:
    """Divide each wordpiece equally between its tokens. Of "don't", the tokens "do" and "n't" may
    share the wordpiece "don". A wordpiece of white space, which has no token, goes to the token
    after it.

    pieces (Wordpieces): The wordpieces.
    lengths (Sequence[int]): Tokens per doc.
    RETURNS (Tuple[Wordpieces, Floats1d]): The wordpieces, and a weight for each match of a token
        and a wordpiece. The sums over each token's wordpieces, with these weights, are rows whose
        mean over a doc is the mean over the doc's wordpieces.
    """
    n_tokens = len(pieces.starts)
    sizes = numpy.diff(pieces.starts, append=len(pieces.pieces))
    tokens, found = numpy.repeat(numpy.arange(n_tokens), sizes), pieces.pieces
    lost, owners = find_owners(pieces, tokens)
    if len(lost):
        tokens, found = numpy.append(tokens, owners), numpy.append(found, lost)
        order = numpy.argsort(tokens, kind="stable")
        tokens, found = tokens[order], found[order]
    shares = 1 / numpy.bincount(found, minlength=1)[found]
    docs = numpy.repeat(numpy.arange(len(lengths)), lengths)[tokens]
    n_pieces = numpy.bincount(docs, shares, minlength=len(lengths))
    scales = numpy.array(lengths) / numpy.maximum(n_pieces, 1)
    starts = offsets(numpy.bincount(tokens, minlength=n_tokens))[:-1]
    return replace(pieces, pieces=found, starts=starts), (shares * scales[docs]).astype("f")


def find_owners(pieces: Wordpieces, tokens: Ints1d) -> tuple[Ints1d, Ints1d]:
    """Find tokens for wordpieces without one: the token of the next wordpiece in the sequence, or
    of the last one before.

    tokens (Ints1d): The token of each match in `pieces.pieces`.
    RETURNS (Tuple[Ints1d, Ints1d]): The positions of the wordpieces in `pieces.ids`, and the token
        of each. Sequences without any token are left out.
    """
    has_token = numpy.zeros(len(pieces.ids) + 1, dtype="bool")
    has_token[pieces.pieces] = True
    lost = numpy.flatnonzero(~has_token[:-1])
    order = numpy.argsort(pieces.pieces, kind="stable")
    matched = pieces.pieces[order]
    if not len(lost) or not len(matched):
        return lost[:0], lost[:0]
    after = numpy.searchsorted(matched, lost)
    best = numpy.full(len(lost), -1)
    for near in (after - 1, after):
        is_near = (near >= 0) & (near < len(matched))
        near = numpy.where(is_near, near, 0)
        of_piece, of_match = (
            numpy.searchsorted(pieces.bounds, place, side="right")
            for place in (lost, matched[near])
        )
        best = numpy.where(is_near & (of_piece == of_match), near, best)
    return lost[best >= 0], tokens[order[best[best >= 0]]]


@dataclass
class SpanPieces:
    """The wordpieces of S spans, and which of them belong to which token.

    lengths (Ints1d): Wordpieces per span, S.
    ids (Ints1d): Vocabulary ids of all W wordpieces, span by span.
    tokens, pieces (Ints1d): Each match of a token and a wordpiece: their positions among the tokens
        of all spans and in `ids`. In each span the tokens ascend.
    """

    lengths: Ints1d
    ids: Ints1d
    tokens: Ints1d
    pieces: Ints1d


def read_spans(
    spans: Sequence[Span], tokenizer: "PreTrainedTokenizerFast", alignment: Alignment
) -> SpanPieces:
    """Tokenize spans, none of which is empty, in one call and align the wordpieces."""
    by_characters = alignment == "characters"
    contexts = [get_context(span) if by_characters else ("", 0) for span in spans]
    texts = [before + span.text for (before, _), span in zip(contexts, spans, strict=True)]
    # Positions in the joined texts, so that one search matches the tokens of all texts.
    bases = offsets([len(text) + 1 for text in texts])[:-1]
    docs = {id(span.doc): span.doc for span in spans}
    chars_of = {key: doc.to_array([IDX, LENGTH]).astype("int64").T for key, doc in docs.items()}
    starts, sizes = [], []
    for span, base, (before, _) in zip(spans, bases, contexts, strict=True):
        chars, n_chars = chars_of[id(span.doc)][:, span.start : span.end]
        starts.append(chars - chars[0] + base + len(before))
        sizes.append(n_chars)
    lengths, ids, *ranges = tokenize(tokenizer, texts, [n_chars for _, n_chars in contexts])
    tokens = numpy.stack([concat(starts), concat(starts) + concat(sizes)])
    ranges = numpy.stack(ranges) + numpy.repeat(bases, lengths)
    if by_characters:
        found, pieces = match_characters("\n".join(texts), tokens, ranges)
    else:
        found, pieces = match_offsets(tokens, ranges)
    order = numpy.argsort(found, kind="stable")
    return SpanPieces(lengths, ids, found[order], pieces[order])


@dataclass
class Words:
    """The wordpieces of V words, each by itself. A word is all that stands between two spaces: one
    token, or several as in "don't".

    n_pieces, n_matches (Ints1d): Wordpieces per word, and matches of a token and a wordpiece, V.
    ids (Ints1d): Vocabulary ids of all wordpieces, word by word.
    tokens, pieces (Ints1d): Each match, word by word: the positions among the word's tokens and
        among its wordpieces.
    """

    n_pieces: Ints1d
    n_matches: Ints1d
    ids: Ints1d
    tokens: Ints1d
    pieces: Ints1d

    @classmethod
    def read(
        cls, spans: Sequence[Span], tokenizer: "PreTrainedTokenizerFast", alignment: Alignment
    ) -> "Words":
        """RETURNS (Words): The words that are the spans."""
        read = read_spans(spans, tokenizer, alignment)
        sizes = [len(span) for span in spans]
        word = numpy.repeat(numpy.arange(len(spans)), sizes)[read.tokens]
        return cls(
            read.lengths,
            numpy.bincount(word, minlength=len(spans)),
            read.ids,
            read.tokens - offsets(sizes)[word],
            read.pieces - offsets(read.lengths)[word],
        )

    def __add__(self, other: "Words") -> "Words":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Words(*(numpy.append(a, b) for a, b in pairs))

    def join(self, numbers: Ints1d, starts: Ints1d, sizes: Sequence[int]) -> SpanPieces:
        """Assemble spans from words.

        numbers (Ints1d): The number of each word, span by span.
        starts (Ints1d): The position of its first token among the tokens of all spans.
        sizes (Sequence[int]): Words per span.
        """
        n_pieces, n_matches = self.n_pieces[numbers], self.n_matches[numbers]
        bounds, match = offsets(n_pieces), expand(offsets(self.n_matches)[numbers], n_matches)
        return SpanPieces(
            numpy.diff(bounds[offsets(sizes)]),
            self.ids[expand(offsets(self.n_pieces)[numbers], n_pieces)],
            self.tokens[match] + numpy.repeat(starts, n_matches),
            self.pieces[match] + numpy.repeat(bounds[:-1], n_matches),
        )


class WordTable:
    """Caches the wordpieces of words, for tokenizers that read a word independently of its context.
    Most words of a batch occurred in an earlier batch.

    tokenizer (PreTrainedTokenizerFast): One for which `reads_words` is true.
    alignment (str): As in `get_wordpieces`.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", alignment: Alignment) -> None:
        self.tokenizer, self.alignment = tokenizer, alignment
        self._lock = make_lock()
        self._clear()

    def _clear(self) -> None:
        self._numbers: dict[int, int] = {}  # by the words' keys
        self._words = Words(*[numpy.zeros(0, dtype="int64")] * 5)

    def read_spans(self, spans: Sequence[Span]) -> SpanPieces:
        """RETURNS (SpanPieces): The same as the function of this name."""
        keys, starts, sizes = split_words(spans, self.alignment == "characters")
        with self._lock:
            if len(self._words.ids) > TABLE_SIZE:
                self._clear()
            numbers = self._find(keys)
            missing = numpy.flatnonzero(numbers < 0)
            if len(missing):
                new, first = numpy.unique(keys[missing], return_index=True)
                self._add(new, get_words(spans, starts, missing[first]))
                numbers[missing] = self._find(keys[missing])
            words = self._words
        return words.join(numbers, starts, sizes)

    def _find(self, keys: Ints1d) -> Ints1d:
        """RETURNS (Ints1d): The number of each word, -1 for an unknown one."""
        found = map(self._numbers.get, keys.tolist(), repeat(-1))
        return numpy.fromiter(found, "int64", len(keys))

    def _add(self, keys: Ints1d, words: Sequence[Span]) -> None:
        self._words += Words.read(words, self.tokenizer, self.alignment)
        self._numbers.update(zip(keys.tolist(), count(len(self._numbers))))


def get_word_table(tokenizer: "PreTrainedTokenizerFast", alignment: Alignment) -> WordTable | None:
    """RETURNS (Optional[WordTable]): The tokenizer's cache, None if its words depend on context."""
    backend = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    added = tokenizer.added_tokens_decoder  # type: ignore[attr-defined]
    if not reads_words(backend, added.values()):
        return None
    # A new cache if the tokenizer was changed.
    state = alignment, backend.normalizer.__getstate__(), tuple(map(str, added.values()))
    if TABLES.get(tokenizer, {}).keys() != {state}:
        TABLES[tokenizer] = {state: WordTable(tokenizer, alignment)}
    return TABLES[tokenizer][state]


def reads_words(backend: "Tokenizer", added: Iterable["AddedToken"]) -> bool:
    """Check whether a tokenizer reads the text between two spaces independently of its context, as
    the tokenizers of BERT, DistilBERT, MPNet and ELECTRA do.

    backend (tokenizers.Tokenizer): The tokenizer.
    added (Iterable[AddedToken]): Tokens that it extracts before it splits a text.
    """
    kinds = (
        (backend.normalizer, BertNormalizer),
        (backend.pre_tokenizer, BertPreTokenizer),
        (backend.model, WordPiece),
    )
    takes_spaces = any(token.lstrip or token.rstrip or " " in token.content for token in added)
    return all(isinstance(part, kind) for part, kind in kinds) and not takes_spaces


def split_words(spans: Sequence[Span], in_context: bool) -> tuple[Ints1d, Ints1d, list[int]]:
    """Find the words of spans.

    in_context (bool): Whether a span that starts within a word is read as part of that word.
    RETURNS (Tuple[Ints1d, Ints1d, List[int]]): A key for each word, a 64-bit hash of its tokens;
        the position of each word's first token among the tokens of all spans; and the number of
        words in each span.
    """
    docs = {id(span.doc): span.doc for span in spans}
    arrays = {key: doc.to_array([ORTH, SPACY]) for key, doc in docs.items()}
    parts = [arrays[id(span.doc)][span.start : span.end] for span in spans]
    orths, spaces = concat(parts).T if parts else numpy.zeros((2, 0), dtype="uint64")
    bounds = offsets([len(span) for span in spans])
    is_last = spaces > 0
    is_last[bounds[1:] - 1] = True
    starts = numpy.flatnonzero(numpy.append(True, is_last[:-1])[: len(is_last)])
    place = expand(numpy.zeros_like(starts), numpy.diff(starts, append=len(orths)))
    keys = orths * ODD ** place.astype("uint64")
    keys = numpy.add.reduceat(keys, starts) if len(keys) else keys
    first_words = numpy.searchsorted(starts, bounds)
    if in_context and spans:
        start = numpy.array([0, 1], dtype="uint64")
        before = [arrays[id(s.doc)][s.start - 1] if s.start else start for s in spans]
        orth, space = numpy.stack(before).T
        keys[first_words[:-1]] += numpy.where(space > 0, 0, orth * CONTEXT_ODD).astype("uint64")
    return keys, starts, numpy.diff(first_words).tolist()


def get_words(spans: Sequence[Span], starts: Ints1d, numbers: Ints1d) -> list[Span]:
    """RETURNS (List[Span]): Some of the words of spans, by their numbers.

    starts (Ints1d): As of `split_words`.
    """
    bounds = offsets([len(span) for span in spans])
    owners = numpy.searchsorted(bounds, starts[numbers], side="right") - 1
    shift = numpy.array([span.start for span in spans])[owners] - bounds[owners]
    first, end = starts[numbers] + shift, numpy.append(starts, bounds[-1])[numbers + 1] + shift
    return [spans[i].doc[a:b] for i, a, b in zip(owners, first, end, strict=True)]


def get_context(span: Span) -> tuple[str, int]:
    """Get the text before a span that decides how a tokenizer reads its first word.

    RETURNS (Tuple[str, int]): The end of the token before the span, with the space after it; and
        the number of its characters without the space: wordpieces of these are not the span's.
    """
    before = span.doc[span.start - 1] if span.start else None
    if before is None or before.text in (SEPARATOR, UNORDERED):
        return "", 0
    text = before.text_with_ws[-CONTEXT:]
    return text, len(text) - len(before.whitespace_)


def tokenize(
    tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str], n_skipped: Sequence[int] = ()
) -> tuple[Ints1d, Ints1d, Ints1d, Ints1d]:
    """Tokenize texts in one call.

    n_skipped (Sequence[int]): The number of characters at the start of each text to skip.
        Wordpieces that end within them are removed.
    RETURNS (Tuple[Ints1d, Ints1d, Ints1d, Ints1d]): The number of wordpieces per text; then for
        each wordpiece its id, its first character in the text, and the character after its last.
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


def get_backend(tokenizer: "PreTrainedTokenizerFast") -> "Tokenizer":
    """Get the Rust tokenizer, with truncation and padding switched off. A tokenizer.json may switch
    them on, which would cut or pad texts silently.

    RETURNS (tokenizers.Tokenizer): The tokenizer. It is only changed if necessary, because it
        cannot be changed while another thread tokenizes.
    """
    backend: Tokenizer = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    return backend


def match_characters(text: str, tokens: Ints2d, pieces: Ints2d) -> tuple[Ints1d, Ints1d]:
    """Match tokens and wordpieces that share a visible character. A wordpiece that consists of
    white space matches the white-space tokens with which it shares a character.

    text (str): The text that the tokens and the wordpieces are in.
    tokens (Ints2d): The start and the end of every token in the text, ascending, 2 x N.
    pieces (Ints2d): The start and the end of every wordpiece in the text, 2 x W.
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
    return expand(first, counts), numpy.repeat(numpy.arange(len(counts)), counts)


def expand(starts: Ints1d, sizes: Ints1d) -> Ints1d:
    """RETURNS (Ints1d): The numbers of ranges, one range after the other."""
    return numpy.repeat(starts - offsets(sizes)[:-1], sizes) + numpy.arange(sizes.sum())


def cut(lengths: Ints1d, max_length: int) -> Ints1d:
    """RETURNS (Ints1d): Bounds of the sequences, with longer ones cut into equal parts."""
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
    """Group sequences of nearly the same length, so that little is padding.

    lengths (Ints1d): Wordpieces per sequence, special tokens included.
    budget (int): Wordpieces per batch, padding included. A longer sequence gets its own batch.
    limit (int): The longest sequence that the encoder can read.
    slack (int): Wordpieces of padding that cost less than another batch.
    few_shapes (bool): Whether to round the number of sequences down. oneDNN compiles code for each
        shape and caches it.
    padding_share (float): The share of a batch that may be padding, even if it exceeds `slack`.
    YIELDS (Tuple[Ints1d, int]): The indices of a batch's sequences, shortest first, and the length
        to pad them to.
    """
    order = numpy.argsort(lengths, kind="stable")
    ascending = lengths[order]
    padded = numpy.minimum(round_up(ascending), limit)
    sums = offsets(ascending)

    def fits(start: int, end: int) -> bool:
        area = padded[end - 1] * (end - start)
        padding = area - (sums[end] - sums[start])
        is_even = padded[end - 1] == padded[start] or padding <= max(slack, padding_share * area)
        return bool(area <= budget and is_even)

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
    """RETURNS (int): The step to round a size down to one of 1, 2, 3, 4, 6, 8, 12, 16, ..."""
    return 1 << max(0, size.bit_length() - 2)


def round_up(lengths: Ints1d) -> Ints1d:
    """RETURNS (Ints1d): The next multiples of 4, over 32 of 8, over 128 of 16, over 256 of 32."""
    step = numpy.select([lengths <= 32, lengths <= 128, lengths <= 256], [4, 8, 16], 32)
    rounded: Ints1d = -(-lengths // step) * step
    return rounded


def offsets(lengths: Sequence[int] | Ints1d) -> Ints1d:
    """RETURNS (Ints1d): 0 and the cumulative sums: the start of each part, and the end."""
    return numpy.concatenate([[0], numpy.cumsum(lengths)]).astype("int64")


def concat(arrays: list[Any]) -> Any:
    return numpy.concatenate(arrays) if arrays else numpy.zeros(0, dtype="int64")
