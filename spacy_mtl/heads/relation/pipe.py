"""`mtl_relation`: relations between entities or other spans, in `doc._.relations`."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import Config, Model

from ...annotations.base import has_same_tokens
from ...annotations.relations import Relation, Relations, get_relations, set_relations
from ...arguments import Count, Rate, Share, checked
from ...corpora.streams import read_whole
from ...encoder.host import isolated
from ...errors import Errors, Warnings
from ...storage import check_type
from ...types import Bools1d, Floats1d, Floats2d, Ints2d, Settings, get_ops
from ..calibration import Likelihood, ThresholdHead
from ..losses import binary_cross_entropy, sigmoid
from ..prior import get_log_odds
from .scoring import Factors, Pairs, find_pairs, score_pairs

DEFAULT_CONFIG = """
[relation]
spans_key = null
max_distance = 100
all_types = false
negatives = null
exclusive = false
threshold = 0.5
label_smoothing = 0.0
scorer = {"@scorers": "spacy-mtl.relation_scorer.v1"}

[relation.model]
@architectures = "spacy-mtl.RelationHead.v1"

[relation.model.tok2vec]
@architectures = "spacy-mtl.TaskListener.v1"
"""
OTHER = ""  # the type of spans whose label is not among the types


class Candidates(NamedTuple):
    """The candidate pairs of a doc.

    spans (List[Tuple[int, int]]): The first token of each span and the token after its last, S.
    types (List[str]): The type of each span, S.
    pairs (List[Tuple[int, int]]): The head and the child of each pair, P.
    """

    spans: list[tuple[int, int]]
    types: list[str]
    pairs: list[tuple[int, int]]


class MultiTaskRelationExtractor(ThresholdHead[Factors, list[Relation]]):
    """Predicts the relations between the spans of a doc. All ordered pairs of spans up to a
    distance and of known types are candidates.

    In training the spans are those of the gold doc and those of the predicted doc, which another
    component may have found: see `annotating_components` of `[training]`.
    """

    layer = Relations()
    CFG = {
        **ThresholdHead.CFG,
        "types": list[str],
        "type_pairs": list[list[str]],
        "max_distance": int | None,
        "all_types": bool,
        "negatives": int | None,
        "exclusive": bool,
    }

    # Initialization

    @property
    def label_data(self) -> Settings:
        """RETURNS (Dict[str, Any]): The labels, the types of spans, their pairs, and the counts of
        candidates, as `init labels` writes and `initialize` reads them.
        """
        types = {key: deepcopy(self.cfg[key]) for key in ("types", "type_pairs")}
        return {**super().label_data, **types}

    @isolated
    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: dict[str, Any] | Sequence[str] | None = None,
    ) -> None:
        """Find the labels, the types of spans and the pairs of types that have relations, set the
        sizes of the model, and start its bias at the frequencies of the labels.

        get_examples (Callable): Returns a representative sample of examples.
        nlp (Optional[Language]): The current pipeline.
        labels (Optional[Union[Dict[str, Any], Sequence[str]]]): The labels, or the data that `init
            labels` writes. By default all is collected from the examples.
        RAISES (ValueError): As the other heads; M292 for a relation of a span to itself.
        """
        given = labels if isinstance(labels, Mapping) else {}
        entry = f"initialize.components.{self.name}.labels"
        for key in ("types", "type_pairs"):
            if key in given:
                self.cfg[key] = check_type(given[key], self.CFG[key], f"{entry}.{key}")
        if not {"types", "type_pairs"} <= given.keys():
            self._find_types(read_whole(get_examples)())
        output = self.model.get_ref("output_layer")
        if not output.has_dim("nT"):
            output.set_dim("nT", len(self.cfg["types"]) + 1)
        super().initialize(get_examples, nlp=nlp, labels=labels)

    def _find_types(self, examples: Iterable[Example]) -> None:
        types, pairs = set[str](), set[tuple[str, str]]()
        for example in examples:
            if self.has_labels(example.reference):
                spans = self.get_gold_spans(example)
                types |= set(spans.values()) - {OTHER}
                for head, child, *_ in self.read_relations(example):
                    if head in spans and child in spans:
                        pairs.add((spans[head], spans[child]))
        self.cfg["types"] = sorted(types)
        self.cfg["type_pairs"] = [[*pair] for pair in sorted(pairs)]

    def check_labels(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        """Check that there are labels. Warn by W131 of gold relations that no candidate has.

        RAISES (ValueError): spaCy's E143 if there is no label.
        """
        super().check_labels(get_examples)
        n_all, lost = 0, list[Relation]()
        for example in get_examples():
            if not self.has_labels(example.reference):
                continue
            gold, (spans, _, pairs) = self.read_relations(example), self.get_candidates(example)
            known = {(spans[head], spans[child]) for head, child in pairs}
            n_all += len(gold)
            lost += [relation for relation in gold if relation[:2] not in known]
        if lost:
            source = "entities" if self.key is None else f'spans of doc.spans["{self.key}"]'
            labels = sorted({relation.label for relation in lost})
            message = Warnings.W141.format(
                name=self.name,
                n=len(lost),
                total=n_all,
                source=source,
                distance=self.cfg["max_distance"],
                labels=labels[:10],
            )
            warnings.warn(message)

    # Candidates

    @property
    def key(self) -> str | None:
        """RETURNS (Optional[str]): The key of the spans in `doc.spans`; None for the entities."""
        key: str | None = self.cfg["spans_key"]
        return key

    def get_spans(self, doc: Doc) -> list[Span]:
        """RETURNS (List[Span]): The spans of a doc that relations can have."""
        return list(doc.ents if self.key is None else doc.spans.get(self.key, ()))

    def get_gold_spans(self, example: Example) -> dict[tuple[int, int], str]:
        """RETURNS (Dict[Tuple[int, int], str]): The type of each gold span in predicted tokens."""
        spans = self.get_spans(example.reference)
        if not has_same_tokens(example):
            spans = example.get_aligned_spans_y2x(spans, allow_overlap=True)
        return {(span.start, span.end): span.label_ for span in spans}

    def get_candidates(self, example: Example) -> Candidates:
        """RETURNS (Candidates): The pairs of the gold spans of an example and of its predicted
        spans. A gold span has its gold type.
        """
        gold = self.get_gold_spans(example)
        found = {(span.start, span.end): span.label_ for span in self.get_spans(example.predicted)}
        return self.find_candidates({**found, **gold})

    def find_candidates(self, spans: Mapping[tuple[int, int], str]) -> Candidates:
        """RETURNS (Candidates): The pairs of spans up to the distance whose types have relations in
        the training data. The spans are given with their types.
        """
        places, types = list(spans), list(spans.values())
        pairs = find_pairs(places, self.cfg["max_distance"])
        if not self.cfg["all_types"]:
            allowed = set(map(tuple, self.cfg["type_pairs"]))
            pairs = [(i, j) for i, j in pairs if (types[i], types[j]) in allowed]
        return Candidates(places, types, pairs)

    def to_pairs(self, candidates: Sequence[Candidates], lengths: Sequence[int]) -> Pairs:
        """RETURNS (Pairs): The candidates of a batch of docs with these numbers of tokens."""
        index = {label: i for i, label in enumerate(self.cfg["types"])}
        firsts = numpy.cumsum(lengths) - lengths
        offsets = numpy.cumsum([0, *(len(own.spans) for own in candidates)])
        spans = [
            (first + start, first + end)
            for first, own in zip(firsts, candidates, strict=True)
            for start, end in own.spans
        ]
        types = [index.get(label, len(index)) for own in candidates for label in own.types]
        pairs = [
            (offset + i, offset + j)
            for offset, own in zip(offsets, candidates, strict=False)
            for i, j in own.pairs
        ]
        heads, children = numpy.array(pairs, dtype="int64").reshape(-1, 2).T
        places: Ints2d = numpy.array(spans, dtype="int64").reshape(-1, 2)
        return Pairs(places, numpy.array(types, dtype="int64"), heads, children)

    # Predictions

    def decode(self, docs: Sequence[Doc], scores: Factors) -> list[list[Relation]]:
        """RETURNS (List[List[Relation]]): The relations of each doc."""
        candidates = [
            self.find_candidates({(s.start, s.end): s.label_ for s in self.get_spans(doc)})
            for doc in docs
        ]
        return self.find_relations(scores, candidates, [len(doc) for doc in docs])

    def find_relations(
        self, scores: Factors, candidates: Sequence[Candidates], lengths: Sequence[int]
    ) -> list[list[Relation]]:
        """RETURNS (List[List[Relation]]): The relations above the threshold among the candidates of
        each doc; with `exclusive` only the best label of each pair.
        """
        logits, _ = score_pairs(Factors(*scores), self.to_pairs(candidates, lengths))
        p: Floats2d = get_ops(self.model).to_numpy(sigmoid(logits / self.temperature))
        is_found = p >= self.cfg["threshold"]
        if self.cfg["exclusive"] and p.size:
            is_found &= numpy.arange(p.shape[1]) == p.argmax(axis=1)[:, None]
        labels, found = self.labels, list[list[Relation]]()
        firsts = numpy.cumsum([0, *(len(own.pairs) for own in candidates)]).tolist()
        for first, (spans, _, pairs) in zip(firsts, candidates, strict=False):
            rows, columns = is_found[first : first + len(pairs)].nonzero()
            places = zip(rows.tolist(), columns.tolist(), strict=True)
            ends = [(*pairs[row], column, p[first + row, column]) for row, column in places]
            found.append(
                [Relation(spans[i], spans[j], labels[c], float(score)) for i, j, c, score in ends]
            )
        return found

    def annotate(self, docs: Sequence[Doc], predictions: Sequence[list[Relation]]) -> None:
        """Write the relations to `doc._.relations`. They replace all relations except those with
        labels of other heads.

        docs (Sequence[Doc]): The docs.
        predictions (Sequence[List[Relation]]): The relations of each doc.
        """
        others = {label for head in self.siblings for label in head.labels}
        for doc, relations in zip(docs, predictions, strict=True):
            kept = [own for own in get_relations(doc) or () if own.label in others]
            set_relations(doc, [*kept, *relations])

    # Learning

    def read_relations(self, example: Example) -> Sequence[Relation]:
        """RETURNS (Sequence[Relation]): The gold relations in predicted tokens.
        RAISES (ValueError): M292 for a relation of a span to itself.
        """
        found: Sequence[Relation] = self.read_gold(example)
        for (start, end), child, *_ in found:
            if (start, end) == child:
                text = example.reference.text[:40]
                raise ValueError(
                    Errors.M292.format(name=self.name, start=start, end=end, text=text)
                )
        return found

    def get_targets(
        self, examples: Sequence[Example]
    ) -> tuple[list[Candidates], list[tuple[int, int]]]:
        """Read the gold relations of a batch.

        examples (Sequence[Example]): The batch.
        RETURNS (Tuple[List[Candidates], List[Tuple[int, int]]]): The candidates of each example,
            none for one without annotation, and the candidate and label of each gold relation.
        """
        index = {label: i for i, label in enumerate(self.labels)}
        candidates, cells, first = [], list[tuple[int, int]](), 0
        for example in examples:
            if not self.has_labels(example.reference):
                candidates.append(Candidates([], [], []))
                continue
            own = self.get_candidates(example)
            place = {(own.spans[i], own.spans[j]): n for n, (i, j) in enumerate(own.pairs, first)}
            for head, child, label, _ in self.read_relations(example):
                if (head, child) in place and label in index:
                    cells.append((place[head, child], index[label]))
            candidates.append(own)
            first += len(own.pairs)
        return candidates, cells

    def make_truths(self, n_pairs: int, cells: Iterable[tuple[int, int]]) -> Floats2d:
        """RETURNS (Floats2d): 1 for each candidate and label of a gold relation, otherwise 0."""
        truths = numpy.zeros((n_pairs, len(self.labels)), dtype="f")
        for row, column in cells:
            truths[row, column] = 1
        return truths

    def count_outputs(self, examples: Iterable[Example]) -> Ints2d:
        counts = numpy.zeros((len(self.labels), 2), dtype="int64")
        for example in examples:
            (own,), cells = self.get_targets([example])
            with_label = self.make_truths(len(own.pairs), cells).sum(axis=0).astype("int64")
            counts[:, 0] += with_label
            counts[:, 1] += len(own.pairs) - with_label
        return counts

    def get_bias(self, counts: Floats2d) -> Floats1d:
        return get_log_odds(counts)

    def loss(self, examples: Sequence[Example], scores: Factors) -> tuple[float, Factors, int]:
        """Compute the loss of a batch: the sum of the cross-entropies of all labels, as a mean over
        the candidate pairs. With `negatives`, a sample of the pairs without a relation stands for
        all of them.
        """
        xp = get_ops(self.model).xp
        candidates, cells = self.get_targets(examples)
        lengths = [len(eg.predicted) for eg in examples]
        pairs = self.to_pairs(candidates, lengths)
        truths = self.make_truths(len(pairs.heads), cells)
        n, n_labels = truths.shape
        if not n:
            return 0.0, Factors(*map(xp.zeros_like, scores)), 0
        kept, weights = self._sample(truths.max(axis=1) > 0)
        pairs = pairs._replace(heads=pairs.heads[kept], children=pairs.children[kept])
        logits, backprop = score_pairs(Factors(*scores), pairs)
        loss, d_logits = 0.0, xp.zeros_like(logits)
        for weight in numpy.unique(weights):
            is_labelled = xp.asarray(
                numpy.repeat(weights == weight, n_labels).reshape(-1, n_labels)
            )
            own, gradient, n_own = binary_cross_entropy(
                logits,
                xp.asarray(truths[kept]),
                is_labelled,
                label_smoothing=self.cfg["label_smoothing"],
            )
            share = float(weight) * n_own / n
            loss, d_logits = loss + share * own, d_logits + share * gradient
        return loss, backprop(d_logits.astype("f")), n

    def _sample(self, is_positive: Bools1d) -> tuple[Any, Floats1d]:
        """RETURNS (Tuple[Ints1d, Floats1d]): The pairs to learn from, and the number of pairs that
        each stands for.
        """
        positive, negative = is_positive.nonzero()[0], (~is_positive).nonzero()[0]
        most = self.cfg["negatives"]
        n = len(negative) if most is None else min(most * max(len(positive), 1), len(negative))
        drawn = negative if n == len(negative) else numpy.random.permutation(negative)[:n]
        weights = numpy.ones(len(positive) + n)
        weights[len(positive) :] = len(negative) / max(n, 1)
        order = numpy.argsort(kept := numpy.concatenate([positive, drawn]))
        return kept[order], weights[order]

    # Calibration

    def make_nll(self, examples: Sequence[Example], scores: Factors) -> Likelihood:
        logits, truths = self._score_all(examples, scores)
        n, labelled = len(truths), numpy.ones(truths.shape, dtype=bool)
        n_labels = truths.shape[1]

        def nll(temperature: float) -> tuple[float, float, int]:
            loss, d_logits, _ = binary_cross_entropy(logits / temperature, truths, labelled)
            return n_labels * loss, n_labels * float(numpy.vdot(d_logits, logits)), n

        return nll

    def _score_all(self, examples: Sequence[Example], scores: Factors) -> tuple[Floats2d, Floats2d]:
        candidates, cells = self.get_targets(examples)
        pairs = self.to_pairs(candidates, [len(eg.predicted) for eg in examples])
        logits, _ = score_pairs(Factors(*scores), pairs)
        return logits, self.make_truths(len(pairs.heads), cells)

    def get_confidences(
        self, examples: Sequence[Example], scores: Factors, temperature: float
    ) -> tuple[Floats1d, Bools1d]:
        """RETURNS (Tuple[Floats1d, Bools1d]): The probability of each predicted relation between
        candidates, and whether it is right.
        """
        logits, truths = self._score_all(examples, scores)
        p = sigmoid(logits / temperature)
        is_found = p >= self.cfg["threshold"]
        return p[is_found], truths[is_found] > 0


@Language.factory(
    "mtl_relation",
    requires=["doc.ents"],
    assigns=["doc._.relations"],
    default_config=Config().from_str(DEFAULT_CONFIG)["relation"],
    default_score_weights={"rel_micro_f": 1.0, "rel_micro_p": 0.0, "rel_micro_r": 0.0},
)
@checked("mtl_relation")
def make_mtl_relation(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Factors],
    spans_key: str | None,
    max_distance: Count | None,
    all_types: bool,
    negatives: Count | None,
    exclusive: bool,
    threshold: Share,
    label_smoothing: Rate,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskRelationExtractor:
    """Construct a relation extractor that shares its encoder.

    model (Model[List[Doc], Factors]): `spacy-mtl.RelationHead.v1`.
    spans_key (Optional[str]): The group of `doc.spans` that holds the spans of relations; null for
        the entities. The component that writes them must come before.
    max_distance (Optional[int]): The most tokens between the spans of a candidate; null for no
        limit. W141 warns of gold relations beyond it.
    all_types (bool): Whether spans of all types may be related. By default only pairs of types that
        are related in the training data are candidates.
    negatives (Optional[int]): The most pairs without a relation to learn from, for each pair with
        one. A random sample stands for all, with a higher weight. null for all pairs.
    exclusive (bool): Whether a pair has at most one label, the most probable one.
    threshold (float): The least probability of a predicted relation.
    label_smoothing (float): Moves each target this far towards 1/2, 0 to 1.
    scorer (Optional[Callable]): The scoring method.
    RAISES (ValueError): M058 for an argument out of range.
    """
    return MultiTaskRelationExtractor(
        nlp.vocab,
        model,
        name,
        spans_key=spans_key,
        max_distance=max_distance,
        all_types=all_types,
        negatives=negatives,
        exclusive=exclusive,
        threshold=threshold,
        label_smoothing=label_smoothing,
        scorer=scorer,
        types=[],
        type_pairs=[],
    )
