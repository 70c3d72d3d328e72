"""A task whose loss or gradient is NaN or infinite does no harm to the others."""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
from conftest import encoder_gradient, encoder_module, encoder_weights, make_examples
from spacy.language import Language

from spacy_mtl.encoder.diagnostics import MAX_BROKEN
from spacy_mtl.training.adamw import create_adamw_v1

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def nlp(make_nlp: Callable) -> Language:
    """A pipeline whose heads have left the zeros that they begin with."""
    nlp = make_nlp("tagger", "ner", "textcat")
    nlp.update(make_examples(nlp), sgd=create_adamw_v1(learn_rate=0.01))
    nlp.get_pipe("transformer").diagnostics.take()
    return nlp


@pytest.fixture(autouse=True)
def all_warnings() -> Iterator[None]:
    """Python itself shows none twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def break_head(nlp: Language, task: str, loss: float = 0.0, gradient: float = 0.0) -> None:
    """Add something to a head's loss, and to its gradient."""
    head = nlp.get_pipe(task)
    compute_loss = type(head).loss

    def get_broken_loss(examples: Any, scores: Any) -> Any:
        found, d_scores, n = compute_loss(head, examples, scores)
        if isinstance(d_scores, tuple):  # of tokens, and of what a CRF has besides
            d_scores = (d_scores[0] + numpy.float32(gradient), *d_scores[1:])
        else:
            d_scores = d_scores + numpy.float32(gradient)
        return found + loss, d_scores, n

    head.loss = get_broken_loss  # type: ignore[attr-defined]


def mend(nlp: Language, task: str) -> None:
    del nlp.get_pipe(task).loss  # type: ignore[attr-defined]


def update(nlp: Language, *tasks: str) -> dict[str, float]:
    """An update without an optimizer, which leaves the encoder's gradient."""
    losses: dict[str, float] = {}
    encoder_module(nlp).zero_grad()
    nlp.update(make_examples(nlp, *tasks), sgd=False, drop=0.0, losses=losses)
    nlp.get_pipe("transformer").flush()
    return losses


@pytest.mark.parametrize(
    ("loss", "gradient"), [(NAN, 0.0), (INF, 0.0), (-INF, 0.0), (0.0, NAN), (0.0, INF), (NAN, NAN)]
)
def test_a_broken_task_is_left_out(nlp: Language, loss: float, gradient: float) -> None:
    expected_losses = update(nlp, "tagger", "textcat")
    expected = encoder_gradient(nlp)
    nlp.get_pipe("transformer").diagnostics.take()
    break_head(nlp, "ner", loss, gradient)
    with pytest.warns(UserWarning, match="W002.*'ner'"):
        losses = update(nlp)
    found = encoder_gradient(nlp)
    assert expected.any()
    numpy.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert losses["transformer"] == pytest.approx(expected_losses["transformer"], rel=1e-6)
    assert losses["ner"] == 0.0
    means = nlp.get_pipe("transformer").diagnostics.take()
    assert means["ner"]["skipped"] == 1 and means["ner"]["updates"] == 0
    assert math.isnan(means["ner"]["loss"])
    assert means["tagger"]["skipped"] == 0 and means["tagger"]["updates"] == 1


def test_it_is_warned_of_once_for_each_task(nlp: Language) -> None:
    break_head(nlp, "ner", loss=NAN)
    with pytest.warns(UserWarning) as caught:
        update(nlp)
    assert len(caught) == 1
    update(nlp)
    break_head(nlp, "tagger", loss=NAN)
    with pytest.warns(UserWarning) as caught:
        update(nlp)
    assert len(caught) == 1 and "'tagger'" in str(caught[0].message)
    means = nlp.get_pipe("transformer").diagnostics.take()
    assert [means[task]["skipped"] for task in ("ner", "tagger", "textcat")] == [3, 1, 0]
    assert means["tagger"]["updates"] == 2


def test_later_batches_count_again(nlp: Language) -> None:
    """Also where the losses of many batches are added up, as in training."""
    losses: dict[str, float] = {}
    expected = update(nlp)["ner"]
    break_head(nlp, "ner", loss=NAN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nlp.update(make_examples(nlp), sgd=False, drop=0.0, losses=losses)
        nlp.update(make_examples(nlp), sgd=False, drop=0.0, losses=losses)
        nlp.get_pipe("transformer").flush()
    mend(nlp, "ner")
    nlp.update(make_examples(nlp), sgd=False, drop=0.0, losses=losses)
    nlp.get_pipe("transformer").flush()
    assert losses["ner"] == pytest.approx(expected, rel=1e-5)
    means = nlp.get_pipe("transformer").diagnostics.take()
    assert means["ner"]["updates"] == 2 and means["ner"]["skipped"] == 2


def test_no_task_is_left(nlp: Language) -> None:
    """The encoder stays as it is, and the balancer is not asked."""
    for task in ("tagger", "ner", "textcat"):
        break_head(nlp, task, loss=INF)
    before = encoder_weights(nlp)
    with pytest.warns(UserWarning, match="W002"):
        nlp.update(make_examples(nlp), sgd=create_adamw_v1(), drop=0.0)
        nlp.get_pipe("transformer").flush()
    assert encoder_weights(nlp) == before


def test_a_streak_stops_the_training(nlp: Language) -> None:
    break_head(nlp, "ner", loss=NAN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(MAX_BROKEN - 1):
            update(nlp)
        with pytest.raises(
            ValueError, match=rf"M026.*'ner'.* {MAX_BROKEN} times in a row: loss nan"
        ):
            update(nlp)


def test_a_good_batch_ends_the_streak(nlp: Language) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            break_head(nlp, "ner", loss=NAN)
            for _ in range(MAX_BROKEN - 1):
                update(nlp, "ner")
            update(nlp, "tagger")  # in which it is silent
            mend(nlp, "ner")
            update(nlp, "ner")
    means = nlp.get_pipe("transformer").diagnostics.take()
    assert means["ner"]["skipped"] == 3 * (MAX_BROKEN - 1) and means["ner"]["updates"] == 3


@pytest.mark.parametrize("name", ["MGDA", "UPGrad", "GradNorm", "DBMTL"])
def test_balancers_see_only_what_is_sound(make_nlp: Callable, name: str) -> None:
    nlp = make_nlp(balancer={"@misc": f"spacy-mtl.{name}.v1"})
    nlp.update(make_examples(nlp), sgd=create_adamw_v1(learn_rate=0.01))
    break_head(nlp, "ner", NAN, NAN)
    with pytest.warns(UserWarning, match="W002.*'ner'"):
        update(nlp)
    assert numpy.isfinite(encoder_gradient(nlp)).all() and encoder_gradient(nlp).any()
    assert all(map(math.isfinite, find_numbers(nlp.get_pipe("transformer").balancer.state_dict())))


def find_numbers(state: Any) -> list[float]:
    if isinstance(state, dict):
        return [number for value in state.values() for number in find_numbers(value)]
    return [state]
