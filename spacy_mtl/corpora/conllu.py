"""Reads CoNLL-U files: https://universaldependencies.org/format.html."""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Literal, NamedTuple

import numpy
from spacy.parts_of_speech import IDS as UPOS
from spacy.tokens import Doc, Span
from spacy.util import filter_spans
from spacy.vocab import Vocab

from ..annotations.tokens import set_attributes
from ..annotations.trees import replace_relations
from ..errors import Errors, Warnings
from .documents import set_document
from .omissions import Omissions, warn_of_unused
from .text_io import IOB, NO_TAG, UTF8, check_iob, clean_words, parse_comment, read_lines

GENRE = "meta::genre"
MENTIONS = "Entity"
KEYS = ("NER", "name", MENTIONS)  # the usual keys of entities in MISC
HINT = "Choose the key of the entities with --misc."
_ID = re.compile(r"(\d+)(?:([-.])(\d+))?")
_BRACKET = re.compile(r"\((?P<opened>[^()]+)(?P<single>\))?|(?P<closed>[^()]+)\)")


class Relation(NamedTuple):
    """The head of a word, as the number of words from the word to it, and the relation to it."""

    offset: int
    label: str


class Word(NamedTuple):
    """A syntactic word. `start`: whether it opens a sentence. `space`: whether a space follows."""

    line: int
    form: str
    upos: str
    xpos: str
    misc: dict[str, str]
    start: bool
    space: bool
    lemma: str = ""
    feats: str = ""
    relation: Relation | None = None


class Mention(NamedTuple):
    """One pair of entity brackets: the words from `start` to before `end`, and its `-` fields."""

    start: int
    end: int
    fields: list[str]


class Document(NamedTuple):
    """The words of a document and its category. `is_declared`: whether it has `# global.Entity`.
    `name`: its id; None if the file marks no documents.
    """

    label: str | None
    words: list[Word]
    is_declared: bool
    name: str | None


class Scheme(NamedTuple):
    """How a file annotates entities and features.

    key (str): The key of entities in MISC; "" if there is none.
    group (str): The key in `doc.spans` for all mentions; "" to leave them out.
    fields (List[str]): The fields of mentions.
    default (str): The tag of words without the key.
    has_feats (bool): Whether it has features.
    """

    key: str
    group: str
    fields: list[str]
    default: str
    has_feats: bool


Meta = dict[str, str]
Sentence = tuple[Meta, list[Word]]


def read_conllu(
    path: Path,
    vocab: Vocab,
    *,
    tags: Literal["xpos", "upos"] = "xpos",
    category: str = "",
    misc: str = "",
    spans: str = "",
    encoding: str = UTF8,
    skip_errors: bool = False,
) -> Iterator[Doc]:
    """Read the documents of a CoNLL-U file: tags, lemmas, features, sentences, trees, entities and
    a category.

    Entities are read from a key of MISC: the entity tags of `NER=` or `name=`, or else the named
    mentions of `Entity=`. If the file has tags "O", a word without the key has a missing tag;
    otherwise it is outside of entities. Mentions are missing in a document that has neither a
    mention nor a line `# global.Entity`.

    A word with a part of speech has no features if its column is `_` and the file has features;
    otherwise they are missing. A document with and without trees is divided between its sentences
    with and without.

    A document begins at `# newdoc` and where the category changes. If the file has no `# newdoc`
    and each sentence has a category, each is a document.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    tags (Literal["xpos", "upos"]): The column that becomes `token.tag_`.
    category (str): The key of the `# key = value` comment that holds the label in
        `doc.cats`, or "newdoc" for the text before the first `-` or `_` of `# newdoc id`. By
        default meta::genre, or else intent.
    misc (str): The key in MISC that holds the entities, by default the first of NER, name and
        Entity that the file has.
    spans (str): The key in `doc.spans` for all mentions of `Entity=`, named or not, with their
        types. They may contain each other. Empty to leave them out.
    encoding (str): The encoding, as in `read_text`.
    skip_errors (bool): Whether to leave out sentences that break the format, and entities and
        trees that are wrong.
    YIELDS (Doc): The docs. `cats` has one label, with the value 1.
    RAISES (ValueError): M113 for another column, M103 to M107 or M144 if a line breaks the format,
        M135 for masked text, M136 if `misc` is Entity, or `spans` is given, and the file does
        not declare its fields; others as `read_text`.
    """
    if tags not in ("xpos", "upos"):
        raise ValueError(
            Errors.M113.format(value=tags, option="tag column", choices=["xpos", "upos"])
        )
    with Omissions(path, skip_errors, HINT) as omissions:
        sentences = _drop_masked(path, list(_read_sentences(path, encoding, omissions)), omissions)
        words = [word for _, words in sentences for word in words]
        has_tags = {tag: any(getattr(word, tag) for word in words) for tag in ("xpos", "upos")}
        if has_tags["upos"] and not has_tags[tags]:
            warnings.warn(Warnings.W116.format(path=path))
        category = _choose_category(path, sentences, category)
        scheme = _find_scheme(path, sentences, misc, spans, omissions)
        for document in _group_documents(path, sentences, category):
            for part in _divide_by_trees(document):
                yield _make_doc(path, vocab, part, tags, scheme, omissions)


def looks_like_conllu(head: str) -> bool:
    """RETURNS (bool): Whether the first row of a text has ten columns and begins with a number."""
    rows = (line for line in head.split("\n") if line.strip() and line[0] != "#")
    return re.match(r"\d[\d.-]*(\t[^\t]*){9}$", next(rows, "")) is not None


def _make_doc(
    path: Path,
    vocab: Vocab,
    document: Document,
    tags: str,
    scheme: Scheme,
    omissions: Omissions,
) -> Doc:
    words = document.words
    starts: list[bool | int | None] = [word.start for word in words]
    ents = None
    if scheme.key not in ("", MENTIONS):
        ner = [(word.line, word.misc.get(scheme.key, scheme.default)) for word in words]
        with omissions.skipping("documents' entities", words[0].line):
            ents = check_iob(path, ner, starts)
    doc = Doc(
        vocab,
        words=clean_words(word.form for word in words),
        spaces=[word.space for word in words],
        tags=[getattr(word, tags) for word in words],
        pos=[word.upos if word.upos in UPOS else "" for word in words],
        lemmas=[word.lemma for word in words],
        sent_starts=starts,
        ents=ents,
    )
    if scheme.has_feats:
        _set_features(doc, words, omissions)
    if any(word.relation for word in words):
        _set_tree(doc, words)
    is_declared = document.is_declared or any(MENTIONS in word.misc for word in words)
    if is_declared and (scheme.group or scheme.key == MENTIONS):
        with omissions.skipping("documents' entities", words[0].line):
            mentions = read_mentions(path, words)
            if scheme.key == MENTIONS:
                doc.set_ents(_named_spans(doc, mentions, scheme.fields))
            if scheme.group:
                doc.spans[scheme.group] = _typed_spans(doc, mentions, scheme.fields)
    if document.label is not None:
        doc.cats = {document.label: 1.0}
    set_document(doc, document.name)
    return doc


def _set_features(doc: Doc, words: Sequence[Word], omissions: Omissions) -> None:
    values = numpy.zeros((len(doc), 1), dtype="uint64")
    for row, word in zip(values, words, strict=True):
        if not all(re.fullmatch("[^=]+=[^=]+", feat) for feat in word.feats.split("|") if feat):
            omissions.add_left_out("features that are not Name=Value", word.line)
        elif word.feats or word.upos:
            row[0] = doc.vocab.morphology.add(word.feats)
    set_attributes(doc, ["MORPH"], values)


def _set_tree(doc: Doc, words: Sequence[Word]) -> None:
    values = numpy.zeros((len(doc), 2), dtype="uint64")
    for row, word in zip(values, words, strict=True):
        if word.relation is not None:
            offset, label = word.relation
            row[:] = offset % 2**64, doc.vocab.strings.add(label)
    replace_relations(doc, values)


def _divide_by_trees(document: Document) -> Iterator[Document]:
    """Divide a document between sentences with and without trees. spaCy finds sentence starts by
    the trees when it loads a doc that has some, so it would lose those of the other sentences.
    """
    sentences: list[list[Word]] = []
    for word in document.words:
        if word.start:
            sentences.append([])
        sentences[-1].append(word)
    for _, part in groupby(sentences, key=lambda words: any(word.relation for word in words)):
        yield document._replace(words=[*chain.from_iterable(part)])


def _drop_masked(path: Path, sentences: list[Sentence], omissions: Omissions) -> list[Sentence]:
    """Leave out the sentences whose words are underscores, or raise M135. A sentence of one `_` may
    be a real one, unless others are masked.
    """
    kept: list[Sentence] = []
    masked: list[Sentence] = []
    for sentence in sentences:
        is_masked = all(not word.form.strip("_") for word in sentence[1])
        (masked if is_masked else kept).append(sentence)
    if all(len(words) == 1 for _, words in masked):
        return sentences
    for _, words in masked:
        error = ValueError(Errors.M135.format(path=path, line=words[0].line))
        omissions.add_error("masked sentences", words[0].line, error)
    return kept


def _find_scheme(
    path: Path, sentences: Sequence[Sentence], misc: str, spans: str, omissions: Omissions
) -> Scheme:
    """Find out how the file annotates entities and features."""
    declared = [meta["global.Entity"] for meta, _ in sentences if "global.Entity" in meta]
    fields = declared[0].split("-") if declared else []
    has_fields = {"etype", "identity"} <= set(fields)
    if (misc == MENTIONS or spans) and not has_fields:
        raise ValueError(Errors.M136.format(path=path, fields="-".join(fields)))
    lines: dict[str, int] = {}
    values: dict[str, set[str]] = {}
    for word in (word for _, words in sentences for word in words):
        for key, value in word.misc.items():
            lines.setdefault(key, word.line)
            values.setdefault(key, set()).add(value)
    if misc and misc not in lines:
        warn_of_unused(path, "--misc", misc, lines)
    is_tagged = all(tag == "O" or IOB.fullmatch(tag) for tag in values.get("name", ()))
    found = [key for key in KEYS if key in lines and (key != "name" or is_tagged)]
    usable = [key for key in found if key != MENTIONS] + [MENTIONS] * has_fields
    chosen = misc or next(iter(usable), "")
    for key in found:
        if key != chosen and not (spans and key == MENTIONS):
            omissions.add_unread("keys of MISC", key, lines[key])
    default = "" if "O" in values.get(chosen, ()) else "O"
    has_feats = any(word.feats for _, words in sentences for word in words)
    return Scheme(chosen, spans, fields, default, has_feats)


def _choose_category(path: Path, sentences: Iterable[Sentence], category: str) -> str:
    found = {key for meta, _ in sentences for key in meta}
    if not category:
        return "intent" if "intent" in found and GENRE not in found else GENRE
    if category != "newdoc" and category not in found:
        warn_of_unused(path, "--category", category, found)
    return category


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


def _typed_spans(doc: Doc, mentions: Iterable[Mention], declared: list[str]) -> list[Span]:
    """RETURNS (List[Span]): All mentions that have a type, by their first words, the longest
    first.
    """
    etype = declared.index("etype") - 1
    found = {
        (start, -end, fields[etype])
        for start, end, fields in mentions
        if len(fields) > etype and fields[etype] not in ("", "_")
    }
    return [Span(doc, start, -end, label) for start, end, label in sorted(found)]


def _group_documents(path: Path, sentences: Sequence[Sentence], category: str) -> list[Document]:
    has_marks = any(map(_is_new, (meta for meta, _ in sentences)))
    found = [_find_category(meta, category) for meta, _ in sentences]
    is_split = not has_marks and None not in found
    documents: list[Document] = []
    number, name = 0, None
    for label, (meta, words) in zip(found, sentences, strict=True):
        previous = documents[-1].label if documents else None
        is_new = _is_new(meta)
        if not documents or is_new or is_split or label not in (None, previous):
            if has_marks and (is_new or not number):
                number += 1
                name = meta.get("newdoc id") or f"{path.stem}:{number}"
            documents.append(Document(label if is_new else label or previous, [], False, name))
        last = documents[-1]
        documents[-1] = last._replace(
            words=last.words + words, is_declared=last.is_declared or "global.Entity" in meta
        )
    return documents


def _is_new(meta: Meta) -> bool:
    return any(key.partition(" ")[0] == "newdoc" for key in meta)


def _find_category(meta: Meta, key: str) -> str | None:
    if key != "newdoc":
        return meta.get(key) or None
    match = re.match("([^-_]+)[-_]", meta.get("newdoc id", ""))
    return match[1] if match else None


def _read_sentences(path: Path, encoding: str, omissions: Omissions) -> Iterator[Sentence]:
    meta: Meta = {}
    rows: list[tuple[int, list[str]]] = []
    for number, line in chain(read_lines(path, encoding), [(0, "")]):
        if line.startswith("#"):
            key, value = parse_comment(line)
            meta[key] = value
        elif line.strip():
            rows.append((number, line.split("\t")))
        elif rows:
            with omissions.skipping("sentences", rows[0][0]):
                words = _parse_words(path, rows)
                with omissions.skipping("trees", rows[0][0]):
                    words = _read_tree(path, rows, words, omissions)
                yield meta, words
            meta, rows = {}, []


def _parse_words(path: Path, rows: list[tuple[int, list[str]]]) -> list[Word]:
    """Convert the rows of a sentence to words. The row of a range sets only their spacing."""
    words: list[Word] = []
    ranges: list[tuple[int, int, int, str, bool]] = []
    for line, columns in rows:
        if len(columns) != 10:
            value = "\t".join(columns)
            raise ValueError(
                Errors.M103.format(
                    path=path, line=line, expected=10, found=len(columns), value=value
                )
            )
        id_, form, lemma, upos, xpos, feats, *_, misc_column = columns
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
            upos, xpos = ("" if tag in NO_TAG else tag for tag in (upos, xpos))
            lemma = "" if lemma == "_" != form else lemma
            feats = "" if feats == "_" else feats
            words.append(Word(line, form, upos, xpos, misc, not words, space, lemma, feats))
    for line, first, last, form, space in ranges:
        if not first < last <= len(words):
            value = f"{first + 1}-{last} before {len(words) + 1}"
            raise ValueError(Errors.M104.format(path=path, line=line, value=value))
        # Words that spell the range get no spaces between them. Others (du = de + le) do.
        is_apart = "".join(word.form for word in words[first:last]) != form
        inner = [word._replace(space=is_apart) for word in words[first : last - 1]]
        words[first:last] = [*inner, words[last - 1]._replace(space=space)]
    return words


def _read_tree(
    path: Path, rows: list[tuple[int, list[str]]], words: list[Word], omissions: Omissions
) -> list[Word]:
    """Add the relations of a sentence to its words.

    RETURNS (List[Word]): The words. Those without a head or a relation have none.
    RAISES (ValueError): M144 if the heads are not those of a tree.
    """
    heads: dict[int, int] = {}
    words = words.copy()
    columns = [(line, row) for line, row in rows if row[0].isdigit()]
    for i, (line, (*_, head, label, _, _)) in enumerate(columns):
        if "_" in (head, label):
            if head not in ("_", "0"):
                omissions.add_left_out("heads without a relation", line)
            continue
        place = int(head) - 1 if head.isdigit() and int(head) <= len(words) else i
        reason = ""
        if place == i:
            reason = "not the number of another word"
        elif place < 0 and place in heads.values():
            reason = "that of a second root"
        heads[i] = place
        if not reason and _has_cycle(heads, i):
            reason = "part of a cycle"
        if reason:
            raise ValueError(Errors.M144.format(path=path, line=line, value=head, reason=reason))
        relation = Relation(0, "ROOT") if place < 0 else Relation(place - i, label)
        words[i] = words[i]._replace(relation=relation)
    return words


def _has_cycle(heads: Mapping[int, int], start: int) -> bool:
    place = heads[start]
    while place != start and place in heads:
        place = heads[place]
    return place == start
