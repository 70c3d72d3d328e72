"""Cut long docs at sentence boundaries."""

from collections.abc import Collection, Iterator
from itertools import pairwise

from spacy.tokens import Doc

from ..annotations import AnnotationLayer, get_layers
from .documents import keep_document


def cut_doc(doc: Doc, words: int) -> Iterator[Doc]:
    """Cut a doc into chunks of whole sentences, as many in each as the limit allows.

    A sentence over the limit is a chunk of its own. A doc is cut only where it has a sentence
    start, and not inside an entity or another labelled span.

    doc (Doc): The doc.
    words (int): The most words in a chunk; 0 leaves the doc whole.
    YIELDS (Doc): The chunks, each with the annotations of its words and with all categories of the
        doc. An annotation that is missing in the doc is missing in the chunks. All chunks have
        the document id of the doc.
    """
    if not words or len(doc) <= words:
        yield doc
        return
    layers = [layer for layer in get_layers().values() if layer.is_annotated(doc)]
    for start, end in pairwise(_find_cuts(doc, words, layers)):
        chunk = make_bare_doc(doc, start, end)
        keep_document(doc, chunk)
        for layer in layers:
            layer.copy(doc, chunk, start)
        yield chunk


def make_bare_doc(doc: Doc, start: int = 0, end: int | None = None) -> Doc:
    """RETURNS (Doc): A doc of the same tokens, or a part of them, without annotation."""
    tokens = doc[start:end]
    words = [token.text for token in tokens]
    return Doc(doc.vocab, words=words, spaces=[bool(token.whitespace_) for token in tokens])


def _find_cuts(doc: Doc, words: int, layers: Collection[AnnotationLayer[object]]) -> list[int]:
    joined = {i for layer in layers for i in layer.find_joined(doc)}
    starts = [token.i for token in doc[1:] if token.is_sent_start and token.i not in joined]
    cuts = [0]
    for start, end in pairwise([0, *starts, len(doc)]):
        if end - cuts[-1] > words and start > cuts[-1]:
            cuts.append(start)
    return [*cuts, len(doc)]
