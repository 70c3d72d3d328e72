"""oneDNN's products of matrices, in place of torch's default where that is slower: float32 goes to
MKL, which on AMD is half as fast as the oneDNN in the same wheel.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
from torch.nn import functional

from ..concurrency import make_lock

ROUNDS = 15  # of a measurement, of which the fastest counts


class OneDnn:
    """While active, in any thread, products of float32 matrices go to oneDNN.

    The name of the setting says bfloat16, and that is what a CPU with AMX would compute; others
    compute float32. `one_dnn_pays` tells them apart.
    """

    def __init__(self) -> None:
        self.lock, self.depth, self.before = make_lock(), 0, ""

    def __enter__(self) -> None:
        settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        with self.lock:
            if not self.depth:
                self.before, settings.fp32_precision = settings.fp32_precision, "bf16"
            self.depth += 1

    def __exit__(self, *error: Any) -> None:
        with self.lock:
            self.depth -= 1
            if not self.depth:
                settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
                settings.fp32_precision = self.before


one_dnn = OneDnn()


def training_products() -> Any:
    """RETURNS (ContextManager): Products of float32 matrices as fast as they can be exact. For the
    whole of a pass: were it for single products, others would come into it by chance.
    """
    return one_dnn if one_dnn_pays() else nullcontext()


def pack(weight: Any, n_rows: int) -> Any:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), n_rows)


def linear_packed(x: Any, packed: Any, bias: Any, then: str = "none") -> Any:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, then, [], "none")


def probe(function: Callable) -> Callable:
    """RETURNS (Callable): The function, which measures once. Other threads wait for it: what they
    compute meanwhile would change the answer, and so would autocast, under which all is inexact.
    """
    answers: dict[tuple, Any] = {}

    @wraps(function)
    def ask(*args: Any) -> Any:
        if args not in answers:
            with probing, torch.autocast("cpu", enabled=False):
                if args not in answers:
                    answers[args] = function(*args)
        return answers[args]

    return ask


probing = make_lock()


@probe
def packing_pays(dtype: torch.dtype) -> bool:
    """RETURNS (bool): Whether linear layers with packed weights, which compute a gelu behind them
    too, are faster here, and as exact.
    """
    with torch.inference_mode():
        x, weight, bias = example(dtype)
        try:
            packed = pack(weight, len(x))
            return is_better(
                lambda: linear_packed(x, packed, bias, "gelu"),
                lambda: functional.gelu(functional.linear(x, weight, bias)),
            )
        except (AttributeError, RuntimeError):  # another build of torch
            return False


@probe
def one_dnn_pays() -> bool:
    """RETURNS (bool): Whether oneDNN is clearly faster than torch's default at float32, and as
    exact. Were it close, the next run might choose otherwise and train other weights.
    """
    x, weight, _ = example(torch.float32)

    def ours() -> Any:
        with one_dnn:
            return x @ weight.T

    try:
        return is_better(ours, lambda: x @ weight.T, margin=1.2)
    except AttributeError:  # another build of torch
        return False


def example(dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """RETURNS (Tuple): A linear layer's input, weight and bias, of common sizes."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(128, 384), (1536, 384), (1536,)]  # few rows: other processes seldom come between
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)  # type: ignore[return-value]


def is_better(ours: Callable[[], Any], torchs: Callable[[], Any], margin: float = 1.0) -> bool:
    """RETURNS (bool): Whether the first is faster by this factor, and differs by rounding only."""
    mine, theirs = ours(), torchs()
    tolerance = 16 * torch.finfo(theirs.dtype).eps
    if not (mine - theirs).abs().max() <= tolerance * theirs.abs().max():
        return False
    times = [(clock(ours), clock(torchs)) for _ in range(ROUNDS)]
    return margin * min(time for time, _ in times) < min(time for _, time in times)


def clock(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start
