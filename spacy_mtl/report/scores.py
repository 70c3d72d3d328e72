"""What pipelines answer on a corpus, and where it is right."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy
import spacy
from spacy.pipeline.textcat_multilabel import MultiLabel_TextCategorizer
from spacy.scorer import Scorer
from spacy.training import Corpus, Example

from ..errors import Errors
from ..heads.head import Head
from ..training.calibration import find_examples, get_confidences, keep_scores

Item: TypeAlias = tuple[int, int, str]  # start and end in tokens of the gold doc, label
NOTHING = "(none)"
EXCERPT = 40  # tokens


@dataclass
class Answer:
    """What is right in a doc for a task, and what the pipeline said.

    gold, found (Set[Item]): A tag spans its token, a category the whole doc.
    """

    gold: set[Item]
    found: set[Item]


@dataclass
class TaskAnswers:
    """All answers of a task.

    measure (str): What its score is called.
    labels (List[str]): All labels.
    docs (List[Optional[Answer]]): For each doc; None where it has no gold labels.
    confidences (Optional[Tuple[Floats1d, Bools1d]]): How sure the head is of each prediction, and
        whether it is right; only of heads of spacy-mtl.
    """

    measure: str
    labels: list[str]
    docs: list[Answer | None]
    confidences: tuple[numpy.ndarray, numpy.ndarray] | None = None


@dataclass
class Evaluation:
    """A pipeline's pass over a corpus.

    scores (Dict[str, Any]): As `spacy evaluate` has them.
    tasks (Dict[str, TaskAnswers]): Of the components that it knows how to read.
    docs (List[List[str]]): The gold docs' tokens, with the spaces behind them.
    """

    scores: dict[str, Any]
    tasks: dict[str, TaskAnswers]
    docs: list[list[str]]


class Keeper(Scorer):
    """Keeps the examples that it scores."""

    def score(self, examples: Iterable[Example], **settings: Any) -> dict[str, Any]:
        self.examples = list(examples)
        return super().score(self.examples, **settings)


def evaluate(model: Path, data: Path, tasks: Sequence[str]) -> Evaluation:
    """Run a pipeline over a corpus, once.

    model (Path): The pipeline's folder.
    data (Path): A .spacy file or a folder of them.
    tasks (Sequence[str]): The components to look at.
    RETURNS (Evaluation): The answers.
    RAISES (ValueError): M204 or M205 if either cannot be read.
    """
    try:
        nlp = spacy.load(model)
    except Exception as error:
        raise ValueError(Errors.M204.format(name=model, error=error)) from error
    try:
        examples = list(Corpus(data)(nlp))
    except Exception as error:
        raise ValueError(Errors.M205.format(path=data, error=error)) from error
    keeper = Keeper(nlp)
    with keep_scores(nlp) as scored:
        scores = nlp.evaluate(examples, scorer=keeper)
    found = {}
    for task in tasks:
        pipe: Any = nlp.get_pipe(task)
        for attribute, (measure, read) in READERS.items():
            if attribute in nlp.get_pipe_meta(task).assigns:
                views = [
                    pipe.isolate(eg) if isinstance(pipe, Head) else eg for eg in keeper.examples
                ]
                docs = [None if view is None else read(view, pipe) for view in views]
                labels = get_labels(docs) | (set(pipe.labels) if measure == MACRO else set())
                found[task] = TaskAnswers(measure, sorted(labels), docs)
        if task in found and task in scored:
            batches = find_examples(keeper.examples, scored[task])
            found[task].confidences = get_confidences(pipe, batches, pipe.temperature)
    words = [[token.text_with_ws for token in eg.reference] for eg in keeper.examples]
    return Evaluation(scores, found, words)


def read_tags(example: Example, pipe: Any) -> Answer | None:
    """RETURNS (Optional[Answer]): The tags, aligned as by `Scorer.score_token_attr`."""
    gold = {token.i: token.tag_ for token in example.reference if token.tag_}
    x2y = example.alignment.x2y
    found = {
        (int(x2y[token.i][0]), token.tag_)
        for token in example.predicted
        if not token.is_space and x2y.lengths[token.i] == 1
    }
    if not gold:
        return None
    return Answer(
        {(i, i + 1, tag) for i, tag in gold.items()},
        {(i, i + 1, tag) for i, tag in found if i in gold},
    )


def read_entities(example: Example, pipe: Any) -> Answer | None:
    """RETURNS (Optional[Answer]): The entities, aligned as by spaCy's `get_ner_prf`: without those
    where the gold labels are missing.
    """
    if not example.reference.has_annotation("ENT_IOB"):
        return None
    found = set()
    for entity in example.predicted.ents:
        tokens = example.alignment.x2y[entity.start : entity.end]
        if len(tokens):
            start, end = int(tokens[0]), int(tokens[-1]) + 1
            if all(token.ent_iob for token in example.reference[start:end]):
                found.add((start, end, entity.label_))
    return Answer({(e.start, e.end, e.label_) for e in example.reference.ents}, found)


def read_categories(example: Example, pipe: Any) -> Answer | None:
    """RETURNS (Optional[Answer]): The best category if they exclude each other, or else those
    above the threshold.
    """
    right = {k: v for k, v in example.reference.cats.items() if k in pipe.labels}
    found = {label: example.predicted.cats.get(label, 0.0) for label in pipe.labels}
    if isinstance(pipe, MultiLabel_TextCategorizer):
        threshold = pipe.cfg["threshold"]
        gold = [label for label in right if right[label] > 0]
        best = [label for label in right if found[label] >= threshold]
    else:
        gold = [max(right, key=lambda label: right[label])] if any(right.values()) else []
        best = [max(found, key=lambda label: found[label])]
        right = dict.fromkeys(gold, 1.0)
    n = len(example.reference)
    return Answer({(0, n, cat) for cat in gold}, {(0, n, cat) for cat in best}) if right else None


MACRO = "cats_macro_f"
READERS: dict[str, tuple[str, Callable[[Example, Any], Answer | None]]] = {
    "token.tag": ("tag_acc", read_tags),
    "doc.ents": ("ents_f", read_entities),
    "doc.cats": (MACRO, read_categories),
}


def get_labels(docs: Sequence[Answer | None]) -> set[str]:
    return {item[-1] for answer in docs if answer for item in answer.gold | answer.found}


def count_labels(docs: Sequence[Answer | None], labels: Sequence[str]) -> numpy.ndarray:
    """RETURNS (Ints3d): How often each doc's labels were right, wrong and missed, D x L x 3."""
    index = {label: i for i, label in enumerate(labels)}
    counts = numpy.zeros((len(docs), len(index), 3), dtype="int64")
    for row, answer in zip(counts, docs, strict=True):
        if answer:
            kinds = (
                answer.gold & answer.found,
                answer.found - answer.gold,
                answer.gold - answer.found,
            )
            for kind, items in enumerate(kinds):
                for _, _, label in items:
                    row[index[label], kind] += 1
    return counts


def get_f(counts: numpy.ndarray) -> numpy.ndarray:
    """RETURNS (Floats): F of each label's counts, ... x L x 3, as their mean, ...; 0 for a label
    that is in neither.
    """
    right, wrong, missed = numpy.moveaxis(counts, -1, 0)
    return (2 * right / numpy.maximum(2 * right + wrong + missed, 1)).mean(axis=-1)


def score_labels(counts: numpy.ndarray) -> dict[str, float | None]:
    """RETURNS (Dict[str, Optional[float]]): Precision, recall, F and support of one label's
    counts. What there is nothing of is None.
    """
    right, wrong, missed = (float(n) for n in counts)
    return {
        "p": right / (right + wrong) if right + wrong else None,
        "r": right / (right + missed) if right + missed else None,
        "f": 2 * right / (2 * right + wrong + missed) if right + wrong + missed else None,
        "support": right + missed,
    }


def count_confusions(docs: Sequence[Answer | None]) -> Counter[tuple[str, str]]:
    """RETURNS (Counter[Tuple[str, str]]): How often a gold label met a predicted one on the same
    span. Where there is only one of them, the other is `NOTHING`.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for answer in docs:
        if answer:
            spans: dict[tuple[int, int], tuple[set[str], set[str]]] = {}
            for side, items in enumerate((answer.gold, answer.found)):
                for start, end, label in items:
                    spans.setdefault((start, end), (set(), set()))[side].add(label)
            for gold, found in spans.values():
                counts.update((label, label) for label in gold & found)
                if gold != found:
                    missed, wrong = gold - found or {NOTHING}, found - gold or {NOTHING}
                    counts.update((a, b) for a in missed for b in wrong)
    return counts


def find_errors(
    docs: Sequence[Answer | None], words: Sequence[Sequence[str]], n: int = 5
) -> list[dict[str, Any]]:
    """Choose the docs with the most errors, and of those in which the same labels were missed one
    before all others.

    docs (Sequence[Optional[Answer]]): The answers.
    words (Sequence[Sequence[str]]): The docs' tokens, with the spaces behind them.
    n (int): How many to choose.
    RETURNS (List[Dict[str, Any]]): Excerpts. "gold" and "predicted" are only what differs, in
        displaCy's format.
    """
    wrong = [(i, answer) for i, answer in enumerate(docs) if answer and answer.gold != answer.found]
    wrong.sort(key=lambda pair: -len(pair[1].gold ^ pair[1].found))
    missed: Counter[frozenset[str]] = Counter()
    ranked = []
    for i, answer in wrong:
        labels = frozenset(label for _, _, label in answer.gold - answer.found)
        ranked.append((missed[labels], i, answer))
        missed[labels] += 1
    ranked.sort(key=lambda entry: entry[0])
    excerpts = []
    for _, i, answer in ranked[:n]:
        start = max(0, min(answer.gold ^ answer.found)[0] - EXCERPT // 4)
        window = [word.replace("\n", " ") for word in words[i][start : start + EXCERPT]]
        sides = {
            "gold": mark(window, answer.gold - answer.found, start),
            "predicted": mark(window, answer.found - answer.gold, start),
        }
        excerpts.append({"doc": i, "text": "".join(window), **sides})
    return excerpts


def mark(window: Sequence[str], items: set[Item], offset: int) -> list[dict[str, Any]]:
    """RETURNS (List[Dict[str, Any]]): The items inside a window, which begins at token `offset`, in
    characters. Labels of the same span are put together.
    """
    ends = numpy.cumsum([0, *map(len, window)]).tolist()
    spans: dict[tuple[int, int], list[str]] = {}
    for start, end, label in sorted(items):
        first, last = max(start - offset, 0), min(end - offset, len(window))
        if first < last:
            space = len(window[last - 1]) - len(window[last - 1].rstrip())
            spans.setdefault((ends[first], ends[last] - space), []).append(label)
    return [{"start": a, "end": b, "label": ", ".join(labels)} for (a, b), labels in spans.items()]
