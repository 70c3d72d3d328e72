"""Run a pipeline over a corpus, and collect its answers for each task."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.pipeline.pipe import Pipe
from spacy.pipeline.textcat_multilabel import MultiLabel_TextCategorizer
from spacy.scorer import Scorer
from spacy.training import Example

from ..annotations import Comparison, find_main_layer
from ..heads.base import Head
from ..heads.calibration import CalibratableHead
from ..loading import load_pipeline, read_examples
from ..training.calibration import find_examples, get_confidences, keep_scores
from ..types import Bools1d, Floats1d, Settings
from .scores import get_labels


@dataclass
class TaskAnswers:
    """The answers of a pipeline for a task.

    measure (str): The key of its score, such as "ents_f".
    is_macro (bool): Whether the score is a mean over labels.
    labels (List[str]): All labels.
    docs (List[Optional[Comparison]]): The gold and predicted items of each doc; None if it has no
        gold labels.
    confidences (Optional[Tuple[Floats1d, Bools1d]]): The probability of each prediction, and
        whether it is right; None if the component is no head of spacy-mtl.
    """

    measure: str
    is_macro: bool
    labels: list[str]
    docs: list[Comparison | None]
    confidences: tuple[Floats1d, Bools1d] | None = None


@dataclass
class Evaluation:
    """The results of running a pipeline over a corpus.

    scores (Dict[str, Any]): The scores of `spacy evaluate`.
    tasks (Dict[str, TaskAnswers]): The answers of each task with a known, fixed set of labels.
    docs (List[List[str]]): The tokens of each gold doc, each with the space after it.
    """

    scores: Settings
    tasks: dict[str, TaskAnswers]
    docs: list[list[str]]


class Keeper(Scorer):
    """A scorer that keeps the examples."""

    def score(self, examples: Iterable[Example], **settings: Any) -> Settings:
        self.examples = list(examples)
        return super().score(self.examples, **settings)


def evaluate(model: Path, data: Path, tasks: Sequence[str]) -> Evaluation:
    """Run a pipeline over a corpus, once.

    model (Path): The pipeline's folder.
    data (Path): A .spacy file, or a folder of .spacy files.
    tasks (Sequence[str]): The components to collect answers of.
    RETURNS (Evaluation): The scores and the answers.
    RAISES (ValueError): M204 if the pipeline cannot be loaded, M205 or M206 if the data cannot be
        used.
    """
    nlp = load_pipeline(model)
    keeper = Keeper(nlp)
    examples = read_examples(data, nlp)
    with keep_scores(nlp) as scored:
        scores = nlp.evaluate(examples, scorer=keeper)
    examples = keeper.examples
    found = {}
    for task in tasks:
        if (answers := read_answers(nlp, task, examples)) is not None:
            found[task] = answers
            head: object = nlp.get_pipe(task)
            if isinstance(head, CalibratableHead) and task in scored:
                batches = find_examples(examples, scored[task])
                answers.confidences = get_confidences(head, batches, head.temperature)
    words = [[token.text_with_ws for token in eg.reference] for eg in examples]
    return Evaluation(scores, found, words)


def read_answers(nlp: Language, task: str, examples: Sequence[Example]) -> TaskAnswers | None:
    """Read the answers of a component from annotated examples.

    nlp (Language): The pipeline.
    task (str): The component.
    examples (Sequence[Example]): The examples with the predictions of the pipeline.
    RETURNS (Optional[TaskAnswers]): The answers; None if the component has no annotation layer, or
        one without a fixed set of labels.
    """
    pipe: object = nlp.get_pipe(task)
    layer = find_main_layer(nlp, task)
    if layer is None or layer.is_open or not isinstance(pipe, Pipe):
        return None
    known = list(pipe.labels)
    threshold = pipe.cfg["threshold"] if isinstance(pipe, MultiLabel_TextCategorizer) else None
    own = [pipe.isolate(eg) if isinstance(pipe, Head) else eg for eg in examples]
    docs = [None if eg is None else layer.compare(eg, known, threshold) for eg in own]
    labels = get_labels(docs).union(known if layer.is_macro else ())
    return TaskAnswers(layer.comparison_key, layer.is_macro, sorted(labels), docs)
