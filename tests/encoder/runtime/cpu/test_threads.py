"""Results in order, errors where they belong, and torch's threads as they were."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch

from spacy_mtl.encoder.runtime.cpu.threads import prefetch, run_parallel


def always(item: int) -> bool:
    return True


class Jobs:
    """Work whose result is a function of the jobs' results."""

    def __init__(self, jobs: list[Callable], join: Callable) -> None:
        self.found, self.join = [None] * len(jobs), join
        self.jobs = [partial(self.run, i, job) for i, job in enumerate(jobs)]

    def run(self, i: int, job: Callable) -> None:
        self.found[i] = job()

    def finish(self) -> Any:
        return self.join(self.found)


def whole(function: Callable) -> Callable:
    """All in one job, whatever the number of threads."""
    return lambda item, n: Jobs([partial(function, item)], lambda found: found[0])


@pytest.fixture(params=[1, 2, 4])
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_results_come_in_order(n_threads: int, workers: int, n: int) -> None:
    found = [
        (item, get()) for item, get in prefetch(whole(lambda x: x * x), range(n), workers, always)
    ]
    assert found == [(i, i * i) for i in range(n)]
    assert torch.get_num_threads() == n_threads


def fail_at_once(item: int, n: int) -> Any:
    result = 6 // item
    return Jobs([lambda: result], lambda found: found[0])


@pytest.mark.parametrize("split", [whole(lambda x: 6 // x), fail_at_once])
def test_an_error_is_raised_for_its_own_input(n_threads: int, split: Callable) -> None:
    found: list[object] = []
    for item, get in prefetch(split, [3, 0, 2], 2, always):
        try:
            found.append(get())
        except ZeroDivisionError:
            found.append(item)
    assert found == [2, 0, 3]


def test_an_error_of_the_inputs_comes_after_the_results(n_threads: int) -> None:
    def inputs() -> Iterator[int]:
        yield from range(5)
        raise KeyError("no more")

    found = []
    with pytest.raises(KeyError, match="no more"):
        for _, get in prefetch(whole(lambda x: x * x), inputs(), 2, always):
            found.append(get())
    assert found == [0, 1, 4, 9, 16]
    assert torch.get_num_threads() == n_threads


def test_the_jobs_of_an_input_run_at_the_same_time(n_threads: int) -> None:
    """None of them ends before all have begun."""

    def split(item: int, n: int) -> Any:
        begun = threading.Barrier(n)
        jobs = [partial(begun.wait, 10) for _ in range(n)]
        return Jobs(jobs, lambda found: (item, sorted(found)))

    n = 2 if n_threads > 1 else 1
    for item, get in prefetch(split, range(3), 2, always):
        assert get() == (item, [*range(n)])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_jobs_run_parallel(n_threads: int, n: int) -> None:
    begun = threading.Barrier(n)

    def job(i: int) -> tuple[int, int]:
        begun.wait(10)
        return i, torch.get_num_threads()

    found = run_parallel([partial(job, i) for i in range(n)])
    assert found == [(i, max(1, n_threads // n)) for i in range(n)]
    assert torch.get_num_threads() == n_threads
    with pytest.raises(ZeroDivisionError):
        run_parallel([partial(divmod, 1, i) for i in range(n)])


def test_inputs_are_read_a_few_ahead(n_threads: int) -> None:
    read: list[int] = []

    def inputs() -> Iterator[int]:
        for i in range(20):
            read.append(i)
            yield i

    ahead = []
    for i, _ in prefetch(whole(abs), inputs(), 2, always):
        ahead.append(len(read) - 1 - i)
    assert max(ahead) == (2 if n_threads > 1 else 0)


def test_threads_share_the_cores_and_end(n_threads: int) -> None:
    before = threading.active_count()
    ask = whole(lambda _: torch.get_num_threads())
    shares = [get() for _, get in prefetch(ask, range(5), 2, always)]
    assert shares == [n_threads // 2 if n_threads > 1 else 1] * 5
    stream = prefetch(whole(abs), range(5), 2, always)
    next(stream)
    stream.close()
    assert threading.active_count() == before
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [n_threads]


def test_what_is_small_is_answered_before_the_next_is_read(n_threads: int) -> None:
    """And what is large and was read before it comes first."""
    read: list[int] = []

    def inputs() -> Iterator[int]:
        for i in [1, 2, 30, 40, 3, 4]:
            read.append(i)
            yield i

    found = [
        (item, get(), list(read))
        for item, get in prefetch(whole(lambda x: -x), inputs(), 2, lambda x: x > 9)
    ]
    assert [(item, result) for item, result, _ in found] == [(x, -x) for x in read]
    ahead = [read_then[read_then.index(item) + 1 :] for item, _, read_then in found]
    assert ahead == ([[], [], [40, 3], [3], [], []] if n_threads > 1 else [[]] * 6)


def test_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error, and not an endless wait for those that could not be started."""
    start, started = threading.Thread.start, []

    def limited(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run_parallel([int, int, int])
    assert not started[0].is_alive()
