"""The morphologizer, beside what tests/heads/test_contract.py checks of all heads."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import srsly
import torch
import torch.nn.functional as F
from conftest import MORPHS, POS, make_examples, make_gold
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.pipeline.morphologizer import Morphologizer
from spacy.tokens import Doc
from spacy.training import Example

from spacy_mtl.corpora.mixed import create_mixed_corpus_v1
from spacy_mtl.training.calibration import calibrate

Make = Callable[..., Language]
NAME = "morphologizer"
UNIT_LOSS = {"@misc": "spacy-mtl.UnitLoss.v1"}


@pytest.fixture(scope="module")
def nlp(make_nlp: Make) -> Language:
    """For tests that do not train."""
    return make_nlp(NAME)


def get_head(nlp: Language) -> Any:
    return nlp.get_pipe(NAME)


def make_example(
    nlp: Language,
    pos: Sequence[str],
    morphs: Sequence[str | None],
    words: Sequence[str] | None = None,
) -> Example:
    """RETURNS: An example of t0, t1, ... or the given words. The features None are missing."""
    gold = Doc(nlp.vocab, words=[f"t{i}" for i in range(len(pos))], pos=list(pos))
    for token, morph in zip(gold, morphs, strict=True):
        token.set_morph(morph)
    return Example(Doc(nlp.vocab, words=list(words or [t.text for t in gold])), gold)


def make_scores(n: int, nlp: Language) -> numpy.ndarray:
    random = numpy.random.default_rng(0)
    return random.normal(size=(n, len(get_head(nlp).get_outputs()))).astype("f")


# Labels


def test_labels(nlp: Language) -> None:
    head = get_head(nlp)
    assert isinstance(head, Morphologizer)
    features = {f for morphs in MORPHS for morph in morphs for f in morph.split("|") if f}
    pos = {f"POS={pos}" for tags in POS for pos in tags}
    assert head.labels == tuple(sorted(features | pos | {"_"}))
    outputs = head.get_outputs()
    assert outputs[: len(pos)] == sorted(label.replace("=", "/") for label in pos)
    assert outputs[len(pos) :] == [
        *("Number/_", "Number/Plur", "Number/Sing", "Person/_", "Person/1"),
        *("Tense/_", "Tense/Past", "Tense/Pres"),
    ]


def test_bias_gives_the_shares_of_values(nlp: Language) -> None:
    head = get_head(nlp)
    n = sum(map(len, POS))
    counts = head.counts
    n_past = sum("Tense=Past" in morph for morphs in MORPHS for morph in morphs)
    assert counts["Tense/Past"] == [n_past, n - n_past]
    bias = head.model.get_ref("output_layer").get_param("b")
    group = head.attributes.groups["Tense"]
    p = numpy.exp(bias[group]) / numpy.exp(bias[group]).sum()
    assert p[1] == pytest.approx((n_past + 1) / (n + 3))


def test_add_label(make_nlp: Make) -> None:
    head = get_head(make_nlp(NAME, initialize=False))
    assert head.add_label("POS=NOUN|Gender=Masc,Fem") == 1
    assert head.add_label("Gender=Fem,Masc") == 0
    assert head.add_label("_") == 1
    assert head.labels == ("POS=NOUN", "Gender=Fem,Masc", "_")
    with pytest.raises(ValueError, match=r"\[E187\]"):
        head.add_label(3)
    for label in ("NOUN", "POS=N", "Case=", ""):
        with pytest.raises(ValueError, match=rf"\[M093\] 'morphologizer'.*'.*{label}'"):
            head.add_label(label)


def test_labels_from_initialize(make_nlp: Make) -> None:
    nlp = make_nlp(NAME, initialize=False)
    nlp.config["initialize"]["components"][NAME] = {"labels": ["Tense=Past", "POS=VERB|_"]}
    nlp.initialize(lambda: make_examples(nlp))
    assert get_head(nlp).get_outputs() == ["POS/VERB", "Tense/_", "Tense/Past"]
    again = make_nlp(NAME, initialize=False)
    again.config["initialize"]["components"][NAME] = {"labels": get_head(nlp).label_data}
    again.initialize(lambda: make_examples(again))
    assert again.get_pipe(NAME).label_data == get_head(nlp).label_data  # type: ignore[attr-defined]
    assert nlp.update(make_examples(nlp), losses={})[NAME] > 0


def test_nothing_to_learn(make_nlp: Make) -> None:
    nlp = make_nlp(NAME, initialize=False)
    with pytest.raises(ValueError, match=r"\[E143\]"):
        nlp.initialize(lambda: [make_example(nlp, ["", ""], ["", ""])])


def test_new_features_for_a_loaded_head(make_nlp: Make, tmp_path: Path) -> None:
    make_nlp(NAME).to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    nlp.update(make_examples(nlp), sgd=False)  # type: ignore[arg-type]
    example = make_example(nlp, ["ADJ", "INTJ"], ["Case=Voc", "_"])
    with pytest.raises(ValueError, match=r"M071.*\['Case=Voc', 'POS=INTJ'\]"):
        nlp.update([example], sgd=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [["NOUN"], ["Case=Nom", ""], "POS=X", [1]])
def test_corrupt_labels(make_nlp: Make, tmp_path: Path, labels: Any) -> None:
    make_nlp(NAME).to_disk(tmp_path)
    cfg = srsly.read_json(tmp_path / NAME / "cfg")
    srsly.write_json(tmp_path / NAME / "cfg", {**cfg, "labels": labels})
    with pytest.raises(ValueError, match=r"\[M007\].*'morphologizer'"):
        spacy.load(tmp_path)


# Loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_joint_likelihood_per_token(make_nlp: Make, smoothing: float) -> None:
    """Against torch. Tokens without features, part of speech or both add nothing for these."""
    nlp = make_nlp(NAME, config={NAME: {"label_smoothing": smoothing}})
    pos = ["NOUN", "", "VERB", "", "PRON"]
    morphs = ["Number=Sing", "Tense=Past", None, None, "Number=Plur|Person=1"]
    example, scores = make_example(nlp, pos, morphs), make_scores(5, nlp)
    outputs, groups = get_head(nlp).attributes.outputs, get_head(nlp).attributes.groups
    leaf = torch.tensor(scores, requires_grad=True)
    expected = torch.zeros(())
    for i, (tag, morph) in enumerate(zip(pos, morphs, strict=True)):
        gold = {"POS": f"POS={tag}" if tag else None}
        features = {f.split("=")[0]: f for f in (morph or "").split("|") if f}
        for field in ("Number", "Person", "Tense"):
            gold[field] = None if morph is None else features.get(field, f"{field}=_")
        for field, name in gold.items():
            if name is not None:
                own = leaf[i : i + 1, groups[field]]
                target = torch.tensor([outputs[groups[field]].index(name)])
                expected = expected + F.cross_entropy(own, target, label_smoothing=smoothing) / 4
    expected.backward()
    loss, gradient, n = get_head(nlp).loss([example], scores)
    assert (loss, n) == (pytest.approx(expected.item(), rel=1e-5), 4)
    assert leaf.grad is not None
    numpy.testing.assert_allclose(gradient, leaf.grad, atol=1e-6)
    assert not gradient[3].any() and not gradient[2, groups["POS"].stop :].any()


def test_docs_with_one_part(make_nlp: Make) -> None:
    """A doc without features teaches nothing about features."""
    nlp = make_nlp(NAME)
    examples = [make_example(nlp, ["NOUN"] * 3, [None] * 3)]
    nlp.update(examples, sgd=False, losses={})  # type: ignore[arg-type]
    head = get_head(nlp)
    gradient = head.model.get_ref("output_layer").get_grad("b")
    n_pos = head.attributes.groups["POS"].stop
    assert gradient[:n_pos].any() and not gradient[n_pos:].any()


def test_empty_features_are_not_missing(nlp: Language) -> None:
    head, scores = get_head(nlp), make_scores(1, nlp)
    missing = head.loss([make_example(nlp, ["NOUN"], [None])], scores)
    empty = head.loss([make_example(nlp, ["NOUN"], [""])], scores)
    assert empty[0] > missing[0] > 0


@given(st.lists(st.sampled_from(["", "NOUN", "SYM"]), min_size=1, max_size=5), st.data())
def test_any_partial_gold(nlp: Language, pos: list[str], data: Any) -> None:
    """The loss is finite, and counts the tokens with a known value."""
    kinds = [None, "", "Number=Sing", "Case=Voc", "Number=Dual", "Number=Plur|Tense=Past"]
    morphs = [data.draw(st.sampled_from(kinds)) for _ in pos]
    loss, gradient, n = get_head(nlp).loss(
        [make_example(nlp, pos, morphs)], make_scores(len(pos), nlp)
    )
    known = [p == "NOUN" or m is not None for p, m in zip(pos, morphs, strict=True)]
    assert n == sum(known) and (loss > 0) == (n > 0)
    assert gradient.any(axis=1).tolist() == known


def test_class_weights(make_nlp: Make) -> None:
    """Balanced weights give all values of an attribute the same total."""
    nlp = make_nlp(NAME, config={NAME: {"loss": {**UNIT_LOSS, "class_weights": "balanced"}}})
    head = get_head(nlp)
    weights, counts = head.cfg["class_weights"], head.counts
    for field, group in head.attributes.groups.items():
        totals = [weights[name] * counts[name][0] for name in head.get_outputs()[group]]
        assert totals == pytest.approx([sum(map(len, POS)) / len(totals)] * len(totals)), field
    assert nlp.update(make_examples(nlp), losses={})[NAME] > 0


def test_class_weights_of_a_config(make_nlp: Make, tmp_path: Path) -> None:
    def make(**weights: float) -> Language:
        return make_nlp(NAME, config={NAME: {"loss": {**UNIT_LOSS, "class_weights": weights}}})

    nlp = make(**{"Tense/Past": 2.0, "Number/_": 0.5})
    nlp.to_disk(tmp_path)
    assert spacy.load(tmp_path).config == nlp.config
    with pytest.raises(ValueError, match=r"\[M038\].*'Number'"):
        make(Number=2.0)


# Calibration


def test_confidences(nlp: Language) -> None:
    head, scores = get_head(nlp), make_scores(3, nlp)
    attributes = head.attributes
    best = [scores[:, group].argmax(axis=1) for group in attributes.groups.values()]
    names = [attributes.outputs[g][i] for g, (i, *_) in zip(attributes.groups.values(), best)]  # noqa: B905
    morph = "|".join(name for name in names[1:] if not name.endswith("=_"))
    example = make_example(nlp, [names[0][4:], "SYM", "NOUN"], [morph, None, None])
    p, is_right = head.get_confidences([example], scores, 2.0)
    parts = [
        torch.tensor(scores[:, g] / 2).softmax(1).max(1)[0] for g in attributes.groups.values()
    ]
    assert p[0] == pytest.approx(float(numpy.prod([part[0] for part in parts])), rel=1e-5)
    assert p[1] == pytest.approx(float(parts[0][2]), rel=1e-5)  # features are missing
    assert is_right.tolist() == [True, names[0] != "" and best[0][2] == 3]


def test_likelihood_of_a_temperature(nlp: Language) -> None:
    head, scores = get_head(nlp), make_scores(8, nlp)
    example = make_examples(nlp)[0]
    nll = head.make_nll([example], scores)
    for temperature in (0.5, 2.0):
        loss, slope, n = nll(temperature)
        assert (loss, n) == (pytest.approx(head.loss([example], scores / temperature)[0]), 8)
        inverse, step = 1 / temperature, 1e-3
        around = [nll(1 / (inverse + sign * step))[0] for sign in (1, -1)]
        assert slope == pytest.approx((around[0] - around[1]) / (2 * step), rel=1e-2)


def test_calibrate(make_nlp: Make) -> None:
    nlp = make_nlp(NAME)
    found = calibrate(nlp, make_examples(nlp))[NAME]
    assert found.units == sum(map(len, POS))
    assert get_head(nlp).temperature > 0


# Annotation


def choose(nlp: Language, *tokens: str) -> numpy.ndarray:
    """RETURNS (Ints2d): The prediction of tokens such as "POS=NOUN|Number=Sing"."""
    groups, outputs = get_head(nlp).attributes.groups, get_head(nlp).attributes.outputs
    choices = numpy.zeros((len(tokens), len(groups)), dtype="int64")
    for row, token in zip(choices, tokens, strict=True):
        for part in token.split("|"):
            field = part.split("=")[0]
            row[[*groups].index(field)] = outputs[groups[field]].index(part)
    return choices


def read(doc: Doc) -> list[tuple[str, str]]:
    return [(token.pos_, str(token.morph)) for token in doc]


def test_a_set_of_features_that_no_token_had(nlp: Language) -> None:
    doc = Doc(nlp.vocab, words=["a", "b"])
    tokens = "POS=ADP|Number=Plur|Person=1|Tense=Past", "POS=PUNCT"
    get_head(nlp).set_annotations([doc], [choose(nlp, *tokens)])
    assert read(doc) == [("ADP", "Number=Plur|Person=1|Tense=Past"), ("PUNCT", "")]
    assert doc[0].morph.get("Tense") == ["Past"]
    assert doc.has_annotation("MORPH", require_complete=True)
    stored = Doc(nlp.vocab).from_bytes(doc.to_bytes())
    assert read(stored) == read(doc)


@pytest.mark.parametrize(
    ("overwrite", "extend", "expected"),
    [
        (True, False, ["NOUN Number=Sing", "NOUN Number=Sing", "NOUN Number=Sing"]),
        (False, False, ["VERB Case=Voc|Number=Plur", "NOUN Number=Sing", "VERB "]),
        (True, True, ["NOUN Case=Voc|Number=Sing", "NOUN Number=Sing", "NOUN Number=Sing"]),
        (False, True, ["VERB Case=Voc|Number=Plur", "NOUN Number=Sing", "VERB Number=Sing"]),
    ],
)
def test_what_docs_have_already(
    make_nlp: Make, overwrite: bool, extend: bool, expected: list[str]
) -> None:
    """As spaCy's morphologizer does."""
    nlp = make_nlp(NAME, config={NAME: {"overwrite": overwrite, "extend": extend}})
    stock = nlp.create_pipe("morphologizer", config={"overwrite": overwrite, "extend": extend})
    stock.add_label("Number=Sing|POS=NOUN")  # type: ignore[attr-defined]
    results = []
    for pipe, prediction in [
        (get_head(nlp), choose(nlp, *["POS=NOUN|Number=Sing"] * 3)),
        (stock, numpy.zeros(3, dtype="i")),
    ]:
        given = make_example(nlp, ["VERB", "", "VERB"], ["Case=Voc|Number=Plur", None, ""])
        pipe.set_annotations([given.reference], [prediction])
        results.append([f"{pos} {morph}" for pos, morph in read(given.reference)])
    assert results == [expected, expected]


@pytest.mark.parametrize("extend", [False, True])
def test_a_head_for_one_part_writes_one_part(make_nlp: Make, extend: bool) -> None:
    nlp = make_nlp(NAME, initialize=False, config={NAME: {"extend": extend}})
    nlp.initialize(lambda: [make_example(nlp, ["NOUN", "VERB"], [None, None])])
    doc = make_example(nlp, ["ADJ", "ADJ"], ["Case=Voc", None]).reference
    nlp(doc)
    assert {token.pos_ for token in doc} <= {"NOUN", "VERB"}
    assert [(str(token.morph), token.has_morph()) for token in doc] == [
        ("Case=Voc", True),
        ("", False),
    ]
    nlp = make_nlp(NAME, initialize=False)
    nlp.initialize(lambda: [make_example(nlp, ["", ""], ["Case=Nom", "_"])])
    doc = make_example(nlp, ["ADJ", ""], [None, None]).reference
    nlp(doc)
    assert [token.pos_ for token in doc] == ["ADJ", ""]
    assert doc.has_annotation("MORPH", require_complete=True)


def test_docs_without_tokens(nlp: Language) -> None:
    docs = [
        Doc(nlp.vocab),
        make_gold(nlp.vocab, 0, ()),
        Doc(nlp.vocab),
        nlp.make_doc("a"),
        Doc(nlp.vocab),
    ]
    assert [len(doc) for doc in nlp.pipe(docs)] == [0, 8, 0, 1, 0]
    assert docs[1].has_annotation("MORPH", require_complete=True)
    empty = get_head(nlp).predict([Doc(nlp.vocab)] * 2)
    assert [prediction.shape for prediction in empty] == [(0, 4)] * 2
    assert nlp.update([Example(Doc(nlp.vocab), Doc(nlp.vocab))], losses={})[NAME] == 0.0


# Corpora and scores


def test_scores(make_nlp: Make) -> None:
    nlp = make_nlp(NAME)
    scores = nlp.evaluate(make_examples(nlp))
    assert {"pos_acc", "morph_acc", "morph_per_feat", "morph_micro_f"} <= scores.keys()
    assert set(scores["morph_per_feat"]) >= {"Number", "Person", "Tense"}


def test_mixed_corpora_keep_both_parts(make_nlp: Make) -> None:
    nlp = make_nlp(NAME, "tagger")
    readers = {name: lambda nlp: make_examples(nlp, NAME, "tagger") for name in "ab"}
    reader = create_mixed_corpus_v1(readers, {"a": [NAME], "b": ["tagger"]})
    found = [
        [eg.reference.has_annotation(attr) for attr in ("POS", "MORPH", "TAG")]
        for eg in reader(nlp)
    ]
    assert sorted(found) == [[False, False, True]] * 4 + [[True, True, False]] * 4
