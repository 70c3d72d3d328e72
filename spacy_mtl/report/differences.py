"""Differences between the configs of runs, other than the ones that are compared on purpose."""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from spacy.util import dict_to_dot

from ..types import Settings
from .records import Difference
from .runs import Run

# Sections that follow from the trained tasks, or that do not influence training.
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
) -> list[Difference]:
    """Find how settings differ besides their tasks, balancers and seeds.

    settings (Mapping[str, Sequence[Run]]): The runs of each setting.
    task (Optional[str]): The task whose training data to compare; all data if not given.
    RETURNS (List[Difference]): The keys with different values.
    """
    facts = {name: get_facts(group, task) for name, group in settings.items()}
    records = []
    for key in dict.fromkeys(key for found in facts.values() for key in found):
        component = key.split(".")[1] if key.startswith("components.") else None
        # A component is compared between the settings that have it.
        comparable = [
            n
            for n, (run, *_) in settings.items()
            if component in (None, *run.setup["nlp"]["pipeline"])
        ]
        if len({facts[name].get(key) for name in comparable}) > 1:
            values = {name: facts[name].get(key) for name in settings}
            records.append(Difference(key, values))
    return records


def get_facts(group: Sequence[Run], task: str | None) -> dict[str, str]:
    """RETURNS (Dict[str, str]): The values, as text by key, that comparable settings share."""
    setup = group[0].setup
    facts = {"updates": ", ".join(dict.fromkeys(map(get_updates, group)))}
    for kind in ("train", "dev"):
        data = find_data(get_corpus(setup, kind), task)
        facts[f"{kind} data"] = ", ".join(sorted(data)) or "unknown"
    flat = dict_to_dot(setup)
    for name in setup["nlp"]["pipeline"]:
        component = {k: v for k, v in setup["components"][name].items() if k != "balancer"}
        facts |= {
            f"components.{name}.{k}": json.dumps(v) for k, v in dict_to_dot(component).items()
        }
    return facts | {k: json.dumps(v) for k, v in flat.items() if not k.startswith(EXPECTED)}


def get_corpus(setup: Settings, kind: str) -> Settings:
    """RETURNS (Dict[str, Any]): The section of a config for the corpus "train" or "dev"."""
    name: str = setup["training"].get(f"{kind}_corpus", kind)
    section: Settings = setup["corpora"].get(name.removeprefix("corpora."), {})
    return section


def get_updates(run: Run) -> str:
    """RETURNS (str): The number of updates of a run; it may vary where patience ended the run."""
    return "until patience" if run.is_out_of_patience else str(run.steps or "unknown")


def find_data(section: Settings, task: str | None) -> list[str]:
    """RETURNS (List[str]): The corpora in a section of a config that have labels for a task, all
    corpora if no task is given.
    """
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
    """RETURNS (str): Size and hash of a file or folder, or its path if it does not exist."""
    files = sorted(Path(path).rglob("*")) if Path(path).is_dir() else [Path(path)]
    content = [file.read_bytes() for file in files if file.is_file()]
    if not content:
        return path
    digest = blake2b(b"".join(content), digest_size=4).hexdigest()
    return f"{sum(map(len, content)):,} bytes ({digest})"
