"""oneDNN computes what torch's default does, where it is chosen, and no setting stays behind."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any

import pytest
import torch
from conftest import linear_unpacked, normal

from spacy_mtl.encoder import onednn


@pytest.fixture(params=["none", "ieee"])
def setting(request: Any) -> Iterator[Callable[[], str]]:
    """Torch's global setting, whatever somebody has chosen."""
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, settings.fp32_precision = settings.fp32_precision, request.param
    yield lambda: settings.fp32_precision
    settings.fp32_precision = before


def test_the_global_setting_returns_when_the_last_thread_leaves(setting: Callable) -> None:
    before, inside, outside = setting(), threading.Event(), threading.Event()

    def other() -> None:
        with onednn.one_dnn:
            inside.set()
            outside.wait(10)

    thread = threading.Thread(target=other)
    with onednn.one_dnn:
        thread.start()
        assert inside.wait(10)
    assert setting() == "bf16"
    outside.set()
    thread.join()
    assert setting() == before


def test_the_global_setting_stays(setting: Callable) -> None:
    before = setting()
    with pytest.raises(ZeroDivisionError), onednn.one_dnn:
        assert setting() == "bf16"
        raise ZeroDivisionError
    assert setting() == before


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_another_build_of_torch(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        raise error

    monkeypatch.setattr(onednn, "pack", fail)
    assert onednn.packing_pays.__wrapped__(torch.float32) is False
    if error is AttributeError:
        monkeypatch.setattr(onednn.OneDnn, "__enter__", fail)
        assert onednn.one_dnn_pays.__wrapped__() is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gelu_with_its_layer(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever way is faster, both compute the same."""
    monkeypatch.setattr(onednn, "pack", lambda weight, n_rows: weight)
    monkeypatch.setattr(onednn, "linear_packed", linear_unpacked)
    for seconds, expected in (([1.0, 2.0], True), ([2.0, 1.0], False)):
        times = cycle(seconds)
        monkeypatch.setattr(onednn, "clock", lambda way, times=times: next(times))
        assert onednn.packing_pays.__wrapped__(dtype) is expected


def test_threads_measure_one_after_the_other() -> None:
    """And once: a thread that computes in another way meanwhile would be measured too."""
    inside, most, calls = 0, 0, []

    @onednn.probe
    def ask(key: str) -> str:
        nonlocal inside, most
        inside, _ = inside + 1, calls.append(key)
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1
        return key

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, "abab" * 4)) == list("abab" * 4)
    assert most == 1 and sorted(calls) == ["a", "b"]


def test_autocast_changes_no_measurement() -> None:
    """Both sides would be rounded alike, and chance decide."""
    ask = onednn.probe(lambda: torch.is_autocast_enabled("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        assert ask() is False and torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    "seconds,factor,margin,expected",
    [
        (1.0, 1.0, 1.0, True),
        (1.0, 1.0, 1.2, True),
        (1.2, 1.0, 1.2, False),
        (2.0, 1.0, 1.0, False),
        (1.0, 1 + 1e-7, 1.0, True),
        (1.0, 1 + 1e-4, 1.0, False),
        (1.0, math.nan, 1.0, False),
    ],
)
def test_faster_and_as_exact(
    seconds: float, factor: float, margin: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = normal(8, 8)

    def ours() -> Any:
        return x * factor

    def theirs() -> Any:
        return x

    monkeypatch.setattr(onednn, "clock", lambda way: seconds if way is ours else 1.4)
    assert onednn.is_better(ours, theirs, margin) is expected


def test_what_is_known_waits_for_nobody() -> None:
    """A process forked while another thread measures would wait forever."""
    ask = onednn.probe(lambda: 1)
    assert ask() == 1
    with onednn.probing, ThreadPoolExecutor(1) as pool:
        assert pool.submit(ask).result(timeout=10) == 1
