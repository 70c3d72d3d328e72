"""Runs the pipeline of a fold over its test data, and keeps what the summary needs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import srsly
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from ..corpora.documents import drop_other_data, keep_document
from ..files import replacing
from ..loading import load_pipeline, read_examples
from ..report.evaluation import Keeper, TaskAnswers, read_answers
from ..report.scores import count_labels
from ..training.calibration import keep_scores
from .suspects import RATINGS, rate_docs


@dataclass
class Answers:
    """What a pipeline answered for a task, counted by doc.

    is_macro (bool): Whether the score is a mean over labels.
    docs (List[Optional[Dict[str, Tuple[int, int, int]]]]): The true positives, false positives and
        false negatives of each label in each doc; None if it has no gold labels.
    """

    is_macro: bool
    docs: list[dict[str, tuple[int, int, int]] | None]


@dataclass
class Outcome:
    """The result of one fold.

    scores (Dict[str, float]): The scores of the test data that are single numbers.
    answers (Dict[str, Answers]): The answers for each task with a fixed set of labels.
    """

    scores: dict[str, float]
    answers: dict[str, Answers]

    @classmethod
    def read(cls, path: Path) -> "Outcome":
        """RETURNS (Outcome): The result in a JSON file."""
        content = srsly.read_json(path)
        answers = {name: Answers(**found) for name, found in content["answers"].items()}
        return cls(content["scores"], answers)

    def write(self, path: Path) -> None:
        """Write the result to a JSON file."""
        with replacing(path) as new:
            srsly.write_json(new, asdict(self))


def evaluate(model: Path, test: Path, tasks: Sequence[str]) -> tuple[Outcome, list[Doc]]:
    """Run the pipeline of a fold over its test data.

    model (Path): The folder of the pipeline.
    test (Path): The .spacy file.
    tasks (Sequence[str]): The components to count answers of.
    RETURNS (Tuple[Outcome, List[Doc]]): The result, and the predicted docs with their ratings and
        document ids.
    RAISES (ValueError): M204 to M206 if the pipeline or the data cannot be read.
    """
    nlp = load_pipeline(model)
    examples, scores = predict(nlp, read_examples(test, nlp))
    answers = {
        task: count_answers(found)
        for task in tasks
        if (found := read_answers(nlp, task, examples)) is not None
    }
    numbers = {key: float(value) for key, value in scores.items() if isinstance(value, float)}
    docs = [eg.predicted for eg in examples]
    for doc in docs:
        ratings = doc.user_data[RATINGS]
        drop_other_data([doc])
        doc.user_data[RATINGS] = ratings
    return Outcome(numbers, answers), docs


def predict(
    nlp: Language, examples: Sequence[Example]
) -> tuple[list[Example], Mapping[str, object]]:
    """Run a pipeline over gold docs once.

    nlp (Language): The pipeline.
    examples (Sequence[Example]): The examples.
    RETURNS (Tuple[List[Example], Mapping[str, object]]): The examples with the predictions, whose
        user data has their ratings and document ids; and the scores.
    """
    keeper = Keeper(nlp)
    with keep_scores(nlp) as scored:
        scores = nlp.evaluate(examples, scorer=keeper)
    for eg in keeper.examples:
        keep_document(eg.reference, eg.predicted)
    rate_docs(nlp, keeper.examples, scored)
    return keeper.examples, scores


def count_answers(found: TaskAnswers) -> Answers:
    """RETURNS (Answers): The answers, counted by doc and label."""
    docs: list[dict[str, tuple[int, int, int]] | None] = []
    for doc, counts in zip(found.docs, count_labels(found.docs, found.labels), strict=True):
        pairs = zip(found.labels, counts.tolist(), strict=True)
        own = {label: (n[0], n[1], n[2]) for label, n in pairs if any(n)}
        docs.append(own if doc else None)
    return Answers(found.is_macro, docs)


def save_docs(docs: Sequence[Doc], path: Path) -> None:
    """Write docs with their user data.

    docs (Sequence[Doc]): The docs.
    path (Path): The .spacy file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        DocBin(docs=docs, store_user_data=True).to_disk(new)
