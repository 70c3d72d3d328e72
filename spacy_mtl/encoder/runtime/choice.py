"""Chooses a runtime by its name in the config and the encoder's device."""

from typing import get_args

import torch

from ...errors import Errors
from .base import Runtime, RuntimeName
from .cpu.runtime import CPURuntime
from .eager import EagerRuntime

CPU = CPURuntime()


def get_runtime(name: RuntimeName, device: torch.device) -> Runtime:
    """Choose a runtime.

    name (str): "eager" computes what Hugging Face computes, by torch's functions; "cpu" uses the
        kernels that `get_choice` returns; "auto" is "cpu" on a CPU and "eager" elsewhere.
    device (torch.device): The encoder's device.
    RAISES (ValueError): M018 for another name, or for "cpu" on another device.
    """
    on_cpu = device.type == "cpu"
    if name not in get_args(RuntimeName) or (name == "cpu" and not on_cpu):
        known = [name for name in get_args(RuntimeName) if on_cpu or name != "cpu"]
        raise ValueError(Errors.M018.format(runtime=name, device=device, known=known))
    return CPU if on_cpu and name != "eager" else EagerRuntime(device.type)
