"""Reads files with one word and its labels per line: CoNLL-2003 and its relatives, CoNLL-U Plus."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from spacy.parts_of_speech import IDS as UPOS
from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..errors import Errors, quote
from .documents import set_document
from .omissions import Omissions, warn_of_unused
from .text_io import (
    NO_TAG,
    UTF8,
    check_iob,
    clean_words,
    parse_comment,
    read_text,
    split_lines,
)

UNREAD = "-"
ROLES = ("index", "word", "lemma", "pos", "tag", "ner", "cat", "misc", UNREAD)
PLUS = {  # the columns of CoNLL-U Plus that have a role
    "ID": "index",
    "FORM": "word",
    "LEMMA": "lemma",
    "UPOS": "pos",
    "XPOS": "tag",
    "NER": "ner",
    "MISC": "misc",
}
CHUNKS = {"NP", "VP", "PP", "ADVP", "ADJP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"}
DOCSTART = "-DOCSTART-"
SAME_WIDTH = 0.9  # least share of the rows with the same number of columns
_INDEX = re.compile(r"(\d+)([-.]\d+)?")
_ENTITY = re.compile("[BIMESLU][-_:/.].+|.+[-_][BIMESLU]")
_COMMENT = re.compile(r"#\s*\S+( \S+)?\s*(=|:\s)")


class Block(NamedTuple):
    """The lines of one sentence. `opens`: whether a document begins with it."""

    opens: bool
    meta: dict[str, str]
    rows: list[tuple[int, list[str]]]


class Sentence(NamedTuple):
    """The words of a sentence, whether a space follows each, and their labels by role. `document`:
    the id of the document that begins with it, if it has one.
    """

    opens: bool
    words: list[str]
    spaces: list[bool]
    labels: dict[str, list[str]]
    category: str | None
    document: str | None = None


def read_columns(
    path: Path,
    vocab: Vocab,
    *,
    columns: str = "",
    category: str = "",
    encoding: str = UTF8,
    skip_errors: bool = False,
) -> Iterator[Doc]:
    """Read a file with a word and its labels per line, and a blank line after each sentence.

    Columns are separated by tabs, or else by spaces. A document begins at `-DOCSTART-` or
    `# newdoc`. In files without either, each sentence is a doc. The values `_`, `-` and `-X-` are
    missing labels. `# text` tells where spaces are.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    columns (str): The role of each column, such as "word,tag,-,ner". The roles are index, word,
        lemma, pos (universal tag), tag, ner (entity tag of any scheme), cat (category of the
        sentence), misc (with SpaceAfter=No) and "-", which is not read. By default they come from
        `# global.columns`, or are guessed from the values of the whole file.
    category (str): The key of the `# key = value` or `# key: value` comment that holds the
        category, by default intent.
    encoding (str): The encoding, as in `read_text`.
    skip_errors (bool): Whether to leave out wrong sentences.
    YIELDS (Doc): The docs. `cats` has one label, with the value 1.
    RAISES (ValueError): M103 for a row with another number of columns, M107 for a wrong entity tag,
        M113 or M133 for columns that do not fit the file, M134 for a sentence with several
        categories; others as `read_text`.
    """
    blocks = parse_blocks(read_text(path, encoding))
    if not blocks:
        return
    roles = _choose_roles(path, blocks, columns)
    if category and not columns:
        roles = [UNREAD if role == "cat" else role for role in roles]
    found = {key for block in blocks for key in block.meta}
    if category and category not in found:
        warn_of_unused(path, "--category", category, found)
    hint = f"Read as --columns {','.join(roles)}. If they hold labels, name them in --columns."
    if "ner" in roles and _is_io(Counter(_get_columns(blocks, len(roles))[roles.index("ner")])):
        blocks = _add_prefixes(blocks, roles.index("ner"))
    with Omissions(path, skip_errors, hint) as omissions:
        if not columns:
            for i, value in _find_unread(blocks, roles):
                omissions.add_unread("columns", f"{i + 1}, such as {value}", blocks[0].rows[0][0])
        sentences = []
        for block in blocks:
            with omissions.skipping("sentences", block.rows[0][0]):
                sentences.append(_parse_sentence(path, block, roles, category or "intent"))
        filled = [sentence for sentence in sentences if sentence.words]
        yield from make_docs(vocab, filled, path.stem)


def looks_like_columns(head: str) -> bool:
    """Tell whether a text has one word and its labels per line.

    head (str): The first lines of a file.
    RETURNS (bool): Whether nearly all rows have the same number of columns, at least two, and there
        is a document mark, a line with the names of the columns, or a column of entity tags. Or
        whether all rows have it, and there are several sentences of cells without spaces.
    """
    blocks = parse_blocks(head)
    if not blocks:
        return False
    width = _find_width(blocks)
    columns = _get_columns(blocks, width)
    n_rows = sum(len(block.rows) for block in blocks)
    if width < 2 or len(columns[0]) < SAME_WIDTH * n_rows:
        return False
    is_marked = DOCSTART in head or any("global.columns" in block.meta for block in blocks)
    is_separate = n_rows == len(columns[0]) > len(blocks) > 1
    has_spaces = any(" " in cell for column in columns for cell in column)
    has_tags = any(has_entities(Counter(column)) for column in columns)
    return is_marked or has_tags or (is_separate and not has_spaces)


def parse_blocks(text: str) -> list[Block]:
    """Split a text into sentences.

    text (str): The text of a file.
    RETURNS (List[Block]): The sentences with at least one row.
    """
    lines = [(number, line) for number, line in enumerate(split_lines(text), 1)]
    data = [line for _, line in lines if line.strip() and line[0] != "#"]
    is_tabbed = "\t" in next((line for line in data if DOCSTART not in line), "")
    widths = Counter(len(_split(line, is_tabbed)) for line in data if DOCSTART not in line)
    width = widths.most_common(1)[0][0] if widths else 0
    blocks: list[Block] = []
    opens, meta, rows = False, dict[str, str](), list[tuple[int, list[str]]]()
    for number, line in [*lines, (0, "")]:
        cells = _split(line, is_tabbed)
        is_comment = line.startswith("#") and (
            len(cells) != width or (not is_tabbed and _COMMENT.match(line) is not None)
        )
        is_mark = line.startswith(DOCSTART) or DOCSTART in cells[:2]
        if rows and (is_mark or not line.strip()):
            blocks.append(Block(opens, meta, rows))
            opens, meta, rows = False, {}, []
        if is_mark:
            opens = True
        elif is_comment:
            key, value = parse_comment(line)
            meta[key] = value
            opens |= key.partition(" ")[0] == "newdoc"
        elif line.strip():
            rows.append((number, cells))
    return blocks


def make_docs(vocab: Vocab, sentences: Sequence[Sentence], name: str = "") -> Iterator[Doc]:
    """Make docs of sentences: one of each document, or one of each sentence without documents.

    vocab (Vocab): The vocab of the docs.
    sentences (Sequence[Sentence]): The sentences, all with the same roles.
    name (str): The name of the file. With a number it is the id of a document without one.
    YIELDS (Doc): The docs. In documents, another category begins another doc.
    """
    has_documents = any(sentence.opens for sentence in sentences)
    documents: list[list[Sentence]] = []
    category: str | None = None
    for sentence in sentences:
        is_same = has_documents and not sentence.opens and sentence.category in (None, category)
        if documents and is_same:
            documents[-1].append(sentence)
        else:
            documents.append([sentence])
            category = sentence.category
    number, document_id = 0, None
    for document in documents:
        if has_documents and (document[0].opens or not number):
            number += 1
            document_id = document[0].document or f"{name}:{number}"
        words = [word for sentence in document for word in sentence.words]
        labels = {
            role: [label for sentence in document for label in sentence.labels[role]]
            for role in document[0].labels
        }
        spaces = [space for sentence in document for space in sentence.spaces]
        doc = Doc(
            vocab,
            words=clean_words(words),
            spaces=[*spaces[:-1], False],
            tags=labels.get("tag"),
            pos=labels.get("pos"),
            lemmas=labels.get("lemma"),
            ents=labels.get("ner"),
            sent_starts=[i == 0 for sentence in document for i in range(len(sentence.words))],
        )
        if document[0].category is not None:
            doc.cats = {document[0].category: 1.0}
        set_document(doc, document_id)
        yield doc


def label_words(
    path: Path, lines: Sequence[int], columns: dict[str, list[str]]
) -> dict[str, list[str]]:
    """Convert the columns of one sentence to the labels of a doc.

    path (Path): The file, for messages.
    lines (Sequence[int]): The line of each word.
    columns (Dict[str, List[str]]): The values of the words by role.
    RETURNS (Dict[str, List[str]]): The labels by role: tag, pos, lemma and ner. "" is missing.
    RAISES (ValueError): M107 for a wrong entity tag.
    """
    labels: dict[str, list[str]] = {
        role: ["" if value in NO_TAG else value for value in columns[role]]
        for role in ("tag", "pos", "lemma")
        if role in columns
    }
    if "pos" in labels:
        labels["pos"] = [value if value in UPOS else "" for value in labels["pos"]]
    if "ner" in columns:
        starts = [i == 0 for i in range(len(lines))]
        labels["ner"] = check_iob(path, zip(lines, columns["ner"], strict=True), starts)
    return labels


def _split(line: str, is_tabbed: bool) -> list[str]:
    # Splits at spaces and tabs only: `str.split` would also split at a no-break space.
    return line.split("\t") if is_tabbed else re.split("[ \t]+", line.strip(" \t"))


def _choose_roles(path: Path, blocks: Sequence[Block], columns: str) -> list[str]:
    declared = next((b.meta["global.columns"] for b in blocks if "global.columns" in b.meta), "")
    width = _find_width(blocks)
    line, cells = next(row for block in blocks for row in block.rows if len(row[1]) == width)
    if columns:
        roles = [name.strip() for name in columns.split(",")]
        for role in roles:
            if role not in ROLES:
                raise ValueError(Errors.M113.format(option="column", value=role, choices=ROLES))
    elif declared:
        roles = [PLUS.get(name.rpartition(":")[2].upper(), UNREAD) for name in declared.split()]
        if "tag" not in roles and "pos" in roles:
            roles[roles.index("pos")] = "tag"
    else:
        roles = _guess_roles(blocks, width)
    used = [role for role in roles if role != UNREAD]
    reason = ""
    if used.count("word") != 1:
        reason = "one column must be 'word'"
    elif twice := [role for role, n in Counter(used).items() if n > 1]:
        reason = f"several are {quote(twice)}"
    elif len(roles) != len(cells):
        reason = f"they are {len(roles)}"
    elif not columns and _is_constant(blocks, roles.index("word"), width):
        reason = "the column of words has one value in each sentence, so it holds no words"
    elif set(used) <= {"index", "word", "misc"} and not any(block.meta for block in blocks):
        reason = "none has labels"
    if reason:
        raise ValueError(
            Errors.M133.format(
                path=path,
                columns=columns or declared or ",".join(roles),
                reason=reason,
                choices=", ".join(ROLES),
                line=line,
                n=len(cells),
                value=cells,
            )
        )
    return roles


def _find_width(blocks: Sequence[Block]) -> int:
    """RETURNS (int): The number of columns that most rows have."""
    widths = Counter(len(cells) for block in blocks for _, cells in block.rows)
    return widths.most_common(1)[0][0]


def _get_columns(blocks: Sequence[Block], width: int) -> list[list[str]]:
    """RETURNS (List[List[str]]): The values of each column, of the rows with all columns."""
    rows = [cells for block in blocks for _, cells in block.rows if len(cells) == width]
    return [list(column) for column in zip(*rows, strict=True)]


def _guess_roles(blocks: Sequence[Block], width: int) -> list[str]:
    """Guess the role of each column from the values of the whole file."""
    columns = _get_columns(blocks, width)
    values = {i: Counter(column) for i, column in enumerate(columns)}
    values = {i: counts for i, counts in values.items() if not counts.keys() <= NO_TAG}
    roles = [UNREAD] * width
    is_counted = all(block.rows[0][1][0].partition("-")[0] in ("0", "1") for block in blocks)
    is_numbered = is_counted and all(map(_INDEX.fullmatch, columns[0]))
    if is_numbered:
        roles[0] = "index"
        del values[0]
    word = next((i for i, counts in values.items() if not has_entities(counts)), width - 1)
    roles[word] = "word"
    values.pop(word, None)
    spans = [i for i, counts in values.items() if has_entities(counts) or _is_io(counts)]
    entities = [i for i in spans if not {tag[2:] for tag in values[i]} <= {"", *CHUNKS}]
    if entities:
        # Numbered files have the outer entities first. CoNLL-2003 has them after the chunks.
        last = entities[0] if is_numbered else entities[-1]
        roles[last] = "ner"
    else:
        last = width
    others = [i for i in values if word < i < last and i not in spans]
    if is_numbered and entities:
        constant = [i for i in others if _is_constant(blocks, i, width)]
        roles = ["cat" if i in constant[:1] else role for i, role in enumerate(roles)]
        others = [i for i in others if i not in constant]
    tags = [i for i in others if not _are_lemmas(columns[word], columns[i])]
    return ["tag" if i in tags[:1] else role for i, role in enumerate(roles)]


def has_entities(counts: Counter[str]) -> bool:
    """RETURNS (bool): Whether all values are entity tags, one of them of an entity. B_x and x-B are
    taken for such, so that they are errors later and no part-of-speech tags.
    """
    tags = counts.keys() - NO_TAG - {"O"}
    return bool(tags) and all(map(_ENTITY.fullmatch, tags))


def _is_io(counts: Counter[str]) -> bool:
    """RETURNS (bool): Whether the values are O and labels without prefix. O is the most frequent
    value then, unlike the tag O of some part-of-speech tags.
    """
    is_plain = len(counts) > 1 and not any(map(_ENTITY.fullmatch, counts))
    return is_plain and counts.most_common(1)[0][0] == "O"


def _is_constant(blocks: Sequence[Block], i: int, width: int) -> bool:
    """RETURNS (bool): Whether a column has one value in each sentence, and a sentence has several
    words.
    """
    groups = [[c[i] for _, c in block.rows if len(c) == width] for block in blocks]
    return max(map(len, groups)) > 1 and all(len(set(group)) <= 1 for group in groups)


def _are_lemmas(words: Sequence[str], values: Sequence[str]) -> bool:
    pairs = [(a.lower(), b.lower()) for a, b in zip(words, values, strict=True) if a.isalnum()]
    return 5 * sum(a == b for a, b in pairs) > len(pairs)


def _add_prefixes(blocks: Sequence[Block], column: int) -> list[Block]:
    """RETURNS (List[Block]): The sentences, with `I-` before the labels of one column."""
    for block in blocks:
        for _, cells in block.rows:
            if len(cells) > column and cells[column] not in NO_TAG | {"O"}:
                cells[column] = f"I-{cells[column]}"
    return list(blocks)


def _find_unread(blocks: Sequence[Block], roles: Sequence[str]) -> Iterator[tuple[int, str]]:
    """YIELDS (Tuple[int, str]): The index and a value of each column that is not read, unless it is
    empty.
    """
    for i, values in enumerate(_get_columns(blocks, len(roles))):
        value = next((value for value in values if value not in NO_TAG | {"O"}), None)
        if roles[i] == UNREAD and value is not None:
            yield i, value


def _parse_sentence(path: Path, block: Block, roles: Sequence[str], key: str) -> Sentence:
    """Convert the rows of a sentence to words and labels."""
    rows = []
    for line, cells in block.rows:
        if len(cells) != len(roles):
            raise ValueError(
                Errors.M103.format(
                    path=path, line=line, found=len(cells), expected=len(roles), value=cells
                )
            )
        # The rows of ranges (1-2) and of empty nodes (1.1) hold no words of their own.
        if "index" not in roles or cells[roles.index("index")].isdigit():
            rows.append((line, cells))
    columns = {
        role: [cells[i] for _, cells in rows] for i, role in enumerate(roles) if role != UNREAD
    }
    words = columns["word"]
    if "misc" in columns:
        spaces = ["SpaceAfter=No" not in value.split("|") for value in columns["misc"]]
    else:
        spaces = find_spaces(words, block.meta.get("text", ""))
    found = {value for value in columns.get("cat", ()) if value not in NO_TAG}
    found |= {block.meta[key]} if block.meta.get(key) else set()
    if len(found) > 1:
        line, values = block.rows[0][0], sorted(found)
        raise ValueError(Errors.M134.format(path=path, line=line, values=values))
    labels = label_words(path, [line for line, _ in rows], columns)
    category, document = min(found, default=None), block.meta.get("newdoc id")
    return Sentence(block.opens, words, spaces, labels, category, document)


def find_spaces(words: Sequence[str], text: str) -> list[bool]:
    """Find out where spaces are.

    words (Sequence[str]): The words of a sentence.
    text (str): The sentence.
    RETURNS (List[bool]): Whether a space follows each word. All are True if the text does not
        consist of the words.
    """
    spaces, position = [], 0
    for word in words:
        if not text.startswith(word, position):
            return [True] * len(words)
        end = position + len(word)
        position = end + len(text[end:]) - len(text[end:].lstrip())
        spaces.append(position > end or position == len(text))
    return spaces if position == len(text) else [True] * len(words)
