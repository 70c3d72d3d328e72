"""Array products on one thread of a CPU. The threads of numpy's BLAS spin for a while after each
product and would take the cores from the threads that encode.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy
from thinc.api import Model, NumpyOps

from ....types import Floats2d, get_xp

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = "numpy.ndarray[Any, numpy.dtype[Any]]"
CHUNK = 512  # rows per product: oneDNN compiles code for each number of rows


class SingleThreadOps(NumpyOps):  # type: ignore[misc]
    """Computes thinc's layers on numpy arrays, with products and random numbers several times as
    fast as thinc's own.
    """

    def gemm(
        self,
        x: Floats2d,
        y: Floats2d,
        out: Floats2d | None = None,
        trans1: bool = False,
        trans2: bool = False,
    ) -> Floats2d:
        """Multiply two matrices, either of which may be transposed first.

        RETURNS (Floats2d): The product, I x J.
        """
        x, y = x.T if trans1 else x, y.T if trans2 else y
        product = matmul(x, y) if trans1 else on_single_thread(multiply_rows, x, y)
        if out is None:
            return product
        out[:] = product
        return out

    def flatten(
        self, X: Sequence[Array], dtype: object = None, pad: int = 0, ndim_if_empty: int = 2
    ) -> Array:
        """Concatenate arrays. Consecutive rows of one matrix, such as docs' rows of the token
        matrix, are not copied.

        RETURNS (Array): The concatenated arrays.
        """
        if not pad and dtype is None and (rows := find_rows(X)) is not None:
            return rows
        flat: Array = super().flatten(X, dtype=dtype, pad=pad, ndim_if_empty=ndim_if_empty)
        return flat

    def get_dropout_mask(self, shape: Sequence[int], drop: float | None) -> Array:
        """Sample a dropout mask from 16 random bits per value, where thinc draws 64.

        RETURNS (Floats): 0 with probability `drop`, otherwise 1 / (1 - drop).
        """
        if not drop or not 0 < drop < 1:
            ones: Array = super().get_dropout_mask(shape, drop)
            return ones
        bits = numpy.random.randint(0, 2**16, shape, dtype="uint16")
        return numpy.multiply(bits >= round(drop * 2**16), 1 / (1 - drop), dtype="f")


def find_rows(parts: Sequence[Array]) -> Floats2d | None:
    """RETURNS (Optional[Floats2d]): The rows of the matrix whose consecutive views the parts are,
    None if they are anything else.
    """
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


def get_address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def use_single_thread(model: Model[Any, Any]) -> None:
    """Give all layers of a model that compute with numpy the ops of one thread."""
    for node in model.walk():
        if type(node.ops) is NumpyOps:
            node.ops = SINGLE_THREAD


def matmul(a: Floats2d, b: Floats2d) -> Floats2d:
    """RETURNS (Floats2d): The product of two matrices, I x K and K x J."""
    product: Floats2d = on_single_thread(multiply, a, b) if isinstance(a, numpy.ndarray) else a @ b
    return product


def dot(a: Array, b: Array) -> Array:
    """RETURNS (Array): The inner product of two arrays, an array without axes."""
    on_cpu = isinstance(a, numpy.ndarray)
    product: Array = (
        on_single_thread(multiply, a.ravel(), b.ravel()) if on_cpu else get_xp(a).vdot(a, b)
    )
    return product


def norm(x: Array) -> float:
    """RETURNS (float): The Euclidean norm of all values."""
    return float(get_xp(x).sqrt(dot(x, x)))


def multiply(a: "Tensor", b: "Tensor") -> "Tensor":
    return a @ b


def multiply_rows(x: "Tensor", y: "Tensor") -> "Tensor":
    """RETURNS (torch.Tensor): x @ y computed by oneDNN. torch's default is slow on AMD."""
    import torch

    has_one_dnn = torch.backends.mkldnn.is_available()
    n = len(x) - len(x) % CHUNK if has_one_dnn and x.dtype == torch.float32 else 0
    if not n:
        return x @ y
    one_dnn = torch.ops.mkldnn._linear_pointwise
    chunks = [one_dnn(rows, y.T, None, "none", [], "") for rows in x[:n].split(CHUNK)]
    return torch.cat([*chunks, x[n:] @ y])


def on_single_thread(function: Callable[..., Any], *arrays: Array) -> Any:
    """Call a function of tensors on one thread.

    function (Callable): Takes tensors and returns one tensor or a tuple of tensors.
    arrays (numpy.ndarray): The arguments.
    RETURNS (Union[numpy.ndarray, Tuple[numpy.ndarray, ...]]): The result as arrays.
    """
    import torch  # slow to import, and `import spacy` imports this module with every head

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = function(*map(torch.from_numpy, arrays))
    finally:
        torch.set_num_threads(before)
    return tuple(x.numpy() for x in found) if isinstance(found, tuple) else found.numpy()


SINGLE_THREAD = SingleThreadOps()
