import numpy
import pytest
import spacy
from conftest import CATS, STOCK_MODELS, TAGS, make_examples, make_gold
from spacy.scorer import Scorer, get_ner_prf
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example

from spacy_mtl.heads.textcat import score_textcat
from spacy_mtl.report.scores import (
    MACRO,
    NOTHING,
    Answer,
    count_confusions,
    count_labels,
    evaluate,
    find_errors,
    get_f,
    get_labels,
    mark,
    read_categories,
    read_entities,
    read_tags,
    score_labels,
)

GOLD = Answer({(0, 2, "PER"), (4, 5, "LOC"), (6, 7, "ORG")}, {(0, 2, "PER"), (4, 5, "ORG")})
OTHER = Answer({(0, 1, "PER")}, {(0, 1, "PER"), (1, 2, "PER"), (2, 3, "LOC")})
DOCS = [GOLD, None, OTHER]
STOCK_TAGGER = {"model": STOCK_MODELS["tagger"]}


@pytest.fixture(scope="module")
def nlp():
    """What only has the labels and the kinds of the heads."""
    nlp = spacy.blank("en")
    for name in ("textcat", "textcat_multilabel"):
        pipe = nlp.add_pipe(name)
        for label in CATS:
            pipe.add_label(label)
    return nlp


def make_noisy(nlp, seed: int, missing: float = 0.0) -> Example:
    """A labelled text, some labels of which are missing, and what might be predicted, with another
    tokenization.
    """
    random = numpy.random.default_rng(seed)
    gold = make_gold(nlp.vocab, seed % 4)
    for token in gold:
        if random.random() < missing:
            token.tag_ = ""
    if missing:
        gold.set_ents(list(gold.ents), missing=[gold[i : i + 1] for i in (2, 3)])
    words = [part for word in gold for part in split(word.text, random.random() < 0.2)]
    spaces = [not (i + 1 < len(words) and words[i].startswith("~")) for i in range(len(words))]
    predicted = Doc(nlp.vocab, words=[word.strip("~") for word in words], spaces=spaces)
    for token in predicted:
        token.tag_ = str(random.choice(TAGS[seed % 4]))
    cuts = sorted(random.choice(len(predicted) + 1, 6, replace=False).tolist())
    labels = random.choice(["PERSON", "PLACE", "ORG"], 3)
    pairs = zip(cuts[::2], cuts[1::2], labels, strict=True)
    predicted.set_ents([Span(predicted, a, b, label=str(label)) for a, b, label in pairs])
    right = [ent for ent in gold.ents if random.random() < 0.5]
    for ent in right:
        span = predicted.char_span(ent.start_char, ent.end_char, label=ent.label_)
        if span and not any(token.ent_type for token in span):
            predicted.set_ents([*predicted.ents, span])
    predicted.cats = dict(zip(CATS, random.random(4).tolist(), strict=True))
    return Example(predicted, gold)


def split(word: str, is_split: bool) -> list[str]:
    return [f"~{word[:1]}", word[1:]] if is_split and len(word) > 1 else [word]


def get_counts(read, examples, pipe=None) -> numpy.ndarray:
    answers = [read(example, pipe) for example in examples]
    return count_labels(answers, sorted(get_labels(answers))).sum(axis=0)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_tags_are_counted_as_spacy_does(nlp, missing):
    examples = [make_noisy(nlp, seed, missing) for seed in range(20)]
    assert any(len(eg.predicted) != len(eg.reference) for eg in examples)
    total = get_counts(read_tags, examples).sum(axis=0, keepdims=True)
    expected = Scorer.score_token_attr(examples, "tag")["tag_acc"]
    assert 0 < expected < 1
    assert get_f(total) == pytest.approx(expected)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_entities_are_counted_as_spacy_does(nlp, missing):
    examples = [make_noisy(nlp, seed, missing) for seed in range(20)]
    answers = [read_entities(example, None) for example in examples]
    labels = sorted(get_labels(answers))
    counts = count_labels(answers, labels).sum(axis=0)
    expected = get_ner_prf(examples)
    assert get_f(counts.sum(axis=0, keepdims=True)) == pytest.approx(expected["ents_f"])
    for label, count in zip(labels, counts, strict=True):
        found, per_type = score_labels(count), expected["ents_per_type"][label]
        assert {key: found[key] or 0.0 for key in "prf"} == pytest.approx(per_type)
    assert sum(expected["ents_per_type"][label]["f"] > 0 for label in labels) > 1


def test_exclusive_categories_are_counted_as_spacy_does(nlp):
    examples = [make_noisy(nlp, seed) for seed in range(40)]
    examples[3].reference.cats = {}
    examples[4].reference.cats = dict.fromkeys(CATS, 0.0)
    answers = [read_categories(example, nlp.get_pipe("textcat")) for example in examples]
    assert answers[3] is answers[4] is None
    counts = count_labels(answers, sorted(CATS)).sum(axis=0)
    expected = score_textcat(examples, labels=CATS)
    assert 0 < expected["cats_score"] < 1
    assert get_f(counts) == pytest.approx(expected["cats_score"])


def test_other_categories_are_counted_as_spacy_does(nlp):
    examples = [make_noisy(nlp, seed) for seed in range(40)]
    examples[3].reference.cats = {}
    del examples[4].reference.cats["food"]
    examples[5].reference.cats = dict.fromkeys(CATS, 0.0)
    pipe = nlp.get_pipe("textcat_multilabel")
    answers = [read_categories(example, pipe) for example in examples]
    assert answers[3] is None
    assert "food" not in get_labels(answers[4:5])
    assert answers[5].gold == set()
    counts = count_labels(answers, sorted(CATS)).sum(axis=0)
    expected = Scorer.score_cats(examples, "cats", labels=CATS, threshold=0.5)
    assert get_f(counts) == pytest.approx(expected["cats_macro_f"])


def test_docs_without_labels(nlp):
    doc = Doc(nlp.vocab, words=["so", "what"])
    for read in (read_tags, read_entities):
        assert read(Example(doc.copy(), doc), None) is None
    for name in nlp.pipe_names:
        assert read_categories(Example(doc.copy(), doc), nlp.get_pipe(name)) is None


def test_no_entities_are_labels_too(nlp):
    doc = Doc(nlp.vocab, words=["so", "what"], ents=["O", "O"])
    assert read_entities(Example(doc.copy(), doc), None) == Answer(set(), set())


def test_counts():
    """Right, wrong and missed, in each doc."""
    counts = count_labels(DOCS, ["LOC", "ORG", "PER"])
    assert counts.tolist() == [
        [[0, 0, 1], [0, 1, 1], [1, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[0, 1, 0], [0, 0, 0], [1, 1, 0]],
    ]
    assert get_f(counts.sum(axis=0)) == pytest.approx((0 + 0 + 4 / 5) / 3)
    assert get_f(counts.sum(axis=(0, 1))[None]) == pytest.approx(4 / 9)


def test_label_scores():
    assert score_labels([3, 1, 2]) == {"p": 0.75, "r": 0.6, "f": 6 / 9, "support": 5}
    assert score_labels([0, 2, 0]) == {"p": 0.0, "r": None, "f": 0.0, "support": 0}
    assert score_labels([0, 0, 2]) == {"p": None, "r": 0.0, "f": 0.0, "support": 2}
    assert score_labels([0, 0, 0]) == {"p": None, "r": None, "f": None, "support": 0}


def test_confusions():
    assert count_confusions(DOCS) == {
        ("PER", "PER"): 2,
        ("LOC", "ORG"): 1,
        ("ORG", NOTHING): 1,
        (NOTHING, "PER"): 1,
        (NOTHING, "LOC"): 1,
    }


def test_confusions_of_several_categories():
    answers = [
        Answer({(0, 3, "a"), (0, 3, "b"), (0, 3, "c")}, {(0, 3, "b"), (0, 3, "d")}),
        Answer({(0, 3, "a")}, {(0, 3, "a"), (0, 3, "b")}),
    ]
    assert count_confusions(answers) == {
        **{("b", "b"): 1, ("a", "a"): 1},
        **{("a", "d"): 1, ("c", "d"): 1, (NOTHING, "b"): 1},
    }


def test_errors():
    words = [["Ann ", "Lee ", "flew ", "to ", "Rome ", "with ", "Ajax", "."]] * 3
    first, second = find_errors(DOCS, words)
    assert first == {
        "doc": 0,
        "text": "Ann Lee flew to Rome with Ajax.",
        "gold": [
            {"start": 16, "end": 20, "label": "LOC"},
            {"start": 26, "end": 30, "label": "ORG"},
        ],
        "predicted": [{"start": 16, "end": 20, "label": "ORG"}],
    }
    assert second["doc"] == 2
    assert second["gold"] == []
    assert [span["label"] for span in second["predicted"]] == ["PER", "LOC"]
    assert find_errors(DOCS, words, n=1) == [first]
    assert find_errors([Answer({(0, 1, "a")}, {(0, 1, "a")}), None], words) == []


def test_errors_of_all_kinds():
    """The first of each gold category, before the second of any."""
    docs = [Answer({(0, 1, gold)}, {(0, 1, "x")}) for gold in "aabbc"]
    docs.append(Answer({(0, 1, "a"), (0, 1, "b")}, {(0, 1, "x")}))
    errors = find_errors(docs, [["word"]] * 6)
    assert [error["doc"] for error in errors] == [5, 0, 2, 4, 1]


def test_errors_of_a_long_doc():
    words = [[f"{i}\n" for i in range(100)]]
    answer = Answer({(50, 51, "a"), (0, 1, "b")}, {(0, 1, "b"), (95, 96, "a")})
    (error,) = find_errors([answer], words)
    assert error["text"] == "".join(f"{i} " for i in range(40, 80))
    assert error["gold"] == [{"start": 30, "end": 32, "label": "a"}]
    assert error["predicted"] == []


def test_mark():
    """A category spans more than the excerpt; labels of the same span come together."""
    window = ["ab ", "c"]
    assert mark(window, {(0, 9, "y"), (0, 9, "x")}, 4) == [{"start": 0, "end": 4, "label": "x, y"}]
    assert mark(window, {(4, 5, "x"), (6, 7, "y"), (0, 4, "z")}, 4) == [
        {"start": 0, "end": 2, "label": "x"}
    ]
    assert mark([], {(0, 0, "x")}, 0) == []


def test_evaluate(make_nlp, tmp_path):
    nlp = make_nlp()
    golds = [eg.reference for eg in make_examples(nlp)]
    golds.append(Doc(nlp.vocab, words=["no", "labels"]))
    DocBin(docs=[*golds, Doc(nlp.vocab)]).to_disk(tmp_path / "dev.spacy")  # spaCy skips it
    nlp.to_disk(tmp_path / "model")
    found = evaluate(tmp_path / "model", tmp_path / "dev.spacy", ["tagger", "ner", "textcat"])
    reference = nlp.evaluate([Example(nlp.make_doc(gold.text), gold) for gold in golds])
    for key in ("tag_acc", "ents_f", "cats_score"):
        assert found.scores[key] == pytest.approx(reference[key])
    assert [(t.measure, len(t.docs)) for t in found.tasks.values()] == [
        ("tag_acc", 5),
        ("ents_f", 5),
        (MACRO, 5),
    ]
    for task in found.tasks.values():
        assert [answer is None for answer in task.docs] == [False] * 4 + [True]
    assert found.tasks["textcat"].labels == sorted(CATS)
    assert ["".join(words).rstrip() for words in found.docs] == [
        gold.text.rstrip() for gold in golds
    ]
    counts = count_labels(found.tasks["textcat"].docs, sorted(CATS)).sum(axis=0)
    assert get_f(counts) == pytest.approx(reference["cats_score"])
    confidences, is_right = found.tasks["tagger"].confidences
    assert len(confidences) == sum(map(len, golds[:4]))
    assert is_right.mean() == pytest.approx(reference["tag_acc"])
    assert len(found.tasks["textcat"].confidences[0]) == 4


def test_confidence_is_that_of_the_docs(make_nlp, tmp_path):
    """With the temperature; stock heads have none."""
    nlp = make_nlp("textcat", "tagger=tagger", config={"tagger": STOCK_TAGGER})
    output = nlp.get_pipe("textcat").model.get_ref("output_layer")
    output.set_param("b", output.ops.asarray1f([3.0, 2.0, 1.0, 0.0]))
    nlp.get_pipe("textcat").set_temperature(2.0)
    examples = make_examples(nlp)
    DocBin(docs=[eg.reference for eg in examples]).to_disk(tmp_path / "dev.spacy")
    nlp.to_disk(tmp_path / "model")
    found = evaluate(tmp_path / "model", tmp_path / "dev.spacy", ["textcat", "tagger"])
    docs = list(nlp.pipe([eg.predicted for eg in examples]))
    confidences, _ = found.tasks["textcat"].confidences
    assert confidences == pytest.approx([max(doc.cats.values()) for doc in docs])
    assert found.tasks["tagger"].confidences is None


def test_what_cannot_be_read(make_nlp, tmp_path):
    nlp = make_nlp("tagger")
    nlp.to_disk(tmp_path / "model")
    with pytest.raises(ValueError, match="M205"):
        evaluate(tmp_path / "model", tmp_path / "none.spacy", ["tagger"])
    (tmp_path / "bad.spacy").write_bytes(b"x")
    with pytest.raises(ValueError, match="M205"):
        evaluate(tmp_path / "model", tmp_path / "bad.spacy", ["tagger"])
    (tmp_path / "model" / "config.cfg").unlink()
    with pytest.raises(ValueError, match="M204"):
        evaluate(tmp_path / "model", tmp_path / "bad.spacy", ["tagger"])
