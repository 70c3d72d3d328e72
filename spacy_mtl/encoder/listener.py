"""Gives a head its rows of the token matrix, and sends its gradient to the encoder."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import numpy
from spacy.tokens import Doc
from thinc.api import Model
from thinc.layers.concatenate import init as init_layers

from ..arguments import Factor, check, checked
from ..errors import Errors
from ..types import Floats2d, get_ops
from .layer_mix import Layers, mix_layers
from .token_matrix import KEY, TokenMatrix, TokenRows, get_rows, release

Tok2Vec: TypeAlias = Model[list[Doc], list[Floats2d]]


class TaskListener(Model[list[Doc], list[Floats2d]]):
    """A layer whose output is the rows that the encoder has left on the docs.

    upstream_name (str): The encoder's component name, or "*" for any.
    grad_factor (float): Scales the gradient on its way to the encoder.
    layers (Union[str, List[int], None]): The layers to read. With None the output is the last
        layer, n x H for each doc; otherwise K layers, n x K x H.
    attrs["shares"] (bool): Whether to read the shares of the token matrix instead of its rows. A
        listener that does sends no gradient.
    task (str): The component of the listener, set by the encoder when it links the listener.
    sample (Dict[int, Doc]): The docs of a running `initialize`, by id. No encoder has read them,
        so the output for them is zeros. It is cleared when the listener is linked, which is the
        last step of `nlp.initialize`, and by the first rows from the encoder.
    """

    name = "task-transformer-listener"  # `spacy debug model` finds listeners by their names

    def __init__(self, upstream_name: str, grad_factor: float, layers: Layers = None) -> None:
        super().__init__(
            self.name,
            forward,
            init=init,
            dims={"nO": None},
            attrs={"grad_factor": grad_factor, "layers": layers, "shares": False},
        )
        self.upstream_name = upstream_name
        self.task = ""
        self.sample: dict[int, Doc] = {}


@checked("spacy-mtl.TaskListener.v1")
def build_task_listener_v1(
    upstream: str = "*", grad_factor: Factor = 1.0, layers: Layers = None
) -> Tok2Vec:
    """Build a layer that listens to `mtl_transformer`: one row per token for each doc.

    upstream (str): The encoder's component name, or "*" for any.
    grad_factor (float): Scales this head's gradient on its way to the encoder. With 0 the encoder
        learns nothing from the head.
    layers (Union[str, List[int], None]): By default the last layer is read. "all", or a list of
        numbers, reads a learned mix of layers: `mix_layers`. Number 0 is the embeddings; negative
        numbers count from the last layer.
    RAISES (ValueError): M058 for an argument out of range; M073, when it is linked, for a layer
        that the encoder lacks.
    """
    listener = TaskListener(upstream, grad_factor, layers)
    return listener if layers is None else mix_layers(listener)  # type: ignore[arg-type]


def init(model: TaskListener, X: list[Doc] | None = None, Y: object = None) -> None:
    """Remember docs that no encoder has read. Later layers infer their sizes from zeros."""
    if not model.has_dim("nO"):
        raise ValueError(Errors.M011.format(upstream=model.upstream_name))
    for doc in X or []:
        model.sample[id(doc)] = doc
        if get_rows(doc) is not None:  # of another encoder, whose width may differ
            del doc.user_data[KEY]


def forward(
    model: TaskListener, docs: list[Doc], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Doc]]]:
    rows = require_rows(model, docs)
    if model.attrs["shares"]:
        rows = [row.shares for row in rows]
    layers, grad_factor = model.attrs["layers"], model.attrs["grad_factor"]
    outputs = [row.rows if layers is None else row.get_layers(layers) for row in rows]
    opened = rows[0].training_pass if rows else None
    if not is_train:  # an annotating head predicts after its update, so training keeps the rows
        release(docs, model.id)

    def backprop(d_outputs: list[Floats2d]) -> list[Doc]:
        if opened is not None and grad_factor:
            gradients: list[Any] = [grad_factor * d_output for d_output in d_outputs]
            if layers is not None:
                pairs = zip(rows, gradients, strict=True)
                gradients = [row.spread_layers(gradient, layers) for row, gradient in pairs]
            opened.receive(model.id, rows, gradients)
        return []

    return cast(list[Floats2d], outputs), backprop


def require_rows(model: TaskListener, docs: Sequence[Doc]) -> list[TokenRows]:
    """RETURNS (List[TokenRows]): The rows that the encoder left on each doc. Docs of the sample
    get zeros.
    RAISES (ValueError): M012 if a doc has no rows of `mtl_transformer`.
    """
    found = [get_rows(doc) for doc in docs]
    if any(found):
        model.sample = {}
    return [rows or make_zeros(model, doc) for doc, rows in zip(docs, found, strict=True)]


def make_zeros(model: TaskListener, doc: Doc) -> TokenRows:
    if id(doc) not in model.sample:
        raise ValueError(Errors.M012.format(upstream=model.upstream_name, text=doc.text[:40]))
    layers = tuple(model.attrs["layers"] or ())
    zeros = get_ops(model).alloc2f(len(doc), model.get_dim("nO") * max(1, len(layers)))
    matrix = TokenMatrix(zeros, [len(doc)], layers, shares=zeros)
    return TokenRows(matrix, 0, len(doc))


@checked("spacy-mtl.ConcatTok2Vec.v1")
def build_concat_tok2vec_v1(
    layers: dict[str, Any],  # a more exact type would hide the values from `check`
) -> Tok2Vec:
    """Concatenate the token vectors of several models, such as a listener's and hashed lexical
    features, which tell an uncased encoder the case of a word.

    layers (Dict[str, Model[List[Doc], List[Floats2d]]]): The models, by any names.
    RAISES (ValueError): M013 if there is no model, M058 for a value that is not a model.
    """
    check("spacy-mtl.ConcatTok2Vec.v1", "layers", layers, dict[str, Model])  # type: ignore[type-arg]
    if not layers:
        raise ValueError(Errors.M013)
    models: list[Tok2Vec] = list(layers.values())
    if len(models) == 1:
        return models[0]
    name = "|".join(model.name for model in models)
    return Model(name, concatenate, init=init_layers, layers=models, dims={"nO": None})


def concatenate(
    model: Tok2Vec, docs: list[Doc], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Doc]]]:
    """Compute thinc's layer of this name with half as many copies."""
    outputs, callbacks = zip(*(layer(docs, is_train) for layer in model.layers), strict=True)
    ops = get_ops(model)
    lengths = ops.asarray1i([len(rows) for rows in outputs[0]])
    parts = [ops.flatten(rows) for rows in outputs]
    cuts = numpy.cumsum([part.shape[1] for part in parts])[:-1].tolist()

    def backprop(d_outputs: list[Floats2d]) -> list[Doc]:
        d_parts = ops.xp.split(ops.flatten(d_outputs), cuts, axis=1)
        for callback, d_part in zip(callbacks, d_parts, strict=True):
            callback(ops.unflatten(ops.as_contig(d_part), lengths))
        return docs

    return ops.unflatten(ops.xp.hstack(parts), lengths), backprop
