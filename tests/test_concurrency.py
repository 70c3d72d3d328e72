"""Training, predicting, saving and forking at the same time."""

import os
import pickle
import select
import threading
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTS, build_encoder, encoder_weights, make_examples, make_stock_nlp
from spacy.language import Language
from spacy.util import fix_random_seed
from thinc.api import SGD, Adam

from spacy_mtl.concurrency import WeightsLock, free_locks, make_lock
from spacy_mtl.encoder import pipe as pipe_module
from spacy_mtl.encoder.runtime.cpu import threads
from spacy_mtl.encoder.runtime.cpu.threads import LIMITED, limit_threads
from spacy_mtl.training.adamw import create_adamw_v1

TIME_LIMIT = 60  # seconds that a forked process may take


@pytest.fixture
def nlp(make_nlp: Callable, tmp_path: Path) -> Language:
    """RETURNS: A pipeline whose encoder has much dropout, which only training may use."""
    nlp = make_nlp(name=str(build_encoder("bert", tmp_path / "encoder", dropout=0.5)))
    learn(nlp, create_adamw_v1(0.01), 10)
    return nlp


def learn(nlp: Language, sgd: Any, n: int = 1) -> None:
    for _ in range(n):
        nlp.update(make_examples(nlp), sgd=sgd)


def get_cats(docs: Any) -> list[list[float]]:
    return [list(doc.cats.values()) for doc in docs]


def start(function: Callable, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


def is_free(lock: WeightsLock) -> bool:
    """RETURNS: Whether another thread can change weights."""
    entered = []

    def change() -> None:
        with lock.writing():
            entered.append(True)

    start(change).join(TIME_LIMIT)
    return bool(entered)


# The lock


def test_readers_share_the_lock() -> None:
    lock = WeightsLock()
    entered = threading.Barrier(2, timeout=TIME_LIMIT)

    def read() -> None:
        with lock.reading():
            entered.wait()

    thread = start(read)
    read()
    thread.join()
    assert lock.version == 0


def test_changes_wait_for_readers_and_keep_new_ones_out() -> None:
    lock, order = WeightsLock(), []
    reads, may_end = threading.Event(), threading.Event()

    def read_long() -> None:
        with lock.reading():
            reads.set()
            may_end.wait(TIME_LIMIT)
            with lock.reading():  # again, while a writer waits
                order.append("read")

    def change() -> None:
        with lock.writing(), lock.writing(), lock.reading():
            order.append("change")

    def read() -> None:
        with lock.reading():
            order.append("read after")

    threads = [start(read_long)]
    reads.wait(TIME_LIMIT)
    threads.append(start(change))
    while not lock._n_waiting:
        threads[1].join(0.001)
    threads.append(start(read))
    may_end.set()
    for thread in threads:
        thread.join(TIME_LIMIT)
    assert order == ["read", "change", "read after"]
    assert lock.version == 2


def test_errors_release_the_lock() -> None:
    lock = WeightsLock()
    for enter in (lock.reading, lock.writing):
        with pytest.raises(KeyError), enter():
            raise KeyError
    assert is_free(lock)


def test_locks_are_free_in_a_forked_process() -> None:
    lock, weights = make_lock(), WeightsLock()
    with lock, weights.writing(), weights.reading():
        free_locks()  # as Python does there
        assert lock.acquire(blocking=False)
        assert is_free(weights)


def test_copies_of_a_lock_are_free() -> None:
    lock = WeightsLock()
    with lock.writing():
        for copied in (deepcopy(lock), pickle.loads(pickle.dumps(lock))):
            assert is_free(copied)


# Predictions while the same thread trains


@pytest.mark.usefixtures("two_threads")
def test_updates_between_the_docs_of_a_stream(
    nlp: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docs are encoded ahead, but predicted with the weights at the time of their output."""
    monkeypatch.setattr(pipe_module, "BUFFER", 4)  # one text
    expected = get_cats(nlp.pipe(TEXTS))
    sgd = SGD(0.0)
    found = []
    for doc in nlp.pipe(TEXTS * 4, batch_size=1):
        found += get_cats([doc])
        learn(nlp, sgd)
    for row, same in zip(found, expected * 4, strict=True):
        assert row == pytest.approx(same, abs=1e-6)

    sgd = create_adamw_v1(0.01)
    for doc, text in zip(nlp.pipe(TEXTS * 2, batch_size=1), TEXTS * 2, strict=True):
        assert get_cats([doc])[0] == pytest.approx(get_cats([nlp(text)])[0], abs=1e-6)
        learn(nlp, sgd)


def test_an_evaluation_inside_a_stream_and_inside_an_update(nlp: Language) -> None:
    """A prediction does not close a training pass that still waits for heads."""
    expected = deepcopy(nlp)
    for each in (nlp, expected):
        fix_random_seed(0)
        examples = make_examples(each)
        encoder, *heads = [pipe for _, pipe in each.pipeline]
        encoder.update(examples)
        for head in heads:
            if each is nlp:
                each.evaluate(make_examples(each))
                list(each.pipe(TEXTS))
            head.update(examples)
        sgd = create_adamw_v1(0.01)
        for _, pipe in each.pipeline:
            pipe.finish_update(sgd)
    assert encoder_weights(nlp) == encoder_weights(expected)
    assert nlp.get_pipe("ner").to_bytes() == expected.get_pipe("ner").to_bytes()


# Predictions while another thread trains


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("own_encoder", [False, True])
def test_predictions_while_another_thread_trains(nlp: Language, own_encoder: bool) -> None:
    if own_encoder:
        nlp.replace_listeners("transformer", "textcat", ["model.tok2vec"])
    expected, errors = get_cats(nlp.pipe(TEXTS)), []
    is_over = threading.Event()

    def train() -> None:
        try:
            learn(nlp, Adam(0.0), 15)
        except Exception as error:
            errors.append(error)
        finally:
            is_over.set()

    thread = start(train)
    worst = 0.0
    while not is_over.is_set():
        found = get_cats(nlp.pipe(TEXTS))
        for row, same in zip(found, expected, strict=True):
            worst = max(worst, *(abs(a - b) for a, b in zip(row, same, strict=True)))
    thread.join()
    assert not errors
    assert worst < 1e-5


def test_a_training_is_the_same_while_another_thread_predicts(nlp: Language) -> None:
    alone = deepcopy(nlp)
    fix_random_seed(0)
    learn(alone, create_adamw_v1(0.01), 8)

    errors, is_over = [], threading.Event()

    def predict() -> None:
        try:
            while not is_over.is_set():
                list(nlp.pipe(TEXTS))
                nlp.to_bytes()
        except Exception as error:
            errors.append(error)

    fix_random_seed(0)
    thread = start(predict)
    learn(nlp, create_adamw_v1(0.01), 8)
    is_over.set()
    thread.join()
    assert not errors
    assert encoder_weights(nlp) == encoder_weights(alone)
    assert nlp.get_pipe("textcat").to_bytes() == alone.get_pipe("textcat").to_bytes()


def test_readers_get_consistent_weights(nlp: Language) -> None:
    """Predictions and saved files use the weights after one update, never a mixture of two."""
    encoder, doc = nlp.get_pipe("transformer"), nlp.make_doc(TEXTS[0])
    moments: list[tuple[bytes, bytes]] = []

    def note() -> None:
        moments.append((encoder.predict([doc]).data.tobytes(), encoder_weights(nlp)))

    def train() -> None:
        note()
        sgd = create_adamw_v1(0.01, 0.01)
        for _ in range(10):
            learn(nlp, sgd)
            note()

    thread, rows, weights = start(train), set(), set()
    loaded = deepcopy(nlp)
    while thread.is_alive():
        rows.add(encoder.predict([doc.copy()]).data.tobytes())
        loaded.get_pipe("transformer").from_bytes(encoder.to_bytes())
        weights.add(encoder_weights(loaded))
    thread.join()
    assert len(moments) == 11
    assert rows and rows <= {row for row, _ in moments}
    assert weights and weights <= {saved for _, saved in moments}


def test_heads_read_rows_of_the_present_weights(nlp: Language) -> None:
    """Docs that were encoded before an update are encoded again when a head predicts."""
    encoder, textcat = nlp.get_pipe("transformer"), nlp.get_pipe("textcat")
    docs = [nlp.make_doc(text) for text in TEXTS]
    encoder.set_annotations(docs, encoder.predict(docs))
    learn(nlp, create_adamw_v1(0.01))
    expected = get_cats(nlp.pipe(TEXTS))
    textcat.set_annotations(docs, textcat.predict(docs))
    for row, same in zip(get_cats(docs), expected, strict=True):
        assert row == pytest.approx(same, abs=1e-6)


def test_a_pass_belongs_to_its_thread(nlp: Language) -> None:
    """Another thread cannot close it, even when it finishes its own update."""
    encoder = nlp.get_pipe("transformer")
    encoder.update(make_examples(nlp))
    before = encoder_weights(nlp)
    thread = start(lambda: (encoder.flush(), encoder.to_bytes(), list(nlp.pipe(TEXTS))))
    thread.join()
    assert encoder._open.current.is_open
    assert encoder_weights(nlp) == before


def test_stock_heads_see_the_update_that_waited(encoder: str) -> None:
    nlp = make_stock_nlp(encoder, factory="mtl_transformer")
    before = encoder_weights(nlp)
    learn(nlp, Adam(0.001))
    nlp(TEXTS[0])
    assert encoder_weights(nlp) != before


# Forked processes


def ends_in_a_fork(function: Callable[[], None]) -> bool:
    """RETURNS: Whether a function ends in a forked process without an error."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            function()
            os.write(writer, b"1")
        finally:
            os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], TIME_LIMIT)
    ended = bool(ready) and os.read(reader, 1) == b"1"
    os.close(reader)
    if not ready:
        os.kill(pid, 9)
    os.waitpid(pid, 0)
    return ended


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.usefixtures("two_threads")
def test_forked_processes_end(nlp: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lack the parent's threads and would wait for them."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    sgd, x = create_adamw_v1(), torch.ones(512, 512)
    own = deepcopy(nlp)
    own.replace_listeners("transformer", "textcat", ["model.tok2vec"])
    own.select_pipes(enable="textcat")
    for each in (nlp, own):
        learn(each, sgd)
    x @ x  # starts the threads

    long = " ".join(TEXTS * 40)
    failed = [
        name
        for name, function in {
            "predict": lambda: nlp(long),
            "update": lambda: learn(nlp, sgd),
            "evaluate": lambda: nlp.evaluate(make_examples(nlp)),
            "update of a head with an encoder of its own": lambda: learn(own, sgd),
            "predict with it": lambda: own(long),
            "read the encoder's model": lambda: nlp.get_pipe("transformer").model.predict(
                [nlp.make_doc(long)]
            ),
        }.items()
        if not ends_in_a_fork(function)
    ]
    assert not failed
    assert torch.get_num_threads() == 2
    expected = get_cats(own.pipe(TEXTS))
    found = get_cats(own.pipe(TEXTS, n_process=2, batch_size=2))
    for row, same in zip(found, expected, strict=True):
        assert row == pytest.approx(same, abs=1e-6)


def test_threads_are_limited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch uses one thread in a forked process, and in a worker with an unpickled pipeline."""
    calls: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    monkeypatch.setattr(LIMITED, "process", None)
    limit_threads()
    limit_threads(made_in=-1)  # only unpickled
    assert not calls
    monkeypatch.setattr(threads, "parent_process", lambda: object())
    limit_threads()
    assert not calls
    for _ in range(2):
        limit_threads(made_in=-1)
        assert calls == [1]
    monkeypatch.setattr(LIMITED, "process", None)
    monkeypatch.setattr(threads, "parent_process", lambda: None)
    monkeypatch.setattr(threads, "HOME", -1)
    for _ in range(2):
        limit_threads()
        assert calls == [1, 1]
