import re
from typing import Any

import numpy
import pytest
import spacy
from conftest import make_examples, make_gold
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.lang.en import English
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import Adam, Linear, Model

from spacy_mtl.heads.ner.crf import FORBIDDEN, viterbi
from spacy_mtl.heads.ner.pipe import MultiTaskNER, make_mtl_ner
from spacy_mtl.heads.ner.tagging import get_chain, get_spans, get_tags

VALID = {
    "bio": r"(O |B-(\w+) (I-\2 )*)*",
    "biluo": r"(O |U-\w+ |B-(\w+) (I-\2 )*L-\2 )*",
}
SCHEMES = sorted(VALID)


def make_ner(
    scores: Any = None, scheme: str = "biluo", crf: bool = True, **cfg: Any
) -> MultiTaskNER:
    """A recognizer of X and Y whose model returns these scores, and zeros for the transitions."""

    def forward(model: Model, docs: list[Doc], is_train: bool) -> Any:
        return (scores, numpy.zeros((scores.shape[1],) * 2, dtype="f")), lambda d_scores: []

    output = Linear(1, 1)
    model: Model = Model("fixed", forward, layers=[output], attrs={"crf": crf})
    model.set_ref("output_layer", output)
    ner = MultiTaskNER(English().vocab, model, scheme=scheme, **cfg)  # type: ignore[arg-type]
    ner.add_label("X")
    ner.add_label("Y")
    output.initialize()
    return ner


def make_doc(ner: MultiTaskNER, text: str = "a b c d", tags: str = "") -> Doc:
    """A doc of the tokens in a text, with BILUO tags, "-" for a missing one."""
    doc = Doc(ner.vocab, words=text.split(" "))
    names = tags.split() or ["-"] * len(doc)
    doc.set_ents(
        [Span(doc, *span) for span in get_spans(["O" if tag == "-" else tag for tag in names])],
        missing=[doc[i : i + 1] for i, tag in enumerate(names) if tag == "-"],
    )
    return doc


def get_gold(ner: MultiTaskNER, predicted: Doc, reference: Doc) -> list[str]:
    """RETURNS (List[str]): What the gradient pulls each token to, "-" if it has none."""
    scores = numpy.zeros((len(predicted), len(ner.tags)), dtype="f")
    moves = numpy.zeros((len(ner.tags),) * 2, dtype="f")
    _, (gradient, _) = ner.get_loss([Example(predicted, reference)], (scores, moves))
    return [ner.tags[row.argmin()] if row.any() else "-" for row in gradient]


def as_tuples(spans: Any) -> list[tuple[int, int, str]]:
    return [(span.start, span.end, span.label_) for span in spans]


def test_tags():
    assert get_tags(["X", "a-b"], "bio") == ["O", "B-X", "I-X", "B-a-b", "I-a-b"]
    assert get_tags(["X"], "biluo") == ["O", "B-X", "I-X", "L-X", "U-X"]
    assert get_tags([], "bio") == ["O"]


@pytest.mark.parametrize(
    "scheme, starts, ends, follow",
    [
        (
            "bio",
            "O B-X B-Y",
            "O B-X I-X B-Y I-Y",
            {
                "O": "O B-X B-Y",
                "B-X": "O B-X I-X B-Y",
                "I-X": "O B-X I-X B-Y",
                "B-Y": "O B-X B-Y I-Y",
                "I-Y": "O B-X B-Y I-Y",
            },
        ),
        (
            "biluo",
            "O B-X U-X B-Y U-Y",
            "O L-X U-X L-Y U-Y",
            {
                "O": "O B-X U-X B-Y U-Y",
                "B-X": "I-X L-X",
                "I-X": "I-X L-X",
                "L-X": "O B-X U-X B-Y U-Y",
                "U-X": "O B-X U-X B-Y U-Y",
                "B-Y": "I-Y L-Y",
                "I-Y": "I-Y L-Y",
                "L-Y": "O B-X U-X B-Y U-Y",
                "U-Y": "O B-X U-X B-Y U-Y",
            },
        ),
    ],
)
def test_chain(scheme, starts, ends, follow):
    tags = get_tags(["X", "Y"], scheme)
    chain = get_chain(tags, scheme)

    def name(scores: Any) -> str:
        assert set(scores.tolist()) <= {0.0, float(numpy.float32(FORBIDDEN))}
        return " ".join(tag for tag, score in zip(tags, scores, strict=True) if score == 0)

    assert name(chain.start) == starts
    assert name(chain.end) == ends
    assert {tag: name(row) for tag, row in zip(tags, chain.transitions, strict=True)} == follow


@pytest.mark.parametrize(
    "tags, spans",
    [
        ("", []),
        ("O O", []),
        ("B-X L-X B-X L-X O U-Y", [(0, 2, "X"), (2, 4, "X"), (5, 6, "Y")]),
        ("B-X I-X B-X B-Y I-Y", [(0, 2, "X"), (2, 3, "X"), (3, 5, "Y")]),
        ("O B-a-b I-a-b I-a-b O", [(1, 4, "a-b")]),
    ],
)
def test_spans(tags, spans):
    assert list(get_spans(tags.split())) == spans


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(SCHEMES),
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    st.integers(0, 10_000),
    st.floats(0, 1000),
)
def test_decoding_is_always_valid(scheme, lengths, seed, scale):
    tags = get_tags(["X", "Y"], scheme)
    chain = get_chain(tags, scheme)
    rng = numpy.random.default_rng(seed)
    chain.transitions = chain.transitions + scale * rng.normal(size=chain.transitions.shape)
    scores = scale * rng.normal(size=(sum(lengths), len(tags)))
    names = [tags[i] for i in viterbi(scores, chain, lengths)]
    for length in lengths:
        own, names = names[:length], names[length:]
        assert re.fullmatch(VALID[scheme], "".join(f"{tag} " for tag in own)), own


@pytest.mark.parametrize("scheme", SCHEMES)
def test_entities_and_their_probabilities(scheme):
    """As likely as the tags are among all valid sequences, in the order of `doc.ents`."""
    rng = numpy.random.default_rng(0)
    scores = 3 * rng.normal(size=(40, len(get_tags("XY", scheme)))).astype("f")
    ner = make_ner(scores, scheme)
    docs = [make_doc(ner, " ".join("a" * n)) for n in (1, 20, 4, 15)] + [Doc(ner.vocab)]
    ner.set_annotations(docs, ner.predict(docs))
    assert sum(len(doc.ents) for doc in docs) > 5
    for doc in docs:
        assert as_tuples(doc.spans["ner"]) == as_tuples(doc.ents)
        p = doc.spans["ner"].attrs["scores"]
        assert p.shape == (len(doc.ents),)
        assert ((p > 0) & (p <= 1)).all()


def test_probability_of_a_single_token():
    """Of one token only O and U are possible."""
    ner = make_ner(numpy.array([[0, 9, 9, 9, 1, 9, 9, 9, 2]], dtype="f"))
    doc = make_doc(ner, "a")
    ner.set_annotations([doc], ner.predict([doc]))
    assert as_tuples(doc.ents) == [(0, 1, "Y")]
    e = numpy.exp([0.0, 1.0, 2.0])
    assert doc.spans["ner"].attrs["scores"] == pytest.approx([e[2] / e.sum()])


def test_spans_key():
    scores = numpy.array([[0, 0, 0, 0, 5, 0, 0, 0, 0]], dtype="f")
    for key in (None, "found"):
        ner = make_ner(scores, spans_key=key)
        doc = make_doc(ner, "a")
        ner.set_annotations([doc], ner.predict([doc]))
        assert as_tuples(doc.ents) == [(0, 1, "X")]
        assert list(doc.spans) == ([key] if key else [])


def test_docs_without_tokens():
    ner = make_ner(numpy.zeros((0, 9), dtype="f"))
    docs = [Doc(ner.vocab), Doc(ner.vocab)]
    assert ner.predict(docs) == [[], []]
    ner.set_annotations(docs, ner.predict(docs))
    assert [list(doc.spans["ner"]) for doc in docs] == [[], []]
    assert ner.predict([]) == []


def test_given_entities_stay():
    ner = make_ner()
    doc = make_doc(ner, "a b c d e f")
    doc.ents = [Span(doc, 1, 3, label="Z", kb_id="Q1")]
    ner.set_annotations([doc], [[(0, 2, "X", 0.5), (3, 5, "X", 0.25), (5, 6, "Y", 0.75)]])
    assert as_tuples(doc.ents) == [(1, 3, "Z"), (3, 5, "X"), (5, 6, "Y")]
    assert doc.ents[0].kb_id_ == "Q1"
    assert as_tuples(doc.spans["ner"]) == [(3, 5, "X"), (5, 6, "Y")]
    assert doc.spans["ner"].attrs["scores"].tolist() == [0.25, 0.75]


def test_given_entities_that_are_found_again():
    """They keep what only they have."""
    ner = make_ner()
    doc = make_doc(ner, "a b c d")
    doc.ents = [Span(doc, 0, 2, label="X", kb_id="Q1", span_id="one")]
    ner.set_annotations([doc], [[(0, 2, "X", 0.5), (3, 4, "Y", 0.25)]])
    assert as_tuples(doc.ents) == [(0, 2, "X"), (3, 4, "Y")]
    assert [(ent.kb_id_, ent.id_) for ent in doc.ents] == [("Q1", "one"), ("", "")]
    assert as_tuples(doc.spans["ner"]) == as_tuples(doc.ents)
    assert doc.spans["ner"].attrs["scores"].tolist() == [0.5, 0.25]


def test_blocked_tokens_stay_without_entities():
    ner = make_ner()
    doc = make_doc(ner, "a b c d e")
    doc.set_ents([Span(doc, 4, 5, label="Z")], blocked=[doc[1:3]], default="missing")
    for _ in range(2):
        ner.set_annotations([doc], [[(0, 1, "Y", 0.5), (2, 4, "X", 0.25), (3, 4, "X", 0.75)]])
        assert as_tuples(doc.ents) == [(0, 1, "Y"), (3, 4, "X"), (4, 5, "Z")]
        assert [t.ent_iob_ for t in doc] == ["B", "B", "B", "B", "B"]
        assert [t.ent_type_ for t in doc] == ["Y", "", "", "X", "Z"]


def test_no_white_space_at_the_ends():
    ner = make_ner()
    doc = Doc(ner.vocab, words=["\n", "a", "\n", "b", "  ", "\t", "c"])
    for _ in range(2):
        ner.set_annotations([doc], [[(0, 5, "X", 0.5), (5, 6, "X", 0.75), (6, 7, "Y", 0.25)]])
        assert as_tuples(doc.ents) == [(1, 4, "X"), (6, 7, "Y")]
        assert as_tuples(doc.spans["ner"]) == as_tuples(doc.ents)
        assert doc.spans["ner"].attrs["scores"].tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    "scheme, expected", [("biluo", "B-X I-X L-X U-Y O"), ("bio", "B-X I-X I-X B-Y O")]
)
@pytest.mark.parametrize("crf", [True, False])
def test_gold_tags(scheme, expected, crf):
    ner = make_ner(scheme=scheme, crf=crf)
    gold = make_doc(ner, "a b c d e", "B-X I-X L-X U-Y O")
    assert get_gold(ner, make_doc(ner, "a b c d e"), gold) == expected.split()


def test_missing_gold():
    ner = make_ner(crf=False)
    doc = make_doc(ner)
    assert get_gold(ner, doc, make_doc(ner, tags="- O U-X -")) == ["-", "O", "U-X", "-"]
    assert get_gold(ner, doc, make_doc(ner)) == ["-"] * 4
    assert not ner.has_labels(make_doc(ner))
    assert get_gold(ner, doc, make_doc(ner, tags="U-X U-Z B-Z L-Z")) == ["U-X", "O", "O", "O"]


def test_no_entities_is_not_missing():
    ner = make_ner(crf=False)
    gold = Doc(ner.vocab, words=["a", "b"])
    assert [token.ent_iob for token in gold] == [0, 0]
    gold.ents = []
    assert ner.has_labels(gold)
    assert get_gold(ner, make_doc(ner, "a b"), gold) == ["O", "O"]


def test_gold_of_other_tokens():
    """What is split or joined keeps its entity; what does not align has no gold."""
    ner = make_ner(crf=False)
    words, spaces = (
        ["in", "New", "York", "City", "-", "based"],
        [True, True, True, False, False, False],
    )
    gold = Doc(ner.vocab, words=words, spaces=spaces)
    gold.ents = [Span(gold, 1, 4, label="X")]
    split = Doc(
        ner.vocab,
        words=["in", "Ne", "w", "York", "City", "-based"],
        spaces=[True, False, True, True, False, False],
    )
    assert get_gold(ner, split, gold) == ["O", "B-X", "I-X", "I-X", "L-X", "O"]
    joined = Doc(ner.vocab, words=["in", "New", "York", "City-based"])
    assert get_gold(ner, joined, gold) == ["O", "-", "-", "-"]


def test_missing_tokens_cost_nothing_without_a_crf():
    ner = make_ner(crf=False)
    rng = numpy.random.default_rng(0)
    scores, moves = rng.normal(size=(4, 9)).astype("f"), numpy.zeros((9, 9), dtype="f")
    eg = Example(make_doc(ner), make_doc(ner, tags="- O U-X -"))
    loss, (d_scores, d_moves) = ner.get_loss([eg], (scores, moves))
    known = Example(make_doc(ner, "b c"), make_doc(ner, "b c", "O U-X"))
    alone, (d_alone, _) = ner.get_loss([known], (scores[1:3], moves))
    assert loss == pytest.approx(alone, rel=1e-6)
    assert (d_scores[1:3] == d_alone).all()
    assert not d_scores[[0, 3]].any() and not d_moves.any()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("crf", [True, False])
def test_learns(make_nlp, scheme, crf):
    nlp = make_nlp("ner", config={"ner": {"scheme": scheme, "model": {"crf": crf}}})
    assert nlp.get_pipe("ner").labels == ("DATE", "ORG", "PERSON", "PLACE")
    examples, sgd = make_examples(nlp, "ner"), Adam(0.005)
    for _ in range(40):
        losses = nlp.update(examples, sgd=sgd, losses={})
    assert losses["ner"] < 0.1
    scores = nlp.evaluate(make_examples(nlp, "ner"))
    assert scores["ents_f"] == 1.0
    doc = nlp(make_gold(nlp.vocab, 0, ()))
    assert [ent.text for ent in doc.ents] == ["Maria Keller", "Lisbon", "Friday"]
    assert (doc.spans["ner"].attrs["scores"] > 0.5).all()
    has_moved = nlp.get_pipe("ner").model.get_param("transitions").any()
    assert has_moved == crf


def test_labels_from_initialize(make_nlp):
    nlp = make_nlp("ner", initialize=False)
    nlp.config["initialize"]["components"]["ner"] = {"labels": ["PLACE", "EVENT"]}
    nlp.initialize(lambda: make_examples(nlp))
    ner = nlp.get_pipe("ner")
    assert ner.labels == ("PLACE", "EVENT")
    assert ner.label_data["labels"] == ["PLACE", "EVENT"]
    assert len(ner.tags) == ner.model.get_ref("output_layer").get_dim("nO") == 9
    assert ner.add_label("PLACE") == 0
    losses = nlp.update(make_examples(nlp), losses={})  # other types are not gold for this one
    assert losses["ner"] > 0


@pytest.mark.parametrize("crf", [True, False])
def test_no_types_found(make_nlp, crf, tmp_path):
    """The head finds nothing, and is silent beside the others, as spaCy's."""
    nlp = make_nlp("tagger", "ner", config={"ner": {"model": {"crf": crf}}}, initialize=False)
    with pytest.warns(UserWarning, match=r"W013.*'ner'"):
        nlp.initialize(lambda: make_examples(nlp, "tagger"))
    ner = nlp.get_pipe("ner")
    assert ner.labels == () and ner.tags == ["O"]
    sgd = Adam(0.005)
    for _ in range(2):
        losses = nlp.update(make_examples(nlp), sgd=sgd, losses={})
    assert losses["tagger"] > 0 == losses["ner"]
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    for pipeline in (nlp, loaded):
        (doc,) = pipeline.pipe(["Maria Keller flew to Lisbon"])
        assert doc.has_annotation("ENT_IOB") and not doc.ents and not len(doc.spans["ner"])
    assert nlp.evaluate(make_examples(nlp))["ents_f"] == 0.0
    with pytest.raises(ValueError, match=r"M071.*'ner'.*'PERSON'"):
        loaded.update(make_examples(loaded), sgd=False)


def test_new_type_for_a_made_model(make_nlp):
    with pytest.raises(ValueError, match=r"M032.*'EVENT'.*'ner'"):
        make_nlp("ner").get_pipe("ner").add_label("EVENT")


def test_unknown_scheme():
    with pytest.raises(ValueError, match=r"M058.*mtl_ner: scheme = 'bilou'.*'biluo'"):
        make_mtl_ner(English(), "ner", Model("fixed", print), "bilou", 0.0, None, None, None)  # type: ignore[arg-type]


def test_smoothing_with_a_crf(make_nlp):
    config: dict[str, Any] = {"label_smoothing": 0.1}
    with pytest.raises(ValueError, match=r"M031.*0\.1"):
        make_nlp("ner", config={"ner": config})
    nlp = make_nlp("ner", config={"ner": {**config, "model": {"crf": False}}})
    smooth = nlp.update(make_examples(nlp), losses={})["ner"]
    counts = numpy.array([n for n, _ in nlp.get_pipe("ner").counts.values()])
    log_shares = numpy.log((counts + 1) / (counts + 1).sum())
    gold = (counts * log_shares).sum() / counts.sum()
    assert smooth == pytest.approx(-0.9 * gold - 0.1 * log_shares.mean(), rel=1e-5)


@pytest.mark.parametrize("head", ["tagger", "ner", "textcat", "textcat_multilabel"])
def test_labels_that_disagree_with_the_model(make_nlp: Any, head: str) -> None:
    nlp = make_nlp(head, config={head: {"model": {"nO": 50}}}, initialize=False)
    with pytest.raises(ValueError, match=rf"M035.*'{head}' has 50 outputs"):
        nlp.initialize(lambda: make_examples(nlp))
