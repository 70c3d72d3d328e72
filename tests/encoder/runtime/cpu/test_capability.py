"""Kernels are chosen by what the CPU can do, and by nothing else."""

import random
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from conftest import encoder_weights, make_examples
from spacy.language import Language

from spacy_mtl.encoder.runtime.cpu import capability as module
from spacy_mtl.encoder.runtime.cpu.capability import (
    AMD,
    CPU,
    INTEL,
    KernelChoice,
    can_run,
    choose,
    get_choice,
    get_cpu,
    get_vendor,
)

BARE = CPU("", False, False, False, has_packing=True, has_precision=True)
ZEN3 = replace(BARE, vendor=AMD)
ZEN4 = replace(ZEN3, has_avx512=True, has_bfloat16=True)
SKYLAKE = replace(BARE, vendor=INTEL, has_avx512=True)
COOPER_LAKE = replace(SKYLAKE, has_bfloat16=True)
SAPPHIRE_RAPIDS = replace(COOPER_LAKE, has_amx=True)


@pytest.mark.parametrize(
    "cpu,expected",
    [
        (BARE, ["tiled_attention"]),
        (ZEN3, ["packed_float32", "tiled_attention"]),
        (ZEN4, ["packed_float32", "packed_bfloat16", "onednn_products"]),
        (SKYLAKE, ["tiled_attention"]),
        (COOPER_LAKE, ["packed_bfloat16"]),
        (SAPPHIRE_RAPIDS, ["packed_bfloat16", "tiled_attention"]),
        # With tiles oneDNN would round float32 to bfloat16.
        (replace(ZEN4, has_amx=True), ["packed_float32", "packed_bfloat16", "tiled_attention"]),
        # Other builds of torch.
        (replace(ZEN4, has_packing=False), ["onednn_products"]),
        (replace(ZEN4, has_precision=False), ["packed_float32", "packed_bfloat16"]),
    ],
)
def test_rules(cpu: CPU, expected: list[str]) -> None:
    choice = choose(cpu)
    assert [name for name, is_used in asdict(choice).items() if is_used] == expected
    assert can_run(choice, cpu)


@pytest.mark.parametrize(
    "kernel,cpu,expected",
    [
        ("packed_float32", SKYLAKE, True),
        ("packed_float32", replace(ZEN3, has_packing=False), False),
        ("packed_bfloat16", ZEN4, True),
        ("packed_bfloat16", ZEN3, False),
        ("onednn_products", SKYLAKE, True),
        ("onednn_products", SAPPHIRE_RAPIDS, False),
        ("onednn_products", replace(ZEN4, has_precision=False), False),
        ("tiled_attention", BARE, True),
    ],
)
def test_kernels_of_other_machines(kernel: str, cpu: CPU, expected: bool) -> None:
    names = asdict(choose(BARE))
    assert can_run(KernelChoice(**{name: name == kernel for name in names}), cpu) is expected


def test_this_machine() -> None:
    assert get_choice() == choose(get_cpu()) and can_run(get_choice(), get_cpu())


@pytest.mark.parametrize(
    "processor,cpuinfo,expected",
    [
        ("", "processor : 0\nvendor_id\t: AuthenticAMD\n", AMD),
        ("x86_64", "processor : 0\nvendor_id\t: GenuineIntel\n", INTEL),
        ("AMD64 Family 25 Model 33 Stepping 0, AuthenticAMD", None, AMD),
        ("arm", None, ""),
        ("", "CPU implementer : 0x41\n", ""),
    ],
)
def test_vendor(
    processor: str, cpuinfo: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class File:
        def __init__(self, name: str) -> None:
            assert name == "/proc/cpuinfo"

        def is_file(self) -> bool:
            return cpuinfo is not None

        def read_text(self, **options: Any) -> Any:
            return cpuinfo

    monkeypatch.setattr(module, "Path", File)
    monkeypatch.setattr("platform.processor", lambda: processor)
    assert get_vendor() == expected


def test_no_clock_decides(
    make_nlp: Callable[..., Language], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever clocks say: the same weights and the same predictions, to the bit."""

    def run(seed: int) -> tuple[bytes, bytes]:
        numbers = random.Random(seed)
        for clock in ("perf_counter", "monotonic", "time", "process_time"):
            monkeypatch.setattr(time, clock, lambda: numbers.random())
        get_cpu.cache_clear()
        nlp = make_nlp()
        sgd = nlp.create_optimizer()
        for _ in range(3):
            nlp.update(make_examples(nlp), sgd=sgd)
        docs = nlp.pipe([eg.predicted.copy() for eg in make_examples(nlp)])
        scores = [[doc.cats, doc.to_bytes(exclude=["user_data"])] for doc in docs]
        return encoder_weights(nlp), repr(scores).encode()

    first = run(0)
    assert all(run(seed) == first for seed in (1, 2))
