import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy.vocab import Vocab

from spacy_mtl.annotations import get_layers
from spacy_mtl.corpora.documents import set_document
from spacy_mtl.validation.folds import (
    Labels,
    count_labels,
    find_groups,
    make_folds,
    warn_of_rare_labels,
)

VOCAB = Vocab()


def make_doc(document: str | None = None, tag: str = "", cat: str = "") -> Doc:
    doc = Doc(VOCAB, words=["a", "b"], tags=[tag, tag])
    doc.cats = {cat: 1.0} if cat else {}
    set_document(doc, document)
    return doc


def test_groups() -> None:
    docs = [make_doc(name) for name in ("x", "y", "x")]
    assert find_groups(docs).tolist() == [0, 1, 0]
    assert find_groups(docs, "none").tolist() == [0, 1, 2]
    docs[1].user_data["author"] = docs[2].user_data["author"] = 7
    with pytest.warns(UserWarning, match=r"W131.* 1 of 3 docs have no 'author'"):
        assert find_groups(docs, "author").tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match=r"M278.*'genre'.*'author', 'document_id'"):
        find_groups(docs, "genre")
    assert find_groups([make_doc(), make_doc()]).tolist() == [0, 1]


def test_counts() -> None:
    layers = {name: get_layers()[name] for name in ("tags", "cats", "lemmas")}
    labels = count_labels([make_doc(tag="N"), make_doc(tag="V", cat="c")], layers)
    assert dict(zip(labels.names, labels.counts.T.tolist(), strict=True)) == {
        ("tags", "N"): [2, 0],
        ("tags", "V"): [0, 2],
        ("cats", "c"): [0, 1],
    }
    with pytest.raises(ValueError, match=r"M279.*'tags'"):
        count_labels([make_doc()], {"tags": layers["tags"]})


@given(
    groups=st.lists(st.integers(0, 9), min_size=12, max_size=40),
    k=st.integers(2, 5),
    seed=st.integers(0, 3),
)
def test_a_group_is_in_one_fold_and_no_fold_is_empty(groups, k, seed) -> None:
    _, numbers = numpy.unique(groups, return_inverse=True)
    labels = Labels([("tags", "N")], numpy.ones((len(groups), 1)))
    if numbers.max() + 1 < max(k, 3):
        with pytest.raises(ValueError, match=r"M276"):
            make_folds(numbers, labels, k, seed)
        return
    folds = make_folds(numbers, labels, k, seed)
    assert {*folds.tolist()} == {*range(k)}
    assert len({*zip(numbers.tolist(), folds.tolist(), strict=True)}) == numbers.max() + 1
    assert folds.tolist() == make_folds(numbers, labels, k, seed).tolist()


def test_labels_of_all_tasks_are_divided_evenly() -> None:
    random = numpy.random.default_rng(0)
    docs = [
        make_doc(f"d{i}", "V" if random.random() < 0.1 else "N", f"c{i % 3}") for i in range(90)
    ]
    layers = {name: get_layers()[name] for name in ("tags", "cats")}
    labels = count_labels(docs, layers)
    groups = find_groups(docs)
    folds = make_folds(groups, labels, 3)
    counts = labels.add_up(folds, 3)
    assert (counts.max(axis=0) - counts.min(axis=0) <= 2).all()  # a doc has two tags
    assert numpy.bincount(folds).tolist() == [30, 30, 30]
    assert make_folds(groups, labels, 3, seed=1).tolist() != folds.tolist()


def test_rare_labels() -> None:
    docs = [make_doc(f"d{i // 2}", "N", "once" if i < 2 else "often") for i in range(12)]
    docs[10].cats = {"twice": 1.0}
    docs[8].cats = {"twice": 1.0}
    labels = count_labels(docs, {"cats": get_layers()["cats"]})
    groups, folds = find_groups(docs), numpy.array([0] * 4 + [1] * 8)
    with pytest.warns(UserWarning) as found:
        warn_of_rare_labels(groups, folds, labels)
    texts = [str(warning.message) for warning in found]
    assert len(texts) == 2
    assert "W133" in texts[0] and "1 labels" in texts[0] and "'once (cats)'" in texts[0]
    assert "W134" in texts[1] and "'twice (cats)'" in texts[1]
