"""Locks for pipelines that train, predict and fork at the same time."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

HOME = os.getpid()  # a forked process has another id
LOCKS: WeakSet[Any] = WeakSet()


def free_locks() -> None:
    """Release all locks in a forked process, where the threads that hold them do not exist."""
    for lock in list(LOCKS):
        lock._at_fork_reinit()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=free_locks)


def make_lock() -> Any:
    """RETURNS (Lock): A lock that is released in forked processes."""
    lock = threading.Lock()
    LOCKS.add(lock)
    return lock


class WeightsLock:
    """A reader-writer lock: many threads can read weights, or one thread can change them.

    It is reentrant. New readers wait for a waiting writer, so that training goes on while
    predictions overlap. Copies and pickles are new, free locks.

    version (int): The number of changes so far.
    """

    def __init__(self) -> None:
        self.version = 0
        self._at_fork_reinit()
        LOCKS.add(self)

    def _at_fork_reinit(self) -> None:
        self._condition = threading.Condition()
        self._depths: dict[int, int] = {}  # of nested `reading`, by thread id
        self._writer: int | None = None
        self._n_waiting = 0

    def __reduce__(self) -> Any:
        return WeightsLock, ()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Wait until no other thread changes weights, and keep writers out."""
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
        """Wait until no other thread reads weights, and keep readers out."""
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
