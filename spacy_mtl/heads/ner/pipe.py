"""`mtl_ner`: named entities, in `doc.ents`, by tags for the tokens and exact decoding."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, repeat
from typing import TypeAlias

import numpy
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import Config, Model

from ...annotations.spans import Entities
from ...arguments import Rate, checked
from ...errors import Errors, Warnings
from ...types import Bools1d, Bools2d, Floats1d, Floats2d, Ints1d, Ints2d, Settings, get_ops
from ..base import show_as
from ..calibration import Likelihood, make_softmax_nll
from ..loss_weighting import LossWeighting
from ..losses import cross_entropy, one_hot
from ..prior import count_masks
from ..rating import Rating, RatingHead
from .crf import TransitionScores, crf_loss, span_probabilities, viterbi
from .model import Scores
from .tagging import Scheme, fit_bias, get_index, get_spans, get_tags, make_chain

DEFAULT_CONFIG = """
[ner]
scheme = "biluo"
label_smoothing = 0.0
loss = null
spans_key = "ner"
scorer = {"@scorers": "spacy.ner_scorer.v1"}

[ner.model]
@architectures = "spacy-mtl.NerHead.v1"
crf = true

[ner.model.tok2vec]
@architectures = "spacy-mtl.TaskListener.v1"
"""

Entity: TypeAlias = tuple[int, int, str, float]  # first token, the one after the last, label, p


class MultiTaskNER(RatingHead[Scores, list[Entity]]):
    """Recognizes named entities by tagging tokens. It decodes only valid tag sequences.

    vocab (Vocab): The shared vocabulary.
    model (Model[List[Doc], Tuple[Floats2d, Floats2d]]): Scores of each tag for each token, N x C,
        and learned scores of transitions, C x C.
    name (str): The component's name.
    scheme (str): "bio" or "biluo".
    label_smoothing (float): Share of each target that is spread over all tags. Not with a CRF.
    loss (Optional[LossWeighting]): Weights of hard tokens and rare types. Not with a CRF.
    spans_key (Optional[str]): The group of `doc.spans` that gets the entities, with their
        probabilities as `attrs["scores"]`; None for no group.
    scorer (Optional[Callable]): The scoring method.
    """

    layer = Entities()
    CFG = {**RatingHead.CFG, "scheme": Scheme}

    def __init__(
        self,
        vocab: Vocab,
        model: Model[list[Doc], Scores],
        name: str = "ner",
        *,
        scheme: Scheme = "biluo",
        label_smoothing: float = 0.0,
        loss: LossWeighting | None = None,
        spans_key: str | None = "ner",
        scorer: Callable[..., Settings] | None = None,
    ) -> None:
        if label_smoothing and model.attrs["crf"]:
            raise ValueError(Errors.M031.format(label_smoothing=label_smoothing))
        if loss is not None and model.attrs["crf"]:
            raise ValueError(Errors.M036.format(name=name))
        super().__init__(
            vocab,
            model,
            name,
            scorer=scorer,
            loss=loss,
            scheme=scheme,
            label_smoothing=label_smoothing,
            spans_key=spans_key,
        )

    @property
    def tags(self) -> list[str]:
        """RETURNS (List[str]): The tags that the scheme makes of the labels."""
        return get_tags(self.labels, self.cfg["scheme"])

    def get_outputs(self) -> list[str]:
        """RETURNS (List[str]): The entity type of each tag, or "O"."""
        return [tag[2:] or tag for tag in self.tags]

    def get_output_names(self) -> list[str]:
        return self.tags

    def check_labels(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        """Warn by W013 if there are no entity types."""
        if not self.labels:
            warnings.warn(Warnings.W013.format(name=self.name))

    def count_outputs(self, examples: Iterable[Example]) -> Ints2d:
        masks = (self.get_targets([example]) for example in examples)
        return count_masks(masks, len(self.tags))

    def get_bias(self, counts: Floats2d) -> Floats1d:
        """RETURNS (Floats1d): The bias, C. With a CRF, the marginals of its chain are the shares of
        the tags, up to the ends of docs.
        """
        log_shares = super().get_bias(counts)
        if not self.model.attrs["crf"]:
            return log_shares
        return fit_bias(log_shares, make_chain(tuple(self.tags), self.cfg["scheme"]))

    # Predictions

    def decode(self, docs: Sequence[Doc], scores: Scores) -> list[list[Entity]]:
        """RETURNS (List[List[Tuple[int, int, str, float]]]): The entities of each doc: first token,
        the token after the last, label and probability.
        """
        emissions, transitions = map(get_ops(self.model).to_numpy, scores)
        temperature = self.temperature if self.cfg["spans_key"] else None
        lengths = [len(doc) for doc in docs]
        return self.find_entities(emissions, transitions, lengths, temperature)

    def find_entities(
        self,
        emissions: Floats2d,
        transitions: Floats2d,
        lengths: Sequence[int],
        temperature: float | None,
    ) -> list[list[Entity]]:
        """Find the best entities and their probabilities.

        emissions, transitions: The output of the model, on the CPU.
        lengths (Sequence[int]): Tokens per doc.
        temperature (Optional[float]): The divisor of both for the probabilities. With None the
            probabilities are not computed, and 0.
        RETURNS (List[List[Tuple[int, int, str, float]]]): The result of `decode`.
        """
        chain = self._get_chain(transitions)
        ids = viterbi(emissions, chain, lengths)
        names: list[str] = numpy.array(self.tags, dtype=object)[ids].tolist()
        firsts = numpy.cumsum([0, *lengths]).tolist()
        found = [
            [(row + start, row + end, label) for start, end, label in get_spans(names[row:after])]
            for row, after in pairwise(firsts)
        ]
        probabilities: Iterator[float] = repeat(0.0)
        if temperature:
            spans = [(start, end) for entities in found for start, end, _ in entities]
            chain = replace(chain, transitions=chain.transitions / temperature)
            scaled = emissions / temperature
            probabilities = iter(span_probabilities(scaled, chain, lengths, spans, ids))
        return [
            [(start - row, end - row, label, next(probabilities)) for start, end, label in entities]
            for row, entities in zip(firsts, found, strict=False)
        ]

    def annotate(self, docs: Sequence[Doc], predictions: Sequence[list[Entity]]) -> None:
        """Write the entities to `doc.ents`. Entities that the doc has already stay, and tokens that
        `doc.set_ents` has blocked are left out. If two heads predict an entity for a token, the
        first head in the pipeline gets it.

        Heads with the same `spans_key` share the group. It holds all entities of `doc.ents` that
        one of them has predicted, with their probabilities.

        docs (Sequence[Doc]): The docs.
        predictions (Sequence[List[Tuple[int, int, str, float]]]): The entities of each doc.
        """
        for doc, entities in zip(docs, predictions, strict=True):
            write_entities(doc, entities, self.cfg["spans_key"])

    def get_answer(self, doc: Doc, prediction: list[Entity]) -> list[Entity]:
        """RETURNS (List[Tuple[int, int, str, float]]): For each entity its first character, the one
        after the last, its label, and its probability (0 without `spans_key`).
        """
        places = [(*trim(doc, start, end), label, p) for start, end, label, p in prediction]
        return [
            (doc[start].idx, doc[end - 1].idx + len(doc[end - 1]), label, float(p))
            for start, end, label, p in places
            if start < end
        ]

    def set_answer(self, doc: Doc, answer: Sequence[Entity]) -> None:
        super().set_answer(doc, [(start, end, label) for start, end, label, _ in answer])

    # Learning

    def loss(self, examples: Sequence[Example], scores: Scores) -> tuple[float, Scores, int]:
        emissions, transitions = scores
        ops = get_ops(self.model)
        allowed = self.get_targets(examples)
        if not self.model.attrs["crf"]:
            loss, d_emissions, n = cross_entropy(
                emissions,
                ops.asarray(allowed),
                label_smoothing=self.cfg["label_smoothing"],
                weights=self.get_weights(),
            )
            return loss, (d_emissions, ops.xp.zeros_like(transitions)), n
        # Always on the CPU: on a GPU each token's step would be several kernels.
        chain = self._get_chain(ops.to_numpy(transitions))
        lengths = [len(eg.predicted) for eg in examples]
        loss, *gradients, n = crf_loss(ops.to_numpy(emissions), allowed, chain, lengths)
        d_emissions, d_transitions = map(ops.asarray, gradients)
        return loss, (d_emissions, d_transitions), n

    def get_targets(self, examples: Sequence[Example]) -> Bools2d:
        """Read the gold tags.

        An entity of a type that is not among the labels is "O", not missing. Entities do not
        overlap, so an annotator's PLACE is no PERSON. A head for PERSON that never saw PLACE as
        "O" would call places PERSON too.

        RETURNS (Bools2d): The allowed tags of each token, N x C. All tags are allowed where the
            annotation is missing or cannot be aligned.
        """
        index = get_index(self.labels, self.cfg["scheme"])
        tags = [tag for example in examples for tag in self._read_tags(example)]
        ids = [-1 if tag is None else index.get(tag, 0) for tag in tags]
        return one_hot(numpy.array(ids, dtype="int64"), len(self.tags))

    def _read_tags(self, example: Example) -> Sequence[str | None]:
        return self.read_gold(example) or [None] * len(example.predicted)

    def _get_chain(self, transitions: Floats2d) -> TransitionScores:
        rules = make_chain(tuple(self.tags), self.cfg["scheme"])
        return TransitionScores(rules.start, rules.transitions + transitions, rules.end)

    # Calibration

    def make_nll(self, examples: Sequence[Example], scores: Scores) -> Likelihood:
        """RETURNS (Likelihood): The likelihood of the tag sequences, or without a CRF of the
        tags.
        """
        emissions, transitions = scores
        allowed = self.get_targets(examples)
        if not self.model.attrs["crf"]:
            return make_softmax_nll(allowed, emissions)
        lengths = [len(eg.predicted) for eg in examples]

        def nll(temperature: float) -> tuple[float, float, int]:
            chain = self._get_chain(transitions / temperature)
            loss, *gradients, n = crf_loss(emissions / temperature, allowed, chain, lengths)
            return loss, float(sum(map(numpy.vdot, gradients, scores))), n

        return nll

    def get_confidences(
        self, examples: Sequence[Example], scores: Scores, temperature: float
    ) -> tuple[Floats1d, Bools1d]:
        """RETURNS (Tuple[Floats1d, Bools1d]): The probability of each predicted entity, and whether
        the entity is right. Entities are left out where the gold annotation is missing.
        """
        lengths = [len(eg.predicted) for eg in examples]
        docs = self.find_entities(*scores, lengths, temperature)
        confidences, is_right = [], []
        for eg, entities in zip(examples, docs, strict=True):
            tags = self._read_tags(eg)
            gold = set(get_spans([tag or "O" for tag in tags]))
            for start, end, label, p in entities:
                start, end = trim(eg.predicted, start, end)
                if start < end and None not in tags[start:end]:
                    confidences.append(p)
                    is_right.append((start, end, label) in gold)
        return numpy.array(confidences, dtype="f"), numpy.array(is_right, dtype=bool)

    def rate_labels(self, examples: Sequence[Example], scores: Scores) -> list[list[Rating]]:
        """RETURNS (List[List[Rating]]): The parts of each doc that gold and predicted entities
        divide differently. The probabilities are those of all tags of the part.
        """
        emissions, transitions = scores
        chain, lengths = self._get_chain(transitions), [len(eg.predicted) for eg in examples]
        ids = viterbi(emissions, chain, lengths)
        allowed = self.get_targets(examples)
        is_known, gold = allowed.sum(axis=1) == 1, allowed.argmax(axis=1)
        firsts = numpy.cumsum([0, *lengths]).tolist()
        found: list[list[Rating]] = [[] for _ in examples]
        parts, owners = [], []
        for i, (row, after) in enumerate(pairwise(firsts)):
            sides = [self._find_spans(tags[row:after]) for tags in (gold, ids)]
            for start, end in merge_spans(sides[0] ^ sides[1]):
                if is_known[row + start : row + end].all():
                    parts.append((row + start, row + end))
                    owners.append((i, start, end, sides))
        scaled = emissions / self.temperature
        chain = replace(chain, transitions=chain.transitions / self.temperature)
        pairs = zip(
            *(span_probabilities(scaled, chain, lengths, parts, tags) for tags in (gold, ids)),
            strict=True,
        )
        for (i, start, end, sides), pair in zip(owners, pairs, strict=True):
            doc = examples[i].predicted
            names = [name_part(doc, start, end, side) for side in sides]
            found[i].append(Rating(start, end, names[0], names[1], *map(float, pair)))
        return found

    def _find_spans(self, ids: Ints1d) -> set[tuple[int, int, str]]:
        tags: list[str] = numpy.array(self.tags, dtype=object)[ids].tolist()
        return set(get_spans(tags))


def merge_spans(spans: Iterable[tuple[int, int, str]]) -> list[tuple[int, int]]:
    """RETURNS (List[Tuple[int, int]]): The parts that spans cover, of which no two overlap."""
    parts: list[tuple[int, int]] = []
    for start, end, _ in sorted(spans):
        if parts and start < parts[-1][1]:
            parts[-1] = parts[-1][0], max(end, parts[-1][1])
        else:
            parts.append((start, end))
    return parts


def name_part(doc: Doc, start: int, end: int, entities: Iterable[tuple[int, int, str]]) -> str:
    """RETURNS (str): The labels of the entities in a part of a doc, each with its text if it is not
    the whole part; "O" if there are none.
    """
    names = [
        label if (first, after) == (start, end) else f"{label} ({doc[first:after].text})"
        for first, after, label in sorted(entities)
        if start <= first and after <= end
    ]
    return ", ".join(names) or "O"


def write_entities(doc: Doc, entities: Iterable[Entity], key: str | None) -> None:
    """Add entities to a doc, beside the ones that it has already.

    doc (Doc): The doc.
    entities (Iterable[Tuple[int, int, str, float]]): First token, the one after the last, label and
        probability of each entity.
    key (Optional[str]): The group of `doc.spans` to update.
    """
    given = {get_place(ent): ent for ent in doc.ents}
    found = {(*trim(doc, start, end), label): p for start, end, label, p in entities}
    others = [ent for place, ent in given.items() if place not in found]
    blocked = get_blocked(doc)
    taken = {i for span in [*others, *blocked] for i in range(span.start, span.end)}
    known = get_probabilities(doc, key)
    shared = [(ent, known[place]) for ent in others if (place := get_place(ent)) in known]
    spans = []
    for (start, end, label), p in found.items():
        if start < end and taken.isdisjoint(range(start, end)):
            spans.append(given.get((start, end, label)) or Span(doc, start, end, label=label))
            shared.append((spans[-1], p))
    doc.set_ents([*others, *spans], blocked=blocked)
    if key:
        shared.sort(key=lambda pair: pair[0].start)
        doc.spans[key] = [span for span, _ in shared]
        doc.spans[key].attrs["scores"] = numpy.array([p for _, p in shared], dtype="f")


def trim(doc: Doc, start: int, end: int) -> tuple[int, int]:
    """RETURNS (Tuple[int, int]): An entity without the white space at its ends, which spaCy does
    not accept.
    """
    while start < end and doc[start].is_space:
        start += 1
    while start < end and doc[end - 1].is_space:
        end -= 1
    return start, end


def get_blocked(doc: Doc) -> list[Span]:
    """RETURNS (List[Span]): The tokens that `doc.set_ents` has blocked for entities."""
    if not doc.has_annotation("ENT_IOB"):
        return []
    iob, types = doc.to_array(["ENT_IOB", "ENT_TYPE"]).T
    return [doc[i : i + 1] for i in numpy.flatnonzero((iob == 3) & (types == 0)).tolist()]


def get_place(span: Span) -> tuple[int, int, str]:
    """RETURNS (Tuple[int, int, str]): First token, the one after the last, and label."""
    return span.start, span.end, span.label_


def get_probabilities(doc: Doc, key: str | None) -> dict[tuple[int, int, str], float]:
    """RETURNS (Dict[Tuple[int, int, str], float]): The probability of each entity in a group of
    spans. Groups that no head has written are ignored.
    """
    if key not in doc.spans:
        return {}
    group = doc.spans[key]
    scores = group.attrs.get("scores", ())
    if len(scores) != len(group):
        return {}
    return dict(zip(map(get_place, group), scores, strict=True))


@Language.factory(
    "mtl_ner",
    assigns=["doc.ents", "token.ent_iob", "token.ent_type"],
    default_config=Config().from_str(DEFAULT_CONFIG)["ner"],
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None},
)
@checked("mtl_ner")
def make_mtl_ner(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Scores],
    scheme: Scheme,
    label_smoothing: Rate,
    loss: LossWeighting | None,
    spans_key: str | None,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskNER:
    """Construct an entity recognizer that shares its encoder.

    model (Model[List[Doc], Tuple[Floats2d, Floats2d]]): `spacy-mtl.NerHead.v1`.
    scheme (str): "bio" (first, inside) or "biluo" (also last and single tokens).
    label_smoothing (float): Share of each target that is spread over all tags, 0 to 1. Only
        without a CRF.
    loss (Optional[LossWeighting]): `spacy-mtl.UnitLoss.v1`, for hard tokens and rare types. Only
        without a CRF.
    spans_key (Optional[str]): The group of `doc.spans` that gets the entities, with their
        probabilities as `attrs["scores"]`; null for no group.
    scorer (Optional[Callable]): The scoring method.
    RAISES (ValueError): M031 for label smoothing with a CRF, M036 for loss weights with a CRF, M058
        for an argument out of range.
    """
    return MultiTaskNER(
        nlp.vocab,
        model,
        name,
        scheme=scheme,
        label_smoothing=label_smoothing,
        loss=loss,
        spans_key=spans_key,
        scorer=scorer,
    )


show_as("mtl_ner", "ner")
