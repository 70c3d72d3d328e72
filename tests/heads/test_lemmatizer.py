"""The lemmatizer."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
import pytest
import spacy
import srsly
import torch
import torch.nn.functional as F
from conftest import make_examples, make_gold
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.pipeline.edit_tree_lemmatizer import EditTreeLemmatizer
from spacy.tokens import Doc
from spacy.training import Example

from spacy_mtl.heads.edits import apply_edit, find_edit

KEEP = find_edit("Maria", "Maria")
LOWER = find_edit("the", "the")
NO_S = find_edit("dogs", "dog")


def make_doc(nlp: Language, words: Sequence[str]) -> Doc:
    return Doc(nlp.vocab, words=list(words), spaces=[False] * len(words))


def make_example(
    nlp: Language, pairs: Sequence[tuple[str, str]], words: Sequence[str] = ()
) -> Example:
    """RETURNS (Example): A doc of these forms and lemmas, or of other words for the prediction. ""
    is a missing lemma.
    """
    forms = [form for form, _ in pairs]
    gold = make_doc(nlp, forms)
    for token, (_, lemma) in zip(gold, pairs, strict=True):
        token.lemma_ = lemma
    return Example(make_doc(nlp, words or forms), gold)


def get_targets(nlp: Language, example: Example) -> list[str | None]:
    """RETURNS (List[Optional[str]]): The label that the gradient of each token favours, None for a
    zero gradient.
    """
    head = nlp.get_pipe("lemmatizer")
    labels = numpy.array(head.labels)
    scores = numpy.zeros((len(example.predicted), len(labels)), dtype="f")
    _, gradient = head.get_loss([example], scores)
    return [labels[row.argmin()] if row.any() else None for row in gradient]


def get_lemmas(nlp: Language, words: Sequence[str], scores: numpy.ndarray) -> list[str]:
    """RETURNS (List[str]): The lemmas of words by the scores of the labels, N x C."""
    head, doc = nlp.get_pipe("lemmatizer"), make_doc(nlp, words)
    head.set_annotations([doc], head.decode([doc], scores.astype("f")))
    return [token.lemma_ for token in doc]


def make_head(make_nlp: Callable[..., Language], **config: object) -> Language:
    """RETURNS (Language): A pipeline whose labels are [KEEP, LOWER, NO_S]."""
    nlp = make_nlp("lemmatizer", config={"lemmatizer": config}, initialize=False)
    pairs = [("Ann", "Ann"), ("The", "the"), ("dogs", "dog")] * 3
    nlp.initialize(lambda: [make_example(nlp, pairs)])
    assert nlp.get_pipe("lemmatizer").labels == (KEEP, LOWER, NO_S)
    return nlp


@pytest.fixture(scope="module")
def nlp(make_nlp: Callable[..., Language]) -> Language:
    return make_head(make_nlp)


def test_surface(nlp):
    head = nlp.get_pipe("lemmatizer")
    assert isinstance(head, EditTreeLemmatizer)
    assert head.hide_labels


def test_loss_is_the_mean_over_tokens_with_a_known_edit(nlp):
    pairs = [("Dogs", "dog"), ("a", ""), ("said", "say"), ("Maria", "Maria"), ("cats", "cat")]
    scores = numpy.random.default_rng(0).normal(size=(5, 3)).astype("f")
    head = nlp.get_pipe("lemmatizer")
    loss, gradient = head.get_loss([make_example(nlp, pairs)], scores)
    known = [0, 3, 4]
    leaf = torch.tensor(scores[known], requires_grad=True)
    expected = F.cross_entropy(leaf, torch.tensor([2, 0, 2]))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    numpy.testing.assert_allclose(gradient[known], leaf.grad, atol=1e-6)
    assert not gradient[[1, 2]].any()


def test_lemmas_without_an_edit_ask_for_nothing(nlp):
    pairs = [("dogs", "dog"), ("x" * 10_000, "y" * 10_000), (" ", " "), ("in front", "in front")]
    assert get_targets(nlp, make_example(nlp, pairs)) == [NO_S, None, None, LOWER]
    assert get_targets(nlp, make_example(nlp, [("geese", "goose"), ("a", "")])) == [None, None]
    assert get_targets(nlp, make_example(nlp, [])) == []


def test_training_adds_no_strings(nlp):
    """Neither the edits of unknown lemmas nor their parts."""
    example, n = make_example(nlp, [("mice", "mouse")]), len(nlp.vocab.strings)
    assert get_targets(nlp, example) == [None]
    assert len(nlp.vocab.strings) == n


def test_tokens_that_do_not_align(nlp):
    """Each token is edited to the lemma of the gold token that it is a part of."""
    example = make_example(nlp, [("dogs", "dog"), ("The", "the")], ["dog", "s", "T", "he"])
    assert get_targets(nlp, example) == [LOWER, None, None, None]
    example = make_example(nlp, [("dog", "dog"), ("s", "s"), ("The", "the")], ["dogs", "The"])
    assert get_targets(nlp, example) == [None, LOWER]


@pytest.mark.parametrize(("least", "n_labels"), [(1, 3), (2, 2), (3, 1)])
def test_min_tree_freq(make_nlp, least, n_labels):
    config = {"lemmatizer": {"min_tree_freq": least}}
    nlp = make_nlp("lemmatizer", initialize=False, config=config)
    pairs = [("a", "a"), ("B", "b"), ("c", "c"), ("dogs", "dog"), ("Cats", "cat"), ("ox", "bull")]
    nlp.initialize(lambda: [make_example(nlp, pairs)])
    labels = nlp.get_pipe("lemmatizer").labels
    assert len(labels) == n_labels
    assert [*labels] == sorted([LOWER, NO_S, find_edit("ox", "bull")][:n_labels])


def test_no_edit_is_frequent_enough(make_nlp):
    nlp = make_nlp("lemmatizer", initialize=False, config={"lemmatizer": {"min_tree_freq": 50}})
    with pytest.raises(ValueError, match="E143"):
        nlp.initialize(lambda: make_examples(nlp))


# Decoding


def find_lemma(labels: Sequence[str], form: str, scores: numpy.ndarray, top_k: int) -> str:
    """RETURNS (str): The lemma, found the slow way."""
    for i in sorted(range(len(labels)), key=lambda i: -scores[i])[:top_k]:
        if not form.isspace() and len(form) <= 100 and (lemma := apply_edit(labels[i], form)):
            return lemma
    return form


@given(
    st.lists(
        st.sampled_from(["dogs", "Dogs", "s", "S", "Ann", "ICE", " ", "\n\n", "x" * 200 + "s"])
        | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 5),
    st.integers(0, 100),
)
def test_decodes_as_the_slow_way(nlp, words, top_k, seed):
    head = nlp.get_pipe("lemmatizer")
    scores = numpy.random.default_rng(seed).normal(size=(len(words), 3))
    before, head.cfg["top_k"] = head.cfg["top_k"], top_k
    found = get_lemmas(nlp, words, scores)
    head.cfg["top_k"] = before
    pairs = zip(words, scores, strict=True)
    assert found == [find_lemma(head.labels, word, row, top_k) for word, row in pairs]


@pytest.mark.parametrize(
    ("backoff", "lemma"), [("orth", "Cat"), ("lower", "cat"), ("norm", "cat"), (None, "")]
)
def test_backoff(make_nlp, backoff, lemma):
    nlp = make_head(make_nlp, backoff=backoff, top_k=1)
    assert get_lemmas(nlp, ["Cat", "Dogs"], numpy.array([[0, 0, 1]] * 2)) == [lemma, "dog"]


def test_one_form_with_several_edits(nlp):
    scores = numpy.eye(3)[[0, 1, 2, 1]]
    assert get_lemmas(nlp, ["Runs"] * 4, scores) == ["Runs", "runs", "run", "runs"]


def test_top_k(make_nlp):
    nlp = make_head(make_nlp, top_k=2)
    assert get_lemmas(nlp, ["Cat"], numpy.array([[0, 1, 2]])) == ["cat"]
    assert get_lemmas(nlp, ["Cat"], numpy.array([[1, 0, 2]])) == ["Cat"]


def test_odd_words(nlp):
    """White space and very long words are their own lemmas."""
    words = [" \n", "X" * 10_000, "\u200d", "🙂", "Ｓs"]
    assert get_lemmas(nlp, words, numpy.array([[0, 1, 0]] * 5)) == [*words[:4], "ｓs"]
    assert get_lemmas(nlp, words, numpy.array([[0, 0, 1]] * 5))[:4] == words[:4]


@pytest.mark.parametrize("overwrite", [False, True])
def test_overwrite(make_nlp, overwrite):
    nlp = make_nlp("lemmatizer", config={"lemmatizer": {"overwrite": overwrite}})
    doc = Doc(nlp.vocab, words=["a", "b"], lemmas=["given", ""])
    lemmas = [token.lemma_ for token in nlp(doc)]
    assert (lemmas[0] == "given") == (not overwrite)
    assert lemmas[1]


def test_no_lemma_keeps_the_given_one(make_nlp):
    nlp = make_head(make_nlp, overwrite=True, backoff=None)
    head = nlp.get_pipe("lemmatizer")
    doc = Doc(nlp.vocab, words=["a", "b"], lemmas=["given", ""])
    head.set_annotations([doc], [numpy.zeros(2, dtype="uint64")])
    assert [token.lemma_ for token in doc] == ["given", ""]


def test_docs_without_tokens(nlp):
    docs = [Doc(nlp.vocab), make_gold(nlp.vocab, 0, ()), Doc(nlp.vocab)]
    assert [len(doc) for doc in nlp.pipe(docs)] == [0, 8, 0]
    assert docs[1].has_annotation("LEMMA", require_complete=True)
    head = nlp.get_pipe("lemmatizer")
    assert [lemmas.tolist() for lemmas in head.predict([Doc(nlp.vocab)] * 2)] == [[], []]


def test_lemmas_outlive_a_memory_zone(nlp):
    """The cache of edited forms keeps no strings that the zone has removed."""
    for _ in range(2):
        with nlp.memory_zone():
            assert get_lemmas(nlp, ["Zonewords"], numpy.array([[0, 0, 1]])) == ["zoneword"]


# Labels and storage


def test_labels_of_init_labels(make_nlp, tmp_path: Path):
    """Labels and counts are read from a file, when the examples have no lemmas."""
    data = make_head(make_nlp).get_pipe("lemmatizer").label_data
    assert data["labels"] == [KEEP, LOWER, NO_S]
    assert [NO_S, 3, 6] in data["counts"]
    srsly.write_json(tmp_path / "labels.json", data)
    nlp = make_nlp("lemmatizer", initialize=False)
    reader = {"@readers": "spacy.read_labels.v1", "path": str(tmp_path / "labels.json")}
    nlp.config["initialize"]["components"]["lemmatizer"] = {"labels": reader}
    nlp.initialize(lambda: make_examples(nlp, "tagger"))
    assert nlp.get_pipe("lemmatizer").label_data == data


def test_labels_that_are_no_edits(make_nlp):
    nlp = make_nlp("lemmatizer", initialize=False)
    nlp.config["initialize"]["components"]["lemmatizer"] = {"labels": [LOWER, "dog"]}
    with pytest.raises(ValueError, match=r"M096.*'dog'"):
        nlp.initialize(lambda: make_examples(nlp))


@pytest.mark.parametrize("label", ["dog", '["lower",[0,1,null,["s"]]]', 3])
def test_corrupt_folder(nlp, tmp_path: Path, label):
    nlp.to_disk(tmp_path)
    path = tmp_path / "lemmatizer" / "cfg"
    cfg = srsly.read_json(path)
    cfg["labels"][1] = label
    srsly.write_json(path, cfg)
    with pytest.raises(ValueError, match="M007"):
        spacy.load(tmp_path)


def test_a_loaded_head_accepts_new_lemmas(make_nlp, tmp_path: Path):
    make_head(make_nlp).to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    example = make_example(nlp, [("mice", "mouse"), ("dogs", "dog")])
    assert nlp.update([example], losses={}, sgd=nlp.resume_training())["lemmatizer"] > 0
