"""Reads questions about contexts from JSON like that of SQuAD."""

from collections.abc import Iterator
from pathlib import Path

from spacy.tokens import Doc, Span
from spacy.vocab import Vocab

from ..errors import Errors
from ..pairs import make_pair
from ..types import Settings
from .json_files import load_json
from .omissions import Omissions
from .text_io import UTF8, clean, get_tokenizer, make_error

GROUP = "answers"
LABEL = "ANSWER"
KNOWN = {"question", "id", "answers", "is_impossible", "plausible_answers", "title"}


def is_squad(value: object) -> bool:
    """RETURNS (bool): Whether a JSON value has articles with paragraphs."""
    articles = value.get("data") if isinstance(value, dict) else None
    return (
        isinstance(articles, list)
        and bool(articles)
        and all(
            isinstance(own, dict) and isinstance(own.get("paragraphs"), list) for own in articles
        )
    )


def read_squad(
    path: Path,
    vocab: Vocab,
    *,
    lang: str = "en",
    spans: str = "",
    encoding: str = UTF8,
    skip_errors: bool = False,
) -> Iterator[Doc]:
    """Read one doc per question: the question, a separator and the context, as `make_pair` makes
    them.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    lang (str): The language whose tokenizer splits the texts.
    spans (str): The key in `doc.spans` for the answers; empty for "answers". A question that is
        impossible has an empty group. A question without `answers` and `is_impossible` has none.
    encoding (str): The encoding of the file.
    skip_errors (bool): Whether to leave out answers that do not fit their context.
    YIELDS (Doc): The docs.
    RAISES (ValueError): M109 if the file is not JSON, M114 if a value has another form, M138 for an
        answer that is not at its place in the context, or not one of whole tokens.
    """
    value = load_json(path, encoding)
    if not is_squad(value):
        raise make_error(str(path), "data", value, "a list of articles with paragraphs")
    assert isinstance(value, dict)
    nlp, n = get_tokenizer(lang, vocab), 0
    with Omissions(path, skip_errors, unit="question") as omissions:
        for article in value["data"]:
            for paragraph in article["paragraphs"]:
                context, questions = _get(path, paragraph, "context", str), paragraph.get("qas")
                if not isinstance(questions, list):
                    raise make_error(str(path), "qas", questions, "a list")
                for item in questions:
                    n += 1
                    question = _get(path, item, "question", str)
                    doc = make_pair(nlp, clean(question), clean(context))
                    for name in sorted(item.keys() - KNOWN):
                        omissions.add_unread("keys", name, n)
                    _set_answers(omissions, n, doc, item, context, spans or GROUP)
                    yield doc


def _get(path: Path, item: object, key: str, kind: type[str]) -> str:
    value = item.get(key) if isinstance(item, dict) else None
    if not isinstance(value, kind) or not value.strip():
        raise make_error(str(path), key, value, "a string that is not empty")
    return value


def _set_answers(
    omissions: Omissions, n: int, doc: Doc, item: Settings, context: str, group: str
) -> None:
    answers, is_impossible = item.get("answers"), item.get("is_impossible", False)
    where = omissions.get_place(n)
    if answers is None and not is_impossible:
        return
    if not isinstance(answers or [], list):
        raise make_error(where, "answers", answers, "a list")
    found: dict[tuple[int, int], Span] = {}
    shift = len(doc.text) - len(context)
    n_wrong = 0
    for answer in [] if is_impossible else answers or []:
        try:
            span = _find_answer(where, doc, answer, context, shift)
            found.setdefault((span.start, span.end), span)
        except ValueError as error:
            n_wrong += 1
            omissions.add_error("answers that do not fit", n, error)
    if found or not n_wrong:  # a question whose answers are all wrong is not one without an answer
        doc.spans[group] = list(found.values())


def _find_answer(where: str, doc: Doc, answer: object, context: str, shift: int) -> Span:
    """RETURNS (Span): An answer. One that begins or ends inside a token has the whole token."""
    text = answer.get("text") if isinstance(answer, dict) else None
    start = answer.get("answer_start") if isinstance(answer, dict) else None
    if not isinstance(text, str) or not text.strip() or not isinstance(start, int):
        fix = "an object with text and answer_start"
        raise make_error(where, "an answer", answer, fix)
    end = start + len(text)
    span = None
    if start >= 0 and context[start:end] == text:
        start += len(text) - len(text.lstrip())
        end -= len(text) - len(text.rstrip())
        span = doc.char_span(start + shift, end + shift, label=LABEL, alignment_mode="expand")
    if span is None:
        covered = context[max(start, 0) : end]
        raise ValueError(Errors.M138.format(where=where, answer=text, start=start, text=covered))
    return span
