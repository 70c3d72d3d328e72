"""Reading and grouping runs."""

import pytest
import srsly

from spacy_mtl.report.content import pick_scores
from spacy_mtl.report.runs import (
    Run,
    check_same_dev,
    find_difference,
    find_single,
    get_curves,
    get_trained_tasks,
    group_runs,
    read_best,
    read_log,
    read_metrics,
    read_run,
)
from spacy_mtl.report.tables import make_table

CONFIG = """
[paths]
dev = "dev.spacy"

[system]
seed = 3

[nlp]
lang = "en"
pipeline = ["sentencizer","transformer","tagger","ner"]

[components]

[components.sentencizer]
factory = "sentencizer"

[components.transformer]
factory = "mtl_transformer"

[components.transformer.model]
@architectures = "spacy-mtl.SharedTransformer.v1"

[components.tagger]
factory = "mtl_tagger"

[components.tagger.model]
@architectures = "spacy-mtl.TaggerHead.v1"

[components.ner]
factory = "mtl_ner"

[components.ner.model]
@architectures = "spacy-mtl.NerHead.v1"

[corpora]

[corpora.dev]
@readers = "spacy.Corpus.v1"
path = ${paths.dev}

[training]
seed = 7
frozen_components = []
max_steps = 20

[training.logger]
@loggers = "spacy-mtl.ProgressLogger.v1"
output_file = "log.jsonl"
"""


def make_line(step: int, score: float | None = 0.5, **settings) -> dict:
    stats = {"loss": 1.0 + step, "weight": 2.0, "grad_norm": None, "updates": 3}
    scores = {"tag_acc": score, "ents_f": None}
    line = {"step": step, "score": score, "scores": scores, "tasks": {"tagger": stats}}
    return {**line, "cosines": {"ner|tagger": -0.5} if step else {}, **settings}


def make_folder(folder, config=CONFIG, model="model-best", lines=(), metrics=None):
    (folder / model).mkdir(parents=True)
    (folder / model / "config.cfg").write_text(config)
    if lines:
        srsly.write_jsonl(folder / "log.jsonl", lines)
    if metrics:
        srsly.write_json(folder / "metrics.json", metrics)
    return folder


def make_run(name: str, seed: int = 0, tasks: tuple = ("a", "b"), **setup) -> Run:
    setup = {"corpora": {"dev": {"path": "dev.spacy"}}, "tasks": tasks, **setup}
    return Run(name, {}, "-", model=name, tasks=list(tasks), seed=seed, setup=setup)


def test_folder(tmp_path):
    lines = [make_line(0, 0.25), make_line(10, 0.75), make_line(20, 0.5)]
    run = read_run(make_folder(tmp_path / "a", lines=lines), "a")
    assert run == Run(
        name="a",
        scores={"tag_acc": 0.75, "ents_f": None},
        source="dev, step 10",
        curves=get_curves(lines),
        steps=20,
        model=tmp_path / "a" / "model-best",
        tasks=["tagger", "ner"],
        seed=7,
        setup=run.setup,
    )
    assert "seed" not in run.setup["training"] and "logger" not in run.setup["training"]
    assert run.setup["system"] == {}
    assert run.setup["corpora"]["dev"]["path"] == "dev.spacy"


def test_folder_with_scores_and_without_log(tmp_path):
    folder = make_folder(tmp_path / "a", model="model-last", metrics={"tag_acc": 0.5})
    srsly.write_json(folder / "other.json", {"what": "ever"})
    (folder / "broken.json").write_text("{")
    srsly.write_jsonl(folder / "other.jsonl", [{"what": "ever"}])
    run = read_run(folder, "b")
    assert (run.scores, run.source) == ({"tag_acc": 0.5}, "metrics.json")
    assert run.model == folder / "model-last"
    assert run.steps is None
    assert run.curves == {"loss": {}, "weight": {}, "grad_norm": {}, "score": {}, "cosine": {}}


def test_folder_with_a_model_only(tmp_path):
    run = read_run(make_folder(tmp_path / "a"), "a")
    assert (run.scores, run.source) == ({}, "-")
    srsly.write_json(tmp_path / "a" / "model-best" / "meta.json", {"performance": {"tag_acc": 0.5}})
    run = read_run(tmp_path / "a", "a")
    assert (run.scores, run.source) == ({"tag_acc": 0.5}, "dev, model-best")


def test_model_best_is_preferred(tmp_path):
    folder = make_folder(tmp_path / "a", model="model-last")
    make_folder(folder)
    assert read_run(folder, "a").model == folder / "model-best"


def test_file(tmp_path):
    srsly.write_json(tmp_path / "a.json", {"tag_acc": 0.5})
    run = read_run(tmp_path / "a.json", "b")
    assert run == Run("b", {"tag_acc": 0.5}, "a.json")


@pytest.mark.parametrize("name", ["none", "none.json"])
def test_missing_path_is_an_error(tmp_path, name):
    with pytest.raises(ValueError, match="M201"):
        read_run(tmp_path / name, "a")


def test_folder_without_a_model(tmp_path):
    srsly.write_jsonl(tmp_path / "log.jsonl", [make_line(0)])
    with pytest.raises(ValueError, match=r"M230.*model-best or model-last"):
        read_run(tmp_path, "a")


def test_broken_config(tmp_path):
    with pytest.raises(ValueError, match="M204"):
        read_run(make_folder(tmp_path / "a", config="[nlp"), "a")


def test_no_seed(tmp_path):
    config = CONFIG.replace("seed = 7", "seed = null")
    assert read_run(make_folder(tmp_path / "a", config=config), "a").seed == 0


@pytest.mark.parametrize("name", ["log.jsonl", "metrics.json"])
def test_several_files_of_a_kind_are_an_error(tmp_path, name):
    folder = make_folder(tmp_path / "a", lines=[make_line(0)], metrics={"tag_acc": 0.5})
    (folder / f"more-{name}").write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match=rf"M232.*'{name}', 'more-{name}'"):
        read_run(folder, "a")


def test_log_of_a_restarted_run(tmp_path):
    lines = [make_line(0), make_line(10), make_line(20), make_line(0, 0.1), make_line(10, 0.2)]
    srsly.write_jsonl(tmp_path / "log.jsonl", lines)
    assert read_log(tmp_path / "log.jsonl") == lines[3:]


def test_log_of_an_earlier_version_has_no_cosines(tmp_path):
    line = make_line(0)
    del line["cosines"]
    srsly.write_jsonl(tmp_path / "log.jsonl", [line])
    assert read_log(tmp_path / "log.jsonl") == [{**line, "cosines": {}}]


@pytest.mark.parametrize(
    "text",
    [
        '{"step": 10',
        "[1, 2]",
        '{"step": 10, "tasks": {}}',
        '{"step": null, "score": 0, "scores": {}, "tasks": {}}',
        '{"step": 10, "score": 0, "scores": {}, "tasks": 1}',
    ],
)
def test_bad_log(tmp_path, text):
    path = tmp_path / "log.jsonl"
    path.write_text(f"{srsly.json_dumps(make_line(0))}\n{text}\n")
    with pytest.raises(ValueError, match=r"M231.*log.jsonl"):
        read_log(path)


def test_best_line():
    lines = [make_line(0, 0.5), make_line(10, 0.5)]
    assert read_best(lines) == (lines[1]["scores"], "dev, step 10")  # as spaCy saves it
    assert read_best([make_line(0, None), make_line(10, 0.5)])[1] == "dev, step 10"


def test_curves():
    """Missing values are left out."""
    assert get_curves([make_line(0, 0.25), make_line(10, 0.75)]) == {
        "loss": {"tagger": [(0, 1.0), (10, 11.0)]},
        "weight": {"tagger": [(0, 2.0), (10, 2.0)]},
        "grad_norm": {},
        "score": {"tag_acc": [(0, 0.25), (10, 0.75)]},
        "cosine": {"ner|tagger": [(10, -0.5)]},
    }


def test_frozen_components_are_not_tasks():
    component = {"factory": "mtl_ner", "model": {}}
    config = {
        "nlp": {"pipeline": ["tok2vec", "a", "b", "ruler"]},
        "components": {
            "tok2vec": {"factory": "tok2vec", "model": {}},
            **{"a": component, "b": component, "unused": component},
            "ruler": {"factory": "entity_ruler"},
        },
        "training": {"frozen_components": ["b"]},
    }
    assert get_trained_tasks(config) == ["a"]


def test_groups():
    runs = [
        make_run("multi-1", 1),
        make_run("ner_0", 0, tasks=("b",)),
        make_run("multi-0", 0),
        Run("file", {}, "file.json"),
        make_run("slow 1", 1, rate=0.1),
    ]
    groups = group_runs(runs)
    names = {name: [run.name for run in group] for name, group in groups.items()}
    assert names == {"multi": ["multi-0", "multi-1"], "ner": ["ner_0"], "slow": ["slow 1"]}
    assert list(names) == ["multi", "ner", "slow"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["a-0", "b-1"], "a-0"), (["0", "1"], "0"), (["x10", "x1"], "x10"), (["x", "x"], "x")],
)
def test_name_of_a_group(names, expected):
    runs = [make_run(name, seed) for seed, name in enumerate(names)]
    assert list(group_runs(runs)) == [expected]


def test_groups_with_equal_names_are_named_after_runs():
    runs = [make_run("a-0"), make_run("a-1", 1, rate=0.1)]
    assert list(group_runs(runs)) == ["a-0", "a-1"]


def test_same_run_twice_is_an_error():
    with pytest.raises(ValueError, match=r"M235.*'first', 'again'.*seed 3"):
        group_runs([make_run("first", 3), make_run("again", 3)])


def test_find_single():
    both, a, b = make_run("both"), make_run("a", tasks=("a",)), make_run("b", tasks=("b",))
    assert find_single({"x": [both], "y": [a, a], "z": [b]}) == {"a": "y", "b": "z"}
    assert find_single({"x": [both]}) == {}


def test_two_settings_of_a_single_task_are_an_error():
    slow, fast = (
        make_run(name, tasks=("a",), training={"seed": 0, "optimizer": {"rate": rate}})
        for name, rate in (("slow", 0.1), ("fast", 0.2))
    )
    message = r"M238.*'a'.*'slow', 'fast', which differ in training\.optimizer\.rate"
    with pytest.raises(ValueError, match=message):
        find_single({"slow": [slow], "fast": [fast]})


@pytest.mark.parametrize(
    ("first", "second", "where"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "b"),
        ({"a": 1}, {"a": 1, "b": {"c": 3}}, "b"),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, "a.c"),
        ({"a": {"b": 1}}, {"a": "b"}, "a"),
    ],
)
def test_first_difference(first, second, where):
    assert find_difference(first, second) == find_difference(second, first) == where


def test_different_dev_data_is_an_error():
    runs = [make_run("a"), Run("file", {}, "file.json"), make_run("b", tasks=("b",))]
    check_same_dev(runs)
    other = make_run("c", corpora={"dev": {"path": "other.spacy"}})
    with pytest.raises(ValueError, match=r"M236.*'a' and 'c'"):
        check_same_dev([*runs, other])


METRICS = {"token_acc": 1.0, "tag_acc": 0.91234, "ents_f": None, "speed": 1234.6}


def test_read_metrics(tmp_path):
    srsly.write_json(tmp_path / "a.json", METRICS)
    assert read_metrics(tmp_path / "a.json") == METRICS


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        (None, "M201", "a.json"),
        ("", "M202", "a.json"),
        ('{"tag_acc": 0.5', "M202", "a.json"),
        ("\udcff", "M202", "utf-8"),
        ("[1, 2]", "M202", "tag_acc"),
        ("{}", "M202", "tag_acc"),
        ('{"speed": 100.0, "tagger": {"tag_acc": 0.5}}', "M202", "--per-component"),
    ],
)
def test_bad_metrics(tmp_path, text, code, part):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text, encoding="utf8", errors="surrogateescape")
    with pytest.raises(ValueError, match=code) as error:
        read_metrics(path)
    assert part in str(error.value)


def test_folder_is_not_a_score_file(tmp_path):
    with pytest.raises(ValueError, match="M201"):
        read_metrics(tmp_path)


def test_scores_of_another_group_of_spans(tmp_path):
    """A file whose only scores are those of such a group."""
    metrics = {"token_acc": 1.0, "spans_mentions_f": 0.5}
    folder = make_folder(tmp_path / "a", metrics=metrics)
    assert read_metrics(folder / "metrics.json") == metrics
    assert "spans_mentions_f" in make_table(["a"], [metrics]).header
    assert pick_scores(metrics) == {"spans_mentions_f": 0.5}
