"""Only runs with the same settings are compared."""

from pathlib import Path
from typing import Any

import pytest

from spacy_mtl.report.differences import find_data, find_differences, identify
from spacy_mtl.report.records import Transfer
from spacy_mtl.report.runs import Run, has_lost_patience
from spacy_mtl.report.tables import make_difference_table, make_transfer_table


def make_run(*tasks: str, steps: int = 200, encoder: str = "minilm", **training: Any) -> Run:
    corpora = {name: {"@readers": "spacy.Corpus.v1", "path": name} for name in ("train", "dev")}
    pipeline = ["transformer", *tasks]
    components: dict[str, Any] = {name: {"factory": f"mtl_{name}"} for name in pipeline}
    components["transformer"] |= {"model": {"name": encoder}, "balancer": {"n": len(tasks)}}
    names = {f"{kind}_corpus": f"corpora.{kind}" for kind in corpora}
    setup = {
        "paths": {"output": "-".join(tasks)},
        "nlp": {"lang": "en", "pipeline": pipeline},
        "corpora": corpora,
        "components": components,
        "training": {**names, "score_weights": dict.fromkeys(tasks, 1.0), **training},
    }
    return Run("", {}, "", steps=steps, tasks=list(tasks), setup=setup)


def find_keys(task: str | None = None, **settings: Run) -> list[str]:
    runs = {name: [run] for name, run in settings.items()}
    return [record.key for record in find_differences(runs, task)]


def test_tasks_and_balancers_are_not_listed() -> None:
    assert find_keys(single=make_run("ner"), multi=make_run("ner", "tagger")) == []


def test_other_settings_are_listed() -> None:
    single = make_run("ner", batcher={"size": 1000})
    multi = make_run("ner", "tagger", batcher={"size": 100})
    multi.steps = 30
    multi.setup["corpora"]["train"]["path"] = "other"
    multi.setup["components"]["transformer"]["model"]["name"] = "large"
    multi.setup["components"]["ner"]["crf"] = True
    records = find_differences({"single": [single], "multi": [multi]})
    assert {r.key: list(r.values.values()) for r in records} == {
        "updates": ["200", "30"],
        "train data": ["train", "other"],
        "components.transformer.model.name": ['"minilm"', '"large"'],
        "components.ner.crf": [None, "true"],
        "training.batcher.size": ["1000", "100"],
    }
    table = make_difference_table(records).to_markdown()
    assert "single" in table and "30" in table and "large" in table


def test_updates_of_all_seeds_are_listed() -> None:
    runs = {"a": [make_run("ner")], "b": [make_run("ner", "tagger"), make_run("ner", "tagger")]}
    runs["b"][1].steps = 30
    assert [r.values for r in find_differences(runs)] == [{"a": "200", "b": "200, 30"}]


@pytest.mark.parametrize("patience, expected", [(0, False), (100, True), (150, False)])
def test_patience(patience: int, expected: bool) -> None:
    log = [{"step": step, "score": score} for step, score in [(0, 0.1), (50, 0.9), (150, 0.5)]]
    assert has_lost_patience(log, patience) is expected


def test_updates_may_differ_if_patience_ended_the_runs() -> None:
    single, multi = make_run("ner", steps=400), make_run("ner", "tagger", steps=900)
    single.is_out_of_patience = multi.is_out_of_patience = True
    assert find_keys(single=single, multi=multi) == []


def test_only_data_of_the_task_are_compared() -> None:
    single, multi = make_run("ner"), make_run("ner", "tagger")
    own, other = ({"@readers": "spacy.Corpus.v1", "path": path} for path in ("train", "tags"))
    mixed = {"@readers": "spacy-mtl.MixedCorpus.v1", "corpora": {"a": own, "b": other}}
    multi.setup["corpora"]["train"] = {**mixed, "tasks": {"a": ["ner"], "b": ["tagger"]}}
    assert find_keys("ner", single=single, multi=multi) == []
    assert find_keys("tagger", single=single, multi=multi) == ["train data"]
    assert find_keys(single=single, multi=multi) == ["train data"]
    assert find_data({**own, "limit": 5}, None) == ['train {"limit": 5}']


def test_files_with_equal_content_are_the_same_data(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c, folder = (identify(str(tmp_path / name)) for name in ("a", "b", "c", ""))
    assert a == b != c and a.startswith("1 bytes") and folder.startswith("3 bytes")
    assert identify("gone.spacy") == "gone.spacy"


def test_table_without_a_p_value() -> None:
    means = {"single_mean": 0.01, "single_sd": None, "multi_mean": 0.8494, "multi_sd": None}
    record = Transfer(
        "ner", "s", "m", "ents_f", **means, difference=0.8394, p=None, seeds=1, docs=9
    )
    (row,) = make_transfer_table([record]).rows
    assert list(row)[2:4] == ["+83.94", "-"]
