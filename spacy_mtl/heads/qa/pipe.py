"""`mtl_qa`: the answer to a question as a span of its context, in `doc.spans`."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import Config, Model

from ...annotations.spans import Answers, Place
from ...arguments import Count, Factor, Rate, checked
from ...errors import Errors
from ...pairs import find_texts
from ...types import Bools1d, Bools2d, Floats1d, Floats2d, Ints2d, Settings, get_ops
from ..calibration import CalibratableHead, Likelihood, get_softmax_confidences, make_softmax_nll
from ..losses import cross_entropy, softmax
from .decoding import find_answer

LABEL = "ANSWER"
DEFAULT_CONFIG = """
[qa]
spans_key = "answers"
max_length = 30
null_threshold = 0.0
label_smoothing = 0.0
scorer = {"@scorers": "spacy-mtl.qa_scorer.v1"}

[qa.model]
@architectures = "spacy-mtl.TaggerHead.v1"

[qa.model.tok2vec]
@architectures = "spacy-mtl.TaskListener.v1"
"""
OUTPUTS = ["first", "last"]
NEVER = -1e9  # the score of a token that is no candidate


class Answer(NamedTuple):
    """The answer in a doc.

    start, end (int): The first token and the one after the last; equal if there is no answer.
    probability (float): The probability of the answer, or that there is none.
    """

    start: int
    end: int
    probability: float


class MultiTaskReader(CalibratableHead[Floats2d, Answer]):
    """Finds the answer to a question in a context, or that the context has none: Devlin et al.
    (2019), "BERT", sections 4.2 and 4.3.

    A doc has the question, a separator and the context: see `spacy_mtl.pairs`. The separator stands
    for "no answer". The softmaxes of first and last tokens go over the whole context, also if the
    encoder reads it in several windows.
    """

    CFG = {**CalibratableHead.CFG, "max_length": int, "null_threshold": float}

    @property
    def key(self) -> str:
        """RETURNS (str): The key of the answers in `doc.spans`."""
        key: str = self.cfg["spans_key"]
        return key

    @property
    def layer(self) -> Answers:  # type: ignore[override]
        """RETURNS (Answers): The group of answers. A gold doc with an empty group has no answer.
        A gold doc may have several answers, all of which are right.
        """
        return Answers(self.key)

    def get_outputs(self) -> list[str]:
        return OUTPUTS

    def find_labels(self, get_examples: Callable[[], Iterable[Example]]) -> list[str]:
        """RETURNS (List[str]): The label of answers."""
        return [LABEL]

    def get_gold_labels(self, doc: Doc) -> set[str]:
        """RETURNS (Set[str]): None: the labels of gold answers have no meaning."""
        return set()

    def check_labels(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        """Check that gold answers are in their contexts.

        RAISES (ValueError): M293 or M294 for a gold doc without a question, or an answer outside of
            the context.
        """
        for example in get_examples():
            self.get_targets([example])

    def get_targets(self, examples: Sequence[Example]) -> Bools2d:
        """Read the gold answers of a batch.

        examples (Sequence[Example]): The batch.
        RETURNS (Bools2d): The allowed first and last tokens of each doc, 2 D x P: places count from
            the separator, which stands for no answer. All are allowed where the annotation is
            missing.
        RAISES (ValueError): M293 or M294 for a gold doc without a question, or an answer outside of
            the context.
        """
        contexts = [find_context(eg.predicted) for eg in examples]
        size = max(end - start for start, end in contexts)
        allowed = numpy.ones((len(examples), 2, size), dtype=bool)
        for own, eg, (start, end) in zip(allowed, examples, contexts, strict=True):
            if not self.has_labels(eg.reference) or not len(eg.predicted):
                continue
            places: Sequence[Place] = (self.read_gold(eg) or {}).get(self.key, ())
            given = eg.reference.spans[self.key]
            text, name = eg.reference.text[:40], self.name
            if start == end:
                raise ValueError(Errors.M293.format(name=name, text=text))
            if any(not start < a < b <= end for a, b, _ in places) or len(places) < len(given):
                answers = [span.text for span in given]
                raise ValueError(Errors.M294.format(name=name, answers=answers, text=text))
            own[:] = False
            for a, b, _ in places:
                own[0, a - start] = own[1, b - 1 - start] = True
            own[:, 0] = not places
        return allowed.reshape(2 * len(examples), size)

    def to_rows(self, docs: Sequence[Doc], scores: Floats2d) -> tuple[Floats2d, Ints2d]:
        """Cut the scores of tokens into rows of candidates.

        docs (Sequence[Doc]): The docs, D.
        scores (Floats2d): The scores of all tokens as first and last ones, N x 2.
        RETURNS (Tuple[Floats2d, Ints2d]): The scores of each doc's separator and context, 2 D x P,
            and the token of each place, D x P, -1 for none.
        """
        xp = get_ops(self.model).xp
        rows, found = numpy.cumsum([0, *map(len, docs)])[:-1], [find_context(doc) for doc in docs]
        places = numpy.full((len(docs), max(b - a for a, b in found)), -1, dtype="int64")
        for own, row, (start, end) in zip(places, rows, found, strict=True):
            own[: end - start] = numpy.arange(row + start, row + end)
        tokens = xp.asarray(places)
        padded = xp.where((tokens >= 0)[:, None], scores.T[:, tokens].swapaxes(0, 1), NEVER)
        return padded.reshape(2 * len(docs), places.shape[1]), places

    def loss(self, examples: Sequence[Example], scores: Floats2d) -> tuple[float, Floats2d, int]:
        """Compute the mean negative log-likelihood of the first and last tokens, in nats. Each doc
        has two.
        """
        ops = get_ops(self.model)
        docs = [eg.predicted for eg in examples]
        rows, places = self.to_rows(docs, scores)
        d_scores: Floats2d = ops.xp.zeros_like(scores)
        if not rows.size:
            return 0.0, d_scores, 0
        allowed = ops.asarray(self.get_targets(examples))
        smoothing = self.cfg["label_smoothing"]
        loss, d_rows, n = cross_entropy(rows, allowed, label_smoothing=smoothing)
        known = places >= 0
        d_rows = d_rows.reshape(len(docs), 2, -1).swapaxes(1, 2)
        d_scores[places[known]] = d_rows[ops.asarray(known)]
        return loss, d_scores, n

    def decode(self, docs: Sequence[Doc], scores: Floats2d) -> list[Answer]:
        """RETURNS (List[Answer]): The answer of each doc: the best span, unless the score of the
        separator exceeds its score by more than `null_threshold`.
        """
        rows, _ = self.to_rows(docs, get_ops(self.model).to_numpy(scores) / self.temperature)
        if not rows.size:
            return self.decode_empty(docs)
        logs = numpy.log(softmax(rows) + 1e-30).reshape(len(docs), 2, -1)
        found = []
        for (starts, ends), (first, last) in zip(logs, map(find_context, docs), strict=True):
            size = last - first - 1
            if size < 1:
                found.append(Answer(0, 0, 1.0))
                continue
            start, end, best = find_answer(
                starts[1 : 1 + size], ends[1 : 1 + size], self.cfg["max_length"]
            )
            null = float(starts[0] + ends[0])
            if null - best > self.cfg["null_threshold"] / self.temperature:
                found.append(Answer(0, 0, float(numpy.exp(null))))
            else:
                places = first + 1 + start, first + 1 + end
                found.append(Answer(*places, float(numpy.exp(best))))
        return found

    def decode_empty(self, docs: Sequence[Doc]) -> list[Answer]:
        return [Answer(0, 0, 1.0) for _ in docs]

    def annotate(self, docs: Sequence[Doc], predictions: Sequence[Answer]) -> None:
        """Write the answer to `doc.spans`, with its probability in `attrs["scores"]`. Without an
        answer the group is empty, and `attrs["no_answer"]` is the probability that there is none.

        docs (Sequence[Doc]): The docs.
        predictions (Sequence[Answer]): The answer of each doc.
        """
        for doc, (start, end, p) in zip(docs, predictions, strict=True):
            spans = [Span(doc, start, end, LABEL)] if start < end else []
            doc.spans[self.key] = spans
            doc.spans[self.key].attrs["scores"] = numpy.array([p] * len(spans), dtype="f")
            if not spans:
                doc.spans[self.key].attrs["no_answer"] = p

    def make_nll(self, examples: Sequence[Example], scores: Floats2d) -> Likelihood:
        rows, _ = self.to_rows([eg.predicted for eg in examples], scores)
        return make_softmax_nll(self.get_targets(examples), rows)

    def get_confidences(
        self, examples: Sequence[Example], scores: Floats2d, temperature: float
    ) -> tuple[Floats1d, Bools1d]:
        rows, _ = self.to_rows([eg.predicted for eg in examples], scores)
        return get_softmax_confidences(self.get_targets(examples), rows, temperature)


def find_context(doc: Doc) -> tuple[int, int]:
    """RETURNS (Tuple[int, int]): The separator, and the token after the context; equal for a doc
    that is no pair.
    """
    texts = find_texts(doc)
    return (0, 0) if texts is None else (texts[1].start - 1, texts[1].end)


@Language.factory(
    "mtl_qa",
    assigns=["doc.spans"],
    default_config=Config().from_str(DEFAULT_CONFIG)["qa"],
    default_score_weights={"qa_f1": 1.0, "qa_exact": 0.0},
)
@checked("mtl_qa")
def make_mtl_qa(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Floats2d],
    spans_key: str,
    max_length: Count,
    null_threshold: Factor,
    label_smoothing: Rate,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskReader:
    """Construct a reader that shares its encoder, for docs of a question and a context.

    model (Model[List[Doc], Floats2d]): Scores of each token as the first and as the last one.
    spans_key (str): The group of `doc.spans` to learn from and to write to.
    max_length (int): The most tokens of an answer.
    null_threshold (float): How far the log-probability of no answer must exceed that of the best
        span. A higher value gives more answers.
    label_smoothing (float): Share of each target that is spread over all tokens, 0 to 1.
    scorer (Optional[Callable]): The scoring method.
    RAISES (ValueError): M058 for an argument out of range.
    """
    return MultiTaskReader(
        nlp.vocab,
        model,
        name,
        spans_key=spans_key,
        max_length=max_length,
        null_threshold=null_threshold,
        label_smoothing=label_smoothing,
        scorer=scorer,
    )
