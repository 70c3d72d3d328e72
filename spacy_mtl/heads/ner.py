"""`mtl_ner`: named entities, in `doc.ents`, by tags for the tokens and exact decoding."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise, repeat
from typing import Any, Literal

import numpy
from spacy.language import Language
from spacy.pipeline.trainable_pipe import TrainablePipe
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import Config, Model

from ..arguments import Rate, Size, checked
from ..concurrency import WeightsLock
from ..encoder.host import isolated
from ..errors import Errors, Warnings
from ..types import Bools2d, Floats1d, Floats2d, Ints1d
from .crf import FORBIDDEN, Chain, crf_loss, span_probabilities, viterbi
from .gold import get_entity_tags
from .head import FOUND, Head, check_outputs, score_tokens, show_as, with_options
from .losses import cross_entropy, one_hot
from .unit_loss import UnitLoss

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

Scheme = Literal["bio", "biluo"]
PREFIXES = {"bio": "BI", "biluo": "BILU"}


def get_tags(labels: Sequence[str], scheme: Scheme) -> list[str]:
    """RETURNS (List[str]): The tags of a scheme: "O", then each label with each prefix."""
    return ["O", *(f"{prefix}-{label}" for label in labels for prefix in PREFIXES[scheme])]


def get_chain(tags: Sequence[str], scheme: Scheme) -> Chain:
    """RETURNS (Chain): Which tags may start, follow each other and end."""
    return deepcopy(make_chain(tuple(tags), scheme))


@lru_cache(maxsize=8)
def make_chain(tags: tuple[str, ...], scheme: Scheme) -> Chain:
    """RETURNS (Chain): As of `get_chain`, but all callers share it and must not change it."""
    prefixes = numpy.array([tag[0] for tag in tags])
    numbers = {label: i for i, label in enumerate(dict.fromkeys(tag[1:] for tag in tags))}
    labels = numpy.array([numbers[tag[1:]] for tag in tags])
    opens = numpy.isin(prefixes, [*"OBU"])
    closes = numpy.isin(prefixes, [*("OBI" if scheme == "bio" else "OLU")])
    inside = numpy.isin(prefixes, [*"BI"])[:, None] & numpy.isin(prefixes, [*"IL"])
    inside &= labels[:, None] == labels
    allowed = (closes[:, None] & opens) | inside

    def score(mask: Any) -> Any:
        return numpy.where(mask, 0.0, FORBIDDEN).astype("f")

    return Chain(score(opens), score(allowed), score(closes))


@lru_cache(maxsize=8)
def get_index(labels: tuple[str, ...], scheme: Scheme) -> dict[str | None, int]:
    """RETURNS (Dict[Optional[str], int]): The tag of the scheme for each BILUO tag."""
    index: dict[str | None, int] = {tag: i for i, tag in enumerate(get_tags(labels, scheme))}
    if scheme == "bio":
        for label in labels:
            index[f"U-{label}"] = index[f"B-{label}"]
            index[f"L-{label}"] = index[f"I-{label}"]
    return index


def get_spans(tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """YIELDS (Tuple[int, int, str]): First token, the one behind the last, and the label of each
    entity in a valid tag sequence of either scheme.
    """
    start = None
    for i, tag in enumerate([*tags, "O"]):
        if start is not None and tag[0] in "OBU":
            yield start, i, tags[start][2:]
            start = None
        if tag[0] in "BU":
            start = i


def trim(doc: Doc, start: int, end: int) -> tuple[int, int]:
    """RETURNS (Tuple[int, int]): An entity without the white space at its ends, which spaCy does
    not take.
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
    return span.start, span.end, span.label_


def get_probabilities(doc: Doc, key: str | None) -> dict[tuple[int, int, str], float]:
    """RETURNS (Dict[Tuple[int, int, str], float]): The probability of each entity that heads have
    left in a group of spans.
    """
    if key not in doc.spans:
        return {}
    group = doc.spans[key]
    scores = group.attrs.get("scores", ())
    if len(scores) != len(group):  # the group is not of a head
        return {}
    return dict(zip(map(get_place, group), scores, strict=True))


class MultiTaskNER(Head, TrainablePipe):
    """Named entity recognition as tagging, with only valid tag sequences ever decoded.

    vocab (Vocab): The shared vocabulary.
    model (Model[List[Doc], Tuple[Floats2d, Floats2d]]): Scores of each tag for each token, N x C,
        and learned scores of transitions, C x C.
    name (str): The component's name.
    scheme (str): "bio" or "biluo".
    label_smoothing (float): Share of each target that is spread over all tags. Not with a CRF.
    loss (Optional[UnitLoss]): Which tokens count how much. Not with a CRF.
    spans_key (Optional[str]): Where in `doc.spans` the entities stand with their probabilities as
        `attrs["scores"]`; None leaves them out.
    scorer (Optional[Callable]): The scoring method.
    """

    CFG = {**Head.CFG, "scheme": Scheme}

    def __init__(
        self,
        vocab: Vocab,
        model: Model[list[Doc], tuple[Floats2d, Floats2d]],
        name: str = "ner",
        *,
        scheme: Scheme = "biluo",
        label_smoothing: float = 0.0,
        loss: UnitLoss | None = None,
        spans_key: str | None = "ner",
        scorer: Callable | None = None,
    ) -> None:
        if label_smoothing and model.attrs["crf"]:
            raise ValueError(Errors.M031.format(label_smoothing=label_smoothing))
        if loss is not None and model.attrs["crf"]:
            raise ValueError(Errors.M036.format(name=name))
        self.vocab = vocab
        self.model = model
        self.name = name
        self.scorer = scorer
        self.lock = WeightsLock()
        self.unit_loss = loss
        self.cfg: dict[str, Any] = {
            "labels": [],
            "scheme": scheme,
            "label_smoothing": label_smoothing,
            "spans_key": spans_key,
            **FOUND,
        }

    @property
    def labels(self) -> tuple[str, ...]:
        """RETURNS (Tuple[str]): The entity types."""
        return tuple(self.cfg["labels"])

    @property
    def label_data(self) -> list[str]:
        """RETURNS (List[str]): What `init labels` writes and `initialize` reads."""
        return list(self.labels)

    @property
    def tags(self) -> list[str]:
        """RETURNS (List[str]): The tags that the scheme makes of the labels."""
        return get_tags(self.labels, self.cfg["scheme"])

    def add_label(self, label: str) -> int:
        """Add an entity type, before the model is initialized.

        label (str): The label to add.
        RETURNS (int): 0 if it is already present, otherwise 1.
        """
        if label in self.labels:
            return 0
        if self.model.has_param("transitions"):  # which initialization makes
            raise ValueError(Errors.M032.format(name=self.name, label=label, labels=self.labels))
        self.cfg["labels"].append(label)
        self.vocab.strings.add(label)
        return 1

    @isolated
    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Find the labels and size the model.

        get_examples (Callable): Returns a representative sample of examples.
        nlp (Optional[Language]): The current pipeline.
        labels (Optional[Sequence[str]]): The entity types, as written by `init labels`. Otherwise
            they are looked up in the examples.
        RAISES (ValueError): M032 or M035 if they disagree with the model, M038 if a weight names
            another.
        """
        for label in self.choose_labels(get_examples, labels):
            self.add_label(label)
        if not self.labels:
            warnings.warn(Warnings.W013.format(name=self.name))
        output = self.model.get_ref("output_layer")
        if not output.has_dim("nO"):
            output.set_dim("nO", len(self.tags))
        self.model.initialize(X=[eg.predicted for eg in self.get_sample()])
        check_outputs(self.name, self.model, self.tags)
        self.set_class_weights(get_examples)

    def is_annotated(self, doc: Doc) -> bool:
        return doc.has_annotation("ENT_IOB")

    def get_gold_labels(self, doc: Doc) -> set[str]:
        return {ent.label_ for ent in doc.ents}

    def get_answer(self, doc: Doc, prediction: Any) -> list[tuple[int, int, str, float]]:
        """RETURNS (List[Tuple[int, int, str, float]]): For each entity its first character, the one
        after the last, label and probability, 0 without `spans_key`.
        """
        places = [(*trim(doc, start, end), label, p) for start, end, label, p in prediction]
        return [
            (doc[start].idx, doc[end - 1].idx + len(doc[end - 1]), label, float(p))
            for start, end, label, p in places
            if start < end
        ]

    def set_answer(self, doc: Doc, answer: Sequence[tuple[int, int, str, float]]) -> None:
        spans = [doc.char_span(start, end, label=label) for start, end, label, _ in answer]
        doc.set_ents([span for span in spans if span is not None])

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        removed = [ent for ent in doc.ents if ent.label_ in labels]
        doc.set_ents([], outside=removed, default="unmodified")

    @isolated
    def predict(self, docs: Iterable[Doc]) -> list[list[tuple[int, int, str, float]]]:
        """Predict the entities of a batch of docs, without modifying them.

        docs (Iterable[Doc]): The docs.
        RETURNS (List[List[Tuple[int, int, str, float]]]): For each doc its entities: first token,
            the one behind the last, label and probability.
        """
        docs = list(docs)
        if self.skip_empty(docs):
            return [[] for _ in docs]
        scores, transitions = map(self.model.ops.to_numpy, self.get_scores(docs))
        temperature = self.temperature if self.cfg["spans_key"] else None
        return self.find_entities(scores, transitions, [len(doc) for doc in docs], temperature)

    def find_entities(
        self,
        scores: Floats2d,
        transitions: Floats2d,
        lengths: Sequence[int],
        temperature: float | None,
    ) -> list[list[tuple[int, int, str, float]]]:
        """Find the best entities, and how probable they are.

        scores, transitions: What the model returned, on the CPU.
        lengths (Sequence[int]): Tokens per doc.
        temperature (Optional[float]): What both are divided by for the probabilities, which are
            left out, as 0, with None.
        RETURNS (List[List[Tuple[int, int, str, float]]]): As of `predict`.
        """
        chain = self._get_chain(transitions)
        ids = viterbi(scores, chain, lengths)
        names: Any = numpy.array(self.tags, dtype=object)[ids]
        firsts = numpy.cumsum([0, *lengths]).tolist()
        found = [
            [(row + start, row + end, label) for start, end, label in get_spans(names[row:after])]
            for row, after in pairwise(firsts)
        ]
        if temperature:
            spans = [(start, end) for entities in found for start, end, _ in entities]
            scores = scores / temperature
            chain = replace(chain, transitions=chain.transitions / temperature)
            probabilities = iter(span_probabilities(scores, chain, lengths, spans, ids))
        else:
            probabilities = repeat(0.0)
        return [
            [(start - row, end - row, label, next(probabilities)) for start, end, label in entities]
            for row, entities in zip(firsts, found, strict=False)
        ]

    def set_annotations(
        self, docs: Iterable[Doc], predictions: list[list[tuple[int, int, str, float]]]
    ) -> None:
        """Write the entities to `doc.ents`, beside those that the doc has already, and not over
        tokens that `doc.set_ents` has blocked. Of two heads that want a token the first in the
        pipeline gets it.

        Heads with the same `spans_key` share the group: it has every entity of `doc.ents` that any
        of them has found, with its probability.

        docs (Iterable[Doc]): The docs.
        predictions: What `predict` returned for them.
        """
        self.keep_answers(docs, predictions)
        key = self.cfg["spans_key"]
        for doc, entities in zip(docs, predictions, strict=True):
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
                    ent = given.get((start, end, label))
                    spans.append(ent or Span(doc, start, end, label=label))
                    shared.append((spans[-1], p))
            doc.set_ents([*others, *spans], blocked=blocked)
            if key:
                shared.sort(key=lambda pair: pair[0].start)
                doc.spans[key] = [span for span, _ in shared]
                doc.spans[key].attrs["scores"] = numpy.array([p for _, p in shared], dtype="f")

    def get_mean_loss(
        self, examples: Sequence[Example], scores: tuple[Floats2d, Floats2d]
    ) -> tuple[float, tuple[Floats2d, Floats2d], int]:
        emissions, transitions = scores
        ops: Any = self.model.ops
        if self.model.attrs["crf"]:
            # On the CPU always: on a GPU each token's step would be several kernels.
            lengths = [len(eg.predicted) for eg in examples]
            chain = self._get_chain(ops.to_numpy(transitions))
            loss, *gradients, n = crf_loss(
                ops.to_numpy(emissions), self.get_allowed(examples), chain, lengths
            )
            d_emissions, d_transitions = map(ops.asarray, gradients)
            return loss, (d_emissions, d_transitions), n
        smoothing = self.cfg["label_smoothing"]
        loss, d_emissions, n = cross_entropy(
            emissions,
            ops.asarray(self.get_allowed(examples)),
            label_smoothing=smoothing,
            focus=self.get_focus(),
        )
        return loss, (d_emissions, ops.xp.zeros_like(transitions)), n

    def make_nll(
        self, examples: Sequence[Example], scores: tuple[Floats2d, Floats2d]
    ) -> Callable[[float], tuple[float, float, int]]:
        if not self.model.attrs["crf"]:
            return super().make_nll(examples, scores[0])
        emissions, transitions = scores
        allowed = self.get_allowed(examples)
        lengths = [len(eg.predicted) for eg in examples]

        def nll(temperature: float) -> tuple[float, float, int]:
            chain = self._get_chain(transitions / temperature)
            loss, *gradients, n = crf_loss(emissions / temperature, allowed, chain, lengths)
            slopes = map(numpy.vdot, gradients, scores)
            return loss, float(sum(slopes)), n

        return nll

    def get_confidences(
        self, examples: Sequence[Example], scores: tuple[Floats2d, Floats2d], temperature: float
    ) -> tuple[Floats1d, Any]:
        """RETURNS (Tuple[Floats1d, Bools1d]): The probability of each predicted entity, and whether
        it is right; without those where the gold labels are missing.
        """
        lengths = [len(eg.predicted) for eg in examples]
        docs = self.find_entities(*scores, lengths, temperature)
        confidences, is_right = [], []
        for eg, entities in zip(examples, docs, strict=True):
            tags = get_entity_tags(eg, self.name)
            gold = set(get_spans([tag or "O" for tag in tags]))
            for start, end, label, p in entities:
                start, end = trim(eg.predicted, start, end)
                if start < end and None not in tags[start:end]:
                    confidences.append(p)
                    is_right.append((start, end, label) in gold)
        return numpy.array(confidences, dtype="f"), numpy.array(is_right, dtype=bool)

    def get_allowed(self, examples: Sequence[Example]) -> Bools2d:
        return one_hot(self._get_gold(examples), len(self.tags), numpy)

    def get_classes(self) -> list[str]:
        return [tag[2:] or tag for tag in self.tags]

    def _get_gold(self, examples: Sequence[Example]) -> Ints1d:
        """Find the gold tags for this head.

        An entity of a type that is not among the labels is "O", not missing. Entities do not
        overlap: if annotators call a token a PLACE, it is no PERSON. A head for PERSON that never
        saw PLACE as "O" would call places PERSON too.

        RETURNS (Ints1d): The index of each token's gold tag, -1 where it is missing or cannot be
            aligned.
        """
        index = get_index(self.labels, self.cfg["scheme"])
        tags = [tag for eg in examples for tag in get_entity_tags(eg, self.name)]
        ids = [-1 if tag is None else index.get(tag, 0) for tag in tags]
        return numpy.array(ids, dtype="int64")

    def _get_chain(self, transitions: Floats2d) -> Chain:
        rules = make_chain(tuple(self.tags), self.cfg["scheme"])
        return Chain(rules.start, rules.transitions + transitions, rules.end)


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
    model: Model,
    scheme: Scheme,
    label_smoothing: Rate,
    loss: UnitLoss | None,
    spans_key: str | None,
    scorer: Callable | None,
) -> MultiTaskNER:
    """Construct an entity recognizer that shares its encoder.

    model (Model[List[Doc], Tuple[Floats2d, Floats2d]]): `spacy-mtl.NerHead.v1`.
    scheme (str): "bio" (first, inside) or "biluo" (also last and single tokens).
    label_smoothing (float): Share of each target that is spread over all tags, 0 to 1. Only
        without a CRF.
    loss (Optional[UnitLoss]): `spacy-mtl.UnitLoss.v1`, for hard tokens and rare types. Only
        without a CRF.
    spans_key (Optional[str]): Entities with their probabilities go to `doc.spans[spans_key]` and
        its `attrs["scores"]`; null leaves them out.
    scorer (Optional[Callable]): The scoring method.
    RAISES (ValueError): M031 for label smoothing and M036 for a loss of units with a CRF, M058 for
        an argument out of range.
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


@checked("spacy-mtl.NerHead.v1")
def build_ner_head_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    crf: bool = True,
    dropout: Rate | None = None,
    nO: Size | None = None,
) -> Model[list[Doc], tuple[Floats2d, Floats2d]]:
    """Build a linear layer over each token's vector, and scores of transitions.

    tok2vec (Model[List[Doc], List[Floats2d]]): Where the vectors come from: a listener or a model
        of its own.
    crf (bool): Whether transitions are learned, with the loss of a linear-chain conditional random
        field. Without, each token's tag is learned for itself. Decoding is exact in both cases.
    dropout (Optional[float]): Dropout of the vectors; `[training] dropout` if it is not given.
    nO (Optional[int]): The number of tags, found at initialization.
    """
    scorer = score_tokens(tok2vec, dropout, nO)
    output = scorer.get_ref("output_layer")
    model: Model = Model(
        "ner_head",
        _forward,
        init=_init,
        layers=[scorer],
        params={"transitions": None},
        attrs={"crf": crf},
    )
    return with_options(model, output, tok2vec, dropout)


def _init(model: Model, X: list[Doc] | None = None, Y: Any = None) -> None:
    model.layers[0].initialize(X=X)
    n_tags = model.get_ref("output_layer").get_dim("nO")
    model.set_param("transitions", model.ops.alloc2f(n_tags, n_tags))


def _forward(
    model: Model, docs: list[Doc], is_train: bool
) -> tuple[tuple[Floats2d, Floats2d], Callable[[tuple[Floats2d, Floats2d]], Any]]:
    emissions, backprop_emissions = model.layers[0](docs, is_train)

    def backprop(d_scores: tuple[Floats2d, Floats2d]) -> Any:
        d_emissions, d_transitions = d_scores
        if model.attrs["crf"]:
            model.inc_grad("transitions", d_transitions)
        return backprop_emissions(d_emissions)

    return (emissions, model.get_param("transitions")), backprop
