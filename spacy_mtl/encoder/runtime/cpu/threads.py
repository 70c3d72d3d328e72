"""Thread helpers: parallel jobs, prefetching and thread limits."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import parent_process
from threading import Barrier, local
from typing import Protocol, TypeVar

import torch
from thinc.api import set_active_gpu

from ....concurrency import HOME

WORKERS = 2  # threads that encode on a CPU, each with its share of the cores

In = TypeVar("In")
Out = TypeVar("Out")
Result = TypeVar("Result", covariant=True)


class Work(Protocol[Result]):
    """Work for several threads: jobs that run in parallel, and the result of all of them."""

    @property
    def jobs(self) -> Sequence[Callable[[], None]]:
        """RETURNS (Sequence[Callable]): The jobs."""

    def finish(self) -> Result:
        """RETURNS (Result): The result, after all jobs have run."""


def run_parallel(jobs: Sequence[Callable[[], Out]]) -> list[Out]:
    """Run jobs at the same time: the first one in this thread, each other one in its own.

    RETURNS (List): The jobs' results.
    """
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


def prefetch(
    plan: Callable[[In, int], Work[Out]],
    inputs: Iterable[In],
    workers: int,
    is_large: Callable[[In], bool],
) -> Iterator[tuple[In, Callable[[], Out]]]:
    """Compute the next inputs in threads while the caller uses the results before them.

    The caller, such as a head, computes in one thread: without prefetching the other cores, or a
    GPU, would wait.

    plan (Callable): Makes the work of an input for a number of threads.
    inputs (Iterable): Read in the caller's thread, up to `workers` ahead while they are large. A
        live stream of small inputs gets each result before the next input is read.
    workers (int): The number of threads. If torch has fewer threads, everything runs in the
        caller's.
    is_large (Callable): Whether an input is worth a thread.
    YIELDS (Tuple[In, Callable[[], Out]]): Each input in order, and a function that returns its
        result or raises its error. An error of `inputs` comes after the results before it.
    """
    pending: deque[tuple[In, Callable[[], Out]]] = deque()
    has_threads = workers <= torch.get_num_threads()
    share = max(1, torch.get_num_threads() // workers)
    with ExitStack() as stack:
        pool = None
        try:
            for item in inputs:
                n_ahead = workers if has_threads and is_large(item) else 0
                get = partial(run, plan, item)
                if n_ahead:
                    pool = pool or stack.enter_context(share_threads(workers, share))
                    get = start(plan, item, workers, pool)
                pending.append((item, get))
                while len(pending) > n_ahead:
                    yield pending.popleft()
        except Exception:  # no next input; the inputs before it still have results
            yield from pending
            raise
        yield from pending


def run(plan: Callable[[In, int], Work[Out]], item: In) -> Out:
    work = plan(item, 1)
    for job in work.jobs:
        job()
    return work.finish()


def start(
    plan: Callable[[In, int], Work[Out]], item: In, workers: int, pool: Executor
) -> Callable[[], Out]:
    """RETURNS (Callable): Waits for the result of an input, or raises the first error."""
    try:
        work = plan(item, workers)
    except Exception as err:
        failed: Future[Out] = Future()
        failed.set_exception(err)
        return failed.result
    futures = [pool.submit(job) for job in work.jobs]

    def get() -> Out:
        for future in futures:
            future.result()
        return work.finish()

    return get


@contextmanager
def share_threads(workers: int, share: int) -> Iterator[ThreadPoolExecutor]:
    """YIELDS (ThreadPoolExecutor): Threads that compute with `share` of torch's threads each."""
    n_threads = torch.get_num_threads()
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    ready = Barrier(workers + 1)

    def prepare() -> None:
        torch.get_num_threads()  # the first call in a thread sets the default
        torch.set_num_threads(share)
        if gpu is not None:
            set_active_gpu(gpu)  # each thread has its own

    with ThreadPoolExecutor(workers, initializer=prepare) as pool:
        try:
            for _ in range(workers):
                pool.submit(ready.wait)
        except RuntimeError:  # no more threads can start: the started ones must not wait for them
            ready.abort()
            raise
        ready.wait()
        torch.set_num_threads(n_threads)  # later threads start with the number set last
        yield pool


class Limited(local):
    """The process in which the current thread has been limited. A fork copies it."""

    process: int | None = None


LIMITED = Limited()


def limit_threads(made_in: int = HOME) -> None:
    """Have torch compute on one thread in forked processes and in the workers of a pipeline.

    A forked process has no copy of the parent's OpenMP threads and would wait for them forever.
    Workers of `n_process` share the cores.

    made_in (int): The process in which the pipeline was made or loaded.
    """
    process = os.getpid()
    is_worker = made_in != process and parent_process() is not None
    if (process != HOME or is_worker) and LIMITED.process != process:
        torch.set_num_threads(1)
        LIMITED.process = process
