"""Exports of Label Studio."""

from typing import Any

import pytest
from doc_facts import ents, iob


def region(start: int, end: int, *labels: str, **values: Any) -> dict[str, Any]:
    value = {"start": start, "end": end, "labels": labels, **values}
    return {"type": "labels", "from_name": "label", "value": value}


def choice(name: str, *choices: str) -> dict[str, Any]:
    return {"type": "choices", "from_name": name, "value": {"choices": choices}}


def task(text: str, *results: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"text": text}, "annotations": [{"result": results, **values}]}


def test_regions_and_choices(read_file):
    first, second, missing = read_file(
        [
            task("Mira saw", region(0, 4, "PER", text="Mira"), choice("mood", "pos")),
            task("rain", choice("mood", "neg", "wet")),
            {"id": 3, "data": {"text": "sun"}, "annotations": []},
        ],
        "a.json",
    )
    assert (ents(first), first.cats) == ([("Mira", "PER")], {"pos": 1.0, "neg": 0.0, "wet": 0.0})
    assert (iob(second), second.cats) == (["O"], {"pos": 0.0, "neg": 1.0, "wet": 1.0})
    assert (iob(missing), missing.cats) == ([""], {})


def test_without_regions_entities_are_missing(read_file):
    (doc,) = read_file([task("rain", choice("mood", "pos"))], "a.json")
    assert iob(doc) == [""]


def test_what_is_left_out(read_file):
    twice = task("a", choice("mood", "pos"))
    twice["annotations"].append({"result": [choice("mood", "neg")], "ground_truth": True})
    twice["data"]["source"] = "web"
    with pytest.warns(UserWarning) as told:
        relation = {"type": "relation", "from_id": "x"}
        skipped, rest = task("b", was_cancelled=True), task("", relation, choice("other", "y"))
        (doc,) = read_file([twice, skipped, rest], "a.json")
    assert (doc.text, doc.cats) == ("a", {"neg": 1.0})
    told = " ".join(str(item.message) for item in told)
    for part in ("second and further", "skipped", "'relation'", "'other'", "'data.source'"):
        assert part in told


def test_another_control_of_categories(read_file):
    tasks = [task("a", choice("mood", "pos"), choice("topic", "news"))]
    with pytest.warns(UserWarning, match="W110.*'mood'"):
        assert read_file(tasks, "a.json", category="topic")[0].cats == {"news": 1.0}


def test_a_short_export_is_a_list_of_records(read_file):
    label = [{"start": 0, "end": 4, "text": "Mira", "labels": ["PER"]}]
    (doc,) = read_file([{"id": 1, "text": "Mira", "label": label, "sentiment": "pos"}], "a.json")
    assert (ents(doc), doc.cats) == ([("Mira", "PER")], {"pos": 1.0})


def test_a_broken_export(read_file):
    with pytest.raises(ValueError, match=r"M154.*a\.json, record 1"):
        read_file([{"data": {"text": "a"}, "annotations": [{}]}], "a.json")
