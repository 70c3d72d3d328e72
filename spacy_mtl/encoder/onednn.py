"""oneDNN's products of matrices, in place of torch's default where that is slower: float32 goes to
MKL, which on AMD is half as fast as the oneDNN in the same wheel.
"""

from contextlib import nullcontext
from typing import Any

import torch

from ..concurrency import make_lock
from .cpu import get_choice, get_cpu


class Float32Products:
    """While active in any thread, products of float32 matrices are computed as this process has
    chosen: by oneDNN or MKL, and exactly, also where the host application allows less.

    Torch's setting belongs to the whole process. So all threads of a pass need it together, and the
    last one that leaves restores it.
    """

    def __init__(self) -> None:
        self.lock, self.depth, self.before = make_lock(), 0, ""

    def __enter__(self) -> None:
        if get_cpu().has_precision:
            settings = get_settings()
            with self.lock:
                if not self.depth:
                    self.before = settings.fp32_precision
                    wanted = ("bf16",) if get_choice().onednn_products else ("none", "ieee")
                    if self.before not in wanted:
                        settings.fp32_precision = wanted[-1]
                self.depth += 1

    def __exit__(self, *error: Any) -> None:
        if get_cpu().has_precision:
            settings = get_settings()
            with self.lock:
                self.depth -= 1
                if not self.depth and settings.fp32_precision != self.before:
                    settings.fp32_precision = self.before


def get_settings() -> Any:
    """RETURNS (Any): Torch's settings of products. "bf16" is named after what a CPU with AMX would
    compute; other CPUs compute float32.
    """
    return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


float32_products = Float32Products()


def exact_products() -> Any:
    """RETURNS (ContextManager): Products of float32 matrices as exact as the host application does
    not always allow. By torch's default still: oneDNN would make torch's attention slow.
    """
    return nullcontext() if get_choice().onednn_products else float32_products


def pack(weight: Any, n_rows: int) -> Any:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), n_rows)


def linear_packed(x: Any, packed: Any, bias: Any, then: str = "none") -> Any:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, then, [], "none")
