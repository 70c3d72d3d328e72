"""Turns records into docs: JSON Lines, JSON, Parquet and the exports of tools share this module."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from math import isfinite
from typing import NamedTuple

from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import get_words_and_spaces
from spacy.vocab import Vocab

from ..annotations.documents import write_numbers
from ..errors import Errors
from ..storage import is_number
from ..types import Settings
from .documents import set_document
from .json_files import Numbered, is_tuple
from .label_names import Names, name_labels, parse_names
from .labelled_spans import read_places, set_places
from .linked_spans import KEY as RELATIONS
from .linked_spans import read_links
from .omissions import Omissions
from .prodigy import PARTIAL, asks_about_spans, is_answer, read_answer
from .record_layout import WORDS, Layout, Records, Role, find_layout, is_upos
from .text_io import (
    OTHERS,
    UNKNOWN,
    Cats,
    check_iob,
    clean,
    clean_words,
    get_tokenizer,
    make_error,
    with_cats,
)

HINT = (
    "If they hold labels, name the key of categories with --category, or rename the others, "
    "such as to entities or tags."
)
TEXTS = ("text", "sentence", "utterance")
FORMS = ("text", "orth", "form")  # keys of a token's text
TOKEN_KEYS = {*FORMS, "start", "end", "id", "ws", "space", "disabled", "style"}
LISTS = ("lemmas", "morphs", "heads", "deps", "sent_starts")  # arguments of Doc
SCORES = "scores"
EMPTY: list[object] = [None, "", [], {}]
# Keys of the id of a record's document, in the record or in its "meta" or "metadata".
DOCUMENTS = ("document_id", "doc_id", "doc_key", "id", "uid", "guid")
# Keys without labels. Keys that begin with "_" have no labels either.
BOOKKEEPING = {
    *(*DOCUMENTS, "idx", "index", "meta", "metadata", "comments", "Comments"),
    *("annotator", "annotation_id", "created_at", "updated_at", "lead_time", "score", "spaces"),
}


class Words(NamedTuple):
    """The tokens of a doc, and whether a space follows each."""

    words: list[str]
    spaces: list[bool]


def read_records(
    omissions: Omissions,
    items: Iterable[Numbered],
    vocab: Vocab,
    *,
    lang: str = "en",
    text: str = "",
    category: str = "",
    names: str = "",
    spans: str = "",
    own_names: Names | None = None,
) -> Iterator[Doc]:
    """Turn records into docs. A missing key or null is a missing annotation.

    The doc is a text, or tokens (strings, or objects with `text`), or both. An empty list means
    that no entity or category applies. The keys of labels, of which the first in each group is
    read:

    - entities: `entities`, `spans`, `label` or `labels` with `[start, end, label]` in characters,
      or with objects (`start` and `end`, `start_offset` and `end_offset`, or `token_start` and
      `token_end`, whose end is the last token). `ner_tags`, `ner`, `slots` or `tags` with IOB,
      IOBES or BILUO tags.
    - tags: `tags`, `xpos`, `pos_tags`, `pos` or `upos` with a string or null per token. The last
      three are also read as parts of speech if they are universal ones.
    - categories: `cats`, `label`, `labels`, `category`, `categories`, `class`, `intent`,
      `sentiment` or `topic` with a string, a list of strings, true or false, or an object of
      numbers from 0 to 1, with null for an unknown category. Categories that a record does not
      name do not apply.
    - `relations`: a list of objects with `label` or `type` and the two spans: `head` and `child`,
      each a token or the first token and the one after the last; `head_span` and `child_span` with
      `start` and `end` in characters; or `from_id` and `to_id` with the ids of entities. A list
      holds the first and last token of both spans, then the label.
    - `scores`: an object of names and numbers, with null for a missing number.
    - `lemmas`, `morphs`, `heads` with `deps`, and `sent_starts`, as in `Example.from_dict`.

    Answers of Prodigy (`answer`, `options`) are read as in `read_answer`, JSON of `Doc.to_json` by
    spaCy. Entities lose spaces at their edges. Tokens of an entity that `skip_errors` leaves out
    are missing, as far as no other entity covers them.

    omissions (Omissions): The file.
    items (Iterable[Tuple[int, object]]): The records with their numbers: objects, training tuples
        of spaCy, or texts with their labels.
    vocab (Vocab): The vocab of the docs.
    lang (str): The language whose tokenizer splits a text without tokens.
    text (str): The key of the text; empty for the first of "text", "sentence" and "utterance" that
        the file has.
    category (str): The key of the categories; empty to look for it.
    names (str): The names of labels that are numbers, as in `parse_names`.
    spans (str): The key in `doc.spans` for the entities, which may overlap there; empty for
        `doc.ents`.
    own_names (Optional[Names]): Names in the file itself, used without `names`.
    YIELDS (Doc): The docs, with the document id of `find_document`. `cats` has all labels of the
        file, with NaN for unknown categories.
    RAISES (ValueError): M110 without a text, M111, M153 or M155 for a wrong entity, M114 or
        M154 for another wrong value, M151 if the records differ, M152 if names are missing.
    """
    records: Records = list(_normalize(omissions, items, text or TEXTS[0]))
    text = text or find_text([record for _, record in records])
    records = name_labels(omissions, records, parse_names(names) or own_names or {}, category)
    layout = find_layout(omissions, records, category)
    reader = RecordReader(get_tokenizer(lang, vocab), omissions, layout, records, text, spans)
    pairs = [reader.read(line, record) for line, record in records]
    for (line, record), (doc, _) in zip(records, pairs, strict=True):
        set_document(doc, find_document(record))
        if not len(doc):
            omissions.add_left_out("records without text", line)
    yield from with_cats(pair for pair in pairs if len(pair[0]))


def find_document(record: Settings) -> str | None:
    """RETURNS (Optional[str]): The id of the document of a record: the first of DOCUMENTS in the
    record itself, or else in its "meta" or "metadata".
    """
    for place in (record, record.get("meta"), record.get("metadata")):
        known = place if isinstance(place, dict) else {}
        for value in (known.get(key) for key in DOCUMENTS):
            if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
                return str(value)
    return None


def find_text(records: Collection[Settings]) -> str:
    """RETURNS (str): The key of the text in the records of a file."""
    found = (key for key in TEXTS if any(isinstance(record.get(key), str) for record in records))
    return next(found, TEXTS[0])


def _normalize(
    omissions: Omissions, items: Iterable[Numbered], text: str
) -> Iterator[tuple[int, Settings]]:
    """YIELDS (Tuple[int, Settings]): The records as objects, without answers of Prodigy."""
    items = list(items)
    objects = (value for _, value in items if isinstance(value, dict))
    about_spans = asks_about_spans(filter(is_answer, objects))
    for line, value in items:
        where = omissions.get_place(line)
        record = value
        if isinstance(value, list) and is_tuple(value):
            labels = value[1] if isinstance(value[1], dict) else {"label": value[1]}
            record = {text: value[0], **labels}
        if not isinstance(record, dict):
            raise make_error(where, "record", value, "a JSON object")
        if is_answer(record):
            leave_out = partial(omissions.add_left_out, line=line)
            record = read_answer(where, record, leave_out, about_spans=about_spans)
        if record is not None:
            yield line, record


class RecordReader:
    """Reads the records of one file, one doc each.

    nlp (Language): The tokenizer.
    omissions (Omissions): The file.
    layout (Layout): The keys with labels.
    records (Sequence[Tuple[int, Settings]]): All records of the file.
    text (str): The key of the text.
    group (str): The key in `doc.spans` for the entities; empty for `doc.ents`.
    """

    def __init__(
        self,
        nlp: Language,
        omissions: Omissions,
        layout: Layout,
        records: Records,
        text: str,
        group: str,
    ) -> None:
        self.nlp = nlp
        self.omissions = omissions
        self.layout = layout
        self.text = text
        self.group = group
        # Tools write an empty list for each record of a project without relations.
        self.has_relations = any(record.get(RELATIONS) for _, record in records)
        self.upos = [key for key in ("upos", "pos", "pos_tags") if is_upos(records, key)]

    def read(self, line: int, record: Settings) -> tuple[Doc, Cats | None]:
        """Read a record.

        line (int): Its number.
        record (Settings): The record.
        RETURNS (Tuple[Doc, Optional[Cats]]): The doc and its categories, None if they are missing.
        """
        words = next((key for key in WORDS if isinstance(record.get(key), list)), None)
        if words and is_doc(record[words]):
            return self._read_doc(line, record)
        ents, cats = self._find_key(record, ["spans", "iob"]), self._find_key(record, ["cats"])
        has_iob = ents is not None and self.layout[ents] == "iob"
        keys = {
            "tags": self._find_key(record, ["tags"]),
            "pos": next((key for key in self.upos if record.get(key) is not None), None),
            "ents": ents if has_iob else None,
            **{key: key for key in LISTS if record.get(key) is not None},
        }
        if not {"heads", "deps"} <= keys.keys():  # `Doc` needs both
            keys = {name: key for name, key in keys.items() if name not in ("heads", "deps")}
        given = {name: key for name, key in keys.items() if key is not None}
        doc = self._make_doc(line, record, words, given)
        unknown = record.get(PARTIAL, ())
        if ents is not None and not has_iob:
            self._set_spans(doc, line, ents, record[ents], "entities" in unknown)
        elif has_iob and self.group:
            doc.spans[self.group] = list(doc.ents)
            doc.set_ents([], default="missing")
        linked = RELATIONS if self.has_relations else None
        if linked and record.get(linked) is not None:
            self._set_relations(doc, line, record[linked], ents and record[ents])
        numbers = SCORES if record.get(SCORES) is not None else None
        if numbers:
            self._set_numbers(doc, line, record[numbers])
        known = {self.text, words, ents, cats, linked, numbers, *given.values()}
        self._note_unread(line, record, known)
        found = None if cats is None else self._read_cats(line, cats, record[cats])
        if found is not None and "cats" in unknown:
            found[OTHERS] = UNKNOWN
        return doc, found

    def _set_relations(self, doc: Doc, line: int, value: object, ents: object) -> None:
        if not isinstance(value, list):
            raise make_error(self.omissions.get_place(line), RELATIONS, value, "a list")
        items = [(line, item) for item in value]
        read_links(self.omissions, doc, items, ents if isinstance(ents, list) else [])

    def _set_numbers(self, doc: Doc, line: int, value: object) -> None:
        """Set the numbers of a doc. Null is a missing one."""
        where = self.omissions.get_place(line)
        if not isinstance(value, dict) or not value:
            raise make_error(where, SCORES, value, "an object of names and numbers, or null")
        for number in value.values():
            if number is not None and not (is_number(number) and isfinite(number)):
                raise make_error(where, SCORES, value, "an object of names and finite numbers")
        write_numbers(doc, ((clean(name), number) for name, number in value.items()))

    def _find_key(self, record: Settings, roles: Sequence[Role]) -> str | None:
        """RETURNS (Optional[str]): The first key of the roles whose value is not missing."""
        keys = (key for key, role in self.layout.items() if role in roles)
        return next((key for key in keys if record.get(key) not in (None, "")), None)

    def _note_unread(self, line: int, record: Settings, known: Iterable[str | None]) -> None:
        for key in sorted(record.keys() - set(known) - BOOKKEEPING):
            if record[key] not in EMPTY and not key.startswith("_"):
                self.omissions.add_unread("keys", key, line)

    def _read_doc(self, line: int, record: Settings) -> tuple[Doc, Cats | None]:
        """Read the JSON of `Doc.to_json`."""
        try:
            doc = Doc(self.nlp.vocab).from_json(record, validate=True)
        except (ValueError, LookupError, TypeError) as error:
            where = self.omissions.get_place(line)
            raise ValueError(Errors.M154.format(where=where, error=error)) from error
        known = ("text", "tokens", "ents", "cats", "sents", "spans", "user_data")
        self._note_unread(line, record, known)
        return doc, {**doc.cats, OTHERS: UNKNOWN} if doc.cats else None

    def _make_doc(
        self, line: int, record: Settings, words_key: str | None, keys: dict[str, str]
    ) -> Doc:
        """Make a doc with the annotations that have a value per token.

        line (int): The number of the record.
        record (Settings): The record.
        words_key (Optional[str]): The key of the tokens.
        keys (Dict[str, str]): The key of each argument of `Doc`.
        RETURNS (Doc): The doc.
        """
        where, text = self.omissions.get_place(line), record.get(self.text)
        if not isinstance(text, str | None) and words_key != self.text:
            raise make_error(where, self.text, text, "a string")
        values = {name: record[key] for name, key in keys.items()}
        if isinstance(values.get("ents"), str):
            values["ents"] = values["ents"].split()
        if words_key is not None:
            words, spaces = self._read_words(line, record, words_key)
        elif text is not None:
            counts = [len(value) for value in values.values() if isinstance(value, list)]
            words, spaces = self._split(clean(text), counts)
        else:
            fix = "Give each record text or tokens, or name the key of the text with --text"
            names = list(record)
            raise ValueError(
                Errors.M110.format(where=where, column=self.text, found=names, fix=fix)
            )
        for name, key in keys.items():
            values[name] = self._read_list(line, name, key, values[name], len(words))
        try:
            return Doc(self.nlp.vocab, words=words, spaces=spaces, **values)
        except (ValueError, IndexError) as error:
            raise ValueError(Errors.M154.format(where=where, error=error)) from error

    def _read_words(self, line: int, record: Settings, key: str) -> Words:
        where = self.omissions.get_place(line)
        text = None if key == self.text else record.get(self.text)
        tokens, spaces = record[key], list(record.get("spaces") or [])
        words = []
        for token in tokens:
            word = token
            if isinstance(token, dict):
                word = next((token[form] for form in FORMS if form in token), None)
                space = token.get("ws", token.get("space"))
                spaces += [] if space is None else [bool(space)]
                for name in sorted(token.keys() - TOKEN_KEYS):
                    self.omissions.add_unread("keys of tokens", name, line)
            if not isinstance(word, str):
                raise make_error(where, key, tokens, "a list of strings, or of objects with text")
            words.append(word)
        words = clean_words(words)
        if text is None:
            return Words(words, spaces if len(spaces) == len(words) else make_spaces(words))
        try:
            aligned = get_words_and_spaces(words, clean(text))
        except ValueError:
            aligned = [], []
        if len(aligned[0]) != len(words) or (text.strip() and not words):
            raise make_error(where, key, tokens, "the words of its text, in order")
        return Words(*aligned)

    def _split(self, text: str, counts: Sequence[int]) -> Words:
        """Split a text at spaces if that gives as many words as there are tags, otherwise with the
        tokenizer.
        """
        words = text.split()
        if words and len(words) in counts:
            return Words(words, make_spaces(words))
        doc = self.nlp.make_doc(text)
        return Words([t.text for t in doc], [bool(t.whitespace_) for t in doc])

    def _read_list(
        self, line: int, name: str, key: str, value: object, n: int
    ) -> list[str | int | bool | None]:
        """Read the values of the tokens as an argument of `Doc`."""
        where = self.omissions.get_place(line)
        numbers = name in ("heads", "sent_starts")
        types = int | None if numbers else str | None
        if (
            not isinstance(value, list)
            or len(value) != n
            or not all(isinstance(item, types) for item in value)
        ):
            kind = "numbers" if numbers else "strings"
            raise make_error(where, key, value, f"{n} {kind} or nulls, one for each token")
        if name == "heads":
            return [i if head is None else head for i, head in enumerate(value)]
        if name == "ents":
            tags = [(line, item or "") for item in value]
            return [*check_iob(self.omissions.path, tags, [i == 0 for i in range(n)])]
        return value if numbers else [clean(item or "") for item in value]

    def _set_spans(self, doc: Doc, line: int, key: str, value: object, is_partial: bool) -> None:
        """Set the entities, or groups of spans if the value is an object."""
        if isinstance(value, dict) and key == "spans":
            for group, places in value.items():
                found = read_places(self.omissions, line, key, places)
                set_places(doc, self.omissions, found, group=group)
            return
        found = read_places(self.omissions, line, key, value, in_tokens=key == "ner")
        if self.group and is_partial:
            what = "answers to a yes or no question, which say nothing about other spans"
            self.omissions.add_left_out(what, line)
            return
        set_places(doc, self.omissions, found, group=self.group, is_partial=is_partial)

    def _read_cats(self, line: int, key: str, value: object) -> Cats | None:
        where = self.omissions.get_place(line)
        if isinstance(value, dict) and list(value) == ["choices"]:  # of Label Studio
            value = value["choices"]
        if isinstance(value, dict):
            for label, share in value.items():
                is_share = isinstance(share, int | float) and 0 <= share <= 1
                if not label or not (is_share or share is None):
                    fix = "an object of labels and numbers from 0 to 1, or null"
                    raise make_error(where, key, value, fix)
            cats = {clean(k): UNKNOWN if v is None else float(v) for k, v in value.items()}
            return cats or None
        labels = value if isinstance(value, list) else [value]
        for label in labels:
            if not isinstance(label, str | bool | None):
                raise make_error(where, key, value, "a string, a list of strings, or an object")
        names = [
            str(item).lower() if isinstance(item, bool) else str(item or "") for item in labels
        ]
        return {clean(name): 1.0 for name in names if name}


def is_doc(tokens: Sequence[object]) -> bool:
    """RETURNS (bool): Whether tokens are those of `Doc.to_json`, which have offsets but no text."""
    return bool(tokens) and all(
        isinstance(token, dict) and "start" in token and not token.keys() & {*FORMS}
        for token in tokens
    )


def make_spaces(words: Sequence[str]) -> list[bool]:
    """RETURNS (List[bool]): A space after each word but the last."""
    return [i < len(words) - 1 for i in range(len(words))]
