"""Hands a head its rows of the token matrix and brings its gradient back."""

from collections.abc import Callable
from typing import Any

import numpy
from spacy.tokens import Doc
from spacy_transformers.layers import TransformerListener
from thinc.api import Model
from thinc.layers.concatenate import init as init_layers

from .arguments import Factor, check, checked
from .encoder.layers import Layers, mix_layers
from .encoder.matrix import KEY, TokenMatrix, TokenRows, get_rows, release
from .errors import Errors
from .types import Floats2d


class TaskListener(TransformerListener):
    """A layer that reads its output from the docs, where the encoder has left it.

    upstream_name (str): The encoder's component name, or "*" for any.
    grad_factor (float): Scales the gradient on its way to the encoder.
    layers (Union[str, List[int], None]): The layers to give, or None for the last one's rows.
    sample (Dict[int, Doc]): The docs of a running `initialize`, by id. No encoder has read them,
        so their rows are zeros. Linking the listener ends it, which `nlp.initialize` does last,
        and so do the first rows from the encoder.
    """

    name = "task-transformer-listener"  # by which `spacy debug model` knows it
    reads_rows = True

    def __init__(self, upstream_name: str, grad_factor: float, layers: Layers = None) -> None:
        Model.__init__(
            self,
            name=self.name,
            forward=forward,
            init=init,
            dims={"nO": None},
            attrs={"grad_factor": grad_factor, "layers": layers},
        )
        self.upstream_name = upstream_name
        self.sample: dict[int, Doc] = {}


@checked("spacy-mtl.TaskListener.v1")
def build_task_listener_v1(
    upstream: str = "*", grad_factor: Factor = 1.0, layers: Layers = None
) -> Model[list[Doc], list[Floats2d]]:
    """Build a layer that listens to `mtl_transformer`: one row per token for each doc.

    upstream (str): The encoder's component name, or "*" for any.
    grad_factor (float): Scales this head's gradient on its way to the encoder. With 0 the encoder
        learns nothing from the head.
    layers (Union[str, List[int], None]): By default the last layer is read. "all", or a list of
        numbers, 0 for the embeddings and negative ones counting from the end, reads a learned mix
        of layers: `mix_layers`.
    RAISES (ValueError): M058 for an argument out of range; M073, when it is linked, for a layer
        that the encoder lacks.
    """
    listener = TaskListener(upstream, grad_factor, layers)
    return listener if layers is None else mix_layers(listener)


def init(model: TaskListener, X: list[Doc] | None = None, Y: Any = None) -> None:
    """Let the layers after the listener infer their sizes from docs that no encoder has read."""
    if not model.has_dim("nO"):
        raise ValueError(Errors.M011.format(upstream=model.upstream_name))
    for doc in X or []:
        model.sample[id(doc)] = doc
        if get_rows(doc) is not None:  # of an encoder that may have another width
            del doc.user_data[KEY]


def forward(
    model: TaskListener, docs: list[Doc], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Doc]]]:
    rows = [require_rows(model, doc) for doc in docs]
    layers, grad_factor = model.attrs["layers"], model.attrs["grad_factor"]
    outputs = [row.rows if layers is None else row.get_layers(layers) for row in rows]
    hub = rows[0].hub if rows else None
    if not is_train:  # in training the head's own predictions may be annotated after its update
        release(docs, model.id)

    def backprop(d_outputs: list[Floats2d]) -> list[Doc]:
        if hub is not None and grad_factor:
            gradients = [grad_factor * d_output for d_output in d_outputs]
            if layers is not None:
                pairs = zip(rows, gradients, strict=True)
                gradients = [row.spread_layers(gradient, layers) for row, gradient in pairs]
            hub.receive(model.id, rows, gradients)
        return []

    return outputs, backprop


def require_rows(model: TaskListener, doc: Doc) -> TokenRows:
    """RETURNS (TokenRows): The rows that the encoder left on the doc, or zeros for the sample.
    RAISES (ValueError): M012 if there are no rows, or none from `mtl_transformer`.
    """
    rows = get_rows(doc)
    if rows is not None:
        model.sample = {}
        return rows
    if id(doc) not in model.sample:
        raise ValueError(Errors.M012.format(upstream=model.upstream_name, text=doc.text[:40]))
    layers = tuple(model.attrs["layers"] or ())
    zeros = model.ops.alloc2f(len(doc), model.get_dim("nO") * max(1, len(layers)))
    return TokenRows(TokenMatrix(zeros, [len(doc)], layers), 0, len(doc))


@checked("spacy-mtl.ConcatTok2Vec.v1")
def build_concat_tok2vec_v1(
    layers: dict[str, Any],  # models: unresolved blocks are checked too
) -> Model[list[Doc], list[Floats2d]]:
    """Put the token vectors of several models beside each other, such as a listener's and hashed
    lexical features, which show an uncased encoder the case of a word.

    layers (Dict[str, Model[List[Doc], List[Floats2d]]]): The models, by any names.
    RAISES (ValueError): M013 if there is none, M058 for another thing than a model.
    """
    check("spacy-mtl.ConcatTok2Vec.v1", "layers", layers, dict[str, Model])
    if not layers:
        raise ValueError(Errors.M013)
    models = list(layers.values())
    if len(models) == 1:
        return models[0]
    name = "|".join(model.name for model in models)
    return Model(name, concatenate, init=init_layers, layers=models, dims={"nO": None})


def concatenate(
    model: Model, docs: list[Doc], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Doc]]]:
    """thinc's layer of this name, with half of the copies."""
    outputs, callbacks = zip(*(layer(docs, is_train) for layer in model.layers), strict=True)
    ops: Any = model.ops
    lengths = ops.asarray1i([len(rows) for rows in outputs[0]])
    parts = [ops.flatten(rows) for rows in outputs]
    cuts = numpy.cumsum([part.shape[1] for part in parts])[:-1].tolist()

    def backprop(d_outputs: list[Floats2d]) -> list[Doc]:
        d_parts = ops.xp.split(ops.flatten(d_outputs), cuts, axis=1)
        for callback, d_part in zip(callbacks, d_parts, strict=True):
            callback(ops.unflatten(ops.as_contig(d_part), lengths))
        return docs

    return ops.unflatten(ops.xp.hstack(parts), lengths), backprop
