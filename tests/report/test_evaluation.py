"""Running a pipeline over a corpus."""

import pytest
import spacy
from conftest import CATS, STOCK_MODELS, make_examples
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from spacy_mtl.annotations import Item
from spacy_mtl.report.evaluation import evaluate, read_answers
from spacy_mtl.report.scores import count_labels, get_f

STOCK_TAGGER = {"model": STOCK_MODELS["tagger"]}


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
        ("cats_macro_f", 5),
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


def test_confidences_match_the_annotated_docs(make_nlp, tmp_path):
    """The temperature is applied. Stock heads have no confidences."""
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


def test_unreadable_data_or_pipelines_are_errors(make_nlp, tmp_path):
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


def test_stock_components_are_evaluated_by_their_layers():
    """Labels of an open set, such as lemmas, are not counted one by one."""
    nlp = spacy.blank("en")
    for name in ("morphologizer", "trainable_lemmatizer"):
        nlp.add_pipe(name)
    predicted, gold = (
        Doc(nlp.vocab, words=["I", "him"], morphs=["Case=Nom", case], lemmas=["I", "he"])
        for case in ("Case=Nom", "Case=Acc")
    )
    examples = [Example(predicted, gold)]
    answers = read_answers(nlp, "morphologizer", examples)
    assert (answers.measure, answers.labels) == ("morph_acc", ["Case=Acc", "Case=Nom"])
    assert answers.docs[0].gold - answers.docs[0].predicted == {Item(1, 2, "Case=Acc")}
    assert read_answers(nlp, "trainable_lemmatizer", examples) is None
