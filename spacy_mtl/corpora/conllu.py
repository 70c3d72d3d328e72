"""Reads CoNLL-U files: https://universaldependencies.org/format.html."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from spacy.parts_of_speech import IDS as UPOS
from spacy.tokens import Doc, Span
from spacy.util import filter_spans
from spacy.vocab import Vocab

from ..errors import Errors
from .text_io import check_iob, clean_words, read_lines

_ID = re.compile(r"(\d+)(?:([-.])(\d+))?")
_BRACKET = re.compile(r"\((?P<opened>[^()]+)(?P<single>\))?|(?P<closed>[^()]+)\)")


class Word(NamedTuple):
    """A syntactic word. `start`: whether it opens a sentence. `space`: whether a space follows."""

    line: int
    form: str
    upos: str
    xpos: str
    misc: dict[str, str]
    start: bool
    space: bool


class Mention(NamedTuple):
    """One pair of entity brackets: the words from `start` to before `end`, and its `-` fields."""

    start: int
    end: int
    fields: list[str]


Meta = dict[str, str]
Sentence = tuple[Meta, list[Word]]


def read_conllu(
    path: Path,
    vocab: Vocab,
    *,
    tags: Literal["xpos", "upos"] = "xpos",
    category: str = "meta::genre",
) -> Iterator[Doc]:
    """Read the documents of a CoNLL-U file: tags, sentences, entities and a category.

    Entities are read from `NER=` (IOB2) in MISC, or else from the named mentions of `Entity=`. A
    document begins at `# newdoc` and where the category changes.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    tags (Literal["xpos", "upos"]): The column that becomes `token.tag_`.
    category (str): The key of the `# key = value` comment that holds the label in
        `doc.cats`, or "newdoc" for the text before the first `-` or `_` of `# newdoc id`.
    YIELDS (Doc): The docs. `cats` has one label, with the value 1.
    RAISES (ValueError): M113 for another column, M103 to M107 if a line breaks the format.
    """
    if tags not in ("xpos", "upos"):
        raise ValueError(
            Errors.M113.format(value=tags, option="tag column", choices=["xpos", "upos"])
        )
    sentences = list(_read_sentences(path))
    has_ner = any("NER" in word.misc for _, words in sentences for word in words)
    declared = (meta["global.Entity"] for meta, _ in sentences if "global.Entity" in meta)
    fields = next(declared, "").split("-")
    has_mentions = not has_ner and {"etype", "identity"} <= set(fields)
    for label, words in _group_documents(sentences, category):
        starts: list[bool | int | None] = [word.start for word in words]
        ner = [(word.line, word.misc.get("NER", "O")) for word in words]
        doc = Doc(
            vocab,
            words=clean_words(word.form for word in words),
            spaces=[word.space for word in words],
            tags=[getattr(word, tags) for word in words],
            pos=[word.upos if word.upos in UPOS else "" for word in words],
            sent_starts=starts,
            ents=check_iob(path, ner, starts) if has_ner else None,
        )
        if has_mentions:
            doc.set_ents(_named_spans(doc, read_mentions(path, words), fields))
        if label is not None:
            doc.cats = {label: 1.0}
        yield doc


def read_mentions(path: Path, words: list[Word]) -> list[Mention]:
    """Match the `Entity=` brackets of one document, as in CoNLL-2012 and CorefUD.

    path (Path): The file the words come from.
    words (List[Word]): The words of the document.
    RETURNS (List[Mention]): All mentions, including nested ones, in the order of their ends.
    RAISES (ValueError): M105 if brackets do not balance, M106 if a mention crosses a sentence.
    """
    mentions = []
    opened: dict[str, list[tuple[int, list[str]]]] = {}
    for i, word in enumerate(words):
        value = word.misc.get("Entity", "")
        if _BRACKET.sub("", value):
            raise _error(Errors.M105, path, word)
        for match in _BRACKET.finditer(value):
            group, *fields = (match["opened"] or match["closed"]).split("-")
            if match["opened"]:
                opened.setdefault(group, []).append((i, fields))
            if match["single"] or match["closed"]:
                if not opened.get(group):
                    raise _error(Errors.M105, path, word)
                start, fields = opened[group].pop()
                if any(inner.start for inner in words[start + 1 : i + 1]):
                    raise _error(Errors.M106, path, word)
                mentions.append(Mention(start, i + 1, fields))
    for start, _ in chain.from_iterable(opened.values()):
        raise _error(Errors.M105, path, words[start])
    return mentions


def _error(message: str, path: Path, word: Word) -> ValueError:
    return ValueError(message.format(path=path, line=word.line, value=word.misc["Entity"]))


def _named_spans(doc: Doc, mentions: Iterable[Mention], declared: list[str]) -> list[Span]:
    """Select the mentions that flat NER annotates: those with an identity and a proper noun."""
    # The first declared field is the group, which is not in `Mention.fields`.
    etype, identity = (declared.index(name) - 1 for name in ("etype", "identity"))
    return filter_spans(
        Span(doc, start, end, label=fields[etype])
        for start, end, fields in mentions
        if len(fields) > max(etype, identity) and fields[identity] not in ("", "_")
        if any(token.pos_ == "PROPN" for token in doc[start:end])
    )


def _group_documents(
    sentences: Iterable[Sentence], category: str
) -> Iterator[tuple[str | None, list[Word]]]:
    label: str | None = None
    document: list[Word] = []
    for meta, words in sentences:
        found = _find_category(meta, category)
        is_new = any(key.partition(" ")[0] == "newdoc" for key in meta)
        if document and (is_new or found not in (None, label)):
            yield label, document
            document = []
        label = found if is_new else found or label
        document += words
    if document:
        yield label, document


def _find_category(meta: Meta, key: str) -> str | None:
    if key != "newdoc":
        return meta.get(key) or None
    match = re.match("([^-_]+)[-_]", meta.get("newdoc id", ""))
    return match[1] if match else None


def _read_sentences(path: Path) -> Iterator[Sentence]:
    meta: Meta = {}
    rows: list[tuple[int, list[str]]] = []
    for number, line in read_lines(path):
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            meta[key.strip()] = value.strip()
        elif line.strip():
            columns = line.split("\t")
            if len(columns) != 10:
                raise ValueError(
                    Errors.M103.format(
                        path=path, line=number, expected=10, found=len(columns), value=line
                    )
                )
            rows.append((number, columns))
        elif rows:
            yield meta, _parse_words(path, rows)
            meta, rows = {}, []
    if rows:
        yield meta, _parse_words(path, rows)


def _parse_words(path: Path, rows: list[tuple[int, list[str]]]) -> list[Word]:
    """Convert the rows of a sentence to words. The row of a range sets only their spacing."""
    words: list[Word] = []
    ranges: list[tuple[int, int, int, str, bool]] = []
    for line, columns in rows:
        id_, form, _, upos, xpos, *_, misc_column = columns
        misc = dict(item.split("=", 1) for item in misc_column.split("|") if "=" in item)
        space = misc.get("SpaceAfter") != "No"
        match = _ID.fullmatch(id_)
        number, kind, last = match.groups() if match else (0, None, 0)
        if not match or (kind != "." and int(number) != len(words) + 1):
            value = f"{id_} after {len(words)}"
            raise ValueError(Errors.M104.format(path=path, line=line, value=value))
        if kind == "-":
            ranges.append((line, len(words), int(last), form, space))
        elif kind is None:
            upos, xpos = ("" if tag == "_" else tag for tag in (upos, xpos))
            words.append(Word(line, form, upos, xpos, misc, not words, space))
    for line, first, last, form, space in ranges:
        if not first < last <= len(words):
            value = f"{first + 1}-{last} before {len(words) + 1}"
            raise ValueError(Errors.M104.format(path=path, line=line, value=value))
        # Words that spell the range get no spaces between them. Others (du = de + le) do.
        is_apart = "".join(word.form for word in words[first:last]) != form
        inner = [word._replace(space=is_apart) for word in words[first : last - 1]]
        words[first:last] = [*inner, words[last - 1]._replace(space=space)]
    return words
