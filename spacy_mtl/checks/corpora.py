"""Check the corpora of a config, and read them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from thinc.api import Config

from ..corpora.counts import Counts
from ..corpora.inventory import Corpus, get_mixed
from ..corpora.mixed import Reader
from ..errors import Errors, Warnings
from ..types import Settings
from .finding import Finding


def check_names(config: Config, names: Mapping[str, str]) -> None:
    """Check that the corpora of `[training]` are in the config.

    config (Config): The config, interpolated.
    names (Mapping[str, str]): The names, such as "corpora.train", by their key in `[training]`.
    RAISES (ValueError): M227 if the config has no such corpus.
    """
    for key, name in names.items():
        if name.partition(".")[2] not in config["corpora"]:
            known = [f"corpora.{corpus}" for corpus in config["corpora"]]
            raise ValueError(Errors.M227.format(name=name, key=key, known=known))


def check_paths(config: Config, names: Iterable[str]) -> list[Finding]:
    """Find readers whose path does not exist.

    config (Config): The config, not interpolated.
    names (Iterable[str]): The sections of the readers, such as "corpora.train".
    RETURNS (List[Finding]): M220 for each such path.
    """
    filled = config.interpolate()
    findings = []
    for name in names:
        for block, path in find_paths(get_section(filled, name), name):
            if path is None or not Path(path).exists():
                variable = re.fullmatch(r"\$\{([^:}]+)\}", str(get_raw_path(config, block)))
                option = variable[1] if variable else f"{block}.path"
                message = Errors.M220.format(block=block, path=path or "null", option=option)
                findings.append(Finding(message, is_failure=True))
    return findings


def find_paths(section: Settings, name: str) -> Iterator[tuple[str, str | None]]:
    """YIELDS (Tuple[str, Optional[str]]): The block and the path of each reader in a section."""
    if "@readers" in section and "path" in section:
        yield name, section["path"]
    for key, value in section.items():
        if isinstance(value, dict):
            yield from find_paths(value, f"{name}.{key}")


def get_section(config: Settings, name: str) -> Settings:
    """RETURNS (Dict[str, Any]): The section of a dotted name."""
    for key in name.split("."):
        config = config[key]
    return config


def get_raw_path(config: Config, block: str) -> object:
    """RETURNS (object): The path of a reader before interpolation, None if its block is a
    variable.
    """
    try:
        return get_section(config, block)["path"]
    except (KeyError, TypeError):
        return None


def check_streams(train: Reader, dev: Reader, *, is_stream: bool) -> list[Finding]:
    """Find endless corpora that spaCy would read to the end.

    train (Callable): The reader of train.
    dev (Callable): The reader of dev.
    is_stream (bool): Whether train is read as a stream, with `[training] max_epochs = -1`.
    RETURNS (List[Finding]): M223 for each such corpus.
    """
    read = {"dev": dev} if is_stream else {"train": train, "dev": dev}
    return [
        Finding(Errors.M223.format(corpus=name), is_failure=True)
        for name, reader in read.items()
        if (settings := get_mixed(reader)) is not None and settings["epochs"] == 0
    ]


def check_evaluations(max_steps: int, every: int) -> list[Finding]:
    """Find updates after the last evaluation.

    max_steps (int): The number of updates, 0 if they are not limited.
    every (int): The number of updates between evaluations.
    RETURNS (List[Finding]): W231 if there are such updates.
    """
    left = max_steps % every
    message = Warnings.W231.format(max_steps=max_steps, every=every, last=max_steps - left)
    return [Finding(message)] if left else []


def check_corpora(
    train: Mapping[str, Corpus], dev: Mapping[str, Corpus], counts: Mapping[str, Counts]
) -> list[Finding]:
    """Find corpora without docs, without promised labels, or with docs of train in dev.

    train (Mapping[str, Corpus]): The corpora of train.
    dev (Mapping[str, Corpus]): The corpora of dev.
    counts (Mapping[str, Counts]): The labels of the corpora of train.
    RETURNS (List[Finding]): M222 for a corpus without docs, W227 for docs without tokens, W228 for
        dev docs that are in train, W229 for labels that `tasks` promises and the corpus lacks.
    """
    findings = []
    for name, corpus in [*train.items(), *dev.items()]:
        if not corpus.examples:
            findings.append(Finding(Errors.M222.format(corpus=name), is_failure=True))
        if empty := sum(not len(eg.predicted) for eg in corpus.examples):
            findings.append(Finding(Warnings.W227.format(corpus=name, empty=empty)))
    for name, corpus in train.items():
        for task in corpus.claimed:
            if task in counts[name].tasks and not counts[name].tasks[task].units:
                findings.append(Finding(Warnings.W229.format(corpus=name, task=task)))
    if share := get_overlap(train, dev):
        findings.append(Finding(Warnings.W228.format(share=share)))
    return findings


def get_overlap(train: Mapping[str, Corpus], dev: Mapping[str, Corpus]) -> float:
    """RETURNS (float): The share of the dev docs whose text is in train too."""
    seen = {eg.reference.text for corpus in train.values() for eg in corpus.examples}
    shared = [eg.reference.text in seen for corpus in dev.values() for eg in corpus.examples]
    return sum(shared) / max(1, len(shared))
