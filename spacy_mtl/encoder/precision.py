"""Which arithmetic the encoder uses."""

from typing import Literal

import torch

from ..errors import Errors

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
