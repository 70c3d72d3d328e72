"""The update that training, `mtl affinity` and `mtl debug` share."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from conftest import encoder_weights, make_examples
from spacy.language import Language
from spacy.training.loop import subdivide_batch
from thinc.api import Adam

from spacy_mtl.training.step import (
    StepSettings,
    find_trainable,
    skip_step,
    split_batch,
    train_step,
)

HEADS = ("tagger", "ner", "textcat")


@pytest.mark.parametrize("n_parts", [1, 2, 3, 4, 9])
def test_parts_are_spacys(make_nlp: Callable[..., Language], n_parts: int) -> None:
    examples = [eg for _ in range(3) for eg in make_examples(make_nlp("tagger", initialize=False))]
    for batch in (examples, examples[:2], []):
        expected = [*map(list, subdivide_batch(batch, n_parts))]
        assert [*split_batch(batch, n_parts)] == expected


def test_a_step_is_an_update_in_parts(make_nlp: Callable[..., Language]) -> None:
    found, expected = make_nlp(*HEADS), make_nlp(*HEADS)
    examples, parts, calls = make_examples(found), [], []
    settings = StepSettings(
        accumulate_gradient=2, frozen=["ner"], before_update=lambda nlp, info: calls.append(info)
    )
    losses: dict[str, float] = {}
    options: dict[str, Any] = {"step": 3, "epoch": 1, "losses": losses}
    frozen = found.get_pipe("ner").to_bytes()  # type: ignore[attr-defined]
    train_step(found, Adam(0.01), examples, settings, **options, after_part=parts.append)
    assert parts == [*split_batch(examples, 2)] and calls == [{"step": 3, "epoch": 1}]
    sums: dict[str, float] = {}
    sgd: Any = False
    for part in split_batch(make_examples(expected), 2):
        expected.update(part, sgd=sgd, losses=sums, exclude=["ner"])
    for name, pipe in find_trainable(expected, ["ner"]).items():
        assert name != "ner"
        pipe.finish_update(Adam(0.01))
    assert losses == sums and losses["tagger"] > 0 and "ner" not in losses
    assert found.to_bytes() == expected.to_bytes()
    assert found.get_pipe("ner").to_bytes() == frozen  # type: ignore[attr-defined]


def test_a_skipped_step_advances_schedules_only(make_nlp: Callable[..., Language]) -> None:
    nlp, calls = make_nlp(*HEADS), []
    before, weights = nlp.to_bytes(), encoder_weights(nlp)
    sgd, rates = Adam(iter([0.3, 0.2, 0.1])), count()  # type: ignore[arg-type]
    settings = StepSettings(rates, before_update=lambda nlp, info: calls.append(info))
    skip_step(nlp, sgd, settings, step=0, epoch=0)
    assert (sgd.learn_rate, next(rates), calls) == (0.2, 1, [{"step": 0, "epoch": 0}])
    assert nlp.to_bytes() == before and encoder_weights(nlp) == weights
