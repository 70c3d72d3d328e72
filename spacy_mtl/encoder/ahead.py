"""Work shared by threads, and done ahead of those who wait for it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Barrier
from typing import TypeVar

import torch
from thinc.api import set_active_gpu

WORKERS = 2  # threads that encode on a CPU, each with its share of the cores

In = TypeVar("In")
Part = TypeVar("Part")
Out = TypeVar("Out")
Split = Callable[[In, int], tuple[Sequence[Callable[[], Part]], Callable[[list[Part]], Out]]]


def run_at_once(jobs: Sequence[Callable[[], Part]]) -> list[Part]:
    """RETURNS (List): What each job has returned. All but the first have threads of their own."""
    first, *others = jobs
    if not others:
        return [first()]
    n_threads = torch.get_num_threads()
    share = max(1, n_threads // len(jobs))
    with share_threads(len(others), share) as pool:
        futures = [pool.submit(job) for job in others]
        torch.set_num_threads(share)
        try:
            found = first()
        finally:
            torch.set_num_threads(n_threads)
        return [found, *(future.result() for future in futures)]


def run_ahead(
    split: Split[In, Part, Out], inputs: Iterable[In], workers: int, is_large: Callable[[In], bool]
) -> Iterator[tuple[In, Callable[[], Out]]]:
    """Work on inputs while the reader is still busy with those before: what runs in one thread, as
    heads do, would leave the other cores, or a GPU, idle.

    split (Callable): Takes an input and for how many threads there should be work. Returns the jobs
        for these, and what makes the result of what the jobs have returned.
    inputs (Iterable): Read in the reader's thread, up to `workers` ahead while they are large. So
        whoever feeds a live stream in small portions gets each answer before the next is read.
    workers (int): How many threads. Without a thread of torch's for each, all runs in the reader's
        thread.
    is_large (Callable): Whether an input is worth it. What is read while such ones are under way,
        as the end of a stream, has its turn in the threads behind them.
    YIELDS (Tuple[In, Callable[[], Out]]): Each input, in order, and what returns its result or
        raises its error. If `inputs` raises one, it comes after what was read before.
    """
    running: deque[tuple[In, Callable[[], Out]]] = deque()
    has_threads = workers <= torch.get_num_threads()
    share = max(1, torch.get_num_threads() // workers)
    with ExitStack() as stack:
        pool = None
        try:
            for item in inputs:
                n_ahead = workers if has_threads and is_large(item) else 0
                get = partial(run, split, item)
                if n_ahead or running:
                    pool = pool or stack.enter_context(share_threads(workers, share))
                    get = begin(split, item, workers, pool)
                running.append((item, get))
                while len(running) > n_ahead:
                    yield running.popleft()
        except Exception:  # there is no next input: those before still have their results
            yield from running
            raise
        yield from running


def run(split: Split[In, Part, Out], item: In) -> Out:
    jobs, join = split(item, 1)
    return join([job() for job in jobs])


def begin(split: Split[In, Part, Out], item: In, workers: int, pool: Executor) -> Callable[[], Out]:
    """RETURNS (Callable): Waits for the result, or raises any error there was on the way to it."""
    try:
        jobs, join = split(item, workers)
    except Exception as err:
        failed: Future[Out] = Future()
        failed.set_exception(err)
        return failed.result
    futures = [pool.submit(job) for job in jobs]
    return lambda: join([future.result() for future in futures])


@contextmanager
def share_threads(workers: int, share: int) -> Iterator[ThreadPoolExecutor]:
    """YIELDS (ThreadPoolExecutor): Threads that compute with so many of torch's each."""
    n_threads = torch.get_num_threads()
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    ready = Barrier(workers + 1)

    def start() -> None:
        torch.get_num_threads()  # asked for the first time in a thread, it takes over the default
        torch.set_num_threads(share)
        if gpu is not None:
            set_active_gpu(gpu)  # each thread has its own

    with ThreadPoolExecutor(workers, initializer=start) as pool:
        try:
            for _ in range(workers):
                pool.submit(ready.wait)
        except RuntimeError:  # there may be no more threads: those that are must not wait for them
            ready.abort()
            raise
        ready.wait()
        torch.set_num_threads(n_threads)  # what a thread sets is what later ones begin with
        yield pool
