"""The encoder's backward pass, as a whole or to the weights of a level."""

from collections.abc import Sequence

import torch
from spacy.tokens import Doc
from thinc.api import xp2torch

from ...errors import Errors
from ...types import Floats2d
from ..host import isolated
from ..runtime.base import Part, Runtime

LEVELS = ("features", "last_layer", "params")


class EncoderPass:
    """Takes gradients at the token matrix back into the encoder.

    matrix (torch.Tensor): The token matrix, N x H, or N x K * H with K layers.
    hidden (torch.Tensor): The states of all W wordpieces, from which the matrix was pooled, W x H
        or W x K * H.
    parts (Sequence[Part]): The calls of the encoder that computed them, one part per thread.
    module (torch.nn.Module): The encoder.
    runtime (Runtime): Computes the gradients.

    It holds no docs. The docs' rows refer to it, and such a cycle would be freed only by Python's
    garbage collector.
    """

    def __init__(
        self,
        matrix: torch.Tensor,
        hidden: torch.Tensor,
        parts: Sequence[Part],
        module: torch.nn.Module,
        runtime: Runtime,
    ) -> None:
        self.matrix, self.hidden, self.module, self.runtime = matrix, hidden, module, runtime
        self.parts = [part for part in parts if part.states]

    @isolated
    def __call__(self, d_matrix: Floats2d) -> list[Doc]:
        """Add to the gradients of all weights, once for each pass.

        RETURNS (List[Doc]): An empty list: docs have no gradient.
        """
        if any(states.requires_grad for part in self.parts for states in part.states):
            weights = [p for p in self.module.parameters() if p.requires_grad]
            d_states = self._split(self._to_torch(d_matrix))
            self.runtime.backward(self.parts, d_states, weights)
        return []

    @isolated
    def gradient_at(self, d_matrix: Floats2d, level: str) -> torch.Tensor:
        """Find the gradient at a level for a gradient at the token matrix. Changes no weight's
        gradient.

        d_matrix (Floats2d): The gradient, as wide as the matrix.
        level (str): "features" for the token matrix itself, "last_layer" for the weights of the
            encoder's last layer, "params" for all of its weights.
        RETURNS (torch.Tensor): The gradient at the level, as one row.
        RAISES (ValueError): M025 if the encoder has no such weights.
        """
        gradient = self._to_torch(d_matrix)
        if level == "features":
            return gradient.flatten()
        weights = get_weights(self.module, level)
        return self.runtime.get_gradients(self.parts, self._split(gradient), weights)

    def _split(self, d_matrix: torch.Tensor) -> list[list[torch.Tensor]]:
        """RETURNS (List[List[torch.Tensor]]): The gradient of each part's states."""
        (d_hidden,) = torch.autograd.grad(self.matrix, self.hidden, d_matrix, retain_graph=True)
        return [[d_hidden.index_select(0, rows) for rows in part.rows] for part in self.parts]

    def _to_torch(self, d_matrix: Floats2d) -> torch.Tensor:
        return xp2torch(d_matrix, device=self.matrix.device)  # type: ignore[arg-type]


def get_weights(module: torch.nn.Module, level: str) -> list[torch.nn.Parameter]:
    """RETURNS (List[torch.nn.Parameter]): The trainable weights of a level.
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
    """RETURNS (List[torch.nn.ModuleList]): All lists of modules, by size. The last one holds the
    encoder's layers. ALBERT's has one layer, which is used several times.
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
        if len(layers) == n  # XLM has a list for each kind of part of its layers
        for i, layer in enumerate(layers, 1)
        for p in layer.parameters()
    }
    # Embeddings of relative positions, which all layers read, may come after the layers.
    depths |= {id(m.weight): 0 for m in module.modules() if isinstance(m, torch.nn.Embedding)}
    found: dict[str, int] = {}
    for name, parameter in module.named_parameters():
        found[name] = depths.get(id(parameter), n if any(found.values()) else 0)
    return found
