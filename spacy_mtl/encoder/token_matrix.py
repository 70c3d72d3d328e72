"""The token matrix, and the rows of each doc in it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy
import srsly
from spacy.tokens import Doc
from thinc.types import Ragged

from ..compat import ModelOutput
from ..errors import Errors
from ..types import Floats2d, Floats3d, get_xp
from .model.wordpieces import offsets
from .stock import get_rows_class, install_extension

if TYPE_CHECKING:
    from .model.transformer import SharedTransformer
    from .training_pass import TrainingPass

KEY: Any = ("._.", "trf_data", None, None)  # of `doc._.trf_data` in `doc.user_data`
PACKED = "__spacy_mtl_rows__"


@dataclass
class TokenMatrix:
    """The encoder's output for a batch of docs.

    data (Floats2d): One row per token, N x H: the mean over the token's wordpieces, or zeros for a
        token without wordpieces. With K layers, N x K * H: the layers side by side.
    lengths (List[int]): Tokens per doc.
    layers (Tuple[int, ...]): The numbers of the K layers, the last layer at the end. Empty if there
        is only the last layer.
    encoder (Optional[ref[SharedTransformer]]): The encoder that computed the matrix.
    version (int): The version of the encoder's weights, as counted by its lock.
    shares (Optional[Floats2d]): Other rows, as wide as those of `data`, whose mean over a doc is
        the mean over the doc's wordpieces. None unless a listener reads them.
    """

    data: Floats2d
    lengths: list[int]
    layers: tuple[int, ...] = ()
    encoder: "Callable[[], SharedTransformer | None] | None" = None
    version: int = 0
    shares: Floats2d | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def is_stale(self) -> bool:
        """RETURNS (bool): Whether the encoder's weights have changed since."""
        encoder = self.encoder and self.encoder()
        return encoder is not None and encoder.lock.version != self.version

    @property
    def width(self) -> int:
        """RETURNS (int): Numbers per token and layer, H."""
        return self.data.shape[1] // max(1, len(self.layers))

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """RETURNS (List[Tuple[int, int]]): For each doc the index of its first row, and the index
        after its last row.
        """
        return list(pairwise(offsets(self.lengths).tolist()))

    @property
    def share_rows(self) -> "TokenMatrix":
        """RETURNS (TokenMatrix): The same matrix with the shares as its rows.
        RAISES (ValueError): M171 if it has no shares.
        """
        if self.shares is None:
            raise ValueError(Errors.M171)
        return replace(self, data=self.shares)

    @property
    def doc_data(self) -> list["TokenRows"]:
        """RETURNS (List[TokenRows]): The rows of each doc. The name is spacy-transformers'."""
        return [TokenRows(self, start, end) for start, end in self.bounds]


class TokenRows:
    """The rows of a doc in a token matrix, kept in `doc._.trf_data` while listeners need them.

    Where spacy-transformers has been imported, they are its TransformerData too.

    matrix (TokenMatrix): The batch's matrix.
    start, end (int): The index of the first row, and the index after the last row.
    training_pass (Optional[TrainingPass]): The training pass that computed the rows.
    readers (Optional[Set[int]]): Ids of the listeners that have yet to read the rows. The last one
        removes the rows from the doc. With None the doc keeps them.
    """

    def __new__(cls, *args: object, **kwargs: object) -> "TokenRows":
        return object.__new__(get_rows_class(cls))

    def __init__(
        self,
        matrix: TokenMatrix,
        start: int,
        end: int,
        training_pass: "TrainingPass | None" = None,
        readers: set[int] | None = None,
    ) -> None:
        self.matrix, self.start, self.end = matrix, start, end
        self.training_pass, self.readers = training_pass, readers

    @property
    def shares(self) -> "TokenRows":
        """RETURNS (TokenRows): The doc's rows in the matrix of shares.
        RAISES (ValueError): M171 if the matrix has no shares.
        """
        return TokenRows(self.matrix.share_rows, self.start, self.end)

    @property
    def rows(self) -> Floats2d:
        """RETURNS (Floats2d): The last layer's rows, n x H."""
        return self.matrix.data[self.start : self.end, -self.width :]

    @property
    def is_live(self) -> bool:
        """RETURNS (bool): Whether a gradient of these rows still reaches the encoder."""
        return self.training_pass is not None and self.training_pass.is_open

    @property
    def width(self) -> int:
        """RETURNS (int): Numbers per token and layer, H."""
        return self.matrix.width

    def get_layers(self, numbers: Sequence[int]) -> Floats3d:
        """RETURNS (Floats3d): The rows of K layers, n x K x H.
        RAISES (ValueError): M074 if the matrix lacks one of them.
        """
        known = self.matrix.layers
        rows = self.matrix.data[self.start : self.end]
        cube = rows.reshape(len(rows), max(1, len(known)), self.width)
        return cube if known == tuple(numbers) else cube[:, find(numbers, known)]

    def spread_layers(self, d_layers: Floats3d, numbers: Sequence[int]) -> Floats2d:
        """RETURNS (Floats2d): The gradient of the matrix's rows, from one of `get_layers`."""
        known = self.matrix.layers
        if known != tuple(numbers):
            d_some = d_layers
            d_layers = get_xp(d_some).zeros((len(d_some), len(known), self.width), dtype="f")
            d_layers[:, find(numbers, known)] = d_some
        return d_layers.reshape(len(d_layers), len(known) * self.width)

    @property
    def model_output(self) -> ModelOutput:
        """RETURNS (ModelOutput): The rows as the output of a transformer that reads one wordpiece
        per token. Like in spacy-transformers, it is empty for an empty doc.
        """
        states = {"last_hidden_state": self.rows[None]} if self.end > self.start else {}
        return ModelOutput(**states)  # type: ignore[no-untyped-call]

    @property
    def align(self) -> Ragged:
        """RETURNS (Ragged): For each token the index of its wordpiece in `model_output`."""
        length = self.end - self.start
        return Ragged(numpy.arange(length), numpy.ones(length, dtype="i"))  # type: ignore[arg-type]

    @property
    def last_hidden_layer_state(self) -> Ragged:
        """RETURNS (Ragged): One row per token. The name is spacy-curated-transformers'."""
        lengths = numpy.ones(self.end - self.start, dtype="i")
        return Ragged(self.rows, lengths)  # type: ignore[arg-type]

    @property
    def all_outputs(self) -> list[Ragged]:
        """RETURNS (List[Ragged]): The last layer. The name is spacy-curated-transformers'."""
        return [self.last_hidden_layer_state]

    def __deepcopy__(self, memo: object) -> "TokenRows":
        # Some heads train on a copy of the doc. Its rows still lead to the encoder.
        readers = None if self.readers is None else set(self.readers)
        return TokenRows(self.matrix, self.start, self.end, self.training_pass, readers)

    def __reduce__(self) -> tuple[object, ...]:
        return make_rows, (self.rows,)


def make_rows(data: Floats2d) -> TokenRows:
    """RETURNS (TokenRows): Rows with a matrix of their own."""
    return TokenRows(TokenMatrix(data, [len(data)]), 0, len(data))


@srsly.msgpack_encoders("spacy-mtl.TokenRows")  # type: ignore[untyped-decorator]
def encode_rows(obj: object, chain: Callable[[object], object] | None = None) -> object:
    """Convert rows for `doc.to_bytes`. spacy-transformers converts its own objects."""
    if type(obj) is TokenRows:
        return {PACKED: obj.rows}
    return obj if chain is None else chain(obj)


@srsly.msgpack_decoders("spacy-mtl.TokenRows")  # type: ignore[untyped-decorator]
def decode_rows(obj: Any, chain: Callable[[object], object] | None = None) -> object:
    if PACKED in obj:
        return make_rows(obj[PACKED])
    return obj if chain is None else chain(obj)


def find(numbers: Sequence[int], known: Sequence[int]) -> list[int]:
    """RETURNS (List[int]): The places of layers in the matrix.
    RAISES (ValueError): M074 if the matrix lacks one of them.
    """
    if not set(numbers) <= set(known):
        raise ValueError(Errors.M074.format(layers=numbers, known=known or "the last one only"))
    return [known.index(number) for number in numbers]


def get_rows(doc: Doc) -> TokenRows | None:
    """RETURNS (Optional[TokenRows]): The rows that the encoder left on the doc, if any."""
    rows = doc.user_data.get(KEY)
    return rows if isinstance(rows, TokenRows) else None


def set_rows(
    docs: Sequence[Doc],
    matrix: TokenMatrix,
    training_pass: "TrainingPass | None" = None,
    readers: set[int] | None = None,
) -> list[TokenRows]:
    """Give each doc its rows of the matrix.

    training_pass (Optional[TrainingPass]): The training pass that computed the matrix.
    readers (Optional[Set[int]]): Ids of the listeners after which docs drop the rows; None to keep
        them.
    RETURNS (List[TokenRows]): The rows of each doc.
    """
    install_extension()  # again, for a pipeline that was pickled into another process
    given = []
    for doc, (start, end) in zip(docs, matrix.bounds, strict=True):
        own = None if readers is None else set(readers)
        doc.user_data[KEY] = TokenRows(matrix, start, end, training_pass, own)
        given.append(doc.user_data[KEY])
    return given


def renew_rows(docs: Iterable[Doc]) -> None:
    """Encode docs again if their rows were computed by older weights. Rows of a training pass stay.

    docs (Iterable[Doc]): Docs with rows of one encoder.
    """
    stale = {
        id(doc): (doc, rows)
        for doc in docs
        if (rows := get_rows(doc)) is not None
        and rows.training_pass is None
        and rows.matrix.is_stale
    }
    if not stale:
        return
    found, old = zip(*stale.values(), strict=True)
    encoder = old[0].matrix.encoder()
    matrix = encoder.predict(found)
    for doc, rows, (start, end) in zip(found, old, matrix.bounds, strict=True):
        doc.user_data[KEY] = TokenRows(matrix, start, end, None, rows.readers)


def check_lengths(docs: Iterable[Doc], name: str) -> None:
    """Check that encoded docs still have the tokens that were encoded.

    docs (Iterable[Doc]): The docs.
    name (str): The component that reads the rows, for the message.
    RAISES (ValueError): M078 if tokens have been merged or split since a doc was encoded.
    """
    for doc in docs:
        rows = get_rows(doc)
        n_rows = len(doc) if rows is None else rows.end - rows.start
        if n_rows != len(doc):
            text, n = doc.text[:40], len(doc)
            raise ValueError(Errors.M078.format(text=text, n_rows=n_rows, n=n, name=name))


def release(docs: Iterable[Doc], reader: int) -> None:
    """Mark rows as read by a listener. Docs drop rows that all listeners have read.

    docs (Iterable[Doc]): The docs.
    reader (int): The listener's id.
    """
    for doc in docs:
        rows = get_rows(doc)
        if rows is not None and rows.readers is not None:
            rows.readers.discard(reader)
            if not rows.readers:
                del doc.user_data[KEY]


def group_by_matrix(stream: Iterable[Doc], batch_size: int) -> Iterator[list[Doc]]:
    """Group docs by their token matrix, so that one matrix is in memory at a time.

    stream (Iterable[Doc]): The docs, in the order in which they were encoded.
    batch_size (int): Docs per group at most.
    YIELDS (List[Doc]): Docs of one matrix, or docs without any.
    """
    group: list[Doc] = []
    for doc in stream:
        if group and get_matrix(doc) is not get_matrix(group[-1]):
            yield group
            group = []
        group.append(doc)
        if len(group) in (batch_size, len(get_matrix(doc) or ())):
            yield group
            group = []
    if group:
        yield group


def get_matrix(doc: Doc) -> TokenMatrix | None:
    rows = get_rows(doc)
    return None if rows is None else rows.matrix
