"""The reference runtime: what Hugging Face computes, by torch's own functions, on any device."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .base import Forward, Part, Plan, Runtime, flatten

# Not cuDNN's attention: it makes a plan for each shape, which takes longer than the attention.
GPU_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class EagerRuntime(Runtime):
    """Calls the encoder as it is, in one thread.

    device_type (str): The kind of device, such as "cuda".
    """

    def __init__(self, device_type: str) -> None:
        self.device_type = device_type

    def count_threads(self, module: torch.nn.Module, *, is_train: bool) -> int:
        return 1

    def can_pack(self, module: torch.nn.Module) -> bool:
        return False

    @contextmanager
    def predicting(self, module: torch.nn.Module, dtype: torch.dtype) -> Iterator[Forward]:
        with ExitStack() as stack:
            if self.device_type == "cuda":
                stack.enter_context(sdpa_kernel(GPU_ATTENTION))
            yield lambda plan: call(module, plan)

    @contextmanager
    def training(
        self, module: torch.nn.Module, dtype: torch.dtype, ids: Sequence[int], seed: int
    ) -> Iterator[Forward]:
        autocast = torch.autocast(self.device_type, torch.bfloat16, dtype != torch.float32)
        with autocast, self.predicting(module, dtype) as run:
            yield run

    def backward(
        self,
        parts: Sequence[Part],
        gradients: Sequence[Sequence[torch.Tensor]],
        weights: Sequence[torch.nn.Parameter],
    ) -> None:
        for part, d_states in zip(parts, gradients, strict=True):
            torch.autograd.backward(part.states, d_states)

    def get_gradients(
        self,
        parts: Sequence[Part],
        gradients: Sequence[Sequence[torch.Tensor]],
        weights: Sequence[torch.nn.Parameter],
    ) -> torch.Tensor:
        states = [state for part in parts for state in part.states]
        d_states = [gradient for own in gradients for gradient in own]
        return flatten(
            torch.autograd.grad(
                states,
                weights,
                d_states,
                allow_unused=True,  # a pooler's
                retain_graph=True,
                materialize_grads=True,
            )
        )


def call(module: torch.nn.Module, plan: Plan) -> object:
    return module(**plan.inputs)
