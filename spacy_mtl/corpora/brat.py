"""Reads the standoff files of BRAT: https://brat.nlplab.org/standoff.html."""

import re
from collections.abc import Iterator
from pathlib import Path

from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..types import Settings
from .documents import set_document
from .json_files import Numbered
from .labelled_spans import Place, set_places
from .linked_spans import read_links
from .omissions import Omissions
from .text_io import UTF8, clean, get_tokenizer, make_error, read_lines, read_text

KINDS = {
    "E": "events",
    "A": "attributes",
    "M": "attributes",
    "N": "normalizations",
    "#": "notes",
    "*": "equivalences",
}


def read_brat(
    path: Path,
    vocab: Vocab,
    *,
    lang: str = "en",
    spans: str = "",
    encoding: str = UTF8,
    skip_errors: bool = False,
) -> Iterator[Doc]:
    """Read a text, its entities and its relations. Entities of several parts are left out, and
    their tokens are missing. If the file has no entities, all are missing: texts that nobody
    annotated have an empty `.ann` file too. The same holds for relations.

    path (Path): The `.ann` file. The text is in the file of the same name that ends in `.txt`.
    vocab (Vocab): The vocab of the docs.
    lang (str): The language whose tokenizer splits the text.
    spans (str): The key in `doc.spans` for the entities; empty for `doc.ents`.
    encoding (str): The encoding of both files.
    skip_errors (bool): Whether entities that do not fit the text are left out.
    YIELDS (Doc): The doc. Its document id is the name of the file without the suffix.
    RAISES (ValueError): M101 if the text is missing, M114 if a line breaks the format; as
        `set_places`.
    """
    text = clean(read_text(path.with_suffix(".txt"), encoding))
    doc = get_tokenizer(lang, vocab).make_doc(text)
    set_document(doc, path.stem)
    places, unknown = list[Place](), list[Place]()
    links, ids = list[Numbered](), list[Settings]()
    with Omissions(path, skip_errors) as omissions:
        for number, line in read_lines(path, encoding):
            if line.startswith("R"):
                links.append((number, _read_relation(omissions, number, line)))
            elif line.strip() and line[0] != "T":
                omissions.add_unread("annotations", KINDS.get(line[0], line), number)
            elif line.strip():
                parts = _read_entity(omissions, number, line)
                places += parts if len(parts) == 1 else []
                unknown += parts if len(parts) > 1 else []
                name = line.partition("\t")[0]
                ids += [{"id": name, "start": p.start, "end": p.end} for p in parts[:1]]
                if len(parts) > 1:
                    omissions.add_left_out("entities of several parts", number)
        if places or unknown:
            set_places(doc, omissions, places, group=spans, unknown=unknown)
        else:
            omissions.add_left_out("entities: the file has none, so all are missing", 1)
        if links:
            read_links(omissions, doc, links, ids)
        if len(doc):
            yield doc


def _read_relation(omissions: Omissions, number: int, line: str) -> Settings:
    """RETURNS (Dict[str, str]): A relation, such as "R1\tknows Arg1:T1 Arg2:T2"."""
    match = re.fullmatch(r"R\S*\t(\S+) \S+:(T\S+) \S+:(T\S+)\s*", line)
    if match is None:
        fix = "R1, a tab, the label, Arg1:T1 and Arg2:T2"
        raise make_error(omissions.get_place(number), "a relation", line, fix)
    return dict(zip(("type", "from_id", "to_id"), match.groups(), strict=True))


def _read_entity(omissions: Omissions, number: int, line: str) -> list[Place]:
    """RETURNS (List[Place]): The parts of an entity, such as "T1\tPER 0 4;9 13\tMira Tarn"."""
    match = re.fullmatch(r"T\S*\t(\S+) (\d+ \d+(?:;\d+ \d+)*)(?:\t(.*))?", line)
    if match is None:
        fix = "T1, a tab, the label, start and end, a tab and the text"
        raise make_error(omissions.get_place(number), "an entity", line, fix)
    label, offsets, text = match.groups()
    parts = [tuple(map(int, part.split())) for part in offsets.split(";")]
    return [
        Place(number, start, end, clean(label), text=text if len(parts) == 1 else None)
        for start, end in parts
    ]
