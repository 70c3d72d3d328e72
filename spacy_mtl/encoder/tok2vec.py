"""The encoder inside one component, as `nlp.replace_listeners` leaves it."""

from collections.abc import Callable, Iterator
from typing import Any

from spacy.tokens import Doc
from spacy_transformers.layers import trfs2arrays
from thinc.api import Model, chain
from thinc.types import Ragged

from ..arguments import Factor, checked
from ..errors import Errors
from ..types import Floats2d, Floats3d
from .layers import Layers, get_numbers, mix_layers
from .matrix import TokenMatrix, TokenRows
from .model import SharedTransformer, SpanGetter
from .precision import Precision
from .runtime import Runtime
from .wordpieces import Alignment

TOK2VEC = "model.tok2vec"  # where the config of a component has the layer with its listeners


@checked("spacy-mtl.Tok2VecTransformer.v1")
def build_tok2vec_transformer_v1(
    name: str,
    get_spans: SpanGetter,
    tokenizer_config: dict[str, Any] = {},  # noqa: B006
    transformer_config: dict[str, Any] = {},  # noqa: B006
    precision: Precision = "float32",
    grad_factor: Factor = 1.0,
    pooling: Model[Ragged, Floats2d] | None = None,
    layers: Layers = None,
    runtime: Runtime = "auto",
    alignment: Alignment = "auto",
) -> Model[list[Doc], list[Floats2d]]:
    """Build an encoder that one component has for itself.

    name, get_spans, tokenizer_config, transformer_config, precision, runtime, alignment: As in
        `spacy-mtl.SharedTransformer.v1`.
    grad_factor (float): Scales the component's gradient on its way to the encoder.
    pooling (Optional[Model[Ragged, Floats2d]]): Of a spacy-transformers listener that this takes
        the place of. Wordpieces are pooled by their mean in any case.
    layers (Union[str, List[int], None]): As in `spacy-mtl.TaskListener.v1`.
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
    return chain(chain(encoder, split_data()), trfs2arrays(pooling, grad_factor))


class Replacement:
    """What spaCy calls to put an encoder in the place of listeners: for the configs of all those of
    a component, and then for their models.
    """

    def __init__(self) -> None:
        self.blocks: list[dict[str, Any]] = []  # the tok2vec layers whose configs are changed

    def replace_config(self, encoder: dict[str, Any], tok2vec: dict[str, Any]) -> dict[str, Any]:
        """RETURNS (Dict[str, Any]): The config of what `replace_model` makes in the place of the
        first listener in the config of a tok2vec layer.
        """
        self.blocks.append(tok2vec)
        shared = (
            *("name", "get_spans", "tokenizer_config", "transformer_config"),
            *("precision", "runtime", "alignment"),
        )
        own = ("grad_factor", "pooling", "layers")
        listener = next((config for _, config in get_listeners(tok2vec)), {})
        return {
            "@architectures": "spacy-mtl.Tok2VecTransformer.v1",
            "alignment": "spacy-transformers",  # of an encoder whose block has no such setting
            **{key: encoder[key] for key in shared if key in encoder},
            **{key: listener[key] for key in own if key in listener},
        }

    def replace_model(
        self, model: SharedTransformer, listener: Any, pipe: Any
    ) -> Model[list[Doc], list[Any]]:
        """RETURNS (Model[List[Doc], List[Any]]): The encoder, giving what the listener gave.
        RAISES (ValueError): M088 if not the listeners' configs have been replaced, but one around
            them: what is saved could not be loaded.
        """
        blocks, self.blocks = self.blocks, []
        for block in blocks:
            if left := [path for path, _ in get_listeners(block) if path != TOK2VEC]:
                raise ValueError(Errors.M088.format(task=listener.task, paths=left))
        layers = model.attrs["layers"] = listener.attrs.get("layers")
        if layers is not None:
            return chain(model, split_layers(listener.attrs["grad_factor"], layers))
        if getattr(listener, "reads_rows", False):
            return chain(model, split_rows(listener.attrs["grad_factor"]))
        return chain(model, split_data())


def get_listeners(config: Any, path: str = TOK2VEC) -> Iterator[tuple[str, dict[str, Any]]]:
    """YIELDS (Tuple[str, Dict[str, Any]]): Where in the config of a component each listener's is,
    and that, outer ones first.
    """
    if isinstance(config, dict):
        if "Listener." in config.get("@architectures", ""):
            yield path, config
        for name, block in config.items():
            yield from get_listeners(block, f"{path}.{name}")


def split_rows(grad_factor: float) -> Model[TokenMatrix, list[Floats2d]]:
    """RETURNS (Model[TokenMatrix, List[Floats2d]]): Each doc's rows."""
    return Model("split_rows", _split_rows_forward, attrs={"grad_factor": grad_factor})


def _split_rows_forward(
    model: Model, matrix: TokenMatrix, is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], Floats2d]]:
    def backprop(d_rows: list[Floats2d]) -> Floats2d:
        return model.attrs["grad_factor"] * model.ops.flatten(d_rows)

    return [matrix.data[start:end] for start, end in matrix.bounds], backprop


def split_layers(grad_factor: float, layers: Layers) -> Model[TokenMatrix, list[Floats3d]]:
    """RETURNS (Model[TokenMatrix, List[Floats3d]]): The layers of each doc's rows."""
    attrs = {"grad_factor": grad_factor, "layers": layers}
    return Model("split_layers", _split_layers_forward, attrs=attrs)


def _split_layers_forward(
    model: Model, matrix: TokenMatrix, is_train: bool
) -> tuple[list[Floats3d], Callable[[list[Floats3d]], Floats2d]]:
    docs = matrix.doc_data
    numbers = get_numbers(model.attrs["layers"], matrix.layers[-1])

    def backprop(d_docs: list[Floats3d]) -> Floats2d:
        d_rows = [
            rows.spread_layers(d_rows, numbers) for rows, d_rows in zip(docs, d_docs, strict=True)
        ]
        return model.attrs["grad_factor"] * model.ops.flatten(d_rows)

    return [rows.get_layers(numbers) for rows in docs], backprop


def split_data() -> Model[TokenMatrix, list[TokenRows]]:
    """RETURNS (Model[TokenMatrix, List[TokenRows]]): Each doc's rows as TransformerData."""
    return Model("split_data", _split_data_forward)


def _split_data_forward(
    model: Model, matrix: TokenMatrix, is_train: bool
) -> tuple[list[TokenRows], Callable[[list[Any]], Floats2d]]:
    def backprop(d_data: list[Any]) -> Floats2d:
        # docs without tokens have no output, and no gradient either
        return model.ops.flatten([d.model_output.last_hidden_state[0] for d in d_data])

    return matrix.doc_data, backprop
