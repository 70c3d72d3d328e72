"""Reads exports of Label Studio: https://labelstud.io/guide/export."""

from collections.abc import Iterator
from pathlib import Path

from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..errors import Errors
from ..types import Settings
from .json_files import load_json
from .omissions import Omissions
from .records import read_records

ENTITIES = "entities"


def is_label_studio(value: object) -> bool:
    """RETURNS (bool): Whether JSON has the form of a full export. A short one ("JSON-MIN") is a
    list of records.
    """
    return isinstance(value, list) and any(
        isinstance(task, dict) and {"data", "annotations"} <= task.keys() for task in value
    )


def read_label_studio(
    path: Path,
    vocab: Vocab,
    *,
    lang: str = "en",
    text: str = "text",
    category: str = "",
    spans: str = "",
    skip_errors: bool = False,
) -> Iterator[Doc]:
    """Read a full export.

    Labels of regions become entities, choices become categories. Of several annotations of a text,
    the one that is marked as ground truth is read, or else the first. Skipped tasks are left out. A
    text without regions has no entities if another text of the file has some.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    lang (str): The language whose tokenizer splits the texts.
    text (str): The key of the text in `data`.
    category (str): The name of the control with the categories; empty for the first.
    spans (str): The key in `doc.spans` for the entities; empty for `doc.ents`.
    skip_errors (bool): Whether entities that do not fit the text are left out.
    YIELDS (Doc): The docs.
    RAISES (ValueError): M109 if the file is not JSON, M154 if it breaks the format; as
        `read_records`.
    """
    data = load_json(path)
    records: dict[int, Settings] = {}
    controls: dict[str, None] = {}
    with Omissions(path, skip_errors, unit="record") as omissions:
        for i, task in enumerate(data if isinstance(data, list) else [data], 1):
            try:
                record = _read_task(omissions, i, task, text, controls)
            except (KeyError, TypeError, AttributeError) as error:
                reason = f"{type(error).__name__}: {error}"
                where = omissions.get_place(i)
                raise ValueError(Errors.M154.format(where=where, error=reason)) from error
            if record is not None:
                records[i] = record
        if not any(record.get(ENTITIES) for record in records.values()):
            for record in records.values():
                record.pop(ENTITIES, None)
        category = category or next(iter(controls), "")
        yield from read_records(
            omissions,
            records.items(),
            vocab,
            lang=lang,
            text=text,
            category=category,
            spans=spans,
        )


def _read_task(
    omissions: Omissions, number: int, task: Settings, text: str, controls: dict[str, None]
) -> Settings | None:
    """Give a task the keys of records.

    omissions (Omissions): The file.
    number (int): The number of the task.
    task (Settings): The task.
    text (str): The key of the text.
    controls (Dict[str, None]): The names of the controls with choices, to add to.
    RETURNS (Optional[Settings]): The record; None if the task was skipped.
    """
    record = {key if key == text else f"data.{key}": task["data"][key] for key in task["data"]}
    done = [item for item in task["annotations"] if not item.get("was_cancelled")]
    if task["annotations"] and not done:
        omissions.add_left_out("tasks that were skipped", number)
        return None
    if len(done) > 1:
        omissions.add_left_out("texts' second and further annotations", number)
    for annotation in sorted(done, key=lambda item: not item.get("ground_truth"))[:1]:
        record[ENTITIES] = []
        for result in annotation["result"]:
            kind, name, value = (result.get(key) for key in ("type", "from_name", "value"))
            if kind == "labels":
                record[ENTITIES].append(value)
            elif kind == "choices" and "start" not in value:
                controls[name] = None
                record[name] = [*record.get(name, ()), *value["choices"]]
            else:
                omissions.add_unread("types of results", kind, number)
    return record
