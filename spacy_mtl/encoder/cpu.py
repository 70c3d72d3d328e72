"""Which kernels suit this CPU: decided by what it can do, never by a clock, so that the same seed
trains the same weights. The reasons are measurements in `benchmarks/README.md`.
"""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

AMD, INTEL = "AuthenticAMD", "GenuineIntel"


@dataclass(frozen=True)
class CPU:
    """A CPU and a build of torch, as far as the choice of kernels depends on them.

    vendor (str): "AuthenticAMD", "GenuineIntel", or "" for all others.
    has_avx512 (bool): Whether torch computes with AVX-512.
    has_bfloat16 (bool): Whether bfloat16 is multiplied natively.
    has_amx (bool): Whether there are tiles for matrices.
    has_packing (bool): Whether torch has oneDNN's linear layers with packed weights.
    has_precision (bool): Whether torch can send float32 products to oneDNN.
    """

    vendor: str
    has_avx512: bool
    has_bfloat16: bool
    has_amx: bool
    has_packing: bool
    has_precision: bool


@dataclass(frozen=True)
class KernelChoice:
    """The kernels that are used on a CPU in place of torch's functions.

    packed_float32, packed_bfloat16 (bool): In predictions, linear layers with weights that are
        packed for oneDNN, at this precision.
    onednn_products (bool): Products of float32 matrices by oneDNN instead of MKL, and attention
        made of such products.
    tiled_attention (bool): At bfloat16, torch's attention for lengths that fill tiles.
    """

    packed_float32: bool
    packed_bfloat16: bool
    onednn_products: bool
    tiled_attention: bool

    def packs(self, dtype: torch.dtype) -> bool:
        """RETURNS (bool): Whether linear layers of a precision are packed."""
        return {torch.float32: self.packed_float32, torch.bfloat16: self.packed_bfloat16}.get(
            dtype, False
        )


def choose(cpu: CPU) -> KernelChoice:
    """RETURNS (KernelChoice): What is fastest, and as exact as torch. Torch's functions where
    nothing has been measured.
    """
    return KernelChoice(
        # On AMD MKL takes its slower code paths.
        packed_float32=cpu.has_packing and cpu.vendor == AMD,
        packed_bfloat16=cpu.has_packing and cpu.has_bfloat16,
        # Torch sends products to oneDNN with AVX-512 only. With AMX they would be bfloat16.
        onednn_products=(
            cpu.has_precision and cpu.vendor == AMD and cpu.has_avx512 and not cpu.has_amx
        ),
        # Between native bfloat16 and tiles, products are faster than torch's attention.
        tiled_attention=cpu.has_amx or not cpu.has_bfloat16,
    )


def can_run(choice: KernelChoice, cpu: CPU) -> bool:
    """RETURNS (bool): Whether a CPU has all kernels of a choice, and computes them exactly."""
    return not (
        (choice.packed_float32 and not cpu.has_packing)
        or (choice.packed_bfloat16 and not (cpu.has_packing and cpu.has_bfloat16))
        or (choice.onednn_products and (cpu.has_amx or not cpu.has_precision))
    )


@cache
def get_cpu() -> CPU:
    """RETURNS (CPU): This machine's."""

    def has(feature: str) -> bool:
        return bool(getattr(torch.cpu, f"_is_{feature}_supported", lambda: False)())

    mkldnn: Any = torch.backends.mkldnn
    return CPU(
        vendor=get_vendor(),
        has_avx512=torch.backends.cpu.get_cpu_capability().startswith("AVX512"),
        has_bfloat16=has("avx512_bf16"),
        has_amx=has("amx_tile"),
        has_packing=mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"),
        has_precision=mkldnn.is_available() and hasattr(mkldnn, "matmul"),
    )


def get_vendor() -> str:
    """RETURNS (str): The vendor of this CPU, "" if it is not AMD or Intel."""
    about = platform.processor()  # on Windows
    if (file := Path("/proc/cpuinfo")).is_file():
        about += file.read_text(encoding="utf8", errors="replace")
    return next((vendor for vendor in (AMD, INTEL) if vendor in about), "")


_used: KernelChoice | None = None  # in place of this CPU's own


def get_choice() -> KernelChoice:
    """RETURNS (KernelChoice): The kernels that this process uses."""
    return _used or choose(get_cpu())


def use_choice(choice: KernelChoice | None) -> KernelChoice | None:
    """Have this process use other kernels, as those of the run that is resumed.

    choice (Optional[KernelChoice]): The kernels; None for this CPU's own.
    RETURNS (Optional[KernelChoice]): What the process used before.
    """
    global _used
    before, _used = _used, choice
    return before
