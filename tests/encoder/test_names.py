"""The encoder's state per head follows renamed heads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spacy
from conftest import make_examples
from spacy.language import Language
from thinc.api import Adam

LEARNED = {"@misc": "spacy-mtl.UncertaintyWeights.v1", "learn_rate": 0.5}


@pytest.fixture
def nlp(make_nlp: Callable[..., Language]) -> Language:
    nlp = make_nlp("tagger", "ner", balancer=LEARNED)
    nlp.update(make_examples(nlp), sgd=Adam(0.001))
    get_state(nlp)  # this closes an open pass
    return nlp


def get_state(nlp: Language) -> dict[str, float]:
    encoder: Any = nlp.get_pipe("transformer")
    encoder.flush()
    return encoder.balancer.state_dict()["log_variances"]


def read_saved(nlp: Language, folder: Path) -> dict[str, float]:
    nlp.to_disk(folder)
    text = (folder / "transformer" / "balancer.json").read_text(encoding="utf8")
    return json.loads(text)["log_variances"]


def test_a_renamed_head_keeps_its_state(nlp: Language, tmp_path: Path) -> None:
    before = get_state(nlp)
    assert before["ner"] != 0
    nlp.rename_pipe("ner", "entities")
    expected = {"tagger": before["tagger"], "entities": before["ner"]}
    assert read_saved(nlp, tmp_path / "a") == expected  # at once, and after further training
    loaded = spacy.load(tmp_path / "a")
    assert get_state(loaded) == expected
    loaded.rename_pipe("entities", "names")
    loaded.update(make_examples(loaded), sgd=False)  # type: ignore[arg-type]
    assert get_state(loaded) == {"tagger": before["tagger"], "names": before["ner"]}
    encoder: Any = loaded.get_pipe("transformer")
    assert set(encoder.diagnostics.take()) == {"tagger", "names"}


def test_heads_that_swap_names(nlp: Language, tmp_path: Path) -> None:
    before = get_state(nlp)
    for old, new in (("ner", "x"), ("tagger", "ner"), ("x", "tagger")):
        nlp.rename_pipe(old, new)
    assert read_saved(nlp, tmp_path) == {"tagger": before["ner"], "ner": before["tagger"]}


def test_the_state_of_a_removed_head_is_deleted(nlp: Language, tmp_path: Path) -> None:
    nlp.remove_pipe("ner")
    assert set(read_saved(nlp, tmp_path)) == {"tagger"}


def test_a_new_head_with_an_old_name_has_new_state(nlp: Language, tmp_path: Path) -> None:
    nlp.remove_pipe("ner")
    nlp.add_pipe("mtl_ner", name="ner")
    assert "ner" not in read_saved(nlp, tmp_path)


def test_a_disabled_head_keeps_its_state(nlp: Language, tmp_path: Path) -> None:
    before = get_state(nlp)
    with nlp.select_pipes(disable=["ner"]):
        nlp.update(make_examples(nlp), sgd=False)  # type: ignore[arg-type]
        assert read_saved(nlp, tmp_path) == before


def test_statistics_follow(nlp: Language) -> None:
    diagnostics = nlp.get_pipe("transformer").diagnostics  # type: ignore[attr-defined]
    sums, diagnostics.cosines = dict(diagnostics.sums), {"ner|tagger": [0.5], "gone|ner": [1.0]}
    diagnostics.streaks, diagnostics.warned = {"ner": 3, "tagger": 0}, {"ner", "gone"}
    diagnostics.rename({"ner": "z", "tagger": "tagger"})
    assert diagnostics.sums == {"z": sums["ner"], "tagger": sums["tagger"]}
    assert diagnostics.streaks == {"z": 3, "tagger": 0} and diagnostics.warned == {"z"}
    assert diagnostics.cosines == {"tagger|z": [0.5]}


def test_before_initialize(make_nlp: Callable[..., Language]) -> None:
    """Every method raises spaCy's error."""
    nlp = make_nlp("tagger", "ner", initialize=False)
    for call in (
        lambda: nlp("a b"),
        lambda: list(nlp.pipe(["a b"])),
        lambda: nlp.update(make_examples(nlp)),
        lambda: nlp.evaluate(make_examples(nlp)),
    ):
        with pytest.raises(ValueError, match=r"E109.*'transformer'"):
            call()
    for name in ("tagger", "ner"):
        head: Any = nlp.get_pipe(name)
        for call in (
            lambda head=head: head(nlp.make_doc("a b")),
            lambda head=head: head.update(make_examples(nlp)),
        ):
            with pytest.raises(ValueError, match=f"E109.*'{name}'"):
                call()


def test_a_head_that_is_not_initialized(nlp: Language) -> None:
    nlp.add_pipe("mtl_textcat", name="textcat")
    with pytest.raises(ValueError, match=r"E109.*'textcat'"):
        list(nlp.pipe(["a b"]))
