"""The encoder's precision, and the copy of its weights that predictions read."""

import copy
from typing import Any, Literal

import torch

from ...concurrency import make_lock
from ...errors import Errors
from ..runtime.cpu.capability import get_cpu
from .lora import merge

Precision = Literal["float32", "bfloat16", "auto"]


def get_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Choose the encoder's precision.

    precision (str): "float32", "bfloat16", or "auto": bfloat16 where the device computes it
        natively, else float32.
    device (torch.device): The encoder's device.
    RAISES (ValueError): M005 for any other name.
    """
    if precision == "float32":
        return torch.float32
    if precision == "bfloat16" or (precision == "auto" and has_native_bfloat16(device)):
        return torch.bfloat16
    if precision == "auto":
        return torch.float32
    raise ValueError(Errors.M005.format(precision=precision))


def has_native_bfloat16(device: torch.device) -> bool:
    """RETURNS (bool): Whether a device multiplies bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and get_cpu().has_bfloat16


class PredictionWeights:
    """Holds a copy of the encoder for predictions: without dropout, in the configured precision,
    with adapters merged. The copy shares the weights that have this precision already. It is made
    on demand, and again after the weights have changed. Copies and pickles of this are empty.
    """

    def __init__(self) -> None:
        self._module: torch.nn.Module | None = None
        self._state: object = None
        self._lock = make_lock()  # two threads may ask at the same time
        self._weights: list[torch.Tensor] | None = (
            None  # kept alive, so that no new weights get their addresses
        )

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return PredictionWeights, ()

    def get(self, module: Any, dtype: torch.dtype) -> Any:
        """RETURNS (torch.nn.Module): The copy of a module, which may be training meanwhile."""
        if not has_weights(module):
            return module  # an encoder of another library, which cannot be trained or copied
        state = module, dtype, [(p.data_ptr(), get_version(p)) for p in module.parameters()]
        with self._lock:
            if state != self._state:
                self._weights = [p.detach() for p in module.parameters()]
                self._module, self._state = cast(merge(module), dtype).eval(), state
            return self._module

    def forget(self) -> None:
        """Drop the copy. Call this after a fused optimizer, which leaves torch's version counters
        as they are.
        """
        self._state = self._module = self._weights = None


def has_weights(module: object) -> bool:
    """RETURNS (bool): Whether an encoder is a torch module with parameters."""
    return isinstance(module, torch.nn.Module) and any(True for _ in module.parameters())


def get_version(weight: torch.Tensor) -> int:
    """RETURNS (int): Torch's version counter, -1 for a tensor of inference mode."""
    return -1 if weight.is_inference() else weight._version


def cast(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """RETURNS (torch.nn.Module): A copy in a precision, buffers excepted. It shares the weights
    that have this precision already.
    """
    weights = {
        id(p): p
        if p.dtype == dtype
        else torch.nn.Parameter(p.detach().to(dtype), requires_grad=False)
        for p in module.parameters()
    }
    return copy.deepcopy(module, memo=weights)
