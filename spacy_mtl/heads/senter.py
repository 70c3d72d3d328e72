"""`mtl_senter`: sentence boundaries, in `token.is_sent_start`."""

from collections.abc import Callable, Iterable, Sequence

import numpy
from spacy.attrs import SENT_START
from spacy.language import Language
from spacy.pipeline.senter import SentenceRecognizer
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Config, Model

from ..annotations.trees import Sentences
from ..arguments import Rate, Share, checked
from ..errors import Errors
from ..types import Bools2d, Floats1d, Floats2d, Ints1d, Settings, get_ops
from .base import show_as
from .classifier import ClassifierHead
from .loss_weighting import LossWeighting
from .losses import one_hot, softmax

DEFAULT_CONFIG = """
[senter]
overwrite = false
threshold = 0.5
label_smoothing = 0.0
loss = null
scorer = {"@scorers": "spacy.senter_scorer.v1"}

[senter.model]
@architectures = "spacy-mtl.TaggerHead.v1"

[senter.model.tok2vec]
@architectures = "spacy-mtl.TaskListener.v1"
"""
LABELS = ("I", "S")  # inside of a sentence, start of one


class MultiTaskSenter(ClassifierHead[Ints1d], SentenceRecognizer):  # type: ignore[misc]
    """Finds the tokens that start a sentence. spaCy's sentence recognizer is a base class for
    `isinstance` only.

    The first token of a doc always starts a sentence. It is no labelled unit.
    """

    layer = Sentences()

    @property
    def labels(self) -> tuple[str, ...]:
        """RETURNS (Tuple[str]): "I", inside of a sentence, and "S", the start of one."""
        return LABELS

    def add_label(self, label: str) -> int:
        """Accept a label that the head has. There are no others.

        label (str): The label.
        RETURNS (int): 0.
        RAISES (ValueError): M097 for another label.
        """
        if label not in LABELS:
            raise ValueError(Errors.M097.format(name=self.name, label=label, labels=[*LABELS]))
        return 0

    def find_labels(self, get_examples: Callable[[], Iterable[Example]]) -> list[str]:
        return [*LABELS]

    def get_targets(self, examples: Sequence[Example]) -> Bools2d:
        """RETURNS (Bools2d): Whether each token is inside of a sentence or starts one, N x 2. Both
        are allowed where the annotation is missing, and for the first token of each doc.
        """
        starts = numpy.concatenate([self._read_starts(example) for example in examples])
        return one_hot(numpy.nan_to_num(starts, nan=-1), len(LABELS))

    def _read_starts(self, example: Example) -> Floats1d:
        gold = self.read_gold(example)
        if gold is None:
            return numpy.full(len(example.predicted), numpy.nan)
        starts = numpy.array(gold, dtype="float64")  # None becomes nan
        starts[:1] = numpy.nan
        return starts

    def decode(self, docs: Sequence[Doc], scores: Floats2d) -> list[Ints1d]:
        """Find the tokens whose probability of a start reaches the threshold. The temperature does
        not matter, so that `mtl calibrate` changes no decision.

        docs (Sequence[Doc]): The batch, with at least one token.
        scores (Floats2d): The scores of both labels, N x 2.
        RETURNS (List[Ints1d]): For each doc 1 for each token that starts a sentence, 0 for others.
        """
        is_start = softmax(scores)[:, 1] >= self.cfg["threshold"]
        starts = get_ops(self.model).to_numpy(is_start).astype("int64")
        lengths = [len(doc) for doc in docs]
        by_doc = numpy.split(starts, numpy.cumsum(lengths)[:-1])
        for own in by_doc:
            own[:1] = 1
        return by_doc

    def decode_empty(self, docs: Sequence[Doc]) -> list[Ints1d]:
        return [numpy.zeros(0, dtype="int64") for _ in docs]

    def annotate(self, docs: Sequence[Doc], predictions: Sequence[Ints1d]) -> None:
        """Write `token.is_sent_start`. A token that is known to start a sentence, or not to, stays
        so unless `overwrite` is set.

        docs (Sequence[Doc]): The docs.
        predictions (Sequence[Ints1d]): 1 for each token that starts a sentence, else 0, for each
            doc.
        """
        for doc, starts in zip(docs, predictions, strict=True):
            values = numpy.where(starts == 1, 1, -1).astype("uint64")
            given = doc.to_array(SENT_START)
            if not self.cfg["overwrite"]:
                values = numpy.where(given, given, values)
            if len(doc):
                doc.from_array(SENT_START, values)  # type: ignore[arg-type]


@Language.factory(
    "mtl_senter",
    assigns=["token.is_sent_start"],
    default_config=Config().from_str(DEFAULT_CONFIG)["senter"],
    default_score_weights={"sents_f": 1.0, "sents_p": 0.0, "sents_r": 0.0},
)
@checked("mtl_senter")
def make_mtl_senter(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Floats2d],
    overwrite: bool,
    threshold: Share,
    label_smoothing: Rate,
    loss: LossWeighting | None,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskSenter:
    """Construct a sentence recognizer that shares its encoder.

    model (Model[List[Doc], Floats2d]): Scores of both labels for each token.
    overwrite (bool): Whether to replace the boundaries that a doc has already.
    threshold (float): The least probability of a sentence start. A lower one finds more starts.
    label_smoothing (float): Share of each target that is spread over both labels, 0 to 1.
    loss (Optional[LossWeighting]): `spacy-mtl.UnitLoss.v1`, for hard tokens and rare starts.
    scorer (Optional[Callable]): The scoring method.
    """
    return MultiTaskSenter(
        nlp.vocab,
        model,
        name,
        overwrite=overwrite,
        threshold=threshold,
        scorer=scorer,
        label_smoothing=label_smoothing,
        loss=loss,
    )


show_as("mtl_senter", "senter")
