"""`mtl_seq2seq`: texts that are written about a doc, in a custom attribute."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import Config, Model

from ...annotations import get_layers
from ...annotations.documents import DEFAULT_TEXT, Texts
from ...arguments import Count, Range, Rate, checked
from ...attributes import CustomAttribute
from ...errors import Errors, Warnings
from ...types import Settings
from ..base import Head
from .model import Factors, Sizes
from .vocabulary import BYTES, Units, Vocabulary, learn_pieces, spell

DEFAULT_CONFIG = f"""
[seq2seq]
attribute = "{DEFAULT_TEXT}"
vocab_size = 2000
max_length = 100
beam_width = 1
label_smoothing = 0.0
scorer = {{"@scorers": "spacy-mtl.seq2seq_scorer.v1"}}

[seq2seq.model]
@architectures = "spacy-mtl.Seq2SeqHead.v1"

[seq2seq.model.tok2vec]
@architectures = "spacy-mtl.TaskListener.v1"
"""


class MultiTaskSeq2Seq(Head[Factors, str]):
    """Writes a text about a doc, such as a normal form, from pieces of a vocabulary and copies of
    the doc's tokens. The labels are the pieces.

    vocab (Vocab): The shared vocabulary.
    model (Model[List[Doc], Factors]): The vectors that the decoder reads, and its weights.
    name (str): The component's name.
    attribute (str): The custom attribute to learn from and to write to.
    scorer (Optional[Callable]): The scoring method.
    **settings: Entries of `cfg`, which are saved.
    RAISES (ValueError): M290 or M296 for an attribute that something else uses.
    """

    layer: Texts
    CFG = {
        **Head.CFG,
        "attribute": str,
        "vocab_size": int,
        "max_length": int,
        "beam_width": int,
    }

    def __init__(
        self,
        vocab: Vocab,
        model: Model[list[Doc], Factors],
        name: str,
        *,
        attribute: str,
        scorer: Callable[..., Settings] | None = None,
        **settings: Any,
    ) -> None:
        layers = [layer for layer in get_layers().values() if not isinstance(layer, Texts)]
        taken = {own.removeprefix("doc._.") for layer in layers for own in layer.attributes}
        if not attribute.isidentifier() or attribute in taken:
            names = sorted(own for own in taken if "." not in own)
            message = Errors.M296.format(name=name, attribute=attribute, taken=names)
            raise ValueError(message)
        super().__init__(vocab, model, name, scorer=scorer, attribute=attribute, **settings)
        self.layer, self.target = Texts(attribute), CustomAttribute(attribute)

    # The vocabulary

    def find_labels(self, get_examples: Callable[[], Iterable[Example]]) -> list[str]:
        """RETURNS (List[str]): A vocabulary that is learned from the gold texts."""
        golds = [self.read_text(eg) for eg in get_examples()]
        return learn_pieces([text for text in golds if text is not None], self.cfg["vocab_size"])

    def get_gold_labels(self, doc: Doc) -> set[str]:
        """RETURNS (Set[str]): No labels: every vocabulary can write every text."""
        return set()

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        """Leave the doc as it is: the vocabularies of other heads say nothing about its text."""

    def check_labels(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        """Check that the labels are a vocabulary. Warn by W142 of gold texts that are too long.

        RAISES (ValueError): M297 if the labels are no vocabulary.
        """
        if problem := Vocabulary(self.labels).find_problem():
            raise ValueError(Errors.M297.format(name=self.name, problem=problem))
        self._warn_of_long(get_examples())

    def _check_known(self, examples: Iterable[Example]) -> None:
        self._warn_of_long(examples)

    def _warn_of_long(self, examples: Iterable[Example]) -> None:
        vocabulary, limit = Vocabulary(self.labels), self.cfg["max_length"]
        total, long = 0, list[int]()
        for example in examples:
            text = self.read_text(example)
            total += text is not None
            # A text has at most one unit per byte, and its end.
            if text is not None and len(spell(text)) >= limit:
                long.append(len(Units(vocabulary, get_words(example.predicted)).encode(text)))
        if n := sum(length > limit for length in long):
            message = Warnings.W142.format(
                name=self.name, n=n, total=total, max_length=limit, longest=max(long)
            )
            warnings.warn(message)

    def read_text(self, example: Example) -> str | None:
        """RETURNS (Optional[str]): The gold text; None if it is missing or for other heads."""
        return (self.read_gold(example) or {}).get(self.cfg["attribute"])

    def encode(self, example: Example, units: Units) -> list[int] | None:
        """RETURNS (Optional[List[int]]): The units of the gold text; None if it is missing, or if
        the predicted doc is empty.
        """
        text = self.read_text(example) if len(example.predicted) else None
        return None if text is None else units.encode(text)

    # Learning and prediction

    def loss(self, examples: Sequence[Example], scores: Factors) -> tuple[float, Factors, int]:
        """Compute the mean negative log-likelihood of the units of the gold texts. Texts with more
        than `max_length` units count as missing.

        RETURNS (Tuple[float, Factors, int]): The mean per unit in nats, its gradient, and the
            number of units.
        """
        from .decoding import find_loss  # imports torch

        vocabulary = Vocabulary(self.labels)
        units = [Units(vocabulary, get_words(eg.predicted)) for eg in examples]
        targets = [self.encode(eg, own) for eg, own in zip(examples, units, strict=True)]
        limit = self.cfg["max_length"]
        kept = [None if target and len(target) > limit else target for target in targets]
        copies = [own.copies for own in units]
        return find_loss(Factors(*scores), self._sizes, copies, kept, self.cfg["label_smoothing"])

    @property
    def _sizes(self) -> Sizes:
        attrs = self.model.get_ref("output_layer").attrs
        return Sizes(attrs["depth"], attrs["heads"])

    def decode(self, docs: Sequence[Doc], scores: Factors) -> list[str]:
        """RETURNS (List[str]): The text of each doc."""
        from .decoding import write_texts  # imports torch

        vocabulary = Vocabulary(self.labels)
        units = [Units(vocabulary, get_words(doc)) for doc in docs]
        copies = [own.copies for own in units]
        width, limit = self.cfg["beam_width"], self.cfg["max_length"]
        with self.lock.reading():
            texts = write_texts(Factors(*scores), self._sizes, copies, width, limit)
        return [own.decode(text.units) for own, text in zip(units, texts, strict=True)]

    def decode_empty(self, docs: Sequence[Doc]) -> list[str]:
        return ["" for _ in docs]

    def annotate(self, docs: Sequence[Doc], predictions: Sequence[str]) -> None:
        """Write the texts to the custom attribute.

        docs (Sequence[Doc]): The docs.
        predictions (Sequence[str]): The text of each doc.
        """
        for doc, text in zip(docs, predictions, strict=True):
            self.target.write(doc, text)


def get_words(doc: Doc) -> list[str]:
    """RETURNS (List[str]): The texts of the tokens."""
    return [token.text for token in doc]


@Language.factory(
    "mtl_seq2seq",
    assigns=[f"doc._.{DEFAULT_TEXT}"],
    default_config=Config().from_str(DEFAULT_CONFIG)["seq2seq"],
    default_score_weights={
        f"texts_{DEFAULT_TEXT}_chrf": 1.0,
        f"texts_{DEFAULT_TEXT}_exact": None,
    },
)
@checked("mtl_seq2seq")
def make_mtl_seq2seq(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Factors],
    attribute: str,
    vocab_size: Annotated[int, Range(len(BYTES) + 1, 65536)],
    max_length: Count,
    beam_width: Annotated[int, Range(1, 100)],
    label_smoothing: Rate,
    scorer: Callable[..., Settings] | None,
) -> MultiTaskSeq2Seq:
    """Construct a component that writes a text about each doc and shares its encoder.

    model (Model[List[Doc], Factors]): The vectors that the decoder reads, and its weights.
    attribute (str): The custom attribute to learn from and to write to: "summary" for
        `doc._.summary`.
    vocab_size (int): The largest number of pieces that texts are written with.
    max_length (int): The largest number of pieces and copies of a text, with its end. Longer gold
        texts count as missing, with a warning (W142).
    beam_width (int): The number of texts that are continued at a time when the most likely one is
        searched; 1 for the best piece at each step.
    label_smoothing (float): Share of each target that is spread evenly over the pieces.
    scorer (Optional[Callable]): The scoring method.
    RAISES (ValueError): M290 or M296 for an attribute that something else uses.
    """
    return MultiTaskSeq2Seq(
        nlp.vocab,
        model,
        name,
        attribute=attribute,
        scorer=scorer,
        vocab_size=vocab_size,
        max_length=max_length,
        beam_width=beam_width,
        label_smoothing=label_smoothing,
    )
