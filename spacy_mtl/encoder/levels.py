"""The backward of a forward pass, as a whole or down to a part of the encoder."""

from collections.abc import Sequence

import torch
from spacy.tokens import Doc
from thinc.api import xp2torch

from ..errors import Errors
from ..types import Floats2d

LEVELS = ("features", "last_layer", "params")


class EncoderPass:
    """Takes gradients from the token matrix back into the encoder.

    matrix (torch.Tensor): The pass's output, N x H, or N x K * H with K layers.
    module (torch.nn.Module): The encoder.
    docs (Sequence[Doc]): What it has read.
    """

    def __init__(self, matrix: torch.Tensor, module: torch.nn.Module, docs: Sequence[Doc]) -> None:
        self.matrix, self.module, self.docs = matrix, module, list(docs)

    def __call__(self, d_matrix: Floats2d) -> list[Doc]:
        """Add to the gradients of all weights, once for each pass."""
        torch.autograd.backward(self.matrix, grad_tensors=self._to_torch(d_matrix))
        return self.docs

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
        found = torch.autograd.grad(
            self.matrix,
            get_weights(self.module, level),
            gradient,
            retain_graph=True,
            allow_unused=True,  # a pooler's
            materialize_grads=True,
        )
        return torch.cat([gradient.flatten() for gradient in found])

    def _to_torch(self, d_matrix: Floats2d) -> torch.Tensor:
        return xp2torch(d_matrix, device=self.matrix.device)


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
