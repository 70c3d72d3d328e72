"""Reads fastText's text classification files: https://fasttext.cc/docs/en/supervised-tutorial.html."""

from collections.abc import Iterator
from pathlib import Path

from spacy import blank
from spacy.tokens import Doc
from spacy.vocab import Vocab

from .omissions import Omissions
from .text_io import UTF8, Cats, read_lines, with_cats

PREFIX = "__label__"


def read_fasttext(
    path: Path, vocab: Vocab, *, lang: str = "en", encoding: str = UTF8
) -> Iterator[Doc]:
    """Read a text per line with its categories, such as `__label__weather good rain`.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    lang (str): The language whose tokenizer splits the texts.
    encoding (str): The encoding, as in `read_text`.
    YIELDS (Doc): The docs. `cats` has all labels of the file. It is empty for a line without a
        label, which W111 counts.
    RAISES (ValueError): As `read_text`.
    """
    nlp = blank(lang, vocab=vocab)
    pairs: list[tuple[Doc, Cats | None]] = []
    with Omissions(path) as omissions:
        for line, content in read_lines(path, encoding):
            cats: Cats = {}
            text = content.strip()
            while text.startswith(PREFIX):
                label, _, text = text.partition(" ")
                cats[label.removeprefix(PREFIX)] = 1.0
                text = text.lstrip()
            if text:
                pairs.append((nlp.make_doc(text), cats or None))
            if cats and not text:
                omissions.add_left_out("lines without text", line)
            if text and not cats:
                omissions.add_left_out("labels that are missing", line)
        yield from with_cats(pairs)


def looks_like_fasttext(head: str) -> bool:
    """RETURNS (bool): Whether the first line that is not blank begins with a label."""
    return head.lstrip().startswith(PREFIX)
