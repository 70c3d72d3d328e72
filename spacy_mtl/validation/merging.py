"""Merges corpora into one set of docs, and counts what clashes."""

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..annotations import AnnotationLayer
from ..errors import Warnings, quote
from ..loading import read_docs

SHOWN = 5  # labels or texts in a message


@dataclass
class Clashes:
    """What does not fit together in merged corpora.

    labels (List[Tuple[str, ...]]): Groups of labels of a layer that differ only in case.
    texts (Dict[str, List[str]]): The layers in which a text has several labellings, by text.
    """

    labels: list[tuple[str, ...]]
    texts: dict[str, list[str]]


def merge_corpora(
    paths: Sequence[Path], vocab: Vocab, layers: Mapping[str, AnnotationLayer[object]]
) -> list[Doc]:
    """Read corpora as one. W135 and W136 count what clashes.

    paths (Sequence[Path]): .spacy files, or folders of .spacy files.
    vocab (Vocab): The vocab of the docs.
    layers (Mapping[str, AnnotationLayer]): The layers to compare.
    RETURNS (List[Doc]): The docs of all corpora, in order.
    RAISES (ValueError): M205 if a file cannot be read, M206 if no doc of a corpus has a word.
    """
    corpora = [read_docs(path, vocab) for path in paths]
    clashes = find_clashes(corpora, layers)
    if clashes.labels:
        groups = [" and ".join(group) for group in clashes.labels]
        rest = ", ..." if len(groups) > SHOWN else ""
        labels = quote(groups[:SHOWN]) + rest
        warnings.warn(Warnings.W135.format(n=len(groups), labels=labels))
    if clashes.texts:
        names = sorted({name for found in clashes.texts.values() for name in found})
        n, text = len(clashes.texts), next(iter(clashes.texts))
        warnings.warn(Warnings.W136.format(n=n, layers=quote(names), text=repr(text)))
    return [doc for docs in corpora for doc in docs]


def find_clashes(
    corpora: Sequence[Sequence[Doc]], layers: Mapping[str, AnnotationLayer[object]]
) -> Clashes:
    """Compare the labels of corpora.

    corpora (Sequence[Sequence[Doc]]): The docs of each corpus.
    layers (Mapping[str, AnnotationLayer]): The layers to compare.
    RETURNS (Clashes): What differs between corpora. Differences inside of one are not counted.
    """
    labels: list[tuple[str, ...]] = []
    answers: dict[tuple[str, str], dict[int, set[str]]] = defaultdict(dict)
    for name, layer in layers.items():
        spellings: dict[str, set[str]] = defaultdict(set)
        for label in layer.find_labels([doc for docs in corpora for doc in docs]):
            spellings[label.casefold()].add(label)
        labels += [tuple(sorted(group)) for group in spellings.values() if len(group) > 1]
        for number, docs in enumerate(corpora):
            for doc in docs:
                if (found := layer.get_labels(doc)) is not None:
                    own = answers[name, doc.text].setdefault(number, set())
                    own.add(repr(found))
    texts: dict[str, list[str]] = defaultdict(list)
    for (name, text), by_corpus in answers.items():
        if len({frozenset(own) for own in by_corpus.values()}) > 1:
            texts[text].append(name)
    return Clashes(labels, dict(texts))
