"""Vectors of docs, spans and tokens, from the rows of the shared encoder."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy
from spacy.errors import Errors as SpacyErrors
from spacy.errors import Warnings as SpacyWarnings
from spacy.language import Language
from spacy.pipeline.pipe import Pipe
from spacy.tokens import Doc, Span, Token
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import Config, Model
from thinc.backends import get_array_ops

from ..arguments import checked
from ..encoder.host import isolated
from ..errors import Errors, Warnings
from ..storage import SavedPipe
from ..types import Floats1d, Floats2d, Settings, get_ops

Pooling = Literal["wordpieces", "tokens"]
DType = Literal["float32", "float16"]
HasVector: TypeAlias = Doc | Span | Token
TokenVectors: TypeAlias = Model[list[Doc], list[Floats2d]]

DEFAULT_CONFIG = """
[vectors]
pooling = "wordpieces"
normalize = false
dtype = "float32"

[vectors.model]
@architectures = "spacy-mtl.TokenVectors.v1"

[vectors.model.tok2vec]
@architectures = "spacy-mtl.TaskListener.v1"
"""


class Vectorizer(SavedPipe, Pipe):
    """Writes the encoder's rows to `doc.tensor`, from which spaCy computes `vector` and
    `similarity` of docs, spans and tokens. It learns nothing, and without layers of its own it
    saves nothing: its settings are in the config.

    vocab (Vocab): The shared vocabulary.
    model (Model[List[Doc], List[Floats2d]]): Computes the rows of each doc, n x H.
    name (str): The component's name.
    pooling (str): "wordpieces": the mean of a doc's rows is the mean over its wordpieces. "tokens":
        a row is the mean over the token's wordpieces.
    normalize (bool): Whether to scale the rows of each doc so that `doc.vector` has length 1.
    dtype (str): The type of the numbers.
    RAISES (ValueError): M172 if the model cannot pool by wordpieces.
    """

    model: TokenVectors

    def __init__(
        self,
        vocab: Vocab,
        model: TokenVectors,
        name: str,
        *,
        pooling: Pooling = "wordpieces",
        normalize: bool = False,
        dtype: DType = "float32",
    ) -> None:
        self.vocab, self.model, self.name = vocab, model, name
        self.pooling, self.normalize, self.dtype = pooling, normalize, dtype
        self.cfg: Settings = {}
        self._set_pooling()

    def _set_pooling(self) -> None:
        nodes = [node for node in self.model.walk() if "shares" in node.attrs]
        if self.pooling == "wordpieces" and not nodes:
            raise ValueError(Errors.M172.format(name=self.name))
        for node in nodes:
            node.attrs["shares"] = self.pooling == "wordpieces"

    # Prediction

    def __call__(self, doc: Doc) -> Doc:
        """Write the vectors of one doc.

        doc (Doc): The doc.
        RETURNS (Doc): The same doc.
        """
        try:
            self.set_annotations([doc], self.predict([doc]))
        except Exception as err:
            self.get_error_handler()(self.name, self, [doc], err)
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Write the vectors of a stream of docs, in batches of docs that were encoded together.

        stream (Iterable[Doc]): The docs.
        batch_size (int): The largest number of docs in a batch.
        YIELDS (Doc): The docs in order.
        """
        from ..encoder.token_matrix import group_by_matrix  # imports torch

        error_handler = self.get_error_handler()
        for docs in group_by_matrix(stream, batch_size):
            try:
                self.set_annotations(docs, self.predict(docs))
                yield from docs
            except Exception as err:
                error_handler(self.name, self, docs, err)

    @isolated
    def predict(self, docs: Iterable[Doc]) -> list[Floats2d]:
        """Compute the vectors of a batch of docs, without modifying them.

        docs (Iterable[Doc]): The docs.
        RETURNS (List[Floats2d]): The rows of each doc, n x H, in main memory.
        RAISES (ValueError): M078 if tokens have been merged or split since a doc was encoded, M171
            if the doc was encoded while this component was disabled, spaCy's E109 if the model has
            layers of its own and is not initialized.
        """
        from ..encoder.token_matrix import check_lengths, renew_rows  # imports torch

        docs = list(docs)
        if not docs:
            return []
        self.check_initialized()
        check_lengths(docs, self.name)
        renew_rows(docs)
        rows = self.model.predict(docs)
        ops = get_ops(self.model)
        data: Floats2d = ops.to_numpy(ops.flatten(rows))
        cuts = numpy.cumsum([len(own) for own in rows])[:-1]
        return [self._convert(own) for own in numpy.split(data, cuts)]

    def _convert(self, rows: Floats2d) -> Floats2d:
        if self.normalize and len(rows):
            length = numpy.linalg.norm(rows.mean(axis=0))
            rows = rows / length if length else rows
        converted: Floats2d = rows.astype(self.dtype)  # a view would keep those of the whole batch
        return converted

    def set_annotations(self, docs: Iterable[Doc], predictions: Sequence[Floats2d]) -> None:
        """Write vectors to docs: `doc.tensor`, and the hooks of `add_hooks`. Child processes add no
        hooks, which docs would lose on their way back.

        docs (Iterable[Doc]): The docs.
        predictions (Sequence[Floats2d]): The result of `predict` for them.
        """
        if self.vocab.vectors.size:
            warnings.warn(Warnings.W126.format(name=self.name))
        for doc, rows in zip(docs, predictions, strict=True):
            cached: Any = doc  # spaCy's types are narrower than what the attributes hold
            cached.tensor = rows
            # spaCy's own vector of an empty doc has no numbers.
            cached.vector = None if len(doc) else get_vector(doc)
            cached.vector_norm = None
            if parent_process() is None:  # spaCy warns of hooks in docs that processes send
                self.add_hooks(doc)

    def get_vector(self, item: Doc | Span) -> Floats1d:
        """RETURNS (Floats1d): The vector of a doc or span, H, of length 1 if `normalize` is set."""
        vector = get_vector(item)
        length = numpy.linalg.norm(vector) if self.normalize else 0
        scaled: Floats1d = (vector / length).astype(vector.dtype) if length else vector
        return scaled

    def add_hooks(self, doc: Doc) -> Doc:
        """Add hooks to a doc, as `nlp` and `nlp.pipe` do. Docs from `from_bytes`, and from
        `nlp.pipe` with several processes, have none.

        `similarity` compares vectors, also those of equal words in different contexts, for which
        spaCy returns 1. If the vocab has static vectors, which spaCy reads first, `vector` and
        `has_vector` read `doc.tensor`.

        doc (Doc): The doc.
        RETURNS (Doc): The same doc.
        """
        hooks: Settings = {"similarity": get_similarity}
        if self.vocab.vectors.size:
            hooks |= {"vector": get_vector, "has_vector": has_vector}
        for own in (doc.user_hooks, doc.user_span_hooks, doc.user_token_hooks):
            own.update(hooks)
        return doc

    # Initialization, saving and loading

    def initialize(
        self, get_examples: Callable[[], Iterable[Example]], *, nlp: Language | None = None
    ) -> None:
        """Initialize layers that the model has of its own. A listener has none.

        get_examples (Callable): Not used.
        nlp (Optional[Language]): The current pipeline.
        """
        self.model.initialize(X=[Doc(self.vocab, words=["a"])])

    def check_initialized(self) -> None:
        """RAISES (ValueError): spaCy's E109 if layers of the model have no weights yet."""
        nodes = self.model.walk()
        if not all(node.has_param(name) for node in nodes for name in node.param_names):
            raise ValueError(SpacyErrors.E109.format(name=self.name))

    @property
    def has_own_layers(self) -> bool:
        """RETURNS (bool): Whether the model has weights, as after `nlp.replace_listeners`."""
        return any(node.param_names or node.shims for node in self.model.walk())

    def _get_writers(self) -> dict[str, Callable[[], bytes]]:
        return super()._get_writers() if self.has_own_layers else {}

    def _load_model(self, msg: Settings) -> None:
        super()._load_model(msg)
        self._set_pooling()  # the config may have changed

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "Vectorizer":
        """Load the component from a folder.

        path (str / Path): The folder.
        exclude (Iterable[str]): String names of serialization fields to exclude.
        RETURNS (Vectorizer): The component.
        RAISES (ValueError): M007 if a file cannot be read.
        """
        return super().from_disk(path, exclude=exclude) if self.has_own_layers else self


def get_vector(item: HasVector) -> Floats1d:
    """RETURNS (Floats1d): The mean of the rows in `tensor`, H; zeros without any."""
    tensor: Any = item.tensor
    rows = tensor if tensor.ndim == 2 else tensor[None]
    total: Floats1d = rows.sum(axis=0, dtype="f") / max(1, len(rows))
    return total.astype(rows.dtype)


def has_vector(item: HasVector) -> bool:
    """RETURNS (bool): Whether there is a vector."""
    tensor: Any = item.tensor
    return bool(tensor.size)


def get_similarity(item: HasVector, other: Any) -> float:
    """Compare two vectors.

    item (Union[Doc, Span, Token]): One item.
    other (Union[Doc, Span, Token, Lexeme]): The other item.
    RETURNS (float): The cosine of their vectors, -1 to 1; 0 with spaCy's W008 for a vector of
        zeros.
    RAISES (ValueError): M173 if the vectors have different widths.
    """
    pair = [to_numpy(own.vector) for own in (item, other)]
    norms = [float(numpy.linalg.norm(vector)) for vector in pair]
    if not all(norms):
        warnings.warn(SpacyWarnings.W008.format(obj=type(item).__name__))
        return 0.0
    if len(pair[0]) != len(pair[1]):
        raise ValueError(Errors.M173.format(width=len(pair[0]), other=len(pair[1])))
    return float(pair[0] @ pair[1]) / (norms[0] * norms[1])


def to_numpy(vector: Any) -> Floats1d:
    """RETURNS (Floats1d): A vector as float32 in main memory."""
    ops: Any = get_array_ops(vector)  # type: ignore[no-untyped-call]
    converted: Floats1d = ops.to_numpy(vector).astype("f")
    return converted


@Language.factory(
    "mtl_vectors",
    assigns=["doc.tensor"],
    default_config=Config().from_str(DEFAULT_CONFIG)["vectors"],
)
@checked("mtl_vectors")
def make_mtl_vectors(
    nlp: Language,
    name: str,
    model: Model[list[Doc], list[Floats2d]],
    pooling: Pooling,
    normalize: bool,
    dtype: DType,
) -> Vectorizer:
    """Construct a component that keeps the encoder's rows as vectors. It has no labels and learns
    nothing, so it can be added to a trained pipeline.

    model (Model[List[Doc], List[Floats2d]]): Computes the rows of each doc, n x H.
    pooling (str): "wordpieces": `doc.vector` is the mean over the doc's wordpieces, as in
        sentence-transformers, without special tokens such as [CLS]. "tokens": `doc.vector` is the
        mean over tokens, each of which is the mean over its wordpieces.
    normalize (bool): Whether to scale the rows of each doc so that `doc.vector` has length 1.
        Similarities stay the same.
    dtype (str): The type of the numbers, "float32" or "float16".
    RAISES (ValueError): M172 for "wordpieces" with a model that is no listener of mtl_transformer.
    """
    return Vectorizer(nlp.vocab, model, name, pooling=pooling, normalize=normalize, dtype=dtype)


@checked("spacy-mtl.TokenVectors.v1")
def build_token_vectors_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
) -> Model[list[Doc], list[Floats2d]]:
    """Build the model of `mtl_vectors`, which has no weights.

    tok2vec (Model[List[Doc], List[Floats2d]]): Makes the token vectors, such as a listener. Of a
        listener with several `layers`, the plain mean is taken.
    """
    # The learned mix around a listener with `layers` is skipped: nothing would train its weights.
    inner: Any = tok2vec.layers[0] if tok2vec.name == "mix_layers" else tok2vec
    return Model("token_vectors", forward, init=init, layers=[inner])


def init(model: TokenVectors, X: list[Doc] | None = None, Y: object = None) -> None:
    model.layers[0].initialize(X=X)


def forward(
    model: TokenVectors, docs: list[Doc], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Doc]]]:
    rows: list[Any] = model.layers[0].predict(docs)
    return [own.mean(axis=1) if own.ndim == 3 else own for own in rows], lambda _: docs
