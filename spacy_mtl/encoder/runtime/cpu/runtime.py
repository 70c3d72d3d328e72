"""The CPU runtime: several threads, packed passes, and kernels in place of torch's functions."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import partial
from weakref import WeakKeyDictionary

import torch

from ....compat import is_checkpointing
from ....concurrency import make_lock
from ...host import isolated
from ..base import Forward, Gradients, Part, Plan, Runtime, flatten
from ..eager import call
from .gradients import add_to, to_dense
from .kernels import Kernels, PredictionKernels, TrainingKernels
from .linear import exact_products, float32_products
from .packing import can_pack
from .threads import WORKERS, run_parallel


class CPURuntime(Runtime):
    """Computes what the eager runtime computes, up to the rounding of sums. `get_choice` says which
    kernels this CPU uses.
    """

    def __init__(self) -> None:
        self._lock = make_lock()
        # Packed weights live as long as the module that predictions read.
        self._kernels: WeakKeyDictionary[torch.nn.Module, PredictionKernels] = WeakKeyDictionary()

    def count_threads(self, module: torch.nn.Module, *, is_train: bool) -> int:
        # Checkpointing computes without our kernels, and torch's dropout shares one generator.
        shares = is_train and not is_checkpointing(module)
        return min(WORKERS, torch.get_num_threads()) if shares else 1

    def can_pack(self, module: torch.nn.Module) -> bool:
        return can_pack(module)

    @contextmanager
    def predicting(self, module: torch.nn.Module, dtype: torch.dtype) -> Iterator[Forward]:
        kernels = copy(self.get_kernels(module))
        with exact_products(), kernels:
            yield partial(call_with, kernels, module)

    @contextmanager
    def training(
        self, module: torch.nn.Module, dtype: torch.dtype, ids: Sequence[int], seed: int
    ) -> Iterator[Forward]:
        kernels = TrainingKernels(ids, seed)
        is_half = dtype != torch.float32
        with ExitStack() as stack:
            # A cache of casts would be shared by all threads, and sums would depend on their order.
            autocast = torch.autocast("cpu", torch.bfloat16, is_half, cache_enabled=False)
            stack.enter_context(autocast)
            stack.enter_context(float32_products)
            if not is_checkpointing(module):
                stack.enter_context(kernels)
            yield partial(call_with, kernels, module)

    def backward(
        self,
        parts: Sequence[Part],
        gradients: Sequence[Sequence[torch.Tensor]],
        weights: Sequence[torch.nn.Parameter],
    ) -> None:
        first, *others = zip(parts, gradients, strict=True)
        jobs = [partial(add_gradients, *first)]
        # Each other thread returns its gradients: the sums must not depend on the threads' order.
        jobs += [partial(find_gradients, *part, weights, False) for part in others]
        _, *found = run_parallel(jobs)
        for weight in weights:
            if weight.grad is not None and weight.grad.is_sparse:
                weight.grad = to_dense(weight.grad, weight)
        for own in found:
            add_to(weights, own)

    def get_gradients(
        self,
        parts: Sequence[Part],
        gradients: Sequence[Sequence[torch.Tensor]],
        weights: Sequence[torch.nn.Parameter],
    ) -> torch.Tensor:
        pairs = zip(parts, gradients, strict=True)
        found = run_parallel([partial(find_gradients, *pair, weights, True) for pair in pairs])
        rows = [flatten(own) for own in found]
        return torch.stack(rows).sum(0) if len(rows) > 1 else rows[0]

    def get_kernels(self, module: torch.nn.Module) -> PredictionKernels:
        """RETURNS (PredictionKernels): The kernels of a module, with its packed weights."""
        with self._lock:
            if module not in self._kernels:
                self._kernels[module] = PredictionKernels(module)
            return self._kernels[module]


def call_with(kernels: Kernels, module: torch.nn.Module, plan: Plan) -> object:
    kernels.blocks = plan.blocks
    return call(module, plan)


@isolated
def add_gradients(part: Part, gradients: Sequence[torch.Tensor]) -> Gradients:
    with float32_products:
        torch.autograd.backward(part.states, gradients)
    return ()


@isolated
def find_gradients(
    part: Part,
    gradients: Sequence[torch.Tensor],
    weights: Sequence[torch.nn.Parameter],
    keeps_graph: bool,
) -> Gradients:
    """RETURNS (Sequence[Optional[torch.Tensor]]): The gradient of each weight. With the graph kept,
    zeros for a weight without any, such as a pooler's.
    """
    with float32_products:
        return torch.autograd.grad(
            part.states,
            weights,
            gradients,
            allow_unused=True,
            retain_graph=keeps_graph,
            materialize_grads=keeps_graph,
        )
