"""Results in order, errors where they belong, and torch's threads as they were."""

import threading
from collections.abc import Iterator

import pytest
import torch

from spacy_mtl.encoder.ahead import run_ahead


def always(item: int) -> bool:
    return True


@pytest.fixture(params=[1, 2, 4])
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_results_come_in_order(n_threads: int, workers: int, n: int) -> None:
    found = [(item, get()) for item, get in run_ahead(lambda x: x * x, range(n), workers, always)]
    assert found == [(i, i * i) for i in range(n)]
    assert torch.get_num_threads() == n_threads


def test_an_error_is_raised_for_its_own_input(n_threads: int) -> None:
    found: list[object] = []
    for item, get in run_ahead(lambda x: 6 // x, [3, 0, 2], 2, always):
        try:
            found.append(get())
        except ZeroDivisionError:
            found.append(item)
    assert found == [2, 0, 3]


def test_inputs_are_read_a_few_ahead(n_threads: int) -> None:
    read: list[int] = []

    def inputs() -> Iterator[int]:
        for i in range(20):
            read.append(i)
            yield i

    ahead = []
    for i, _ in run_ahead(abs, inputs(), 2, always):
        ahead.append(len(read) - 1 - i)
    assert max(ahead) == (2 if n_threads > 1 else 0)


def test_threads_share_the_cores_and_end(n_threads: int) -> None:
    before = threading.active_count()
    shares = [get() for _, get in run_ahead(lambda _: torch.get_num_threads(), range(5), 2, always)]
    assert shares == [max(1, n_threads // 2)] * 5
    stream = run_ahead(abs, range(5), 2, always)
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
        for item, get in run_ahead(lambda x: -x, inputs(), 2, lambda x: x > 9)
    ]
    assert [(item, result) for item, result, _ in found] == [(x, -x) for x in read]
    ahead = [read_then[read_then.index(item) + 1 :] for item, _, read_then in found]
    assert ahead == ([[], [], [40, 3], [3], [], []] if n_threads > 1 else [[]] * 6)
