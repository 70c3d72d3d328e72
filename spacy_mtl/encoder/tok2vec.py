"""The encoder inside one component, as `nlp.replace_listeners` leaves it."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, cast

from spacy.tokens import Doc
from thinc.api import Model, chain
from thinc.types import Ragged

from ..arguments import Factor, checked
from ..errors import Errors
from ..types import Floats2d, Floats3d, Settings, get_ops
from . import stock
from .layer_mix import Layers, get_numbers, mix_layers
from .listener import TaskListener, Tok2Vec
from .model.transformer import SharedTransformer
from .model.weights import Precision
from .model.wordpieces import Alignment
from .runtime.base import RuntimeName
from .stock_names import SpanGetter
from .token_matrix import TokenMatrix, TokenRows

TOK2VEC = "model.tok2vec"  # path of the layer with the listeners in the config of a component
# Settings that the new layer takes from the encoder's config and from the listener's.
SHARED = (
    *("name", "get_spans", "tokenizer_config", "transformer_config"),
    *("precision", "runtime", "alignment"),
)
OWN = ("grad_factor", "pooling", "layers")
Split: TypeAlias = Model[TokenMatrix, list[Floats2d]]


@checked("spacy-mtl.Tok2VecTransformer.v1")
def build_tok2vec_transformer_v1(
    name: str,
    get_spans: SpanGetter,
    tokenizer_config: Settings = {},  # noqa: B006
    transformer_config: Settings = {},  # noqa: B006
    precision: Precision = "float32",
    grad_factor: Factor = 1.0,
    pooling: Model[Ragged, Floats2d] | None = None,
    layers: Layers = None,
    runtime: RuntimeName = "auto",
    alignment: Alignment = "auto",
) -> Tok2Vec:
    """Build an encoder that belongs to one component.

    name, get_spans, tokenizer_config, transformer_config, precision, runtime, alignment: As in
        `spacy-mtl.SharedTransformer.v1`.
    grad_factor (float): Scales the component's gradient on its way to the encoder.
    pooling (Optional[Model[Ragged, Floats2d]]): The pooling layer of the spacy-transformers
        listener that this model replaces. Wordpieces are pooled by their mean in any case.
    layers (Union[str, List[int], None]): As in `spacy-mtl.TaskListener.v1`.
    RAISES (ValueError): M058 for an argument out of range, M014 for `pooling` without
        spacy-transformers.
    """
    encoder = SharedTransformer(
        name,
        get_spans,
        tokenizer_config,
        transformer_config,
        precision,
        runtime=runtime,
        alignment=alignment,
    )
    if layers is not None:
        encoder.attrs["layers"] = layers
        return mix_layers(chain(encoder, split_layers(grad_factor, layers)))
    if pooling is None:
        return chain(encoder, split_rows(grad_factor))
    return chain(chain(encoder, split_data()), stock.pool_rows(pooling, grad_factor))


class Replacement:
    """The two callbacks of spaCy's `replace_listeners`, which puts an encoder in the place of a
    component's listeners: first for all their configs, then for their models.
    """

    def __init__(self) -> None:
        self.blocks: list[Settings] = []  # the tok2vec layers whose configs are changed

    def replace_config(self, encoder: Settings, tok2vec: Settings) -> Settings:
        """Make the config of the layer that `replace_model` makes.

        encoder (Settings): The config of the encoder's model.
        tok2vec (Settings): The config of the layer with the listener.
        RETURNS (Settings): The config for the place of its first listener.
        """
        self.blocks.append(tok2vec)
        listener = next((config for _, config in get_listeners(tok2vec)), {})
        return {
            "@architectures": "spacy-mtl.Tok2VecTransformer.v1",
            "alignment": "spacy-transformers",  # for a stock encoder, which has no such setting
            **{key: encoder[key] for key in SHARED if key in encoder},
            **{key: listener[key] for key in OWN if key in listener},
        }

    def replace_model(
        self, model: SharedTransformer, listener: TaskListener, pipe: object
    ) -> Model[list[Doc], list[Floats2d]]:
        """RETURNS (Model[List[Doc], List[Floats2d]]): The encoder, with the listener's output.
        RAISES (ValueError): M088 if a listener is nested deeper than its config that has been
            replaced. The saved pipeline could not be loaded.
        """
        blocks, self.blocks = self.blocks, []
        for block in blocks:
            if left := [path for path, _ in get_listeners(block) if path != TOK2VEC]:
                raise ValueError(Errors.M088.format(task=listener.task, paths=left))
        layers = model.attrs["layers"] = listener.attrs.get("layers")
        shares = model.attrs["shares"] = listener.attrs.get("shares", False)
        split: Split
        if layers is not None:
            split = cast(Split, split_layers(listener.attrs["grad_factor"], layers))
        elif isinstance(listener, TaskListener):
            split = split_rows(listener.attrs["grad_factor"])
        else:
            split = cast(Split, split_data())
        if "shares" in split.attrs:
            split.attrs["shares"] = shares
        return chain(model, split)


def get_listeners(config: object, path: str = TOK2VEC) -> Iterator[tuple[str, Settings]]:
    """Find the listeners in the config of a component.

    YIELDS (Tuple[str, Settings]): The path and the config of each listener, outer ones first.
    """
    if isinstance(config, dict):
        if "Listener." in config.get("@architectures", ""):
            yield path, config
        for name, block in config.items():
            yield from get_listeners(block, f"{path}.{name}")


def split_rows(grad_factor: float) -> Model[TokenMatrix, list[Floats2d]]:
    """RETURNS (Model[TokenMatrix, List[Floats2d]]): A layer that returns the rows of each doc."""
    attrs = {"grad_factor": grad_factor, "shares": False}
    return Model("split_rows", _split_rows_forward, attrs=attrs)


def _split_rows_forward(
    model: Model[TokenMatrix, list[Floats2d]], matrix: TokenMatrix, is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], Floats2d]]:
    def backprop(d_rows: list[Floats2d]) -> Floats2d:
        d_matrix: Floats2d = model.attrs["grad_factor"] * get_ops(model).flatten(d_rows)
        return d_matrix

    data = matrix.share_rows.data if model.attrs["shares"] else matrix.data
    return [data[start:end] for start, end in matrix.bounds], backprop


def split_layers(grad_factor: float, layers: Layers) -> Model[TokenMatrix, list[Floats3d]]:
    """RETURNS (Model[TokenMatrix, List[Floats3d]]): A layer that returns K layers of each doc's
    rows, n x K x H.
    """
    attrs = {"grad_factor": grad_factor, "layers": layers, "shares": False}
    return Model("split_layers", _split_layers_forward, attrs=attrs)


def _split_layers_forward(
    model: Model[TokenMatrix, list[Floats3d]], matrix: TokenMatrix, is_train: bool
) -> tuple[list[Floats3d], Callable[[list[Floats3d]], Floats2d]]:
    docs = (matrix.share_rows if model.attrs["shares"] else matrix).doc_data
    numbers = get_numbers(model.attrs["layers"], matrix.layers[-1])

    def backprop(d_docs: list[Floats3d]) -> Floats2d:
        pairs = zip(docs, d_docs, strict=True)
        d_rows = [rows.spread_layers(d_layers, numbers) for rows, d_layers in pairs]
        d_matrix: Floats2d = model.attrs["grad_factor"] * get_ops(model).flatten(d_rows)
        return d_matrix

    return [rows.get_layers(numbers) for rows in docs], backprop


def split_data() -> Model[TokenMatrix, Sequence[TokenRows]]:
    """RETURNS (Model[TokenMatrix, List[TokenRows]]): A layer that returns each doc's rows as
    TransformerData.
    """
    return Model("split_data", _split_data_forward)


def _split_data_forward(
    model: Model[TokenMatrix, Sequence[TokenRows]], matrix: TokenMatrix, is_train: bool
) -> tuple[list[TokenRows], Callable[[Sequence[stock.StockGradient]], Floats2d]]:
    def backprop(d_data: Sequence[stock.StockGradient]) -> Floats2d:
        d_matrix: Floats2d = get_ops(model).flatten(stock.get_gradients(d_data))
        return d_matrix

    return matrix.doc_data, backprop
