"""`mtl_spancat`: spans that may overlap, in `doc.spans`."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import Config, Model

from ...annotations.spans import DEFAULT_SPANS_KEY, Place, SpanGroups
from ...arguments import Count, Rate, Share, check, checked
from ...encoder.host import isolated
from ...errors import Warnings
from ...types import Bools1d, Bools2d, Floats1d, Floats2d, Ints1d, Ints2d, Settings, get_ops
from ..base import show_as
from ..calibration import Likelihood, ThresholdHead
from ..loss_weighting import LossWeighting
from ..losses import binary_cross_entropy, sigmoid
from ..ner.pipe import get_place, get_probabilities
from ..prior import get_log_odds
from .scoring import Band, Hits, Scores

DEFAULT_CONFIG = f"""
[spancat]
spans_key = "{DEFAULT_SPANS_KEY}"
threshold = 0.5
max_positive = null
max_width = null
label_smoothing = 0.0
loss = null
scorer = {{"@scorers": "spacy.spancat_scorer.v1"}}

[spancat.model]
@architectures = "spacy-mtl.SpanCatHead.v1"

[spancat.model.tok2vec]
@architectures = "spacy-mtl.TaskListener.v1"
"""


class Found(NamedTuple):
    """The predicted spans of a doc, by first token, the longest first.

    places (Ints2d): The first token, the token after the last, and the label of S spans, S x 3.
    probabilities (Floats1d): Their probabilities, S.
    """

    places: Ints2d
    probabilities: Floats1d


class MultiTaskSpanCategorizer(ThresholdHead[Scores, Found]):
    """Finds and labels spans that may overlap and contain each other. All spans up to a width are
    candidates, and may have several labels. They may cross sentences.

    vocab (Vocab): The shared vocabulary.
    model (Model[List[Doc], Scores]): The factors of the scores of spans.
    name (str): The component's name.
    spans_key (str): The group of `doc.spans` to learn from and to write to.
    threshold (float): The least probability of a predicted label.
    max_positive (Optional[int]): The most labels of a span; None for no limit.
    max_width (Optional[int]): The most tokens of a span; None for those of the longest gold span
        at initialization.
    label_smoothing (float): Moves each target this far towards 1/2.
    loss (Optional[LossWeighting]): Weights of hard candidates and rare labels.
    scorer (Optional[Callable]): The scoring method.
    """

    CFG = {**ThresholdHead.CFG, "max_positive": int | None, "max_width": int | None}

    def __init__(
        self,
        vocab: Vocab,
        model: Model[list[Doc], Scores],
        name: str = "spancat",
        *,
        spans_key: str = DEFAULT_SPANS_KEY,
        threshold: float = 0.5,
        max_positive: int | None = None,
        max_width: int | None = None,
        label_smoothing: float = 0.0,
        loss: LossWeighting | None = None,
        scorer: Callable[..., Settings] | None = None,
    ) -> None:
        super().__init__(
            vocab,
            model,
            name,
            scorer=scorer,
            loss=loss,
            spans_key=spans_key,
            threshold=threshold,
            max_positive=max_positive,
            max_width=max_width,
            label_smoothing=label_smoothing,
        )

    @property
    def key(self) -> str:
        """RETURNS (str): The key of the group in `doc.spans`."""
        key: str = self.cfg["spans_key"]
        return key

    @property
    def layer(self) -> SpanGroups:  # type: ignore[override]
        """RETURNS (SpanGroups): The group that the head learns and writes."""
        return SpanGroups(self.key)

    # Initialization

    @property
    def label_data(self) -> Settings:
        """RETURNS (Dict[str, Any]): The labels, the counts of candidates and the greatest width, as
        `init labels` writes and `initialize` reads them.
        """
        return {**super().label_data, "max_width": self.cfg["max_width"]}

    @isolated
    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: dict[str, Any] | Sequence[str] | None = None,
    ) -> None:
        """Find the labels and the greatest width, set the sizes of the model, and start its bias at
        the frequencies of each width and label.

        get_examples (Callable): Returns a representative sample of examples.
        nlp (Optional[Language]): The current pipeline.
        labels (Optional[Union[Dict[str, Any], Sequence[str]]]): The labels, or the data that `init
            labels` writes. By default all is collected from the examples.
        RAISES (ValueError): As the other heads; M058 for a width below 1.
        """
        if isinstance(labels, Mapping) and "max_width" in labels and self.cfg["max_width"] is None:
            section = f"initialize.components.{self.name}"
            check(section, "labels.max_width", labels["max_width"], Count)
            self.cfg["max_width"] = labels["max_width"]
        super().initialize(get_examples, nlp=nlp, labels=labels)

    def check_labels(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        """Check that there are labels, and find the greatest width. Warn by W124 of gold spans
        beyond it.

        RAISES (ValueError): spaCy's E143 if there is no label.
        """
        super().check_labels(get_examples)
        gold = [self.read_places(example) or [] for example in get_examples()]
        widths = [end - start for places in gold for start, end, _ in places]
        if self.cfg["max_width"] is None:
            self.cfg["max_width"] = max(widths, default=1)
        width = self.cfg["max_width"]
        if n := sum(own > width for own in widths):
            message = Warnings.W124.format(
                name=self.name, n=n, total=len(widths), width=width, longest=max(widths)
            )
            warnings.warn(message)
        output = self.model.get_ref("output_layer")
        if not output.has_dim("nL"):
            output.set_dim("nL", len(self.labels))

    def get_outputs(self) -> list[str]:
        """RETURNS (List[str]): The label of each output. There is one for each width and label."""
        return [*self.labels] * (self.cfg["max_width"] or 0)

    def get_output_names(self) -> list[str]:
        widths = range(1, self.cfg["max_width"] + 1)
        return [f"{label} {width}" for width in widths for label in self.labels]

    def count_outputs(self, examples: Iterable[Example]) -> Ints2d:
        n_widths, n_labels = self.cfg["max_width"], len(self.labels)
        counts = numpy.zeros((n_widths * n_labels, 2), dtype="int64")
        for example in examples:
            (_, width, label), annotated = self.get_targets([example])
            n_spans = numpy.maximum(len(annotated) - numpy.arange(n_widths), 0) * annotated.any()
            with_label = numpy.bincount(width * n_labels + label, minlength=len(counts))
            counts[:, 0] += with_label
            counts[:, 1] += numpy.repeat(n_spans, n_labels) - with_label
        return counts

    def get_bias(self, counts: Floats2d) -> Floats1d:
        return get_log_odds(counts)

    # Predictions

    def decode(self, docs: Sequence[Doc], scores: Scores) -> list[Found]:
        """RETURNS (List[Found]): The spans of each doc."""
        return self.find_spans(scores, [len(doc) for doc in docs], self.temperature)

    def decode_empty(self, docs: Sequence[Doc]) -> list[Found]:
        nothing = Found(numpy.zeros((0, 3), dtype="int64"), numpy.zeros(0, dtype="f"))
        return [nothing for _ in docs]

    def find_spans(self, scores: Scores, lengths: Sequence[int], temperature: float) -> list[Found]:
        """Find the spans above the threshold.

        scores (Scores): The output of the model.
        lengths (Sequence[int]): The tokens of each doc.
        temperature (float): The divisor of the scores for the probabilities. The decisions do not
            depend on it.
        RETURNS (List[Found]): The spans of each doc.
        """
        hits = Band(Scores(*scores), lengths).find(self._get_least_score())
        last, width, label, values = limit_labels(hits, self.cfg["max_positive"])
        first = last - width
        order = numpy.lexsort((label, -last, first))
        ends = numpy.cumsum(lengths)
        cuts = numpy.searchsorted(first[order], ends[:-1])
        places = numpy.stack([first, last + 1, label], axis=1)[order]
        probabilities = sigmoid(values[order] / temperature)
        found = zip(numpy.split(places, cuts), numpy.split(probabilities, cuts), strict=True)
        shifts = numpy.array([[1, 1, 0]]) * (ends - lengths)[:, None]
        return [Found(own - shift, p) for (own, p), shift in zip(found, shifts, strict=True)]

    def _get_least_score(self) -> float:
        threshold = self.cfg["threshold"]
        if threshold in (0, 1):
            return math.inf if threshold else -math.inf
        return self.temperature * math.log(threshold / (1 - threshold))

    def annotate(self, docs: Sequence[Doc], predictions: Sequence[Found]) -> None:
        """Write the spans to `doc.spans`, with their probabilities in `attrs["scores"]`. They
        replace the group, except spans with labels of other heads with the same `spans_key`.

        docs (Sequence[Doc]): The docs.
        predictions (Sequence[Found]): The spans of each doc.
        """
        labels = self.labels
        others = {label for head in self.siblings for label in head.labels}
        for doc, (places, probabilities) in zip(docs, predictions, strict=True):
            spans = [Span(doc, start, end, labels[label]) for start, end, label in places.tolist()]
            if others:
                spans, probabilities = add_others(doc, self.key, spans, probabilities, others)
            doc.spans[self.key] = spans
            doc.spans[self.key].attrs["scores"] = probabilities

    def get_answer(self, doc: Doc, prediction: Found) -> dict[str, list[Place]]:
        labels = self.labels
        spans = [(doc[start:end], labels[label]) for start, end, label in prediction[0].tolist()]
        return {self.key: [(span.start_char, span.end_char, label) for span, label in spans]}

    # Learning

    def read_places(self, example: Example) -> Sequence[Place] | None:
        """RETURNS (Optional[Sequence[Tuple[int, int, str]]]): The first token, the one after the
        last and the label of each gold span, in predicted tokens. None if they are missing.
        """
        return (self.read_gold(example) or {}).get(self.key)

    def get_targets(self, examples: Sequence[Example]) -> tuple[tuple[Ints1d, ...], Bools1d]:
        """Read the gold spans of a batch.

        Spans of other labels and beyond the greatest width are left out, and so are spans that
        begin or end inside a predicted token: no candidate is right then.

        examples (Sequence[Example]): The batch.
        RETURNS (Tuple[Tuple[Ints1d, ...], Bools1d]): The row of the last token, the number of
            tokens - 1 and the label of each span, and whether each token is in an annotated doc, N.
        """
        index = {label: i for i, label in enumerate(self.labels)}
        lengths = [len(eg.predicted) for eg in examples]
        gold = [self.read_places(example) for example in examples]
        firsts = numpy.cumsum(lengths) - lengths
        cells = {
            (first + end - 1, end - start - 1, index[label])
            for first, places in zip(firsts.tolist(), gold, strict=True)
            for start, end, label in places or ()
            if label in index and 0 < end - start <= self.cfg["max_width"]
        }
        last, width, label = numpy.array(sorted(cells), dtype="int64").reshape(-1, 3).T
        annotated = numpy.repeat([places is not None for places in gold], lengths)
        return (last, width, label), annotated

    def loss(self, examples: Sequence[Example], scores: Scores) -> tuple[float, Scores, int]:
        """Compute the loss of a batch: the sum of the cross-entropies of all labels and all
        candidates that end at a token, as a mean over the tokens of annotated docs. It compares
        with the loss of tags per token.
        """
        lengths = [len(eg.predicted) for eg in examples]
        xp, band = get_ops(self.model).xp, Band(scores, lengths)
        cells, annotated = self.get_targets(examples)
        is_wanted = band.is_span() & annotated[:, None]
        n_tokens = int(annotated.sum())
        if not n_tokens:
            return 0.0, Scores(*map(xp.zeros_like, scores)), 0
        if not self._is_initialized:
            self._warn_of_wide_spans(examples)
        logits, backprop = band.score(is_wanted)
        weights = self.get_weights()
        if weights is not None:  # one for each label, at any width
            weights = replace(weights, class_weights=weights.class_weights[: len(self.labels)])
        loss, d_logits, n = binary_cross_entropy(
            logits,
            xp.asarray(make_truths(is_wanted, cells, len(self.labels))),
            xp.ones(logits.shape, dtype=bool),
            label_smoothing=self.cfg["label_smoothing"],
            weights=weights,
        )
        per_token = logits.size / n_tokens
        return loss * per_token, backprop(d_logits * per_token), n_tokens if n else 0

    def _warn_of_wide_spans(self, examples: Iterable[Example]) -> None:
        width = self.cfg["max_width"]
        gold = [self.read_places(example) or () for example in examples]
        if any(end - start > width for places in gold for start, end, _ in places):
            warnings.warn(Warnings.W125.format(name=self.name, width=width))

    # Calibration

    def make_nll(self, examples: Sequence[Example], scores: Scores) -> Likelihood:
        """RETURNS (Likelihood): The likelihood per token, of scores rounded to three decimals. So
        the scores of wrong candidates, which are many and mostly alike, are counted, not kept.
        """
        starts, ends, *others = scores
        last = numpy.cumsum([len(eg.predicted) for eg in examples])[:-1]
        rows = zip(examples, numpy.split(starts, last), numpy.split(ends, last), strict=True)
        parts = [self._count_scores(eg, Scores(*own, *others)) for eg, *own in rows]
        values, counts = (numpy.concatenate(arrays) for arrays in zip(*parts, strict=True))
        signs = numpy.sign(counts)
        n_tokens = sum(len(eg.predicted) for eg in examples if self.read_places(eg) is not None)

        def nll(temperature: float) -> tuple[float, float, int]:
            x = signs * values / temperature
            loss = numpy.abs(counts) @ numpy.logaddexp(0, x)
            slope = (counts * sigmoid(x)) @ values
            n = max(n_tokens, 1)
            return float(loss / n), float(slope / n), n_tokens

        return nll

    def _count_scores(self, example: Example, scores: Scores) -> tuple[Floats1d, Floats1d]:
        """RETURNS (Tuple[Floats1d, Floats1d]): The different scores of the candidates of a doc, and
        how often they occur. The counts of gold labels are negative.
        """
        cells, annotated = self.get_targets([example])
        band = Band(scores, [len(annotated)])
        is_wanted = band.is_span() & annotated[:, None]
        logits = band.score(is_wanted)[0].round(3)
        truths = make_truths(is_wanted, cells, len(self.labels))
        wrong, counts = numpy.unique(logits[truths == 0], return_counts=True)
        right = logits[truths == 1]
        return numpy.concatenate([wrong, right]), numpy.concatenate(
            [counts, -numpy.ones(len(right))]
        )

    def get_confidences(
        self, examples: Sequence[Example], scores: Scores, temperature: float
    ) -> tuple[Floats1d, Bools1d]:
        """RETURNS (Tuple[Floats1d, Bools1d]): The probability of each predicted span of annotated
        docs, and whether the span is right.
        """
        labels, confidences, is_right = self.labels, [], []
        found = self.find_spans(scores, [len(eg.predicted) for eg in examples], temperature)
        for example, (places, probabilities) in zip(examples, found, strict=True):
            gold = self.read_places(example)
            if gold is not None:
                given = set(gold)
                confidences += probabilities.tolist()
                is_right += [(s, e, labels[label]) in given for s, e, label in places.tolist()]
        return numpy.array(confidences, dtype="f"), numpy.array(is_right, dtype=bool)


def make_truths(is_wanted: Bools2d, cells: Sequence[Ints1d], n_labels: int) -> Floats2d:
    """RETURNS (Floats2d): 1 for each gold label of the S wanted spans, otherwise 0, S x L.

    is_wanted (Bools2d): The spans, by last token and width, N x W.
    cells (Sequence[Ints1d]): The last token, width - 1 and label of the gold labels.
    n_labels (int): The number of labels, L.
    """
    last, width, label = cells
    rows = is_wanted.cumsum().reshape(is_wanted.shape) - 1
    truths = numpy.zeros((int(is_wanted.sum()), n_labels), dtype="f")
    truths[rows[last, width], label] = 1
    return truths


def limit_labels(hits: Hits, n: int | None) -> Hits:
    """RETURNS (Hits): The n labels of each span with the highest scores."""
    if n is None:
        return hits
    order = numpy.lexsort((-hits.score, hits.width, hits.last))
    last, width = hits.last[order], hits.width[order]
    is_first = numpy.ones(len(order), dtype=bool)
    is_first[1:] = (last[1:] != last[:-1]) | (width[1:] != width[:-1])
    places = numpy.arange(len(order))
    ranks = places - numpy.maximum.accumulate(numpy.where(is_first, places, 0))
    kept = order[ranks < n]
    return Hits(hits.last[kept], hits.width[kept], hits.label[kept], hits.score[kept])


def add_others(
    doc: Doc, key: str, spans: Sequence[Span], probabilities: Floats1d, labels: set[str]
) -> tuple[list[Span], Floats1d]:
    """Add the spans of a group that other heads have written.

    doc (Doc): The doc.
    key (str): The key of the group.
    spans (Sequence[Span]): The spans of this head.
    probabilities (Floats1d): Their probabilities.
    labels (Set[str]): The labels of the other heads.
    RETURNS (Tuple[List[Span], Floats1d]): All spans by first token, with their probabilities.
    """
    own = dict(zip(map(get_place, spans), probabilities.tolist(), strict=True))
    known = get_probabilities(doc, key)
    merged = {place: p for place, p in known.items() if place[2] in labels} | own
    order = sorted(merged, key=lambda place: (place[0], -place[1], place[2]))
    both = [Span(doc, *place) for place in order]
    return both, numpy.array([merged[place] for place in order], dtype="f")


@Language.factory(
    "mtl_spancat",
    assigns=["doc.spans"],
    default_config=Config().from_str(DEFAULT_CONFIG)["spancat"],
    default_score_weights={"spans_sc_f": 1.0, "spans_sc_p": 0.0, "spans_sc_r": 0.0},
)
@checked("mtl_spancat")
def make_mtl_spancat(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Scores],
    spans_key: str,
    threshold: Share,
    max_positive: Count | None,
    max_width: Count | None,
    label_smoothing: Rate,
    loss: LossWeighting | None,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskSpanCategorizer:
    """Construct a span categorizer that shares its encoder.

    model (Model[List[Doc], Scores]): `spacy-mtl.SpanCatHead.v1`.
    spans_key (str): The group of `doc.spans` to learn from and to write to.
    threshold (float): The least probability of a predicted label.
    max_positive (Optional[int]): The most labels of a span; null for no limit.
    max_width (Optional[int]): The most tokens of a span; null for those of the longest gold span.
        The cost grows with it. W124 warns of gold spans beyond it.
    label_smoothing (float): Moves each target this far towards 1/2, 0 to 1.
    loss (Optional[LossWeighting]): `spacy-mtl.UnitLoss.v1`, for hard candidates and rare labels.
    scorer (Optional[Callable]): The scoring method.
    RAISES (ValueError): M058 for an argument out of range.
    """
    return MultiTaskSpanCategorizer(
        nlp.vocab,
        model,
        name,
        spans_key=spans_key,
        threshold=threshold,
        max_positive=max_positive,
        max_width=max_width,
        label_smoothing=label_smoothing,
        loss=loss,
        scorer=scorer,
    )


show_as("mtl_spancat", "spancat")
