"""Numbers that change with the training step."""

import copy
import pickle
from typing import Any

import pytest
from thinc.api import compounding

from spacy_mtl.schedule import Schedule


def test_random_access_to_steps() -> None:
    schedule = Schedule(iter([1.0, 0.5, 0.25]), float)
    assert [schedule[step] for step in (2, 0, 9, 1, 9)] == [0.25, 1.0, 0.25, 0.5, 0.25]
    assert [Schedule(2, float)[step] for step in (0, 7)] == [2.0, 2.0]


def test_every_number_is_checked() -> None:
    def check(value: Any) -> float:
        if value is None or value < 0:
            raise ValueError(f"bad {value}")
        return value

    schedule = Schedule(iter([1.0, -1.0]), check)
    assert schedule[0] == 1.0
    with pytest.raises(ValueError, match="bad -1"):
        schedule[1]
    with pytest.raises(ValueError, match="bad None"):
        Schedule(iter([]), check)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_has_the_values_computed_before(way: Any) -> None:
    schedule = Schedule(compounding(1.0, 4.0, 2.0), float)
    assert schedule[1] == 2.0
    copied = way(way(schedule))
    assert [copied[0], copied[1]] == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"M087.*step 2\..*the 2 values"):
        copied[2]
    assert schedule[2] == 4.0
    assert way(Schedule(0.5, float))[9] == 0.5
