"""Locks and thread limits for pipelines that train, predict and fork at the same time."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any
from weakref import WeakSet

HOME = os.getpid()  # another one in a forked process
LOCKS: WeakSet[Any] = WeakSet()


class Limited(threading.local):
    """The process in which a thread has been limited. A fork takes it along."""

    process: int | None = None


LIMITED = Limited()


def free_locks() -> None:
    """Release all locks in a forked process. The threads that hold them do not exist there."""
    for lock in list(LOCKS):
        lock._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=free_locks)


def make_lock() -> Any:
    """RETURNS (Lock): A lock that is free in a process forked while a thread holds it."""
    lock = threading.Lock()
    LOCKS.add(lock)
    return lock


class WeightsLock:
    """A lock under which many threads can read weights, or one thread can change them.

    A thread can enter it again. A thread that waits for a change keeps new readers out, so that
    training goes on while predictions overlap. Copies and pickles are new, free locks.

    version (int): The number of changes so far.
    """

    def __init__(self) -> None:
        self.version = 0
        self._at_fork_reinit()
        LOCKS.add(self)

    def _at_fork_reinit(self) -> None:
        self._condition = threading.Condition()
        self._depths: dict[int, int] = {}  # by the ids of the threads that read
        self._writer: int | None = None
        self._n_waiting = 0

    def __reduce__(self) -> Any:
        return WeightsLock, ()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep weights as they are while they are read."""
        me = threading.get_ident()
        with self._condition:
            if me not in self._depths and me != self._writer:
                self._condition.wait_for(lambda: self._writer is None and not self._n_waiting)
            self._depths[me] = self._depths.get(me, 0) + 1
        try:
            yield
        finally:
            with self._condition:
                self._depths[me] = self._depths.get(me, 1) - 1
                if not self._depths[me]:
                    del self._depths[me]
                    self._condition.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wait until no other thread reads, and change weights."""
        me = threading.get_ident()
        with self._condition:
            self._n_waiting += 1
            try:
                self._condition.wait_for(
                    lambda: self._writer in (None, me) and not self._depths.keys() - {me}
                )
            finally:
                self._n_waiting -= 1
            outer, self._writer = self._writer, me
        try:
            yield
        finally:
            with self._condition:
                self.version += 1
                self._writer = outer
                self._condition.notify_all()


def limit_threads(made_in: int = HOME) -> None:
    """Have torch compute on one thread in forked processes and in the workers of a pipeline.

    A forked process has no copy of the parent's OpenMP threads and would wait for them forever.
    Workers of `n_process` share the cores.

    made_in (int): The process in which the pipeline was made or loaded.
    """
    process = os.getpid()
    is_worker = made_in != process and parent_process() is not None
    if (process != HOME or is_worker) and LIMITED.process != process:
        import torch  # factories import this module: torch waits

        torch.set_num_threads(1)
        LIMITED.process = process
