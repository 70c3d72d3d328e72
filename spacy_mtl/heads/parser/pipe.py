"""`mtl_parser`: dependency trees, in `token.head` and `token.dep_`, and the sentences they span."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy
from spacy.language import Language
from spacy.strings import get_string_id
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Config, Model

from ...annotations.base import has_annotation
from ...annotations.tokens import set_attributes
from ...annotations.trees import Sentences, Trees
from ...arguments import checked
from ...types import Floats2d, Ints1d, Ints2d, Settings, get_ops
from ..base import Head, show_as
from ..losses import cross_entropy, one_hot
from ..prior import count_masks
from .decoding import decode_projective, decode_trees
from .model import ROOT, ArcScores, Scores

DEFAULT_CONFIG = """
[parser]
projective = false
scorer = {"@scorers": "spacy.parser_scorer.v1"}

[parser.model]
@architectures = "spacy-mtl.ParserHead.v1"
arc_width = 256
relation_width = 64

[parser.model.tok2vec]
@architectures = "spacy-mtl.TaskListener.v1"
"""
MISSING = -2  # the row of an unknown head


class MultiTaskParser(Head[Scores, Ints2d]):
    """Finds the best dependency tree of each sentence. A prediction has for each token the offset
    of its head and the index of the relation, N x 2.

    Sentences are those of the doc, if another component or the user has set them. Otherwise the
    parser finds them itself.
    """

    layer = Trees()
    CFG = {**Head.CFG, "projective": bool}

    def count_outputs(self, examples: Iterable[Example]) -> Ints2d:
        masks = (one_hot(self.read_trees([eg])[1], len(self.labels)) for eg in examples)
        return count_masks(masks, len(self.labels))

    # Learning

    def loss(self, examples: Sequence[Example], scores: Scores) -> tuple[float, Scores, int]:
        """Compute the negative log-likelihood of the gold heads, their relations, and the sentence
        starts. Heads are scored inside of the gold sentences.

        examples (Sequence[Example]): The batch.
        scores (Scores): The output of the model.
        RETURNS (Tuple[float, Scores, int]): The mean per token with a gold head in nats, its
            gradient, and the number of these tokens.
        """
        heads, relations = self.read_trees(examples)
        starts = self.read_starts(examples)
        known = numpy.flatnonzero(heads != MISSING)
        n = len(known)
        losses = 0.0
        backprops: list[Callable[[], None]] = []

        def add(values: Floats2d, targets: Ints1d) -> Floats2d:
            """Add the loss of some scores. Return their gradient."""
            nonlocal losses
            allowed = get_ops(self.model).asarray(one_hot(targets, values.shape[1]))
            loss, gradient, n_rows = cross_entropy(values, allowed)
            losses += loss * n_rows
            return gradient * (n_rows / max(n, 1))

        if n == 0:
            return 0.0, scores._replace(starts=scores.starts * 0), 0
        sentences = find_sentences(starts == 1, [len(eg.predicted) for eg in examples])
        for arcs in scores.score_arcs(sentences):
            shape = arcs.values.shape
            d_arcs = add(arcs.values.reshape(-1, shape[2]), find_places(arcs, heads).ravel())
            backprops.append(partial(arcs.backprop, d_arcs.reshape(shape)))
        pairs = scores.score_relations(known, heads[known])
        d_pairs = add(pairs.values, relations[known])
        backprops.append(partial(pairs.backprop, d_pairs))
        d_starts = add(scores.starts, starts)
        return losses / n, scores._replace(starts=d_starts, backprops=backprops), n

    def read_trees(self, examples: Sequence[Example]) -> tuple[Ints1d, Ints1d]:
        """Read the gold trees of a batch.

        examples (Sequence[Example]): The batch.
        RETURNS (Tuple[Ints1d, Ints1d]): For each of the batch's tokens the row of its head, -1 for
            the root, -2 if it is missing, and the index of its relation, -1 if it is missing or not
            among the labels.
        """
        index = {label: i for i, label in enumerate(self.labels)}
        heads: list[int] = []
        relations: list[int] = []
        for example in examples:
            start, n = len(heads), len(example.predicted)
            gold = self.read_gold(example) or ([None] * n, [None] * n)
            for i, (head, label) in enumerate(zip(*gold, strict=True)):
                row = ROOT if head == i else start + (head or 0)
                heads.append(MISSING if head is None else row)
                relations.append(-1 if label is None else index.get(label, -1))
        return numpy.array(heads, dtype="int64"), numpy.array(relations, dtype="int64")

    def read_starts(self, examples: Sequence[Example]) -> Ints1d:
        """RETURNS (Ints1d): 1 for each first token of a gold sentence, 0 for other tokens, -1 where
        the sentences are missing and for the first token of a doc.
        """
        starts = []
        for example in examples:
            own = [-1] * len(example.predicted)
            if self.has_labels(example.reference):
                gold = Sentences().read_gold(example)
                own = [-1 if value is None else int(value) for value in gold]
                own[:1] = [-1] * len(own[:1])  # always a start, so there is nothing to learn
            starts.append(numpy.array(own, dtype="int64"))
        return numpy.concatenate(starts)

    # Prediction

    def decode(self, docs: Sequence[Doc], scores: Scores) -> list[Ints2d]:
        """RETURNS (List[Ints2d]): For each doc the offset of each token's head, 0 for the root, and
        the index of its relation.
        """
        to_numpy = get_ops(self.model).to_numpy
        lengths = [len(doc) for doc in docs]
        own = numpy.split(to_numpy(scores.starts.argmax(axis=1)), numpy.cumsum(lengths)[:-1])
        starts = [get_starts(doc, found) for doc, found in zip(docs, own, strict=True)]
        sentences = find_sentences(numpy.concatenate(starts), lengths)
        heads = numpy.full(sum(lengths), ROOT)
        decode = decode_projective if self.cfg["projective"] else decode_trees
        for arcs in scores.score_arcs(sentences):
            rows = arcs.rows
            places = decode(to_numpy(arcs.values), (rows >= 0).sum(axis=1))
            is_token = rows >= 0
            found = numpy.where(places == 0, ROOT, rows[:, :1] + places - 1)
            heads[rows[is_token]] = found[is_token]
        rows = numpy.arange(len(heads))
        relations = to_numpy(scores.score_relations(rows, heads).values.argmax(axis=1))
        offsets = numpy.where(heads == ROOT, 0, heads - rows)
        return numpy.split(numpy.stack([offsets, relations], axis=1), numpy.cumsum(lengths)[:-1])

    def decode_empty(self, docs: Sequence[Doc]) -> list[Ints2d]:
        return [numpy.zeros((0, 2), dtype="int64") for _ in docs]

    def annotate(self, docs: Sequence[Doc], predictions: Sequence[Ints2d]) -> None:
        """Write the trees to `token.head` and `token.dep_`. spaCy sets the sentences by them.

        docs (Sequence[Doc]): The docs.
        predictions (Sequence[Ints2d]): The offset of each head and the index of each relation.
        """
        hashes = numpy.array([get_string_id(label) for label in self.labels], dtype="uint64")
        for doc, prediction in zip(docs, predictions, strict=True):
            if len(doc):
                offsets = prediction[:, 0].astype("uint64")  # spaCy reads them as signed
                values = numpy.stack([offsets, hashes[prediction[:, 1]]], axis=1)
                set_attributes(doc, ["HEAD", "DEP"], values)


def find_sentences(is_start: Ints1d, lengths: Sequence[int]) -> Ints2d:
    """Find the sentences of a batch of docs.

    is_start (Bools1d): Whether each of the batch's tokens starts a sentence.
    lengths (Sequence[int]): The tokens of each doc.
    RETURNS (Ints2d): The first row of each sentence, and the row after its last, S x 2.
    """
    starts = numpy.array(is_start, dtype=bool)
    firsts = numpy.cumsum([0, *lengths])
    starts[firsts[firsts < len(starts)]] = True
    places = numpy.append(numpy.flatnonzero(starts), len(starts))
    return numpy.stack([places[:-1], places[1:]], axis=1)


def get_starts(doc: Doc, found: Ints1d) -> Ints1d:
    """RETURNS (Ints1d): 1 for each token that starts a sentence: of the doc's, or of those found
    where the doc has none.
    """
    if not has_annotation(doc, "SENT_START") or len(doc) < 2:
        return found
    given = doc.to_array("SENT_START").astype("int64")
    return numpy.where(given == 0, found, given == 1)


def find_places(arcs: ArcScores, heads: Ints1d) -> Ints2d:
    """Find the gold heads among the scored ones.

    arcs (ArcScores): The scores of some sentences.
    heads (Ints1d): The row of the head of each of the batch's tokens.
    RETURNS (Ints2d): The place of each token's head in its scores, B x L; -1 where it is missing or
        in another sentence.
    """
    rows = arcs.rows
    gold = numpy.where(rows >= 0, heads[rows], MISSING)
    places = gold - rows[:, :1] + 1
    is_inside = (places > 0) & (places <= (rows >= 0).sum(axis=1, keepdims=True))
    return numpy.where(gold == ROOT, 0, numpy.where(is_inside & (gold >= 0), places, -1))


@Language.factory(
    "mtl_parser",
    assigns=["token.dep", "token.head", "token.is_sent_start", "doc.sents"],
    default_config=Config().from_str(DEFAULT_CONFIG)["parser"],
    default_score_weights={
        "dep_uas": 0.5,
        "dep_las": 0.5,
        "dep_las_per_type": None,
        "sents_p": None,
        "sents_r": None,
        "sents_f": 0.0,
    },
)
@checked("mtl_parser")
def make_mtl_parser(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Scores],
    projective: bool,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskParser:
    """Construct a dependency parser that shares its encoder.

    model (Model[List[Doc], Scores]): `spacy-mtl.ParserHead.v1`.
    projective (bool): Whether arcs may not cross.
    scorer (Optional[Callable]): The scoring method.
    """
    return MultiTaskParser(nlp.vocab, model, name, projective=projective, scorer=scorer)


show_as("mtl_parser", "parser")
