"""Functions under names of spacy-transformers that configs with our encoder use too. They stand in
where spacy-transformers is not installed.
"""

from collections.abc import Callable, Sequence
from functools import partial

import catalogue
from spacy.tokens import Doc, Span
from spacy.util import registry

from ..arguments import Size, checked

SpanGetter = Callable[[Sequence[Doc]], Sequence[Sequence[Span]]]


def null_annotation_setter(docs: list[Doc], predictions: object) -> None:
    """Set no further annotations."""


@checked("spacy-transformers.null_annotation_setter.v1")
def configure_null_annotation_setter() -> Callable[[list[Doc], object], None]:
    """RETURNS (Callable): A function that sets no further annotations."""
    return null_annotation_setter


@checked("spacy-transformers.strided_spans.v1")
def configure_strided_spans(window: Size, stride: Size) -> SpanGetter:
    """Read each doc in spans that may overlap.

    window (int): Tokens per span.
    stride (int): Tokens from the start of a span to the start of the next one.
    """
    return partial(get_strided_spans, window=window, stride=stride)


def get_strided_spans(docs: Sequence[Doc], window: int, stride: int) -> list[list[Span]]:
    # The last span is the first one that reaches the end.
    last_starts = [-(-max(0, len(doc) - window) // stride) * stride for doc in docs]
    return [
        [doc[start : start + window] for start in range(0, last + 1, stride)] if len(doc) else []
        for doc, last in zip(docs, last_starts, strict=True)
    ]


@checked("spacy-transformers.sent_spans.v1")
def configure_sent_spans() -> SpanGetter:
    """Read each sentence as a span. The sentences must have been set."""
    return get_sent_spans


def get_sent_spans(docs: Sequence[Doc]) -> list[list[Span]]:
    return [list(doc.sents) for doc in docs]


@checked("spacy-transformers.doc_spans.v1")
def configure_doc_spans() -> SpanGetter:
    """Read each doc as one span."""
    return get_doc_spans


def get_doc_spans(docs: Sequence[Doc]) -> list[list[Span]]:
    return [[doc[:]] for doc in docs]


NAMES: dict[str, dict[str, Callable[..., object]]] = {
    "annotation_setters": {
        "spacy-transformers.null_annotation_setter.v1": configure_null_annotation_setter,
    },
    "span_getters": {
        "spacy-transformers.strided_spans.v1": configure_strided_spans,
        "spacy-transformers.sent_spans.v1": configure_sent_spans,
        "spacy-transformers.doc_spans.v1": configure_doc_spans,
    },
}


def register_names() -> None:
    """Make the registries that spacy-transformers adds to spaCy, with functions under its names, so
    that configs resolve without it. If it is imported later, its functions replace these.
    """
    for kind, functions in NAMES.items():
        if not hasattr(registry, kind):
            setattr(registry, kind, catalogue.create("spacy", kind, entry_points=True))
        known = getattr(registry, kind)
        for name, function in functions.items():
            if name not in known:
                known.register(name, func=function)
