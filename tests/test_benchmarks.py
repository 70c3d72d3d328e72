"""The benchmarks train their contenders and compare them correctly."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_gold
from spacy import blank
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.util import load_model_from_config, registry

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import ablation
import accuracy
import balancing
import runs
from runs import Contender

SCRIPTS = {**balancing.CONTENDERS, **ablation.CONTENDERS, **accuracy.CONTENDERS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RETURNS: The folder of corpora with the labels of their settings."""
    folder = tmp_path_factory.mktemp("corpora")
    vocab = blank("en").vocab
    held = {"snips": ("ner", "textcat"), "clinc": ("textcat",)}
    for name in ("gum", "ewt", "snips", "clinc"):
        docs = [make_gold(vocab, i, held.get(name, [*runs.SCORES])) for i in range(4)]
        for part in ("train", "dev", "test"):
            DocBin(docs=docs).to_disk(folder / f"{name}_{part}.spacy")
    return folder


def make_job(encoder: str, setting: str = "gum", **job: Any) -> dict[str, Any]:
    options = {"seed": 0, "updates": 2, "rate": None, "limit": 0, "evaluate": 2, "overrides": []}
    return {"setting": setting, "contender": "x", "encoder": encoder, **options, **job}


@pytest.mark.parametrize("name", SCRIPTS)
def test_config_of_each_contender(name: str, encoder: str, folder: Path) -> None:
    """Components and functions accept the changes of each contender."""
    contender = SCRIPTS[name]
    config = runs.make_config(folder, contender, make_job(encoder, rate=0.125))
    filled = load_model_from_config(config, auto_fill=True).config
    tasks = [contender.task] if contender.task else ["tagger", "ner", "textcat"]
    assert filled["nlp"]["pipeline"] == ["transformer", *tasks]
    assert filled["training"]["optimizer"].keys() >= config["training"]["optimizer"].keys()
    schedule = contender.rate.split(".")[2]
    assert filled["training"]["optimizer"][schedule]["initial_rate"] == 0.125


@pytest.mark.parametrize(
    "setting,name,scores",
    [
        ("separate", "stock", ["tag_acc", "ents_f", "cats_score"]),
        ("snips", "average-0.99", ["ents_f", "cats_score"]),
        ("separate", "single-ner", ["ents_f"]),
    ],
)
def test_run(
    setting: str,
    name: str,
    scores: list[str],
    encoder: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run makes the given updates, and is scored with averages if it has them."""
    used = []
    use_params = Language.use_params

    def spy(nlp: Language, params: Any) -> Any:
        used.append(bool(params))
        return use_params(nlp, params)

    monkeypatch.setattr(Language, "use_params", spy)
    threads = torch.get_num_threads()
    args = Namespace(data=folder, threads=threads, gpu_id=-1, one_dnn=False, save=None)
    job = make_job(encoder, setting)
    result = runs.run(args, SCRIPTS[name], job)
    found = {key: value for key, value in result.items() if key.startswith(("dev_", "test_"))}
    assert [*found] == [f"{part}_{score}" for part in ("dev", "test") for score in scores]
    assert all(0 <= value <= 1 for value in found.values())
    assert result.items() >= job.items() and result["words_per_second"] > 0
    assert used[-1] == (name == "average-0.99")


def test_a_single_task_reads_its_part_of_the_mixed_stream(encoder: str, folder: Path) -> None:
    """It has the same words of its own in each update as beside the other tasks."""
    seen = {}
    for name, tasks in {"uncertainty": runs.TASKS, "single-ner": ["ner"]}.items():
        job = make_job(encoder, "separate")
        config = runs.make_config(folder, SCRIPTS[name], job)
        nlp = load_model_from_config(config, auto_fill=True)
        reader = registry.resolve(nlp.config.interpolate()["corpora"])["train"]
        clock = runs.Clock(lambda items: iter([list(items)]), SCRIPTS[name].task)
        (batch,) = clock(reader(nlp))
        seen[name] = [eg.text for eg in batch if nlp.get_pipe("ner").has_labels(eg.reference)]
        assert nlp.pipe_names == ["transformer", *tasks]
        assert (len(seen[name]) == len(batch)) == (name == "single-ner")
    assert seen["single-ner"] == seen["uncertainty"] and len(seen["single-ner"]) == 4


def test_kept_heads() -> None:
    heads = {task: {} for task in ("tagger", "ner", "textcat")}
    weights = {"tagger": 1.0, "ner": 3.0}

    def keep(*tasks: str) -> Any:
        config = {
            "nlp": {},
            "components": {"transformer": {"balancer": {"weights": dict(weights)}}, **heads},
        }
        runs.keep_tasks(config, [*tasks])
        assert config["nlp"]["pipeline"] == [*config["components"]] == ["transformer", *tasks]
        return config["components"]["transformer"]["balancer"]["weights"]

    assert keep("ner", "textcat") == {"ner": 3.0}
    assert keep("ner") == {}


def test_limit(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "gum_train"
    path.with_suffix(".spacy").write_bytes((folder / "gum_train.spacy").read_bytes())
    file = runs.cut(path, 2).with_suffix(".spacy")
    docs = list(DocBin().from_disk(file).get_docs(blank("en").vocab))
    assert [doc[0].text for doc in docs] == ["Maria", "We"]


def test_grid_and_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """All seeds use the rate with the best dev score of the first seed. No run is made twice."""
    results, jobs = tmp_path / "results.jsonl", []

    def train(command: list[str], check: bool) -> None:
        job = json.loads(command[-1])
        jobs.append((job["contender"], job["seed"], job["rate"]))
        best = 0.25 if job["contender"] == "a" else 0.5
        score = {"dev_ents_f": 0.5 - abs(job["rate"] - best), "dev_cats_score": 0.5}
        score |= {"test_ents_f": 0.1 * job["seed"], "test_cats_score": job["rate"]}
        costs = {"seconds": 120.0, "words_per_second": 10.0, "peak_gb": 1.0}
        runs.append(results, job | score | costs)

    monkeypatch.setattr(runs.subprocess, "run", train)
    command = ["x", "snips", "--data", "y", "--results", str(results), "--grid", "0.25", "0.5"]
    monkeypatch.setattr(sys, "argv", [*command, "--seeds", "3", "4", "--training.dropout", "0.2"])
    for _ in range(2):
        runs.compare(None, {"a": Contender(), "b": Contender()}, "", against="a")
    tried = [(name, 3, rate) for name in "ab" for rate in (0.25, 0.5)]
    assert jobs == [*tried, ("a", 4, 0.25), ("b", 4, 0.5)]
    row = "| b | 0.5 | 2 | 50.0 ± 0.0 (+0.0) | 50.0 ± 0.0 (+0.0) | 35.0 ± 7.1 (+0.0) "
    row += "| 50.0 ± 0.0 (+25.0) | 42.5 ± 3.5 (+12.5) | 2.0 ± 0.0 | 10.0 ± 0.0 | 1.0 ± 0.0 |"
    assert capsys.readouterr().out.splitlines()[-1] == row


def test_single_tasks_are_one_row() -> None:
    results = [
        {"contender": "single-ner", "test_ents_f": 0.5, "dev_ents_f": 0.25, "rate": 0.001},
        {"contender": "single-textcat", "test_cats_score": 1.0, "dev_cats_score": 0, "rate": 0.01},
    ]
    costs = [
        {"seed": 0, "seconds": 60, "words_per_second": 20, "peak_gb": 1},
        {"seed": 0, "seconds": 120, "words_per_second": 20, "peak_gb": 3},
    ]
    found = [a | b for a, b in zip(results, costs, strict=True)]
    row = runs.table(found, ["ner", "textcat"]).splitlines()[-1]
    cells = "25.0 | 0.0 | 50.0 | 100.0 | 75.0 | 3.0 | 10.0 | 3.0"
    assert row == f"| single | 0.001, 0.01 | 1 | {cells} |"
