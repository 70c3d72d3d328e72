"""In which settings runs differ beside what is compared: only like can be compared with like."""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from spacy.util import dict_to_dot

from .runs import Run

# These follow from the tasks that are trained, or change nothing in training.
EXPECTED = (
    "nlp.pipeline",
    "nlp.batch_size",
    "paths.",
    "system.",
    "corpora.",
    "components.",
    "initialize.components.",
    "training.score_weights.",
    "training.frozen_components",
    "training.annotating_components",
)


def find_differences(
    settings: Mapping[str, Sequence[Run]], task: str | None = None
) -> list[dict[str, Any]]:
    """Find what differs between settings, other than their tasks, their balancers and seeds.

    settings (Mapping[str, Sequence[Run]]): The runs of each setting.
    task (Optional[str]): The task whose training data to compare; all data if not given.
    RETURNS (List[Dict[str, Any]]): Records with "key", and "values" as text for each setting, None
        where a setting has no such key.
    """
    facts = {name: get_facts(group, task) for name, group in settings.items()}
    records = []
    for key in dict.fromkeys(key for found in facts.values() for key in found):
        component = key.split(".")[1] if key.startswith("components.") else None
        # Two runs are compared by the components that both have.
        able = [
            n
            for n, (run, *_) in settings.items()
            if component in (None, *run.setup["nlp"]["pipeline"])
        ]
        if len({facts[name].get(key) for name in able}) > 1:
            values = {name: facts[name].get(key) for name in settings}
            records.append({"key": key, "values": values})
    return records


def get_facts(group: Sequence[Run], task: str | None) -> dict[str, str]:
    """RETURNS (Dict[str, str]): What must be the same in the runs of another setting."""
    setup = group[0].setup
    facts = {"updates": ", ".join(dict.fromkeys(map(get_updates, group)))}
    for kind in ("train", "dev"):
        corpus = setup["training"].get(f"{kind}_corpus", kind).removeprefix("corpora.")
        data = find_data(setup["corpora"].get(corpus, {}), task)
        facts[f"{kind} data"] = ", ".join(sorted(data)) or "unknown"
    flat = dict_to_dot(setup)
    for name in setup["nlp"]["pipeline"]:
        component = {k: v for k, v in setup["components"][name].items() if k != "balancer"}
        facts |= {
            f"components.{name}.{k}": json.dumps(v) for k, v in dict_to_dot(component).items()
        }
    return facts | {k: json.dumps(v) for k, v in flat.items() if not k.startswith(EXPECTED)}


def get_updates(run: Run) -> str:
    """RETURNS (str): How long a run was trained. Where patience ends it, the number may vary."""
    return "until patience" if run.is_out_of_patience else str(run.steps or "unknown")


def find_data(section: Mapping[str, Any], task: str | None) -> list[str]:
    """RETURNS (List[str]): The corpora in a section of a config that have labels for a task."""
    if "corpora" in section:
        tasks = section.get("tasks", {})
        return [
            data
            for name, reader in section["corpora"].items()
            if task is None or task in tasks.get(name, [task])
            for data in find_data(reader, task)
        ]
    others = {k: v for k, v in section.items() if k not in ("path", "@readers") and v}
    described = [identify(section["path"])] if section.get("path") else []
    return [" ".join([*described, *([json.dumps(others)] if others else [])])]


def identify(path: str) -> str:
    """RETURNS (str): The content of a file or folder, or its path if it is not there any more."""
    files = sorted(Path(path).rglob("*")) if Path(path).is_dir() else [Path(path)]
    content = [file.read_bytes() for file in files if file.is_file()]
    if not content:
        return path
    digest = blake2b(b"".join(content), digest_size=4).hexdigest()
    return f"{sum(map(len, content)):,} bytes ({digest})"
