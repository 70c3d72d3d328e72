"""Labels that a pipeline contradicts with confidence: likely errors of annotation.

Northcutt et al. (2021), "Confident Learning: Estimating Uncertainty in Dataset Labels". The rank is
the difference of two probabilities, that of the predicted label and that of the gold label.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vocab import Vocab

from ..corpora.documents import get_document, keep_document
from ..errors import Errors, quote
from ..heads.rating import Rating, RatingHead
from ..loading import load_pipeline, read_examples, stream_docs
from ..training.calibration import Scored, find_examples, keep_scores
from .names import PREDICTIONS, SETTINGS

RATINGS = "mtl_ratings"  # in `user_data` of predicted docs: the contradicted labels of each head
CONTEXT = 12  # tokens on each side


@dataclass(frozen=True)
class Suspect:
    """A gold label that a head contradicts.

    task (str): The head.
    doc (int): The number of the doc in the data, from 1 on.
    document (str): The id of its document; empty if it has none.
    text (str): The words around.
    words (str): The words that have the label.
    gold, predicted (str): The gold label and the predicted one.
    p_gold, p_predicted (float): Their probabilities.
    """

    task: str
    doc: int
    document: str
    text: str
    words: str
    gold: str
    predicted: str
    p_gold: float
    p_predicted: float

    @property
    def score(self) -> float:
        """RETURNS (float): How confident the contradiction is, -1 to 1."""
        return self.p_predicted - self.p_gold


def find_rating_heads(nlp: Language) -> dict[str, RatingHead[Any, Any]]:
    """RETURNS (Dict[str, RatingHead]): The enabled heads with a fixed set of labels that tell how
    probable gold labels are.
    """
    pipes: list[tuple[str, object]] = [*nlp.pipeline]
    return {
        name: pipe
        for name, pipe in pipes
        if isinstance(pipe, RatingHead) and not pipe.layer.is_open
    }


def rate_docs(nlp: Language, examples: Sequence[Example], scored: Mapping[str, Scored]) -> None:
    """Write the contradicted labels of each predicted doc to its user data.

    nlp (Language): The pipeline.
    examples (Sequence[Example]): Examples with its predictions.
    scored (Mapping[str, Scored]): The scores of each head, from `keep_scores`.
    """
    for eg in examples:
        eg.predicted.user_data[RATINGS] = {}
    for name, head in find_rating_heads(nlp).items():
        for batch, scores in find_examples(examples, scored[name]):
            for eg, ratings in zip(batch, head.rate_labels(batch, scores), strict=True):
                eg.predicted.user_data[RATINGS][name] = [list(rating) for rating in ratings]


def list_suspects(docs: Iterable[Doc]) -> list[Suspect]:
    """RETURNS (List[Suspect]): The contradicted labels of predicted docs, most confident first."""
    found = []
    for number, doc in enumerate(docs, 1):
        for task, ratings in doc.user_data.get(RATINGS, {}).items():
            for rating in (Rating(*values) for values in ratings):
                words = doc[rating.start : rating.end].text
                around = doc[max(rating.start - CONTEXT, 0) : rating.end + CONTEXT].text
                around, words = (" ".join(text.split()) for text in (around, words))
                place = (task, number, get_document(doc) or "", around, words)
                found.append(Suspect(*place, *rating[2:]))
    return sorted(found, key=lambda suspect: -suspect.score)


def find_suspects(pipeline: str | Path, data: Path) -> list[Suspect]:
    """Run a pipeline over gold data.

    pipeline (Union[str, Path]): The name of an installed pipeline, or a folder.
    data (Path): A .spacy file, or a folder of .spacy files.
    RETURNS (List[Suspect]): The contradicted labels, most confident first.
    RAISES (ValueError): M204 to M206 if the pipeline or the data cannot be read, M285 if the
        pipeline has no head whose labels can be rated.
    """
    nlp = load_pipeline(pipeline)
    if not find_rating_heads(nlp):
        raise ValueError(Errors.M285.format(pipes=quote(nlp.pipe_names) or "none"))
    examples = read_examples(data, nlp)
    with keep_scores(nlp) as scored:
        for _ in nlp.pipe(eg.predicted for eg in examples):
            pass
    rate_docs(nlp, examples, scored)
    for eg in examples:
        keep_document(eg.reference, eg.predicted)
    return list_suspects(eg.predicted for eg in examples)


def read_suspects(folder: Path) -> list[Suspect]:
    """Read the contradicted labels of a cross-validation.

    folder (Path): The output folder of `mtl cv`.
    RETURNS (List[Suspect]): The contradicted labels, most confident first.
    RAISES (ValueError): M283 if no fold is finished, M284 if the folder is another one.
    """
    path = folder / PREDICTIONS
    if not path.exists():
        message = Errors.M283 if (folder / SETTINGS).exists() else Errors.M284
        raise ValueError(message.format(path=folder))
    return list_suspects(stream_docs(path, Vocab()))
