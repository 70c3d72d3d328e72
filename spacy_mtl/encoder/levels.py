"""The backward of a forward pass, as a whole or down to a part of the encoder."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from spacy.tokens import Doc
from thinc.api import xp2torch
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import Errors
from ..types import Floats2d
from .ahead import run_at_once
from .host import isolated

NOTHING: AbstractContextManager = nullcontext()
LEVELS = ("features", "last_layer", "params")
# Memory for gradients of vocabularies, by their weights, or None while one is in use: fresh pages
# take longer than what is computed.
KEPT: Any = WeakTensorKeyDictionary()
Part = list[tuple[torch.Tensor, torch.Tensor]]  # rows of `hidden`, and the states that fill them


class EncoderPass:
    """Takes gradients from the token matrix back into the encoder.

    matrix (torch.Tensor): The pass's output, N x H, or N x K * H with K layers.
    hidden (torch.Tensor): What it was made of, the states of W wordpieces, W x H or W x K * H.
    parts (Sequence[Part]): How the encoder has made these, one part for each thread.
    module (torch.nn.Module): The encoder.
    products (ContextManager): Entered wherever gradients are computed.

    What docs hold of a pass leads here, so no docs are kept: they would be freed only by Python's
    garbage collector, and all of this with them.
    """

    def __init__(
        self,
        matrix: torch.Tensor,
        hidden: torch.Tensor,
        parts: Sequence[Part],
        module: torch.nn.Module,
        products: AbstractContextManager = NOTHING,
    ) -> None:
        self.matrix, self.hidden, self.parts, self.module = matrix, hidden, parts, module
        self.products = products

    @isolated
    def __call__(self, d_matrix: Floats2d) -> list[Doc]:
        """Add to the gradients of all weights, once for each pass.

        RETURNS (List[Doc]): Nothing: docs have no gradient.
        """
        if not any(states.requires_grad for part in self.parts for _, states in part):
            return []  # all weights are frozen
        weights = [p for p in self.module.parameters() if p.requires_grad]
        first, *others = self._split(self._to_torch(d_matrix))
        jobs: list[Any] = [partial(add_gradients, *first, self.products)]
        # Were all added as they come, the sums would differ from run to run.
        jobs += [partial(get_gradients, *part, weights, self.products) for part in others]
        _, *found = run_at_once(jobs)
        for weight in weights:
            if weight.grad is not None and weight.grad.is_sparse:
                weight.grad = to_dense(weight.grad, weight)
        for gradients in found:
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    if weight.grad is None:
                        weight.grad = torch.zeros_like(weight)
                    weight.grad += gradient
        return []

    @isolated
    def pull(self, d_matrix: Floats2d, level: str) -> torch.Tensor:
        """Find what a gradient at the token matrix is at a level, and leave all weights alone.

        d_matrix (Floats2d): The gradient, as wide as the matrix.
        level (str): "features" for the token matrix itself, "last_layer" for the weights of the
            encoder's last layer, "params" for all of its weights.
        RETURNS (torch.Tensor): The gradient there, as one row.
        RAISES (ValueError): M025 if the encoder has no such weights.
        """
        gradient = self._to_torch(d_matrix)
        if level == "features":
            return gradient.flatten()
        weights = get_weights(self.module, level)
        pull = partial(
            get_gradients,
            weights=weights,
            products=self.products,
            retain_graph=True,
            materialize_grads=True,
        )
        found = run_at_once([partial(pull, *part) for part in self._split(gradient)])
        rows = [torch.cat([g.to_dense().flatten() for g in part]) for part in found]
        return torch.stack(rows).sum(0) if len(rows) > 1 else rows[0]

    def _split(self, d_matrix: torch.Tensor) -> list[tuple[list[torch.Tensor], list[torch.Tensor]]]:
        """RETURNS (List[Tuple[List[torch.Tensor], List[torch.Tensor]]]): For each part its states
        and their gradients.
        """
        (d_hidden,) = torch.autograd.grad(self.matrix, self.hidden, d_matrix, retain_graph=True)
        return [
            ([states for _, states in part], [d_hidden.index_select(0, rows) for rows, _ in part])
            for part in self.parts
            if part
        ]

    def _to_torch(self, d_matrix: Floats2d) -> torch.Tensor:
        return xp2torch(d_matrix, device=self.matrix.device)


@isolated
def add_gradients(states: Any, d_states: Any, products: AbstractContextManager) -> None:
    with products:
        torch.autograd.backward(states, d_states)


@isolated
def get_gradients(
    states: Any, d_states: Any, weights: Any, products: AbstractContextManager, **options: Any
) -> Any:
    """RETURNS (Tuple[Optional[torch.Tensor]]): The gradient of each weight."""
    with products:
        # Some have none, such as a pooler's.
        return torch.autograd.grad(states, weights, d_states, allow_unused=True, **options)


def to_dense(gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """RETURNS (torch.Tensor): A sparse gradient with all its zeros."""
    memory, KEPT[weight] = KEPT.get(weight), None
    return (torch.empty_like(weight) if memory is None else memory).zero_().add_(gradient)


def keep_memory(module: torch.nn.Module) -> None:
    """Take the memory of gradients that were sparse for the next ones, after an update."""
    for weight in module.parameters():
        if weight.grad is not None and weight in KEPT:
            KEPT[weight] = weight.grad


def get_weights(module: torch.nn.Module, level: str) -> list[torch.nn.Parameter]:
    """RETURNS (List[torch.nn.Parameter]): The weights of a level that can be trained.
    RAISES (ValueError): M025 if there are none.
    """
    parts = [module]
    if level == "last_layer":
        parts = [layers[-1] for layers in get_layer_lists(module)[-1:]]
    found = [p for part in parts for p in part.parameters() if p.requires_grad]
    if not found:
        raise ValueError(Errors.M025.format(encoder=type(module).__name__, level=level))
    return found


def get_layer_lists(module: torch.nn.Module) -> list[torch.nn.ModuleList]:
    """RETURNS (List[torch.nn.ModuleList]): All lists of modules; the last one, the largest, is that
    of the encoder's layers. ALBERT's has one layer, which is read again and again.
    """
    lists = [m for m in module.modules() if isinstance(m, torch.nn.ModuleList) and len(m)]
    return sorted(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()))


def get_depths(module: torch.nn.Module) -> dict[str, int]:
    """Count the layers up to each parameter.

    RETURNS (Dict[str, int]): 0 for embeddings and all else before the first of n layers, 1 to n for
        the layers, n for what follows them, such as a pooler.
    RAISES (ValueError): M046 if the encoder has no list of layers.
    """
    lists = get_layer_lists(module)
    if not lists:
        raise ValueError(Errors.M046.format(encoder=type(module).__name__))
    n = len(lists[-1])
    depths = {
        id(p): i
        for layers in lists
        if len(layers) == n  # XLM lists the parts of its layers apart
        for i, layer in enumerate(layers, 1)
        for p in layer.parameters()
    }
    # Positions relative to each other, of which all layers read, may stand behind the layers.
    depths |= {id(m.weight): 0 for m in module.modules() if isinstance(m, torch.nn.Embedding)}
    found: dict[str, int] = {}
    for name, parameter in module.named_parameters():
        found[name] = depths.get(id(parameter), n if any(found.values()) else 0)
    return found
