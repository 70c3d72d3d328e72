import json
from typing import Any

import numpy
import pytest

from spacy_mtl.balancing.early_stopping import create_early_stopping_v1
from spacy_mtl.balancing.gradients import create_graddrop_v1
from spacy_mtl.balancing.magnitude import create_db_mtl_v1
from spacy_mtl.balancing.shares import create_dynamic_weight_average_v1
from spacy_mtl.balancing.static import create_static_weights_v1
from spacy_mtl.encoder.training_pass import TaskBatch

ROWS = {"tagger": [3.0, 0.0], "ner": [0.0, 4.0], "textcat": [1.0, 1.0]}


def make_batch(*tasks: str) -> TaskBatch:
    gradients: dict[str, Any] = {task: numpy.array([ROWS[task]], dtype="f") for task in tasks}
    return TaskBatch(dict.fromkeys(tasks, 1.0), gradients)


def test_tasks_stop_after_their_patience() -> None:
    balancer = create_early_stopping_v1(create_static_weights_v1(), {"tagger": 2, "ner": 1})
    found = []
    scores = [(0.1, 0.3), (0.1, 0.4), (0.2, 0.4), (0.2, 0.9), (0.1, 0.9)]
    for tags, ents in scores:
        balancer.on_scores({"tagger": tags, "ner": ents, "textcat": 0.0})
        found.append(list(balancer.stopped))
    assert found == [[], [], ["ner"], ["ner"], ["ner", "tagger"]]
    assert balancer.frozen == ["ner", "tagger"]


def test_an_evaluation_without_a_score_does_not_count() -> None:
    balancer = create_early_stopping_v1(create_static_weights_v1(), {"tagger": 1})
    balancer.on_scores({"tagger": 0.5})
    balancer.on_scores({})
    assert balancer.stopped == []
    balancer.on_scores({"tagger": 0.5})
    assert balancer.stopped == ["tagger"]


def test_a_factor_lowers_the_weight() -> None:
    inner = create_static_weights_v1({"tagger": 2.0, "ner": 3.0})
    balancer = create_early_stopping_v1(inner, {"tagger": 1}, factor=0.25)
    balancer.stopped = ["tagger"]
    gradient, weights = balancer.combine(make_batch("tagger", "ner"))
    assert weights == {"tagger": 0.5, "ner": 3.0}
    assert gradient.tolist() == [[1.5, 12.0]]
    assert balancer.frozen == []


def test_a_factor_of_zero_leaves_the_task_out() -> None:
    """DB-MTL, which equalizes all tasks, equalizes the others."""
    balancer = create_early_stopping_v1(create_db_mtl_v1(), {"tagger": 1})
    balancer.stopped = ["tagger"]
    gradient, weights = balancer.combine(make_batch("tagger", "ner", "textcat"))
    expected, others = create_db_mtl_v1().combine(make_batch("ner", "textcat"))
    assert weights == {"tagger": 0.0, **others}
    assert gradient.tolist() == expected.tolist()
    assert balancer.balancer.norms.keys() == {"ner", "textcat"}
    assert balancer.combine(make_batch("tagger"))[1] == {"tagger": 0.0}


def test_state_round_trip() -> None:
    def make() -> Any:
        return create_early_stopping_v1(create_dynamic_weight_average_v1(window=1), {"ner": 2})

    balancer = make()
    balancer.on_scores({})
    for score in (0.5, 0.4):
        balancer.combine(make_batch("tagger", "ner"))
        balancer.step()
        balancer.on_scores({"ner": score})
    restored = make()
    restored.load_state_dict(json.loads(json.dumps(balancer.state_dict())))
    assert restored.state_dict() == balancer.state_dict()
    assert restored.balancer.steps == 2
    restored.on_scores({"ner": 0.5})
    assert restored.stopped == ["ner"]
    assert balancer.stopped == []
    make().load_state_dict({})


def test_a_warning_without_scores() -> None:
    """It comes once, in the second update. `spacy mtl debug` makes only one update."""
    balancer = create_early_stopping_v1(create_static_weights_v1(), {"ner": 1})
    balancer.step()
    with pytest.warns(UserWarning, match=r"W004.*EarlyStopping.*ProgressLogger.*TaskCheckpoints"):
        balancer.step()
    balancer.step()
    create = create_early_stopping_v1
    told, nobody = (create(create_static_weights_v1(), p) for p in ({"ner": 1}, {}))
    told.on_scores({})
    resumed = create(create_static_weights_v1(), {"ner": 1})
    resumed.load_state_dict({"best": {"ner": 0.5}})
    for _ in range(3):
        for silent in (told, nobody, resumed):
            silent.step()


def test_wrong_settings() -> None:
    static = create_static_weights_v1()
    with pytest.raises(ValueError, match=r"M058.*patience\['ner'\] = 0"):
        create_early_stopping_v1(static, {"ner": 0})
    for factor in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"M058.*factor"):
            create_early_stopping_v1(static, {"ner": 1}, factor)
    with pytest.raises(ValueError, match=r"M027.*GradDrop"):
        create_early_stopping_v1(create_graddrop_v1(), {"ner": 1})
    with pytest.raises(ValueError, match=r"M020.*\['pos'\]"):
        create_early_stopping_v1(static, {"pos": 1}).check(["ner"])
    with pytest.raises(ValueError, match=r"M020.*\['tag'\]"):
        create_early_stopping_v1(create_static_weights_v1({"tag": 1.0}), {}).check(["ner"])
