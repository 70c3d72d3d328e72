"""The content of reports."""

from dataclasses import asdict, replace

import numpy
import pytest

from spacy_mtl.annotations import Comparison, Item
from spacy_mtl.report.content import (
    Side,
    compare,
    compare_task,
    list_calibration,
    list_confusions,
    list_errors,
    list_labels,
    make_report,
)
from spacy_mtl.report.evaluation import Evaluation, TaskAnswers
from spacy_mtl.report.records import Confusion, LabelScore, Mark, TaskCalibration
from spacy_mtl.report.runs import Run
from spacy_mtl.training.calibration import Bin

LABELS = ["a", "b"]


def make_run(*tasks: str) -> Run:
    components = {task: {"factory": f"mtl_{task}"} for task in tasks}
    training = {"train_corpus": "corpora.train", "dev_corpus": "corpora.dev"}
    setup = {"corpora": {}, "training": training, "components": components}
    setup["nlp"] = {"pipeline": list(tasks)}
    return Run("", {}, "", steps=200, tasks=list(tasks), setup=setup)


def make_answers(*tags: str, gold: str = "aab", measure: str = "tag_acc") -> TaskAnswers:
    """Make the answers for docs of three tokens. The first doc has no gold labels."""
    right, *found = ({Item(i, i + 1, t) for i, t in enumerate(doc)} for doc in (gold, *tags))
    docs = [Comparison(right, doc) for doc in found]
    return TaskAnswers(measure, measure == "cats_macro_f", [*LABELS], [None, *docs])


def make_evaluation(**tasks: TaskAnswers) -> Evaluation:
    n_docs = max(len(answers.docs) for answers in tasks.values())
    return Evaluation({}, tasks, [["one ", "two ", "three"]] * n_docs)


def test_compare_task():
    """Alone, the two seeds have 2 and 4 of 6 tags right; together 6 and 4."""
    alone = [make_answers("bba", "aaa"), make_answers("aaa", "aaa")]
    together = [make_answers("aab", "aab"), make_answers("aba", "aab")]
    assert asdict(compare_task("t", Side("s", alone), Side("m", together))) == {
        **{"task": "t", "single": "s", "multi": "m", "differences": []},
        "measure": "tag_acc",
        "single_mean": pytest.approx((2 / 6 + 4 / 6) / 2),
        "single_sd": pytest.approx((2 * (1 / 6) ** 2) ** 0.5),
        "multi_mean": pytest.approx((1 + 4 / 6) / 2),
        "multi_sd": pytest.approx((2 * (1 / 6) ** 2) ** 0.5),
        "difference": pytest.approx(1 / 3),
        "p": 0.5,  # each doc is better together: none or both exchanged
        "seeds": 2,
        "docs": 2,
    }


def test_compare_categories():
    """The mean of the labels' F: 1/2 and 0 alone, 1 together."""
    alone = make_answers("aba", measure="cats_macro_f")
    together = make_answers("aab", measure="cats_macro_f")
    record = compare_task("t", Side("s", [alone]), Side("m", [together]))
    assert (record.single_mean, record.multi_mean) == (0.25, 1.0)
    assert (record.single_sd, record.multi_sd, record.p) == (None, None, 1.0)


def test_surplus_seeds_do_not_count():
    alone = [make_answers("aab")]
    together = [make_answers("aaa"), make_answers("bbb"), make_answers("bbb")]
    record = compare_task("t", Side("s", alone), Side("m", together))
    assert (record.seeds, record.multi_sd) == (1, None)
    assert record.difference == pytest.approx(-1 / 3)


def test_transfer():
    good, bad = make_answers("aab"), make_answers("aaa")
    found = {
        "both": [make_evaluation(tagger=good, ner=good)],
        "tagger": [make_evaluation(tagger=bad)],
        "others": [make_evaluation(tagger=bad, other=good)],
    }
    runs = {name: [make_run("tagger", "ner")] for name in found}
    records = compare({"tagger": "tagger"}, found, runs)
    assert [(r.task, r.single, r.multi) for r in records] == [
        ("tagger", "tagger", "both"),
        ("tagger", "tagger", "others"),
    ]
    assert [r.difference for r in records] == [pytest.approx(1 / 3), 0.0]
    assert [(r.p, r.differences) for r in records] == [(1.0, []), (1.0, [])]
    runs["both"][0].steps = 30
    assert [(r.p, r.differences) for r in compare({"tagger": "tagger"}, found, runs)] == [
        (None, ["updates"]),
        (1.0, []),
    ]


def test_task_without_labels_is_not_compared():
    empty = TaskAnswers("tag_acc", False, [], [None, None])
    found = {"a": [make_evaluation(tagger=empty)], "b": [make_evaluation(tagger=empty, ner=empty)]}
    assert compare({"tagger": "a"}, found, {}) == []


def test_label_scores_are_means_over_seeds():
    """Of label a, 2 and 2 of 2 are right; of label b, 1 and 0 of 1."""
    runs = [make_evaluation(tagger=make_answers(tags)) for tags in ("aab", "aac")]
    runs[1].tasks["tagger"].labels.append("c")
    assert list_labels({"x": runs}) == [
        LabelScore("tagger", "x", "a", p=1.0, r=1.0, f=1.0, support=2.0),
        LabelScore("tagger", "x", "b", p=1.0, r=0.5, f=pytest.approx(2 / 3), support=1.0),
        LabelScore("tagger", "x", "c", p=0.0, r=None, f=0.0, support=0.0),
    ]


def test_confusions_are_counted_over_seeds():
    runs = [make_evaluation(tagger=make_answers(tags)) for tags in ("aaa", "aaa", "baa")]
    assert list_confusions({"x": runs}) == [
        Confusion("tagger", "x", "a", "a", 5),
        Confusion("tagger", "x", "b", "a", 3),
        Confusion("tagger", "x", "a", "b", 1),
    ]


def test_errors_come_from_the_first_run_with_the_task():
    found = {
        "x": [make_evaluation(a=make_answers("aaa")), make_evaluation(a=make_answers("bbb"))],
        "y": [make_evaluation(a=make_answers("bbb"), b=make_answers("aaa", "abb"))],
    }
    records = list_errors(found)
    assert [(r.task, r.setting, r.doc) for r in records] == [
        ("a", "x", 1),
        ("b", "y", 1),
        ("b", "y", 2),
    ]
    assert (records[0].gold, records[0].predicted) == ([Mark(8, 13, "b")], [Mark(8, 13, "a")])


def test_calibration():
    """Errors are means over seeds, bins cover all seeds; stock heads have no confidences."""
    answers = [make_answers("aab"), make_answers("aab")]
    answers[0].confidences = numpy.array([0.5, 1.0], "f"), numpy.array([True, True])
    answers[1].confidences = numpy.array([0.5, 1.0], "f"), numpy.array([False, True])
    stock = make_answers("aab")
    found = {"x": [Evaluation({}, {"t": a, "stock": stock}, []) for a in answers]}
    assert list_calibration(found) == [
        TaskCalibration(
            task="t",
            setting="x",
            ece_mean=0.25,
            ece_sd=0.0,
            confidence=0.75,
            accuracy=0.75,
            predictions=4,
            bins=[Bin(4, 0.75, 0.75)],
        )
    ]
    for a in answers:
        a.confidences = numpy.zeros(0, "f"), numpy.zeros(0, bool)
    assert list_calibration(found) == []


def test_report_of_a_score_file():
    scores = {"tag_acc": 0.5, "ents_f": None, "cats_score_desc": "macro F", "token_acc": 1.0}
    report = make_report([Run("a", scores, "a.json")])
    assert asdict(replace(report, versions={})) == {
        "runs": [
            {
                "name": "a",
                "setting": None,
                "tasks": [],
                "seed": None,
                "source": "a.json",
                "scores": {"tag_acc": 0.5, "cats_score_desc": "macro F"},
                "steps": None,
                "curves": {},
            }
        ],
        **{"data": None, "corpus": None, "date": "", "versions": {}, "settings": []},
        "differences": [],
        **{"transfer": [], "labels": [], "calibration": [], "confusions": [], "errors": []},
    }


def test_data_without_pipelines_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"M233.*dev.spacy"):
        make_report([Run("a", {"tag_acc": 0.5}, "a.json")], tmp_path / "dev.spacy")
