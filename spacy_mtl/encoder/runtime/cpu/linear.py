"""Linear layers and matrix products by oneDNN.

Torch sends float32 products to MKL, which on AMD is half as fast as the oneDNN in the same wheel.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ....concurrency import make_lock
from .capability import get_choice, get_cpu

EXACT = ("none", "ieee")  # the settings under which torch computes float32 exactly


class Float32Products:
    """Computes products of float32 matrices exactly, by oneDNN or MKL as `get_choice` says, even
    where the host application allows lower precision.

    Torch has one setting per process, so it stays while any thread is in the context. The last
    thread that leaves restores it.
    """

    def __init__(self) -> None:
        self.lock, self.depth, self.before = make_lock(), 0, ""

    def __enter__(self) -> None:
        if get_cpu().has_precision:
            settings = get_settings()
            with self.lock:
                if not self.depth:
                    self.before = settings.fp32_precision
                    wanted = ("bf16",) if get_choice().onednn_products else EXACT
                    if self.before not in wanted:
                        settings.fp32_precision = wanted[-1]
                self.depth += 1

    def __exit__(self, *error: object) -> None:
        if get_cpu().has_precision:
            settings = get_settings()
            with self.lock:
                self.depth -= 1
                if not self.depth and settings.fp32_precision != self.before:
                    settings.fp32_precision = self.before


def get_settings() -> Any:
    """RETURNS (Any): Torch's settings of oneDNN's products. "bf16" names what a CPU with AMX would
    compute; other CPUs compute float32.
    """
    return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


float32_products = Float32Products()


def exact_products() -> AbstractContextManager[None]:
    """RETURNS (ContextManager): Exact products of float32 matrices by torch's default library.
    With oneDNN torch's own attention would be slow.
    """
    if not get_cpu().has_precision or get_settings().fp32_precision in EXACT:
        return nullcontext()
    return nullcontext() if get_choice().onednn_products else float32_products


def pack(weight: torch.Tensor, n_rows: int) -> torch.Tensor:
    """RETURNS (torch.Tensor): Weights in oneDNN's layout for inputs of so many rows."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), n_rows)
    return packed


def linear_packed(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, then: str = "none"
) -> torch.Tensor:
    """RETURNS (torch.Tensor): The output of a linear layer, and of the activation `then`."""
    y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, then, [], "none")
    return y
