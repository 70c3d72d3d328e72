"""Torch's setting of float32 products is the chosen one during a pass, and returns afterwards."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spacy_mtl.encoder.runtime.cpu import linear as onednn
from spacy_mtl.encoder.runtime.cpu.capability import get_cpu
from spacy_mtl.encoder.runtime.cpu.linear import Float32Products, exact_products

pytestmark = pytest.mark.skipif(not get_cpu().has_precision, reason="torch lacks the setting")


@pytest.fixture(params=["none", "ieee", "bf16", "tf32"])
def setting(request: Any) -> Iterator[Callable[[], str]]:
    """Torch's global setting, whatever the host application has chosen."""
    settings = onednn.get_settings()
    before, settings.fp32_precision = settings.fp32_precision, request.param
    yield lambda: settings.fp32_precision
    settings.fp32_precision = before


def test_the_setting_returns_when_the_last_thread_leaves(
    setting: Callable, choose_kernels: Callable
) -> None:
    choose_kernels("onednn_products")
    products, before = Float32Products(), setting()
    inside, outside = threading.Event(), threading.Event()

    def other() -> None:
        with products:
            inside.set()
            outside.wait(10)

    thread = threading.Thread(target=other)
    with products:
        thread.start()
        assert inside.wait(10)
    assert setting() == "bf16"
    outside.set()
    thread.join()
    assert setting() == before


@pytest.mark.parametrize("kernel", ["", "onednn_products"])
def test_the_setting_of_a_pass(kernel: str, setting: Callable, choose_kernels: Callable) -> None:
    """Exact products, whatever the host application allows; and its setting after an error."""
    choose_kernels(kernel)
    before = setting()
    with pytest.raises(ZeroDivisionError), Float32Products():
        assert setting() in (["bf16"] if kernel else ["none", "ieee"])
        raise ZeroDivisionError
    assert setting() == before
    with exact_products():
        assert setting() == before if kernel else setting() in ("none", "ieee")
    assert setting() == before
