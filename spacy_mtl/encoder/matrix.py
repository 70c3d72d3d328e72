"""The token matrix, and each doc's part of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from spacy.tokens import Doc
from spacy_transformers.data_classes import TransformerData, WordpieceBatch
from thinc.api import Ragged, get_array_module
from transformers.file_utils import ModelOutput

from ..errors import Errors
from ..types import Floats2d, Floats3d
from .wordpieces import offsets

KEY: Any = ("._.", "trf_data", None, None)  # where `doc._.trf_data` lies


@dataclass
class TokenMatrix:
    """What the encoder says about a batch of docs.

    data (Floats2d): One row per token, N x H: the mean over the token's wordpieces, zeros for a
        token without any. With further layers their rows stand before it, N x K * H.
    lengths (List[int]): Tokens per doc.
    layers (Tuple[int, ...]): The numbers of K layers, the last one's last; nothing if there is only
        that.
    encoder (Optional[ref[SharedTransformer]]): The encoder that has made it.
    version (int): Of the encoder's weights, which `encoder().lock` counts.
    """

    data: Floats2d
    lengths: list[int]
    layers: tuple[int, ...] = ()
    encoder: Any = None
    version: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def is_stale(self) -> bool:
        """RETURNS (bool): Whether the encoder's weights have changed since."""
        encoder = self.encoder and self.encoder()
        return encoder is not None and encoder.lock.version != self.version

    @property
    def width(self) -> int:
        return self.data.shape[1] // max(1, len(self.layers))

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """RETURNS (List[Tuple[int, int]]): Each doc's first row and the one behind its last."""
        return list(pairwise(offsets(self.lengths).tolist()))

    @property
    def doc_data(self) -> list["TokenRows"]:
        """RETURNS (List[TokenRows]): Each doc's part, as spacy-transformers' batches have it."""
        return [TokenRows(self, start, end) for start, end in self.bounds]


class TokenRows(TransformerData):
    """A doc's part of the token matrix, kept in `doc._.trf_data` while listeners need it.

    Stock listeners see it as TransformerData with one wordpiece per token; what only they ask for
    is made when they do.

    matrix (TokenMatrix): The batch's matrix.
    start, end (int): The doc's rows.
    hub (Optional[GradientHub]): The training pass that the rows come from.
    readers (Optional[Set[int]]): Ids of the listeners that have yet to read the rows. After the
        last one the doc lets go of them; with None it keeps them.
    """

    def __init__(
        self,
        matrix: TokenMatrix,
        start: int,
        end: int,
        hub: Any = None,
        readers: set[int] | None = None,
    ) -> None:
        self.matrix, self.start, self.end = matrix, start, end
        self.hub, self.readers = hub, readers

    @property
    def rows(self) -> Floats2d:
        return self.matrix.data[self.start : self.end, -self.width :]

    @property
    def is_live(self) -> bool:
        """RETURNS (bool): Whether a gradient of these rows still reaches the encoder."""
        return self.hub is not None and self.hub.is_open

    @property
    def width(self) -> int:
        return self.matrix.width

    def get_layers(self, numbers: Sequence[int]) -> Floats3d:
        """RETURNS (Floats3d): The rows of K layers, n x K x H.
        RAISES (ValueError): M074 if the encoder was not told to keep them.
        """
        known = self.matrix.layers
        cube = self.matrix.data[self.start : self.end]
        cube = cube.reshape(len(cube), max(1, len(known)), self.width)
        return cube if known == tuple(numbers) else cube[:, find(numbers, known)]

    def spread_layers(self, d_layers: Floats3d, numbers: Sequence[int]) -> Floats2d:
        """RETURNS (Floats2d): The gradient of `get_layers` as one of the matrix's columns."""
        known = self.matrix.layers
        if known != tuple(numbers):
            d_some, xp = d_layers, get_array_module(d_layers)
            d_layers = xp.zeros((len(d_some), len(known), self.width), dtype="f")
            d_layers[:, find(numbers, known)] = d_some
        return d_layers.reshape(len(d_layers), len(known) * self.width)

    @property
    def wordpieces(self) -> WordpieceBatch:  # type: ignore[override]
        length = self.end - self.start
        return WordpieceBatch.zeros([length]) if length else WordpieceBatch.empty()

    @property
    def model_output(self) -> ModelOutput:  # type: ignore[override]
        # spacy-transformers tells an empty doc by an empty output.
        rows = self.rows
        return ModelOutput(last_hidden_state=rows[None]) if len(rows) else ModelOutput()

    @property
    def align(self) -> Ragged:  # type: ignore[override]
        return TransformerData.zeros(self.end - self.start, 0).align

    def __deepcopy__(self, memo: Any) -> "TokenRows":
        # A copy of the doc, which some heads train on, still reads and trains the encoder.
        readers = None if self.readers is None else set(self.readers)
        return TokenRows(self.matrix, self.start, self.end, self.hub, readers)

    def __reduce__(self) -> Any:
        return TransformerData, (self.wordpieces, self.model_output, self.align)


def find(numbers: Sequence[int], known: Sequence[int]) -> list[int]:
    """RETURNS (List[int]): Where layers stand in the matrix.
    RAISES (ValueError): M074 if one is not there.
    """
    if not set(numbers) <= set(known):
        raise ValueError(Errors.M074.format(layers=numbers, known=known or "the last one only"))
    return [known.index(number) for number in numbers]


def get_rows(doc: Doc) -> TokenRows | None:
    """RETURNS (Optional[TokenRows]): What the encoder left on the doc."""
    rows = doc.user_data.get(KEY)
    return rows if isinstance(rows, TokenRows) else None


def set_rows(
    docs: Sequence[Doc],
    matrix: TokenMatrix,
    hub: Any = None,
    readers: set[int] | None = None,
) -> list[TokenRows]:
    """Give each doc its rows of the matrix.

    RETURNS (List[TokenRows]): What each doc got.
    """
    given = []
    for doc, (start, end) in zip(docs, matrix.bounds, strict=True):
        own = None if readers is None else set(readers)
        doc.user_data[KEY] = TokenRows(matrix, start, end, hub, own)
        given.append(doc.user_data[KEY])
    return given


def renew_rows(docs: Iterable[Doc]) -> None:
    """Encode docs again whose rows were made by weights that have changed since. Rows of a training
    pass stay.

    docs (Iterable[Doc]): Docs with rows of one encoder.
    """
    stale = {
        id(doc): (doc, rows)
        for doc in docs
        if (rows := get_rows(doc)) is not None and rows.hub is None and rows.matrix.is_stale
    }
    if stale:
        found, old = zip(*stale.values(), strict=True)
        matrix = old[0].matrix.encoder().predict(found)
        for doc, rows, (start, end) in zip(found, old, matrix.bounds, strict=True):
            doc.user_data[KEY] = TokenRows(matrix, start, end, None, rows.readers)


def release(docs: Iterable[Doc], reader: int) -> None:
    """Let docs go of the rows that all listeners have read.

    docs (Iterable[Doc]): The docs.
    reader (int): The id of a listener that does not need the rows any more.
    """
    for doc in docs:
        rows = get_rows(doc)
        if rows is not None and rows.readers is not None:
            rows.readers.discard(reader)
            if not rows.readers:
                del doc.user_data[KEY]


def group_by_matrix(stream: Iterable[Doc], batch_size: int) -> Iterator[list[Doc]]:
    """Group docs as the encoder has, so that one token matrix is kept at a time.

    stream (Iterable[Doc]): The docs, in the order in which they were encoded.
    batch_size (int): Docs per group at most.
    YIELDS (List[Doc]): The docs of one matrix, or docs that have none.
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
