"""Work done in threads, ahead of those who wait for it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Barrier
from typing import TypeVar

import torch
from thinc.api import set_active_gpu

In = TypeVar("In")
Out = TypeVar("Out")


def run_ahead(
    function: Callable[[In], Out],
    inputs: Iterable[In],
    workers: int,
    is_large: Callable[[In], bool],
) -> Iterator[tuple[In, Callable[[], Out]]]:
    """Call a function on inputs while the reader is still busy with those before: what runs in
    one thread, as heads do, would leave the other cores, or a GPU, idle.

    function (Callable): What to call, for large inputs in a thread of its own.
    inputs (Iterable): Read in the reader's thread, up to `workers` ahead while they are large. So
        whoever feeds a live stream in small portions gets each answer before the next is read.
    workers (int): How many calls at a time. Without a thread of torch's for each, all runs in the
        reader's thread.
    is_large (Callable): Whether an input is worth it.
    YIELDS (Tuple[In, Callable[[], Out]]): Each input, in order, and what returns its result or
        raises its error.
    """
    running: deque[tuple[In, Callable[[], Out]]] = deque()
    has_threads = workers <= torch.get_num_threads()
    with ExitStack() as stack:
        pool = None
        for item in inputs:
            n_ahead, get = 0, partial(function, item)
            if has_threads and is_large(item):
                pool = pool or stack.enter_context(share_threads(workers))
                n_ahead, get = workers, pool.submit(function, item).result
            running.append((item, get))
            while len(running) > n_ahead:
                yield running.popleft()
        yield from running


@contextmanager
def share_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """YIELDS (ThreadPoolExecutor): Threads that compute with an equal part of torch's each."""
    n_threads = torch.get_num_threads()
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    ready = Barrier(workers + 1)

    def start() -> None:
        torch.get_num_threads()  # asked for the first time in a thread, it takes over the default
        torch.set_num_threads(n_threads // workers)
        if gpu is not None:
            set_active_gpu(gpu)  # each thread has its own

    with ThreadPoolExecutor(workers, initializer=start) as pool:
        for _ in range(workers):
            pool.submit(ready.wait)
        ready.wait()
        torch.set_num_threads(n_threads)  # what a thread sets is what later ones begin with
        yield pool
