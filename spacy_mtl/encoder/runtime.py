"""How the encoder is computed: by torch's own functions, or by kernels for a CPU."""

from typing import Literal, get_args

import torch

from ..errors import Errors

Runtime = Literal["auto", "eager", "cpu"]


def uses_kernels(runtime: Runtime, device: torch.device) -> bool:
    """Find out whether an encoder is computed by the kernels for a CPU.

    runtime (str): "eager" computes what Hugging Face computes, by torch's functions; "cpu" uses the
        kernels that `get_choice` returns; "auto" is "cpu" on a CPU and "eager" elsewhere.
    device (torch.device): Where the encoder runs.
    RAISES (ValueError): M018 for another name, or for "cpu" on another device.
    """
    on_cpu = device.type == "cpu"
    if runtime not in get_args(Runtime) or (runtime == "cpu" and not on_cpu):
        known = [name for name in get_args(Runtime) if on_cpu or name != "cpu"]
        raise ValueError(Errors.M018.format(runtime=runtime, device=device, known=known))
    return on_cpu and runtime != "eager"
