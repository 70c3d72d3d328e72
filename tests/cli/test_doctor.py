"""`spacy mtl doctor` on healthy and broken installations."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from typer.testing import CliRunner

from spacy_mtl.cli import doctor, mtl_cli


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that torch sees a GPU with CUDA 12."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "Some GPU")
    monkeypatch.setattr(torch.version, "cuda", "12.8")


def set_cupy(monkeypatch: pytest.MonkeyPatch, runtime: int, n_devices: int = 1) -> None:
    cupy: Any = ModuleType("cupy")
    found = {"runtimeGetVersion": lambda: runtime, "getDeviceCount": lambda: n_devices}
    cupy.cuda, cupy.__version__ = SimpleNamespace(runtime=SimpleNamespace(**found)), "14.2"
    monkeypatch.setitem(sys.modules, "cupy", cupy)


def test_this_installation() -> None:
    result = CliRunner().invoke(mtl_cli, ["doctor"])
    assert result.exit_code == 0, result.output
    for part in (
        "spacy-mtl",
        "torch",
        'precision = "auto" is',
        'runtime = "auto" is cpu',
        "minilm",
    ):
        assert part in result.output


def test_a_missing_requirement_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [Requirement("no-such-package>=1")]
    monkeypatch.setattr(doctor, "get_requirements", lambda name, extra="": iter(needed))
    result = CliRunner().invoke(mtl_cli, ["doctor"])
    assert result.exit_code == 1
    assert 'pip install "no-such-package>=1"' in result.output


def test_a_missing_extra_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_missing", lambda extra: ["peft"] if extra == "lora" else [])
    missing = [advice for advice in doctor.check_extras() if advice.fix]
    assert [advice.is_broken for advice in missing] == [False]
    assert missing[0].fix.startswith('pip install "peft')


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert [advice.is_broken for advice in doctor.check_gpu()] == [False]


def test_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    (advice,) = doctor.check_gpu()
    assert advice.is_broken and "without CUDA" in advice.text and "torch" in advice.fix


@pytest.mark.usefixtures("gpu")
def test_cupy_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    *_, advice = doctor.check_gpu()
    assert advice.is_broken and advice.fix == 'pip install "cupy-cuda12x>=13"'


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("runtime", "n_devices"), [(13000, 1), (12080, 0)])
def test_cupy_does_not_fit(monkeypatch: pytest.MonkeyPatch, runtime: int, n_devices: int) -> None:
    set_cupy(monkeypatch, runtime, n_devices)
    *_, advice = doctor.check_gpu()
    assert advice.is_broken and 'pip install "cupy-cuda12x>=13"' in advice.fix


@pytest.mark.usefixtures("gpu")
def test_cupy_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cupy(monkeypatch, 12080)
    assert [advice.is_broken for advice in doctor.check_gpu()] == [False, False]
