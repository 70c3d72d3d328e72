"""Turns answers of Prodigy into labels: https://prodi.gy/docs/api-interfaces."""

from collections.abc import Callable, Iterable

from ..errors import Errors
from ..types import Settings

PARTIAL = "_partial"  # key of the layers in which labels that a record does not name are unknown
ANSWERS = ["accept", "reject", "ignore"]
BINARY_VIEWS = ("ner", "spans", "classification")
BOOKKEEPING = ("answer", "config", "score", "priority", "rank", "html", "style")

LeaveOut = Callable[[str], None]


def is_answer(record: Settings) -> bool:
    """RETURNS (bool): Whether a record is an answer of Prodigy. Data sets of questions also have a
    key `answer`.
    """
    is_choice = {"options", "accept"} <= record.keys()
    return is_choice or "_task_hash" in record or record.get("answer") in ANSWERS


def asks_about_spans(answers: Iterable[Settings]) -> bool:
    """RETURNS (bool): Whether accepted answers of one data set may be to questions about one span
    each. Annotations of whole texts have several spans in some texts, and none in others.
    """
    accepted = (answer for answer in answers if answer.get("answer", "accept") == "accept")
    found = [answer["spans"] for answer in accepted if isinstance(answer.get("spans"), list)]
    return all(len(spans) == 1 for spans in found)


def read_answer(
    where: str, record: Settings, leave_out: LeaveOut, *, about_spans: bool
) -> Settings | None:
    """Turn an answer into a record with labels.

    - Ignored answers are left out.
    - A rejected category is known not to apply. Nothing is known about other categories.
    - A rejected annotation of spans says that something in it is wrong. All spans of the text are
      missing.
    - An accepted span of a yes or no question is an entity. Nothing is known about other tokens.
    - The options of a choice that were not chosen do not apply.

    where (str): The place of the record, for messages.
    record (Settings): The answer. It is not changed.
    leave_out (Callable[[str], None]): Notes a part that is left out.
    about_spans (bool): The result of `asks_about_spans` for the data set.
    RETURNS (Optional[Settings]): The record; None if it was ignored.
    RAISES (ValueError): M114 for an unknown answer, or if the choice is not among the options.
    """
    answer = record.get("answer", "accept")
    if answer not in ANSWERS:
        fix = f"one of {ANSWERS}"
        raise ValueError(Errors.M114.format(where=where, key="answer", value=repr(answer), fix=fix))
    if answer == "ignore":
        leave_out("records that were answered with ignore")
        return None
    is_accepted = answer == "accept"
    result = {key: value for key, value in record.items() if key not in BOOKKEEPING}
    partial = []
    label = record.get("label")
    if "accept" in record:
        cats = _read_choice(where, record)
        result = {key: result[key] for key in result if key not in ("options", "accept")}
        if is_accepted and cats:
            result["cats"] = cats
            partial += ["cats"] if "options" in record else []
        else:
            leave_out("choices that were rejected or left open, so their categories are missing")
    elif isinstance(label, str) and label:
        del result["label"]
        result["cats"] = {label: float(is_accepted)}
        partial.append("cats")
        if result.pop("spans", None):
            leave_out("matches of patterns, which are no entities, in questions about a category")
    if result.get("spans") is not None:
        if not is_accepted:
            del result["spans"]
            leave_out("rejected annotations of entities, which are missing in these texts")
        elif _is_binary(record, about_spans):
            partial.append("entities")
            leave_out("texts with a yes or no question, whose other entities are missing")
    return result | ({PARTIAL: partial} if partial else {})


def _read_choice(where: str, record: Settings) -> dict[str, float] | None:
    """RETURNS (Optional[Dict[str, float]]): The value of each option; None if a single choice was
    left open.
    """
    chosen = record["accept"] if isinstance(record["accept"], list) else [record["accept"]]
    is_multiple = (record.get("config") or {}).get("choice_style") == "multiple"
    options = [option.get("id") for option in record.get("options") or ()]
    unknown = [name for name in chosen if options and name not in options]
    if unknown:
        fix = f"among the options {options}"
        value = repr(record["accept"])
        raise ValueError(Errors.M114.format(where=where, key="accept", value=value, fix=fix))
    if not chosen and not is_multiple:
        return None
    return {str(name): float(name in chosen) for name in options or chosen}


def _is_binary(record: Settings, about_spans: bool) -> bool:
    """RETURNS (bool): Whether the question was about one span. Without the name of an interface it
    was, if all answers have one span and none has tokens, which complete annotations store.
    """
    if "_is_binary" in record:
        return bool(record["_is_binary"])
    view = record.get("_view_id")
    if view is None:
        return about_spans and "tokens" not in record
    return view in BINARY_VIEWS
