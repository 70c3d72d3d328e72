"""Products of arrays on one core of a CPU. The threads with which numpy computes them stay awake
for a while afterwards, in the way of those that encode.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy
from thinc.api import Model, NumpyOps, get_array_module

from .types import Floats2d

CHUNK = 512  # rows that are multiplied at a time: oneDNN compiles code for each number of them


class OneCoreOps(NumpyOps):
    """numpy's arrays for layers of thinc, whose own products and random numbers take several times
    as long.
    """

    def gemm(
        self,
        x: Floats2d,
        y: Floats2d,
        out: Floats2d | None = None,
        trans1: bool = False,
        trans2: bool = False,
    ) -> Floats2d:
        """RETURNS (Floats2d): The product of two matrices, which may be transposed before."""
        x, y = x.T if trans1 else x, y.T if trans2 else y
        product = matmul(x, y) if trans1 else on_one_core(multiply_rows, x, y)
        if out is None:
            return product
        out[:] = product
        return out

    def flatten(self, X: Any, dtype: Any = None, pad: int = 0, ndim_if_empty: int = 2) -> Any:
        """RETURNS (Array): Arrays behind each other. Those that lie so in memory, as the rows of
        docs do in the token matrix, are not copied.
        """
        if not pad and dtype is None and (rows := find_rows(X)) is not None:
            return rows
        return super().flatten(X, dtype=dtype, pad=pad, ndim_if_empty=ndim_if_empty)

    def get_dropout_mask(self, shape: Any, drop: float | None) -> Any:
        """RETURNS (Floats): 0 at this share of the places, 1 / (1 - drop) at the others. Drawn with
        sixteen bits for each, where thinc takes 64.
        """
        if not drop or not 0 < drop < 1:
            return super().get_dropout_mask(shape, drop)
        bits = numpy.random.randint(0, 2**16, shape, dtype="uint16")
        return numpy.multiply(bits >= round(drop * 2**16), 1 / (1 - drop), dtype="f")


def find_rows(parts: Sequence[Any]) -> Floats2d | None:
    """RETURNS (Optional[Floats2d]): The rows of a matrix of which these are consecutive parts."""
    parts = [part for part in parts if part.size]
    whole = parts[0].base if parts else None
    if not isinstance(whole, numpy.ndarray) or whole.ndim != 2:
        return None
    for part in parts:
        alike = part.dtype == whole.dtype and part.strides == whole.strides
        if part.base is not whole or not alike or part.shape[1:] != whole.shape[1:]:
            return None
    starts = [(get_address(part) - get_address(whole)) // whole.strides[0] for part in parts]
    ends = [start + len(part) for start, part in zip(starts, parts, strict=True)]
    return whole[starts[0] : ends[-1]] if starts[1:] == ends[:-1] else None


def get_address(array: Any) -> int:
    return array.__array_interface__["data"][0]


def use_one_core(model: Model) -> None:
    """Have all layers of a model on a CPU compute so."""
    for node in model.walk():
        if type(node.ops) is NumpyOps:
            node.ops = ONE_CORE


def matmul(a: Floats2d, b: Floats2d) -> Floats2d:
    """RETURNS (Floats2d): The product of two matrices, I x K and K x J."""
    return on_one_core(multiply, a, b) if isinstance(a, numpy.ndarray) else a @ b


def dot(a: Any, b: Any) -> Any:
    """RETURNS (Array): The sum of the products of two arrays' values, in an array without axes."""
    if isinstance(a, numpy.ndarray):
        return on_one_core(multiply, a.ravel(), b.ravel())
    return get_array_module(a).vdot(a, b)


def norm(x: Any) -> float:
    """RETURNS (float): The root of the sum of all squares."""
    return float(get_array_module(x).sqrt(dot(x, x)))


def multiply(a: Any, b: Any) -> Any:
    return a @ b


def multiply_rows(x: Any, y: Any) -> Any:
    """RETURNS (torch.Tensor): x @ y, by oneDNN: torch's default is slow on AMD."""
    import torch

    is_known = x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    n = len(x) - len(x) % CHUNK if is_known else 0
    if not n:
        return x @ y
    one_dnn = torch.ops.mkldnn._linear_pointwise
    chunks = [one_dnn(rows, y.T, None, "none", [], "") for rows in x[:n].split(CHUNK)]
    return torch.cat([*chunks, x[n:] @ y])


def on_one_core(function: Callable, *arrays: Any) -> Any:
    """RETURNS (Any): What a function of tensors returns, one or several, as arrays."""
    import torch  # which takes a second: `import spacy` comes here by way of every head

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = function(*map(torch.from_numpy, arrays))
    finally:
        torch.set_num_threads(before)
    return tuple(x.numpy() for x in found) if isinstance(found, tuple) else found.numpy()


ONE_CORE = OneCoreOps()
