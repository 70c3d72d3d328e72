"""Which arithmetic the encoder uses."""

import copy
from typing import Any, Literal

import torch

from ..concurrency import make_lock
from ..errors import Errors
from .kernels import PredictionKernels
from .lora import merge

Precision = Literal["float32", "bfloat16", "auto"]


def get_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Choose the encoder's arithmetic.

    precision (str): "float32", "bfloat16", or "auto" for bfloat16 where the device computes it
        natively and float32 elsewhere.
    device (torch.device): Where the encoder runs.
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
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu_has = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device.type == "cpu" and bool(cpu_has())


class PredictionWeights:
    """The encoder as predictions read it: a module of their own that never has dropout, in their
    precision and laid out for this CPU. It shares weights with the trained module where it can.
    Made when first asked for, and again when the weights have changed. Copies and pickles of it
    are empty.

    kernels (PredictionKernels): Holds what belongs to the current module.
    """

    def __init__(self) -> None:
        self.kernels = PredictionKernels()
        self._module: Any = None
        self._state: Any = None
        self._lock = make_lock()  # two threads may ask at once
        self._weights: Any = None  # held, so that no others get their addresses

    def __reduce__(self) -> Any:
        return PredictionWeights, ()

    def get(self, module: Any, dtype: torch.dtype) -> Any:
        """RETURNS (torch.nn.Module): A copy of the module for predictions, in a precision and with
        its adapters merged. The module itself may be training in another thread.
        """
        if not has_weights(module):
            return module  # a faster encoder of another library, which cannot be trained or copied
        state = module, dtype, [(p.data_ptr(), get_version(p)) for p in module.parameters()]
        with self._lock:
            if state != self._state:
                self._weights = [p.detach() for p in module.parameters()]
                self._module, self._state = cast(merge(module), dtype).eval(), state
                self.kernels.start(self._module)
            return self._module

    def forget(self) -> None:
        """To be called after a fused optimizer, which leaves no trace at the weights."""
        self._state = self._module = self._weights = None
        self.kernels.packed.clear()


def has_weights(module: Any) -> bool:
    """RETURNS (bool): Whether an encoder is a torch module with parameters."""
    return isinstance(module, torch.nn.Module) and any(True for _ in module.parameters())


def get_version(weight: torch.Tensor) -> int:
    """RETURNS (int): How often a tensor has been changed, which those of inference mode lack."""
    return -1 if weight.is_inference() else weight._version


def cast(module: Any, dtype: torch.dtype) -> Any:
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
