"""Test the checks of corpora: paths, labels, and docs that are in both train and dev."""

from collections import Counter

import pytest
import spacy
from spacy.training import Example
from thinc.api import Config

from spacy_mtl.annotations.tokens import Tags
from spacy_mtl.checks.corpora import (
    check_corpora,
    check_evaluations,
    check_paths,
    get_overlap,
)
from spacy_mtl.checks.finding import Finding
from spacy_mtl.corpora.counts import Counts, TaskCounts
from spacy_mtl.corpora.inventory import Corpus, count_corpora


def codes(findings: list[Finding]) -> list[str]:
    """Return the code of each message."""
    return [finding.message[1:5] for finding in findings]


def read(path: str | None) -> dict:
    """Return the section of a corpus that is one file."""
    return {"@readers": "spacy.Corpus.v1", "path": path, "gold_preproc": False}


def mix(corpora: dict[str, dict]) -> dict:
    """Return the section of a mixed corpus."""
    return {"@readers": "spacy-mtl.MixedCorpus.v1", "corpora": corpora}


def make_corpus(*texts: str, claimed: tuple[str, ...] = ()) -> Corpus:
    """Make a corpus of unlabelled texts.

    claimed (Tuple[str, ...]): The tasks that the config says it has labels for.
    """
    nlp = spacy.blank("en")
    docs = [nlp.make_doc(text) for text in texts]
    return Corpus([Example(doc.copy(), doc) for doc in docs], claimed)


def test_empty_docs_missing_labels_and_overlap_are_found():
    train = {"a": make_corpus("one", "", "two"), "b": make_corpus(claimed=("tagger",))}
    dev = {"dev": make_corpus("two", "three", "four", "one")}
    counts = count_corpora(train, {"tagger": Tags(), "other": None})
    assert counts["a"] == Counts(3, 2, {"tagger": TaskCounts(0, Counter(), 3)})
    findings = check_corpora(train, dev, counts)
    assert codes(findings) == ["W227", "M222", "W229", "W228"]
    assert findings[0].message.startswith("[W227] Docs of 'a'")
    assert "50.0%" in findings[3].message
    assert get_overlap(dev, train) == pytest.approx(2 / 3)
    assert get_overlap(train, {"dev": make_corpus()}) == 0.0


@pytest.mark.parametrize(
    ("section", "path", "block", "option"),
    [
        ("train", "${paths.train}", "corpora.train", "--paths.train"),
        ("train", "no/such.spacy", "corpora.train", "--corpora.train.path"),
        ("train", None, "corpora.train", "--corpora.train.path"),
        ("dev", "${paths.train}", "corpora.dev", "--paths.train"),
        ("mixed", "${paths.train}", "corpora.train.corpora.a", "--paths.train"),
        ("mixed", "x/${paths.dev}", "corpora.train.corpora.a", "--corpora.train.corpora.a.path"),
    ],
)
def test_a_missing_path_names_its_section_and_its_option(tmp_path, section, path, block, option):
    good = {"train": read(str(tmp_path)), "dev": read(str(tmp_path))}
    bad = mix({"a": read(path), "b": read(str(tmp_path))})
    given = {"train": bad} if section == "mixed" else {section: read(path)}
    paths = {"train": "missing.spacy", "dev": str(tmp_path)}
    config = Config({"paths": paths, "corpora": {**good, **given}})
    (finding,) = check_paths(config, ["corpora.train", "corpora.dev"])
    assert finding.is_failure
    assert finding.message.startswith(f"[M220] [{block}] has path = ")
    assert f": {option} FILE" in finding.message


def test_a_path_is_found_in_a_section_that_is_a_variable():
    text = '[corpora]\ndev = ${corpora.train}\n\n[corpora.train]\n@readers = "x"\npath = "missing"'
    config = Config().from_str(text, interpolate=False)
    (finding,) = check_paths(config, ["corpora.dev"])
    assert finding.message.startswith("[M220] [corpora.dev] has path = missing")
    assert "--corpora.dev.path" in finding.message


@pytest.mark.parametrize(
    ("max_steps", "every", "last"),
    [(250, 190, 190), (10, 200, 0), (950, 190, None), (0, 200, None)],
)
def test_updates_after_the_last_evaluation_are_reported(max_steps, every, last):
    findings = check_evaluations(max_steps, every)
    assert codes(findings) == ([] if last is None else ["W231"])
    assert all(f"at step {last}," in f.message and not f.is_failure for f in findings)
