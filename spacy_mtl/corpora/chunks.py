"""Cut long docs at sentence boundaries."""

from collections.abc import Iterator
from itertools import pairwise

from spacy.tokens import Doc

ATTRS: list[int | str] = ["TAG", "POS", "MORPH", "LEMMA", "SENT_START", "ENT_IOB", "ENT_TYPE"]


def cut_doc(doc: Doc, words: int) -> Iterator[Doc]:
    """Cut a doc into chunks of whole sentences, as many in each as the limit allows.

    A sentence over the limit is a chunk of its own. There is no cut inside an entity, or where
    the doc does not say that a sentence starts.

    doc (Doc): The doc.
    words (int): The most words in a chunk; 0 leaves the doc whole.
    RETURNS (Iterator[Doc]): The chunks, each with the annotations of its words in `ATTRS` and
        all `cats` of the doc; what is missing in the doc is missing in them.
    """
    if not words or len(doc) <= words:
        yield doc
        return
    array = doc.to_array(ATTRS)
    for start, end in pairwise(_find_cuts(doc, words)):
        chunk = Doc(
            doc.vocab,
            words=[token.text for token in doc[start:end]],
            spaces=[bool(token.whitespace_) for token in doc[start:end]],
        )
        chunk.from_array(ATTRS, array[start:end])  # type: ignore[arg-type]
        chunk.cats = dict(doc.cats)
        yield chunk


def _find_cuts(doc: Doc, words: int) -> list[int]:
    starts = [token.i for token in doc[1:] if token.is_sent_start and token.ent_iob_ != "I"]
    cuts = [0]
    for start, end in pairwise([0, *starts, len(doc)]):
        if end - cuts[-1] > words and start > cuts[-1]:
            cuts.append(start)
    return [*cuts, len(doc)]
