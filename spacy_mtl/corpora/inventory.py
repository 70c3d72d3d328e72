"""Reads the corpora of a config one by one, and counts their labels."""

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy
from spacy.language import Language
from spacy.training import Example
from spacy.util import resolve_dot_names

from ..annotations import AnnotationLayer, find_main_layer
from ..contracts import find_tasks
from ..errors import Errors
from ..types import Settings
from .counts import Counts, count_docs
from .mixed import Reader, read_mixed, restrict

TaskLayers = Mapping[str, AnnotationLayer[object] | None]


@dataclass
class Corpus:
    """A corpus.

    examples (List[Example]): Its examples.
    claimed (Sequence[str]): The components that it has labels for according to `tasks` of
        MixedCorpus.
    """

    examples: list[Example]
    claimed: Sequence[str] = field(default_factory=list)


def get_task_layers(nlp: Language) -> TaskLayers:
    """Find the annotation layer that each task learns.

    nlp (Language): The pipeline.
    RETURNS (Mapping[str, Optional[AnnotationLayer]]): The main layer of each task, in order; None
        if it has none, so that its labels cannot be counted.
    """
    return {name: find_main_layer(nlp, name) for name in find_tasks(nlp)}


def get_mixed(reader: Reader) -> Settings | None:
    """RETURNS (Optional[Dict[str, Any]]): The settings of a MixedCorpus, None for other readers."""
    is_mixed = isinstance(reader, partial) and reader.func is read_mixed
    return reader.keywords if isinstance(reader, partial) and is_mixed else None


def read_corpora(nlp: Language, name: str, reader: Reader, limit: int | None) -> dict[str, Corpus]:
    """Read a corpus, or each of the corpora that a MixedCorpus mixes.

    nlp (Language): The pipeline.
    name (str): The name of a corpus that is not mixed.
    reader (Callable): The reader.
    limit (Optional[int]): The most docs to read of a corpus that is not mixed.
    RETURNS (Dict[str, Corpus]): The corpora by name, with the labels that MixedCorpus keeps.
    RAISES (ValueError): M124 if `tasks` names unknown components, M221 if a corpus is unreadable.
    """
    settings = get_mixed(reader)
    if settings is None:
        return {name: Corpus(read_examples(nlp, name, reader, limit))}
    corpora = {}
    for key, mixed in settings["corpora"].items():
        claimed = settings["tasks"].get(key)
        examples = read_examples(nlp, key, mixed, None)
        if claimed is not None:
            examples = restrict(nlp, examples, claimed, key)
        corpora[key] = Corpus(examples, claimed or [])
    return corpora


def read_examples(nlp: Language, name: str, reader: Reader, limit: int | None) -> list[Example]:
    """RETURNS (List[Example]): The first examples of a corpus.
    RAISES (ValueError): M221 if the corpus is unreadable.
    """
    try:
        return list(islice(reader(nlp), limit))
    except Exception as error:  # a broken file can make a reader raise anything
        raise ValueError(Errors.M221.format(corpus=name, error=error)) from error


def count_corpora(corpora: Mapping[str, Corpus], tasks: TaskLayers) -> dict[str, Counts]:
    """RETURNS (Dict[str, Counts]): The labels of each corpus for each task that can be counted."""
    known = {task: layer for task, layer in tasks.items() if layer}
    return {
        name: count_docs([eg.reference for eg in corpus.examples], known)
        for name, corpus in corpora.items()
    }


def count_training_corpora(nlp: Language) -> Settings:
    """Count the docs, words and labelled units of the corpora of `[training]`.

    nlp (Language): The pipeline.
    RETURNS (Dict[str, Any]): By part ("train", "dev") and corpus the "docs", "words" and "units",
        which are counted by task. Streams are left out, except of MixedCorpus, and so are corpora
        that cannot be read: training ends with the reader's own error.
    """
    config = nlp.config.interpolate()
    training, tasks = config["training"], get_task_layers(nlp)
    names = [training["train_corpus"], training["dev_corpus"]]
    found: Settings = {}
    states = random.getstate(), numpy.random.get_state()  # readers may shuffle
    try:
        for part, reader in zip(("train", "dev"), resolve_dot_names(config, names), strict=True):
            if part == "dev" or training["max_epochs"] != -1 or get_mixed(reader):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # training reads them again
                    counts = count_corpora(read_corpora(nlp, part, reader, None), tasks)
                found[part] = {name: summarize(own) for name, own in counts.items()}
    except Exception:
        return {}
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
    return found


def summarize(counts: Counts) -> Settings:
    """RETURNS (Dict[str, Any]): The numbers of a corpus as JSON."""
    units = {task: own.units for task, own in counts.tasks.items()}
    return {"docs": counts.docs, "words": counts.words, "units": units}
