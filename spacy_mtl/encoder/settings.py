"""Restores the default settings of torch and numpy while our code computes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy
import torch
from thinc.api import get_torch_default_device

from ..concurrency import make_lock
from .runtime.cpu.linear import exact_products

NUMPY_ERRORS: Any = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


class DefaultDtype:
    """Makes new tensors float32. Torch has one setting per process, so it stays while any thread
    is in the context. The last thread that leaves restores it.
    """

    def __init__(self) -> None:
        self.lock, self.depth, self.before = make_lock(), 0, torch.float32

    def __enter__(self) -> None:
        with self.lock:
            if not self.depth:
                self.before = torch.get_default_dtype()
                if self.before != torch.float32:
                    torch.set_default_dtype(torch.float32)
            self.depth += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.depth -= 1
            if not self.depth and self.before != torch.float32:
                torch.set_default_dtype(self.before)


default_dtype = DefaultDtype()


@contextmanager
def default_settings() -> Iterator[None]:
    """Undo the host application's settings within the context: inference mode, autocast, default
    dtype and device, low precision of float32 products, numpy's handling of errors.
    """
    device = get_torch_default_device()
    with ExitStack() as stack:
        stack.enter_context(numpy.errstate(**NUMPY_ERRORS))
        stack.enter_context(torch.inference_mode(False))  # which enables gradients too
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(default_dtype)
        if torch.get_default_device().type != device.type:
            stack.enter_context(device)
        stack.enter_context(exact_products())
        yield
