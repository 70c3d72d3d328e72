"""Cuts docs into the spans that the encoder reads at once."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy
from spacy.attrs import ORTH, SENT_START
from spacy.pipeline import Sentencizer
from spacy.tokens import Doc, Span

from ...arguments import Count, checked
from ...types import Ints1d


@checked("spacy-mtl.sentence_spans.v1")
def configure_sentence_spans(window: Count) -> Callable[[Sequence[Doc]], list[list[Span]]]:
    """Cut docs into spans that do not overlap. A span ends with the last sentence that ends in the
    second half of the window, or else with the window. In docs without sentence boundaries,
    sentences end at punctuation.

    window (int): Tokens per span at most, >= 1.
    RAISES (ValueError): M058 for a window out of range.
    """
    return partial(get_sentence_spans, window=window)  # a closure cannot be pickled


def get_sentence_spans(docs: Sequence[Doc], window: int) -> list[list[Span]]:
    return [[doc[a:b] for a, b in pairwise(get_cuts(doc, window))] for doc in docs]


def get_cuts(doc: Doc, window: int) -> list[int]:
    """RETURNS (List[int]): The first token of each span, and the length of the doc."""
    if len(doc) <= window:
        return [0, len(doc)]
    starts = get_sentence_starts(doc)
    cuts = [0]
    while cuts[-1] + window < len(doc):
        last = starts[numpy.searchsorted(starts, cuts[-1] + window, side="right") - 1]
        cuts.append(int(last) if last > cuts[-1] + window // 2 else cuts[-1] + window)
    return [*cuts, len(doc)]


def get_sentence_starts(doc: Doc) -> Ints1d:
    """RETURNS (Ints1d): The first token of each sentence, in ascending order."""
    if doc.has_annotation("SENT_START"):
        is_start = doc.to_array(SENT_START).astype("int64") == 1
    else:
        ends = [doc.vocab.strings[mark] for mark in Sentencizer.default_punct_chars]
        is_end = numpy.isin(doc.to_array(ORTH), numpy.array(ends, dtype="uint64"))
        is_start = numpy.append(True, is_end[:-1] & ~is_end[1:])
    is_start[0] = True
    return numpy.flatnonzero(is_start)
