"""The run card."""

from pathlib import Path

import spacy
from conftest import make_gold
from spacy.tokens import DocBin

from spacy_mtl.report.card import (
    find_paths,
    get_versions,
    get_weights,
    make_card,
    read_size,
    summarize_settings,
)
from spacy_mtl.report.records import CorpusSize, Difference, Report, SettingSummary
from spacy_mtl.report.runs import Run


def test_size_of_a_corpus(tmp_path: Path) -> None:
    """A file or a folder has a size. Missing, broken and other files have none."""
    vocab = spacy.blank("en").vocab
    for name, docs in (("a", [0, 1]), ("b", [2])):
        doc_bin = DocBin(docs=[make_gold(vocab, i) for i in docs])
        doc_bin.to_disk(tmp_path / f"{name}.spacy")
    assert read_size(str(tmp_path / "a.spacy")) == CorpusSize(str(tmp_path / "a.spacy"), 2, 18)
    assert read_size(str(tmp_path)) == CorpusSize(str(tmp_path), 3, 27)
    (tmp_path / "broken.spacy").write_bytes(b"x")
    for path in ("gone.spacy", str(tmp_path / "broken.spacy")):
        assert read_size(path) == CorpusSize(path)


def test_paths_of_mixed_corpora() -> None:
    own, other = ({"@readers": "spacy.Corpus.v1", "path": path} for path in ("a", "b"))
    assert list(find_paths({"corpora": {"a": own, "b": other}, "path": None})) == ["a", "b"]
    assert list(find_paths({})) == []


def test_weights_are_those_of_the_log_or_of_the_config() -> None:
    curve = {"ner": [(0, 1.0), (10, 3.0)]}
    runs = [Run("a", {}, "", curves={"weight": curve}), Run("b", {}, "", curves={})]
    fixed = {"weights": {"ner": 2.0, "tagger": {"@schedules": "constant.v1"}}}
    assert get_weights(runs, fixed) == {"ner": 3.0}
    assert get_weights(runs[1:], fixed) == {"ner": 2.0}
    assert get_weights(runs[1:], {}) == {}


def test_a_setting_without_an_encoder() -> None:
    setup = {"nlp": {"pipeline": []}, "components": {}, "corpora": {}, "training": {}}
    (setting,) = summarize_settings({"x": [Run("x", {}, "", seed=3, setup=setup)]})
    assert setting == SettingSummary("x", [], [3])


def test_entries_that_settings_share_are_told_once() -> None:
    train = [CorpusSize("train.spacy", 1200, 34567), CorpusSize("gone.spacy")]
    settings = [
        SettingSummary("m", ["a", "b"], [0, 1], "minilm", "Static", {"a": 1.0, "b": 0.25}, train),
        SettingSummary("a", ["a"], [0], "large", None, {}, train),
    ]
    versions = {"spacy-mtl": "0.1.0", "spaCy": "3.8"}
    card = make_card(Report([], date="2026-11-30 21:05 UTC", versions=versions, settings=settings))
    assert card == {
        "Date": ["2026-11-30 21:05 UTC"],
        "Trained on": ["train.spacy, 1,200 docs, 34,567 words; gone.spacy (size unknown)"],
        "Dev data": ["unknown"],
        "Encoder": ["m: minilm", "a: large"],
        "Settings": ["m: a, b (seeds 0, 1)", "a (seed 0)"],
        "Weights at the end": ["m: a 1, b 0.25 (Static)"],
        "Settings differ in": ["nothing besides tasks, balancers and seeds"],
        "Versions": ["spacy-mtl 0.1.0, spaCy 3.8"],
    }
    report = Report([], settings=settings, differences=[Difference("updates", {})])
    assert make_card(report)["Settings differ in"] == ["updates"]
    assert make_card(Report([])) == {}


def test_versions_are_those_of_the_packages() -> None:
    assert get_versions()["spaCy"] == spacy.__version__
