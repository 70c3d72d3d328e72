"""Chooses kernels by the capabilities of this CPU, never by measuring time, so that the same seed
trains the same weights. The rules follow measurements in `benchmarks/README.md`.
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
    """The capabilities of a CPU and of the installed torch that decide on kernels.

    vendor (str): "AuthenticAMD", "GenuineIntel", or "" for all others.
    has_avx512 (bool): Whether torch computes with AVX-512.
    has_bfloat16 (bool): Whether the CPU multiplies bfloat16 natively.
    has_amx (bool): Whether the CPU has AMX tiles.
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
    """The kernels that replace torch's functions.

    packed_float32, packed_bfloat16 (bool): Whether linear layers use packed weights in predictions
        of this precision.
    onednn_products (bool): Whether oneDNN computes products of float32 matrices instead of MKL,
        and attention uses such products.
    tiled_attention (bool): Whether torch computes the attention of bfloat16 for lengths of whole
        tiles.
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


@cache
def choose(cpu: CPU) -> KernelChoice:
    """RETURNS (KernelChoice): The fastest kernels that are as exact as torch. On CPUs that were
    not measured these are torch's functions.
    """
    return KernelChoice(
        # On AMD MKL takes its slower code paths.
        packed_float32=cpu.has_packing and cpu.vendor == AMD,
        packed_bfloat16=cpu.has_packing and cpu.has_bfloat16,
        # Torch sends products to oneDNN with AVX-512 only. With AMX they would be bfloat16.
        onednn_products=(
            cpu.has_precision and cpu.vendor == AMD and cpu.has_avx512 and not cpu.has_amx
        ),
        # With native bfloat16 but no tiles, products are faster than torch's attention.
        tiled_attention=cpu.has_amx or not cpu.has_bfloat16,
    )


def can_run(choice: KernelChoice, cpu: CPU) -> bool:
    """RETURNS (bool): Whether a CPU has all kernels of a choice and computes them exactly."""
    return not (
        (choice.packed_float32 and not cpu.has_packing)
        or (choice.packed_bfloat16 and not (cpu.has_packing and cpu.has_bfloat16))
        or (choice.onednn_products and (cpu.has_amx or not cpu.has_precision))
    )


@cache
def get_cpu() -> CPU:
    """RETURNS (CPU): The capabilities of this machine."""

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


_used: KernelChoice | None = None  # replaces this CPU's own


def get_choice() -> KernelChoice:
    """RETURNS (KernelChoice): The kernels that this process uses."""
    return _used or choose(get_cpu())


def use_choice(choice: KernelChoice | None) -> KernelChoice | None:
    """Set the kernels of this process, such as those of a training run that is resumed.

    choice (Optional[KernelChoice]): The kernels; None for this CPU's own.
    RETURNS (Optional[KernelChoice]): The kernels that were set before.
    """
    global _used
    before, _used = _used, choice
    return before
