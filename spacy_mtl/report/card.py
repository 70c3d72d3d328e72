"""The run card of a report: data with sizes, encoder, settings, weights, versions."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from statistics import mean

from spacy.cli._util import walk_directory
from spacy.tokens import DocBin

from .. import __version__
from ..types import Settings
from .differences import get_corpus
from .records import CorpusSize, Report, SettingSummary
from .runs import ENCODERS, Run

PACKAGES = {"spaCy": "spacy", "PyTorch": "torch", "transformers": "transformers"}


def get_versions() -> dict[str, str]:
    """RETURNS (Dict[str, str]): The versions of the installed packages that run the pipelines."""
    versions = {name: version(package) for name, package in PACKAGES.items()}
    return {"spacy-mtl": __version__, **versions, "Python": python_version()}


def summarize_settings(settings: Mapping[str, Sequence[Run]]) -> list[SettingSummary]:
    """Summarize settings. Each corpus is read once, for its size.

    settings (Mapping[str, Sequence[Run]]): The runs of each setting.
    RETURNS (List[SettingSummary]): The summaries.
    """
    sizes: dict[str, CorpusSize] = {}
    return [summarize_setting(name, group, sizes) for name, group in settings.items()]


def summarize_setting(
    name: str, group: Sequence[Run], sizes: dict[str, CorpusSize]
) -> SettingSummary:
    """RETURNS (SettingSummary): The summary of a setting. Adds its corpora to `sizes`."""
    setup = group[0].setup
    encoder = find_encoder(setup)
    corpora = {}
    for kind in ("train", "dev"):
        paths = list(dict.fromkeys(find_paths(get_corpus(setup, kind))))
        for path in paths:
            sizes[path] = sizes.get(path) or read_size(path)
        corpora[kind] = [sizes[path] for path in paths]
    balancer = encoder.get("balancer") or {}
    return SettingSummary(
        name,
        group[0].tasks,
        [run.seed for run in group],
        encoder=encoder.get("model", {}).get("name"),
        balancer=balancer.get("@misc"),
        weights=get_weights(group, balancer),
        **corpora,
    )


def find_encoder(setup: Settings) -> Settings:
    """RETURNS (Dict[str, Any]): The section of the encoder in a config; empty without any."""
    components: list[Settings] = [setup["components"][name] for name in setup["nlp"]["pipeline"]]
    return next((c for c in components if c.get("factory") in ENCODERS), {})


def get_weights(group: Sequence[Run], balancer: Settings) -> dict[str, float]:
    """RETURNS (Dict[str, float]): The weight of each task at the end of training, a mean over
    seeds; the numbers in the balancer's config if there is no log.
    """
    ends: dict[str, list[float]] = {}
    for run in group:
        for task, curve in run.curves.get("weight", {}).items():
            ends.setdefault(task, []).append(curve[-1][1])
    fixed = balancer.get("weights") or {}
    return {task: mean(values) for task, values in ends.items()} or {
        task: float(weight) for task, weight in fixed.items() if isinstance(weight, int | float)
    }


def find_paths(section: Settings) -> Iterator[str]:
    """YIELDS (str): The paths of the corpora in a section of a config."""
    if "corpora" in section:
        for reader in section["corpora"].values():
            yield from find_paths(reader)
    elif section.get("path"):
        yield str(section["path"])


def read_size(path: str) -> CorpusSize:
    """RETURNS (CorpusSize): The size of a .spacy file or a folder of them; without numbers if they
    cannot be read, for example because the report is made on another machine.
    """
    try:
        bins = [DocBin().from_disk(file) for file in walk_directory(Path(path), ".spacy")]
    except Exception:
        return CorpusSize(path)
    words = [len(tokens) for doc_bin in bins for tokens in doc_bin.tokens]
    return CorpusSize(path, len(words), sum(words)) if words else CorpusSize(path)


def make_card(report: Report) -> dict[str, list[str]]:
    """RETURNS (Dict[str, List[str]]): The lines of each entry of the run card, without empty
    entries.
    """
    settings = report.settings
    several = [setting for setting in settings if len(setting.tasks) > 1]
    weights = {setting.name: describe_weights(setting) for setting in several}
    differences = [record.key for record in report.differences]
    if len(settings) > 1 and not differences:
        differences = ["nothing besides tasks, balancers and seeds"]
    card = {
        "Date": [report.date],
        "Tested on": [describe_corpus(report.corpus)] if report.corpus else [],
        "Trained on": share({setting.name: describe_all(setting.train) for setting in settings}),
        "Dev data": share({setting.name: describe_all(setting.dev) for setting in settings}),
        "Encoder": share({setting.name: setting.encoder or "none" for setting in settings}),
        "Settings": [describe_setting(setting) for setting in settings],
        "Weights at the end": [f"{name}: {text}" for name, text in weights.items() if text],
        "Settings differ in": differences,
        "Versions": [", ".join(f"{name} {number}" for name, number in report.versions.items())],
    }
    return {term: lines for term, lines in card.items() if any(lines)}


def share(values: Mapping[str, str]) -> list[str]:
    """RETURNS (List[str]): The values of the settings; one line if all settings have the same."""
    if len(set(values.values())) == 1:
        return [*values.values()][:1]
    return [f"{name}: {value}" for name, value in values.items()]


def describe_corpus(corpus: CorpusSize) -> str:
    """RETURNS (str): A corpus with its size."""
    if corpus.docs is None or corpus.words is None:
        return f"{corpus.name} (size unknown)"
    plural = "" if corpus.docs == 1 else "s"
    return f"{corpus.name}, {corpus.docs:,} doc{plural}, {corpus.words:,} words"


def describe_all(corpora: Sequence[CorpusSize]) -> str:
    """RETURNS (str): The corpora of a setting with their sizes."""
    return "; ".join(map(describe_corpus, corpora)) or "unknown"


def describe_setting(setting: SettingSummary) -> str:
    """RETURNS (str): A setting with its tasks and seeds."""
    seeds = f"seed{'s' if len(setting.seeds) > 1 else ''} {', '.join(map(str, setting.seeds))}"
    if setting.tasks == [setting.name]:
        return f"{setting.name} ({seeds})"
    return f"{setting.name}: {', '.join(setting.tasks) or 'no task'} ({seeds})"


def describe_weights(setting: SettingSummary) -> str:
    """RETURNS (str): The weights of a setting, and the name of its balancer."""
    weights = ", ".join(f"{task} {weight:.3g}" for task, weight in setting.weights.items())
    balancer = f"({setting.balancer})" if setting.balancer else ""
    return f"{weights} {balancer}".strip()
