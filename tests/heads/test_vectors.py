"""Vectors of docs, spans and tokens: what they are equal to, and what keeps them."""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import TEXTS, WIDTH, encoder_weights, make_examples
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.ty import TrainableComponent

from spacy_mtl.cli.init_config import CorpusSpec, make_config
from spacy_mtl.encoder.model.forward import pool
from spacy_mtl.encoder.model.wordpieces import Wordpieces, share_pieces
from spacy_mtl.heads.vectors import Vectorizer

LISTENER = {"@architectures": "spacy-mtl.TaskListener.v1"}
MINE = [
    *TEXTS,
    "",
    "soup",
    "  We\n\nate ",
    "don't WE'RE x.y.z 10km",
    "Maria 😀 Łódź 日本",
]
LONG = " ".join(TEXTS * 20)


@pytest.fixture(scope="module")
def nlp(make_nlp: Callable[..., Language]) -> Language:
    return make_nlp("tagger", "vectors")


def pool_by_hand(nlp: Language, text: str, layer: int = -1) -> numpy.ndarray:
    """Return the mean over the wordpieces of a text without special tokens, by Hugging Face."""
    model: Any = nlp.get_pipe("transformer").model
    batch = model.tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
    is_text = batch.pop("special_tokens_mask")[0] == 0
    module = model.transformer.eval()
    with torch.no_grad():
        output = module(**batch, output_hidden_states=True)
    states = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    return states[0, is_text].numpy().mean(axis=0)


def cosine(a: numpy.ndarray, b: numpy.ndarray) -> float:
    return float(a @ b / numpy.linalg.norm(a) / numpy.linalg.norm(b))


def test_doc_vectors_are_the_mean_over_wordpieces(nlp: Language) -> None:
    docs = [doc for doc in nlp.pipe(MINE) if doc.text.strip()]
    expected = [pool_by_hand(nlp, doc.text) for doc in docs]
    for doc, vector in zip(docs, expected, strict=True):
        assert doc.tensor.dtype == "float32" and doc.tensor.shape == (len(doc), WIDTH)
        assert doc.tensor.base is None and doc.has_vector
        assert numpy.allclose(doc.vector, vector, atol=1e-5)
    for i, doc in enumerate(docs):
        for j, other in enumerate(docs):
            assert doc.similarity(other) == pytest.approx(
                cosine(expected[i], expected[j]), abs=1e-5
            )


def test_every_family(any_encoder: str, make_nlp: Callable[..., Language]) -> None:
    nlp = make_nlp("vectors", name=any_encoder)
    for doc in nlp.pipe(TEXTS):
        assert numpy.allclose(doc.vector, pool_by_hand(nlp, doc.text), atol=1e-5)


@pytest.mark.parametrize(
    "get_spans",
    [
        {"@span_getters": "spacy-mtl.sentence_spans.v1", "window": 12},
        {"@span_getters": "spacy-transformers.strided_spans.v1", "window": 12, "stride": 9},
    ],
)
def test_docs_of_several_windows(
    make_nlp: Callable[..., Language], get_spans: dict[str, Any]
) -> None:
    """The mean is over the wordpieces of all windows, with those of an overlap in each of them."""
    nlp = make_nlp("vectors", model={"get_spans": get_spans})
    model: Any = nlp.get_pipe("transformer").model
    doc = nlp(LONG)
    (spans,) = model.attrs["get_spans"]([doc])
    sizes = [len(model.tokenizer.tokenize(span.text)) for span in spans]
    means = [pool_by_hand(nlp, span.text) for span in spans]
    assert len(spans) > 5
    assert numpy.allclose(doc.vector, numpy.average(means, axis=0, weights=sizes), atol=1e-5)


def test_span_and_token_vectors(nlp: Language) -> None:
    """A token has its share of the wordpieces: "do" and "n't" share the wordpiece "don"."""
    doc = nlp("We didn't eat the new soup .")
    model: Any = nlp.get_pipe("transformer").model
    rows, pieces = model.predict([doc]).data, model.get_wordpieces([doc])
    sizes = numpy.diff(pieces.starts, append=len(pieces.pieces))
    owners = numpy.bincount(pieces.pieces)[pieces.pieces]
    for token in doc:
        assert numpy.array_equal(token.vector, doc.tensor[token.i])
        own = owners[pieces.starts[token.i] :][: sizes[token.i]]
        if len(set(own)) == 1:  # all its wordpieces have equally many tokens
            assert cosine(token.vector, rows[token.i]) == pytest.approx(1, abs=1e-5)
    parts = [doc[:3], doc[3:]]
    total = sum(len(part) * part.vector for part in parts)
    assert numpy.allclose(total / len(doc), doc.vector, atol=1e-6)


def test_pooling_by_tokens(make_nlp: Callable[..., Language]) -> None:
    nlp = make_nlp("vectors", config={"vectors": {"pooling": "tokens"}})
    encoder: Any = nlp.get_pipe("transformer")
    docs = list(nlp.pipe(MINE))
    matrix = encoder.predict(docs)
    assert matrix.shares is None
    for doc, (start, end) in zip(docs, matrix.bounds, strict=True):
        assert numpy.allclose(doc.tensor, matrix.data[start:end], atol=1e-6)


@given(st.lists(st.lists(st.lists(st.integers(0, 7), unique=True), max_size=5), max_size=4))
def test_shares_of_wordpieces(docs: list[list[list[int]]]) -> None:
    """However wordpieces and tokens overlap, each wordpiece counts once."""
    tokens = [[8 * i + piece for piece in token] for i, doc in enumerate(docs) for token in doc]
    flat = numpy.array([piece for token in tokens for piece in token], dtype="int64")
    ids, bounds = numpy.arange(8 * len(docs)), 8 * numpy.arange(len(docs) + 1)
    starts = numpy.cumsum([0, *map(len, tokens)])[:-1].astype("int64")
    pieces = Wordpieces(ids, bounds, flat, starts)
    shared, weights = share_pieces(pieces, [len(doc) for doc in docs])
    states = numpy.random.default_rng(0).normal(size=(len(ids), 3)).astype("f")
    rows = pool(torch.from_numpy(states), shared, weights).numpy() if len(ids) else states
    end = 0
    for i, doc in enumerate(docs):
        start, end = end, end + len(doc)
        expected = states[8 * i : 8 * i + 8].mean(axis=0) if any(doc) else 0
        assert numpy.allclose(rows[start:end].sum(axis=0), len(doc) * expected, atol=1e-4)


@pytest.mark.parametrize(
    ("layers", "read"), [([0], [0]), ([-2], [1]), ([1, 2], [1, 2]), ("all", [0, 1, 2])]
)
def test_layers(
    make_nlp: Callable[..., Language], layers: Any, read: list[int], tmp_path: Path
) -> None:
    config = {"vectors": {"model": {"tok2vec": {**LISTENER, "layers": layers}}}}
    nlp = make_nlp("tagger", "vectors", config=config)
    expected = numpy.mean([pool_by_hand(nlp, TEXTS[0], layer) for layer in read], axis=0)
    assert numpy.allclose(nlp(TEXTS[0]).vector, expected, atol=1e-5)
    nlp.to_disk(tmp_path)
    assert not [*(tmp_path / "vectors").glob("model")]
    again = spacy.load(tmp_path)
    assert numpy.allclose(again(TEXTS[0]).vector, expected, atol=1e-5)
    # The settings are in the config alone, so they can be changed there.
    overrides = {
        "components.vectors.model.tok2vec.layers": None,
        "components.vectors.normalize": True,
    }
    vector = spacy.load(tmp_path, config=overrides)(TEXTS[0]).vector
    last = pool_by_hand(nlp, TEXTS[0])
    assert numpy.allclose(vector, last / numpy.linalg.norm(last), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_normalize_and_dtype(make_nlp: Callable[..., Language], dtype: str) -> None:
    nlp = make_nlp("vectors", config={"vectors": {"normalize": True, "dtype": dtype}})
    vectors: Any = nlp.get_pipe("vectors")
    for doc in nlp.pipe(MINE):
        assert doc.tensor.dtype == doc.vector.dtype == dtype
        if doc.text.strip():
            expected = pool_by_hand(nlp, doc.text)
            expected /= numpy.linalg.norm(expected)
            assert numpy.allclose(doc.vector, expected, atol=1e-5 if dtype == "float32" else 2e-3)
            assert doc.vector_norm == pytest.approx(1, abs=2e-3)
            half = vectors.get_vector(doc[: len(doc) // 2 + 1])
            assert numpy.linalg.norm(half.astype("f")) == pytest.approx(1, abs=2e-3)
            assert half.dtype == dtype


def test_short_and_long_docs(nlp: Language) -> None:
    texts = ["", " ", "soup", LONG]
    empty, space, word, long = docs = list(nlp.pipe(texts))
    assert [doc.tensor.shape for doc in docs] == [(len(doc), WIDTH) for doc in docs]
    assert empty.vector.shape == (WIDTH,) and not empty.vector.any() and not empty.has_vector
    assert not space.vector.any()
    assert numpy.allclose(word.vector, pool_by_hand(nlp, "soup"), atol=1e-5)
    assert numpy.isfinite(long.vector).all() and long.vector_norm > 0
    for doc in (empty, space):
        with pytest.warns(UserWarning, match="W008"):
            assert doc.similarity(word) == 0
    alone = [nlp(text) for text in texts]
    for doc, own in zip(docs, alone, strict=True):
        assert numpy.allclose(doc.tensor, own.tensor, atol=1e-5)
    assert list(nlp.pipe([])) == [] and list(nlp.pipe(["", ""]))[1].vector.shape == (WIDTH,)


def test_similarity_of_equal_words(nlp: Language) -> None:
    """SpaCy's own similarity is 1 for equal words, and warns that there are no word vectors."""
    a, b = nlp.pipe(["soup in Porto", "Maria Keller liked soup in Porto in Lisbon"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert a[0].similarity(b[3]) < 0.9999
        assert a[:].similarity(b[3:6]) == pytest.approx(cosine(a.vector, b[3:6].vector), abs=1e-5)
        assert a.similarity(b) == pytest.approx(b.similarity(a), abs=1e-6)
        assert a.similarity(a.copy()) == pytest.approx(1, abs=1e-6)
        assert b[3:6].as_doc().similarity(a) == pytest.approx(a.similarity(b[3:6]), abs=1e-6)
    plain = spacy.blank("en")("soup")
    with pytest.warns(UserWarning, match="W008"):
        assert a.similarity(plain) == 0
    plain.tensor = numpy.ones((1, 3), dtype="f")
    with pytest.raises(ValueError, match="M173"):
        a.similarity(plain)


def test_docs_keep_their_vectors(nlp: Language) -> None:
    doc, other = nlp.pipe(TEXTS[:2])
    expected = doc.similarity(other)
    assert pickle.loads(pickle.dumps(doc)).similarity(other) == pytest.approx(expected)
    assert doc.copy().similarity(other) == pytest.approx(expected)
    with pytest.warns(UserWarning, match="W109"):
        data = doc.to_bytes()
    again = Doc(nlp.vocab).from_bytes(data)
    assert numpy.array_equal(again.vector, doc.vector)
    with pytest.warns(UserWarning, match="W007"):
        assert again.similarity(other) == pytest.approx(expected)
    vectors: Any = nlp.get_pipe("vectors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert vectors.add_hooks(again).similarity(other) == pytest.approx(expected)
    (stored,) = DocBin(docs=[doc], store_user_data=True).get_docs(nlp.vocab)
    assert not stored.has_vector


def test_several_processes(nlp: Language) -> None:
    expected = list(nlp.pipe(TEXTS))
    found = list(nlp.pipe(TEXTS, n_process=2, batch_size=2))
    for doc, other in zip(expected, found, strict=True):
        assert numpy.allclose(doc.vector, other.vector, atol=1e-5)


def test_a_doc_that_is_processed_again(nlp: Language) -> None:
    doc = Doc(nlp.vocab, words=["a", "b"])
    doc.tensor = numpy.ones((2, 3), dtype="f")
    assert doc.vector.shape == (3,) and doc.vector_norm
    nlp(doc)
    assert doc.vector.shape == (WIDTH,)
    assert doc.vector_norm == pytest.approx(float(numpy.linalg.norm(doc.vector)), rel=1e-5)


def test_static_vectors(make_nlp: Callable[..., Language]) -> None:
    nlp = make_nlp("vectors")
    nlp.vocab.set_vector("soup", numpy.ones(5, dtype="f"))
    with pytest.warns(UserWarning, match="W126"):
        docs = list(nlp.pipe(TEXTS))
    for doc in docs:
        assert doc.has_vector and doc[0].has_vector and doc[:2].has_vector
        assert numpy.allclose(doc.vector, pool_by_hand(nlp, doc.text), atol=1e-5)
        assert numpy.array_equal(doc[1].vector, doc.tensor[1])
        assert numpy.allclose(doc[:2].vector, doc.tensor[:2].mean(axis=0), atol=1e-6)
        assert doc.vector_norm == pytest.approx(float(numpy.linalg.norm(doc.vector)), rel=1e-5)
    assert docs[0].similarity(docs[1]) == pytest.approx(
        cosine(docs[0].vector, docs[1].vector), abs=1e-5
    )
    with pytest.warns(UserWarning, match="W126"):
        assert nlp("").vector.shape == (WIDTH,)


def test_merged_tokens(nlp: Language) -> None:
    @Language.component("merge_first_two")
    def merge(doc: Doc) -> Doc:
        with doc.retokenize() as retokenizer:
            retokenizer.merge(doc[:2])
        return doc

    doc = nlp(TEXTS[0])
    merged = merge(doc)
    assert merged.tensor.shape == (len(merged), WIDTH)
    for place in ("before", "after"):
        nlp.add_pipe("merge_first_two", **{place: "vectors"})  # type: ignore[arg-type]
        if place == "before":
            with pytest.raises(ValueError, match="M078"):
                nlp(TEXTS[0])
        else:
            assert nlp(TEXTS[0]).vector.shape == (WIDTH,)
        nlp.remove_pipe("merge_first_two")


def test_training_is_the_same_without_the_component(make_nlp: Callable[..., Language]) -> None:
    found = []
    for pipes in (("tagger", "textcat"), ("tagger", "textcat", "vectors")):
        nlp = make_nlp(*pipes, balancer={"@misc": "spacy-mtl.UncertaintyWeights.v1"})
        encoder: Any = nlp.get_pipe("transformer")
        sgd, losses = nlp.create_optimizer(), {}
        for i in range(3):
            annotates = ["transformer", "tagger", *pipes[2:]] if i else []
            losses = nlp.update(make_examples(nlp), sgd=sgd, annotates=annotates)
        encoder.flush()
        assert sorted(losses) == ["tagger", "textcat", "transformer"]
        scores = nlp.evaluate(make_examples(nlp))
        found.append((losses, encoder_weights(nlp), encoder.state_dict(), scores["tag_acc"]))
    assert found[0] == found[1]


def test_a_balancer_does_not_count_it(make_nlp: Callable[..., Language]) -> None:
    balancer = {"@misc": "spacy-mtl.StaticWeights.v1", "weights": {"vectors": 1.0}}
    with pytest.raises(ValueError, match="M020"):
        make_nlp("tagger", "vectors", balancer=balancer)


def test_it_is_no_task(nlp: Language) -> None:
    vectors = nlp.get_pipe("vectors")
    assert isinstance(vectors, Vectorizer) and not isinstance(vectors, TrainableComponent)
    assert vectors.labels == () and not vectors.is_trainable
    assert nlp.pipe_labels["vectors"] == []
    assert nlp.get_pipe_meta("vectors").default_score_weights == {}


def test_a_pass_closes_when_all_tasks_have_sent(make_nlp: Callable[..., Language]) -> None:
    nlp = make_nlp("tagger", "vectors")
    encoder: Any = nlp.get_pipe("transformer")
    sgd, examples, before = nlp.create_optimizer(), make_examples(nlp), encoder_weights(nlp)
    encoder.update(examples, sgd=sgd)
    nlp.get_pipe("tagger").update(examples, sgd=sgd)
    assert encoder_weights(nlp) != before


def test_vectors_follow_the_weights(make_nlp: Callable[..., Language]) -> None:
    nlp = make_nlp("tagger", "vectors")
    before = nlp(TEXTS[0]).vector
    nlp.update(make_examples(nlp), sgd=nlp.create_optimizer())
    after = nlp(TEXTS[0]).vector
    assert not numpy.allclose(before, after)
    assert numpy.allclose(after, pool_by_hand(nlp, TEXTS[0]), atol=1e-5)


def test_added_to_a_trained_pipeline(make_nlp: Callable[..., Language], tmp_path: Path) -> None:
    make_nlp("tagger").to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    nlp.add_pipe("mtl_vectors", name="vectors")
    expected = pool_by_hand(nlp, TEXTS[0])
    assert numpy.allclose(nlp(TEXTS[0]).vector, expected, atol=1e-5)
    nlp.to_disk(tmp_path / "with")
    with_vectors = spacy.load(tmp_path / "with")
    assert numpy.allclose(with_vectors(TEXTS[0]).vector, expected, atol=1e-5)
    copied = spacy.util.load_model_from_config(with_vectors.config)
    copied.from_bytes(with_vectors.to_bytes())
    assert numpy.allclose(copied(TEXTS[0]).vector, expected, atol=1e-5)
    pickled = pickle.loads(pickle.dumps(with_vectors))
    assert numpy.allclose(pickled(TEXTS[0]).vector, expected, atol=1e-5)


def test_disabled_while_docs_are_encoded(make_nlp: Callable[..., Language], tmp_path: Path) -> None:
    make_nlp("tagger", "vectors").to_disk(tmp_path)
    nlp = spacy.load(tmp_path, disable=["vectors"])
    doc = nlp(TEXTS[0])
    assert not doc.tensor.size
    with pytest.raises(ValueError, match="M171"):
        nlp.get_pipe("vectors")(doc)


@pytest.mark.parametrize("layers", [None, [1, 2]])
def test_replaced_listener(make_nlp: Callable[..., Language], layers: Any, tmp_path: Path) -> None:
    config = {"vectors": {"model": {"tok2vec": {**LISTENER, "layers": layers}}}}
    nlp = make_nlp("tagger", "vectors", config=config)
    expected = nlp(TEXTS[0]).tensor
    nlp.replace_listeners("transformer", "vectors", ["model.tok2vec"])
    nlp.update(make_examples(nlp), sgd=nlp.create_optimizer())
    assert numpy.allclose(nlp(TEXTS[0]).tensor, expected, atol=1e-5)
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    assert numpy.allclose(again(TEXTS[0]).tensor, expected, atol=1e-5)
    (tmp_path / "vectors" / "model").write_bytes(b"x")
    with pytest.raises(ValueError, match="M007"):
        spacy.load(tmp_path)


def test_an_encoder_of_its_own(
    make_nlp: Callable[..., Language], encoder: str, tmp_path: Path
) -> None:
    """Training of the shared encoder does not change its vectors."""
    own = {
        "@architectures": "spacy-mtl.Tok2VecTransformer.v1",
        "name": encoder,
        "get_spans": {"@span_getters": "spacy-mtl.sentence_spans.v1", "window": 160},
    }
    nlp = make_nlp("tagger", "vectors", config={"vectors": {"model": {"tok2vec": own}}})
    expected, before = nlp(TEXTS[0]).vector, encoder_weights(nlp)
    assert numpy.allclose(expected, pool_by_hand(nlp, TEXTS[0]), atol=1e-5)
    nlp.update(make_examples(nlp), sgd=nlp.create_optimizer())
    nlp.get_pipe("transformer").flush()  # type: ignore[attr-defined]
    assert encoder_weights(nlp) != before
    nlp.to_disk(tmp_path)
    for trained in (nlp, spacy.load(tmp_path)):
        assert numpy.allclose(trained(TEXTS[0]).vector, expected, atol=1e-6)


def test_other_models(make_nlp: Callable[..., Language]) -> None:
    """A model of other layers can only pool by tokens."""
    embed = {
        "@architectures": "spacy-mtl.LexicalEmbed.v1",
        **{"width": 8, "attrs": ["NORM"], "rows": [100]},
    }
    config: Any = {"vectors": {"pooling": "tokens", "model": {"tok2vec": embed}}}
    nlp = make_nlp("tagger", "vectors", config=config)
    assert nlp(TEXTS[0]).vector.shape == (8,)
    fresh = make_nlp("tagger", "vectors", config=config, initialize=False)
    with pytest.raises(ValueError, match="E109"):
        fresh.get_pipe("vectors")(Doc(fresh.vocab, words=["a"]))
    del config["vectors"]["pooling"]
    with pytest.raises(ValueError, match="M172"):
        make_nlp("tagger", "vectors", config=config)


def test_frozen_encoder(make_nlp: Callable[..., Language]) -> None:
    nlp = make_nlp("tagger", "vectors")
    expected = nlp(TEXTS[0]).vector
    for _ in range(2):
        annotates, exclude = ["transformer", "vectors"], ["transformer"]
        nlp.update(
            make_examples(nlp), sgd=nlp.create_optimizer(), annotates=annotates, exclude=exclude
        )
    assert numpy.array_equal(nlp(TEXTS[0]).vector, expected)


def test_errors_are_handled(nlp: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    vectors: Any = nlp.get_pipe("vectors")

    def fail(docs: list[Doc]) -> Any:
        raise ValueError("broken")

    monkeypatch.setattr(vectors, "predict", fail)
    vectors.set_error_handler(lambda name, pipe, docs, error: seen.append((name, len(docs))))
    list(nlp.pipe(TEXTS[:2]))
    vectors(nlp.make_doc("a"))
    assert seen[-1] == ("vectors", 1) and sum(n for _, n in seen) == 3
    del vectors.error_handler


def test_init_config() -> None:
    corpora = [
        CorpusSpec("a", "a", "b", tasks=["tagger"]),
        CorpusSpec("c", "c", "d", tasks=["ner"]),
    ]
    config = make_config(["vectors", "tagger", "ner"], corpora=corpora)
    assert config["nlp"]["pipeline"] == ["transformer", "tagger", "ner", "vectors"]
    assert config["training"]["score_weights"].keys().isdisjoint({"vectors"})
    with pytest.raises(ValueError, match="M179"):
        make_config(["vectors"])
    with pytest.raises(ValueError, match="M253"):
        make_config(["tagger", "vectors"], corpora=[CorpusSpec(tasks=["tagger", "vectors"])])


def test_an_untrained_encoder_needs_no_examples(make_nlp: Callable[..., Language]) -> None:
    nlp = make_nlp("vectors", initialize=False)
    nlp.initialize()
    assert numpy.allclose(nlp(TEXTS[0]).vector, pool_by_hand(nlp, TEXTS[0]), atol=1e-5)
    assert nlp.evaluate([Example(nlp.make_doc("a"), nlp.make_doc("a"))])["speed"]
