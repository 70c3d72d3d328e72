"""The one place that deals with spacy-transformers: its listeners, its data and its model.

Nothing imports spacy-transformers unless objects of its classes exist, so the package runs without
it. spaCy itself imports it, where it is installed, with every pipeline.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol, TypeGuard, TypeVar

from spacy.tokens import Doc
from thinc.api import Model
from thinc.types import Ragged

from ..errors import Errors
from ..types import Floats2d, Settings

if TYPE_CHECKING:
    from ..pretrained import PretrainedEncoder
    from .token_matrix import TokenRows
    from .training_pass import TrainingPass

Rows = TypeVar("Rows", bound="TokenRows")
EXTENSION = "trf_data"


class StockListener(Protocol):
    """A `spacy_transformers.TransformerListener`. It reads `doc._.trf_data`, in training what it
    has received.
    """

    id: int
    upstream_name: str

    def receive(
        self,
        batch_id: int | None,
        outputs: "Sequence[TokenRows] | None",
        backprop: Callable[[Sequence["StockGradient"]], list[Doc]] | None,
    ) -> None:
        """Set the output and the backward of the batch with an id, or remove them."""


class StockGradient(Protocol):
    """The gradient of a doc's rows, as TransformerData."""

    @property
    def model_output(self) -> Settings: ...


def is_loaded() -> bool:
    """RETURNS (bool): Whether spacy-transformers has been imported."""
    return sys.modules.get("spacy_transformers") is not None


# Listeners


def is_stock_listener(node: object) -> TypeGuard[StockListener]:
    """RETURNS (bool): Whether a layer is a listener of spacy-transformers."""
    if not is_loaded():
        return False
    from spacy_transformers.layers import TransformerListener

    return isinstance(node, TransformerListener)


def send_rows(
    listeners: Iterable[object],
    docs: Sequence[Doc],
    rows: "Sequence[TokenRows]",
    training_pass: "TrainingPass",
) -> None:
    """Give stock listeners the rows of a training pass, and the pass their gradients.

    listeners (Iterable[Model]): The listeners, of which ours are skipped.
    rows (Sequence[TokenRows]): The rows of each doc.
    training_pass (TrainingPass): Receives the gradients.
    """
    found = [listener for listener in listeners if is_stock_listener(listener)]
    # TransformerListener.get_batch_id
    batch_id = sum(token.orth for doc in docs for token in doc) if found else 0
    for listener in found:
        listener.receive(batch_id, rows, make_backprop(listener.id, rows, training_pass))


def make_backprop(
    listener: int, rows: "Sequence[TokenRows]", training_pass: "TrainingPass"
) -> Callable[[Sequence[StockGradient]], list[Doc]]:
    """RETURNS (Callable): The function that a stock listener calls with its gradients."""
    filled = [row for row in rows if row.end > row.start]  # empty docs have no gradient

    def backprop(d_outputs: Sequence[StockGradient]) -> list[Doc]:
        training_pass.receive(listener, filled, get_gradients(d_outputs))
        return []

    return backprop


def get_gradients(d_outputs: Sequence[StockGradient]) -> list[Floats2d]:
    """RETURNS (List[Floats2d]): The gradient of each doc's rows. Empty docs are not among them."""
    return [d_output.model_output["last_hidden_state"][0] for d_output in d_outputs]


def clear(listeners: Iterable[object]) -> None:
    """Remove the rows of a training pass from stock listeners. Heads without labels leave them."""
    for listener in listeners:
        if is_stock_listener(listener):
            listener.receive(None, None, None)


def get_pooling(node: Model[object, object]) -> str | None:
    """RETURNS (Optional[str]): The pooling layer's name, if this is the layer that pools the output
    of a stock listener.
    """
    return node.layers[0].name if node.name == "trfs2arrays" else None


def pool_rows(
    pooling: Model[Ragged, Floats2d], grad_factor: float
) -> "Model[Sequence[TokenRows], list[Floats2d]]":
    """RETURNS (Model[List[TokenRows], List[Floats2d]]): spacy-transformers' layer that pools
    wordpieces to tokens.
    RAISES (ValueError): M014 if spacy-transformers cannot be imported.
    """
    try:
        from spacy_transformers.layers import trfs2arrays
    except ImportError as err:
        raise ValueError(Errors.M014.format(error=err)) from err
    return trfs2arrays(pooling, grad_factor)  # type: ignore[arg-type, return-value]


# Docs


def install_extension() -> None:
    """Register `doc._.trf_data`, as spacy-transformers does."""
    if not Doc.has_extension(EXTENSION):
        Doc.set_extension(EXTENSION, default=None)


def get_rows_class(rows_class: type[Rows]) -> type[Rows]:
    """Find the class of a doc's rows. Stock listeners accept only TransformerData.

    RETURNS (Type[TokenRows]): If spacy-transformers has been imported, a subclass that is
        TransformerData too, with one wordpiece per token. Otherwise the same class.
    """
    return make_stock_class(rows_class) if is_loaded() else rows_class  # type: ignore[arg-type]


@cache
def make_stock_class(rows_class: type[Rows]) -> type[Rows]:
    from spacy_transformers.data_classes import TransformerData, WordpieceBatch

    class StockRows(rows_class, TransformerData):  # type: ignore[misc, valid-type]
        @property
        def wordpieces(self) -> WordpieceBatch:  # type: ignore[override]
            length = self.end - self.start
            return WordpieceBatch.zeros([length]) if length else WordpieceBatch.empty()

        def __reduce__(self) -> tuple[object, ...]:
            return TransformerData, (self.wordpieces, self.model_output, self.align)

    return StockRows


# The model


def is_stock_model(model: object) -> TypeGuard[Model[object, object]]:
    """RETURNS (bool): Whether this is a model of `spacy-transformers.TransformerModel`."""
    if not is_loaded():
        return False
    from spacy_transformers.layers import TransformerModel

    return isinstance(model, TransformerModel)


def read_model(model: Model[object, object]) -> "tuple[Settings, PretrainedEncoder | None]":
    """Read the settings and the weights of a stock model.

    RETURNS (Tuple[Settings, Optional[PretrainedEncoder]]): Arguments of SharedTransformer,
        and the encoder if it has been loaded.
    """
    from ..pretrained import PretrainedEncoder

    (shim,) = model.layers[0].shims
    stock = shim._hfmodel  # type: ignore[attr-defined]
    settings = {
        "name": model.attrs["name"],
        "get_spans": model.attrs["get_spans"],
        "tokenizer_config": stock._init_tokenizer_config,
        "transformer_config": stock._init_transformer_config,
        "precision": "auto" if shim._mixed_precision else "float32",  # type: ignore[attr-defined]
    }
    if not model.attrs["has_transformer"]:
        return settings, None
    parts = stock.tokenizer, stock.transformer, stock.vocab_file_contents
    return settings, PretrainedEncoder(*parts)
