"""Work done in threads, ahead of those who wait for it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Barrier
from typing import TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")


def run_ahead(
    function: Callable[[In], Out], inputs: Iterable[In], workers: int
) -> Iterator[tuple[In, Callable[[], Out]]]:
    """Call a function on inputs while the reader is still busy with those before: what runs in
    one thread, as heads do, would leave the other cores idle.

    function (Callable): What to call, in a thread of its own.
    inputs (Iterable): Read in the reader's thread, up to `workers` ahead.
    workers (int): How many calls at a time. With 1, or without a thread of torch's for each, there
        are no other threads.
    YIELDS (Tuple[In, Callable[[], Out]]): Each input, in order, and what returns its result or
        raises its error.
    """
    if not 1 < workers <= torch.get_num_threads():
        for item in inputs:
            yield item, partial(function, item)
        return
    running: deque[tuple[In, Future[Out]]] = deque()
    with share_threads(workers) as pool:
        for item in inputs:
            running.append((item, pool.submit(function, item)))
            if len(running) > workers:
                done, future = running.popleft()
                yield done, future.result
        for done, future in running:
            yield done, future.result


@contextmanager
def share_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """YIELDS (ThreadPoolExecutor): Threads that compute with an equal part of torch's each."""
    n_threads = torch.get_num_threads()
    ready = Barrier(workers + 1)

    def start() -> None:
        torch.get_num_threads()  # asked for the first time in a thread, it takes over the default
        torch.set_num_threads(n_threads // workers)

    with ThreadPoolExecutor(workers, initializer=start) as pool:
        for _ in range(workers):
            pool.submit(ready.wait)
        ready.wait()
        torch.set_num_threads(n_threads)  # what a thread sets is what later ones begin with
        yield pool
