"""The encoder pipe in pipelines: stock heads, saving, freezing, batching, unusual texts."""

import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import srsly
import torch
from conftest import (
    TEXTS,
    encoder_weights,
    make_examples,
    make_gold,
    make_stock_nlp,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.util import fix_random_seed
from thinc.api import Config

from spacy_mtl.balancing.static import StaticWeights
from spacy_mtl.balancing.uncertainty import UncertaintyWeights
from spacy_mtl.encoder import pipe as pipe_module
from spacy_mtl.encoder.model.forward import Encoding
from spacy_mtl.encoder.pipe import SharedEncoder, buffer, is_large
from spacy_mtl.encoder.runtime.cpu.threads import WORKERS
from spacy_mtl.training.adamw import create_adamw_v1

VOCAB = spacy.blank("en").vocab
STOCK_HEADS = ("tagger", "ner", "textcat")


def train(nlp: Language, steps: int = 3, seed: int = 0) -> None:
    fix_random_seed(seed)
    sgd = create_adamw_v1(learn_rate=0.01, encoder_learn_rate=0.001)
    for _ in range(steps):
        nlp.update(make_examples(nlp), sgd=False, drop=0.1)
        for _, pipe in nlp.pipeline:
            pipe.finish_update(sgd)


def answers(doc: Doc) -> Any:
    scores = [round(float(s), 4) for g in doc.spans.values() for s in g.attrs.get("scores", [])]
    cats = {label: round(value, 4) for label, value in doc.cats.items()}
    return [t.tag_ for t in doc], [(e.text, e.label_) for e in doc.ents], cats, scores


def assert_same(nlp: Language, other: Language) -> None:
    for text in [*TEXTS, "", "  \n", "Porto"]:
        assert answers(nlp(text)) == answers(other(text))


# Stock heads


def test_stock_heads_answer_as_under_stock(encoder: str) -> None:
    stock = make_stock_nlp(encoder)
    ours = make_stock_nlp(encoder, factory="mtl_transformer")
    ours.from_bytes(stock.to_bytes())
    docs = [nlp.get_pipe("transformer")(nlp.make_doc(TEXTS[0])) for nlp in (stock, ours)]
    for name in ("tagger", "textcat"):
        expected, found = (
            nlp.get_pipe(name).model.predict([doc])
            for nlp, doc in zip((stock, ours), docs, strict=True)
        )
        numpy.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    assert_same(stock, ours)


@pytest.mark.parametrize("heads", [STOCK_HEADS, ("parser", "spancat")])
def test_all_stock_heads_train(encoder: str, heads: tuple[str, ...]) -> None:
    listener = Config().from_str(
        """
        [tok2vec]
        @architectures = "spacy-transformers.TransformerListener.v1"
        grad_factor = 1.0
        [tok2vec.pooling]
        @layers = "reduce_mean.v1"
        """
    )["tok2vec"]
    nlp = make_stock_nlp(encoder, factory="mtl_transformer", initialize=False)
    if heads != STOCK_HEADS:
        for name in STOCK_HEADS:
            nlp.remove_pipe(name)
        for name in heads:
            model = nlp.get_factory_meta(name).default_config["model"]
            # so few texts have only rare actions
            settings = {"min_action_freq": 1} if name == "parser" else {}
            nlp.add_pipe(name, config={"model": {**model, "tok2vec": listener}, **settings})

    def get_examples() -> list[Example]:
        if heads == STOCK_HEADS:
            return make_examples(nlp)
        examples = []
        for text in TEXTS:
            words = text.split()
            parents = [max(0, i - 1) for i in range(len(words))]
            deps = ["ROOT", *["dep"] * (len(words) - 1)]
            gold = Doc(nlp.vocab, words=words, heads=parents, deps=deps)
            gold.spans["sc"] = [Span(gold, 0, 2, label="NAME")]
            examples.append(Example(Doc(nlp.vocab, words=words), gold))
        return examples

    nlp.initialize(get_examples)
    before = encoder_weights(nlp)
    sgd = create_adamw_v1()
    for _ in range(2):
        nlp.update(get_examples(), sgd=sgd)
    nlp.get_pipe("transformer").flush()
    assert encoder_weights(nlp) != before
    nlp(TEXTS[0])


def test_other_poolings_are_warned_of(encoder: str) -> None:
    nlp = make_stock_nlp(encoder, "tagger", factory="mtl_transformer", initialize=False)
    nlp.remove_pipe("tagger")
    listener = {
        "@architectures": "spacy-transformers.TransformerListener.v1",
        "pooling": {"@layers": "reduce_max.v1"},
    }
    with pytest.warns(UserWarning, match=r"W001.*'tagger'.*reduce_max"):
        nlp.add_pipe(
            "tagger", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}}
        )


def test_a_trained_stock_pipeline_moves_over_by_one_line(encoder: str, tmp_path: Path) -> None:
    stock = make_stock_nlp(encoder)
    train(stock)
    stock.to_disk(tmp_path)
    config = (tmp_path / "config.cfg").read_text(encoding="utf8")
    moved = config.replace('factory = "transformer"', 'factory = "mtl_transformer"')
    assert moved != config
    (tmp_path / "config.cfg").write_text(moved, encoding="utf8")
    ours = spacy.load(tmp_path)
    assert isinstance(ours.get_pipe("transformer"), SharedEncoder)
    assert_same(stock, ours)
    # It continues with learned weights. Stock losses are sums, but steps are limited.
    train(ours, steps=5)
    ours.get_pipe("transformer").flush()
    balancer = ours.get_pipe("transformer").balancer
    assert isinstance(balancer, UncertaintyWeights)
    assert balancer.log_variances.keys() == set(STOCK_HEADS)
    assert balancer.log_variances["tagger"] == pytest.approx(5 * 0.1)
    assert all(abs(s) <= 5 * 0.1 + 1e-9 for s in balancer.log_variances.values())


def test_stock_model_with_weights_is_taken_over(encoder: str) -> None:
    from spacy_mtl.encoder.model.transformer import SharedTransformer

    stock = make_stock_nlp(encoder)
    model = stock.get_pipe("transformer").model
    doc = stock.make_doc(TEXTS[0])
    ours = SharedTransformer.from_stock(model)
    expected = model.predict([doc]).doc_data[0].model_output.last_hidden_state
    assert ours.predict([doc]).data.shape == (len(doc), expected.shape[-1])
    assert ours.transformer is model.transformer


def test_wrong_model(encoder: str) -> None:
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy.HashEmbedCNN.v2", "width": 8, "depth": 1, "embed_size": 10}
    model |= {"window_size": 1, "maxout_pieces": 1, "subword_features": True}
    model["pretrained_vectors"] = None
    with pytest.raises(ValueError, match="M006"):
        nlp.add_pipe("mtl_transformer", config={"model": model})


# Lean docs


def test_docs_keep_nothing_of_the_encoder(make_nlp: Callable) -> None:
    nlp = make_nlp()
    for doc in [nlp(TEXTS[0]), *nlp.pipe(TEXTS)]:
        assert doc._.trf_data is None and not doc.tensor.size and not doc.user_data
    gold = [Example(nlp.make_doc(eg.text), eg.reference) for eg in make_examples(nlp)]
    nlp.evaluate(gold)
    assert all(eg.predicted._.trf_data is None for eg in gold)


def test_features_stay_without_listeners_and_for_stock_ones(encoder: str) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("mtl_transformer", config={"model": {"name": encoder}})
    nlp.initialize()
    doc = nlp(TEXTS[0])
    assert doc._.trf_data.rows.shape == (len(doc), 32)
    assert doc._.trf_data.model_output.last_hidden_state.shape == (1, len(doc), 32)
    stock = make_stock_nlp(encoder, "tagger", factory="mtl_transformer")
    assert stock(TEXTS[0])._.trf_data.tensors[0].shape == (1, 8, 32)


def test_matrices_are_freed(make_nlp: Callable) -> None:
    from spacy_mtl.encoder.token_matrix import TokenMatrix

    nlp = make_nlp()
    alive: list[Any] = []
    encoder = nlp.get_pipe("transformer")
    set_annotations = encoder.set_annotations

    def watched(docs: list[Doc], matrix: TokenMatrix) -> None:
        alive.append(weakref.ref(matrix))
        set_annotations(docs, matrix)

    encoder.set_annotations = watched
    docs = list(nlp.pipe(TEXTS * 5, batch_size=4))
    gc.collect()
    assert len(docs) == 20 and len(alive) == 5
    assert [ref() for ref in alive] == [None] * 5


@pytest.mark.parametrize("pipes", [("tagger",), ("tagger", "ner", "textcat"), ("textcat", "ner")])
def test_a_stream_keeps_few_matrices_at_a_time(make_nlp: Callable, pipes: tuple[str, ...]) -> None:
    """One matrix and those encoded ahead, even if all docs are kept or some are empty."""
    nlp = make_nlp(*pipes)
    encoder = nlp.get_pipe("transformer")
    set_annotations, matrices, before_next = encoder.set_annotations, [], []

    def count() -> int:
        return sum(ref() is not None for ref in matrices)

    def watched(docs: list[Doc], matrix: Any) -> None:
        before_next.append(count())
        if len(matrix.data):  # nobody reads rows of a batch of empty docs
            matrices.append(weakref.ref(matrix))
        set_annotations(docs, matrix)

    encoder.set_annotations = watched
    texts = ["", *TEXTS, "", "", *TEXTS[:2], "", "", "", "", "", TEXTS[3]] * 4
    docs = []
    for doc in nlp.pipe(texts, batch_size=4):
        docs.append(doc)
        assert count() <= 1 + WORKERS
    assert len(before_next) == len(texts) // 4
    assert max(before_next) <= 1 + WORKERS and count() == 0
    assert [doc.text for doc in docs] == texts


def test_large_batches_are_encoded_in_threads(
    make_nlp: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions stay the same. An error removes only the docs of its own group."""
    nlp = make_nlp()
    train(nlp)
    encoder = nlp.get_pipe("transformer")
    expected = [answers(nlp(text)) for text in TEXTS]
    threads, _encode = [], Encoding._encode

    def failing(*args: Any) -> Any:
        threads.append(threading.current_thread())
        if len(threads) == 3:
            raise KeyError
        return _encode(*args)

    lost: list[Doc] = []
    monkeypatch.setattr(pipe_module, "BUFFER", 4)  # one text
    monkeypatch.setattr(Encoding, "_encode", failing)
    encoder.set_error_handler(lambda name, proc, docs, error: lost.extend(docs))
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        docs = list(nlp.pipe(TEXTS * 4, batch_size=8))
    finally:
        torch.set_num_threads(n_threads)
    kept = TEXTS * 4
    kept.remove(lost[0].text)  # the first doc with this text, which is in the first group
    assert len(lost) == 1 and [doc.text for doc in docs] == kept
    assert all(answers(doc) == expected[TEXTS.index(doc.text)] for doc in docs)
    assert len(threads) == WORKERS * 4 * len(TEXTS) and threading.main_thread() not in threads


def test_the_same_doc_twice_in_a_stream(make_nlp: Callable) -> None:
    nlp = make_nlp()
    train(nlp)
    doc = nlp.make_doc(TEXTS[0])
    assert list(nlp.pipe([doc, doc, doc], batch_size=2)) == [doc] * 3
    assert answers(doc) == answers(nlp(TEXTS[0]))


@settings(deadline=None)
@given(st.lists(st.integers(0, 12)), st.integers(1, 5))
def test_docs_encoded_together(lengths: list[int], n_docs: int) -> None:
    docs = [Doc(VOCAB, words=["a"] * length) for length in lengths]
    groups = list(buffer(docs, n_docs, n_tokens=20))
    assert [id(doc) for group in groups for doc in group] == [id(doc) for doc in docs]
    for i, group in enumerate(groups):
        sizes = [len(doc) for doc in group]
        assert sum(sizes[:-1]) < 20 and 1 <= len(group) <= n_docs
        assert i == len(groups) - 1 or len(group) == n_docs or sum(sizes) >= 20


@pytest.mark.parametrize(("n_tokens", "expected"), [(4095, False), (4096, True)])
def test_docs_that_are_worth_a_thread(n_tokens: int, expected: bool) -> None:
    docs = [Doc(VOCAB, words=["a"] * 95), Doc(VOCAB, words=["a"] * (n_tokens - 95))]
    assert is_large((docs, docs)) == expected
    assert not is_large((docs, docs[:1]))


def test_long_docs_are_not_encoded_together(
    make_nlp: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    nlp = make_nlp()
    train(nlp)
    texts = [" ".join(TEXTS * 4), *TEXTS, " ".join(TEXTS * 3), TEXTS[0]]
    expected = [answers(nlp(text)) for text in texts]
    monkeypatch.setattr("spacy_mtl.encoder.pipe.BUFFER", 100)
    seen = []
    nlp.get_pipe("transformer").set_extra_annotations = lambda docs, _: seen.append(len(docs))
    assert [answers(doc) for doc in nlp.pipe(texts, batch_size=5)] == expected
    assert seen == [1, 5, 1]


def test_a_pipeline_can_be_copied_after_predictions(make_nlp: Callable) -> None:
    from copy import deepcopy

    nlp = make_nlp()
    train(nlp)
    assert_same(nlp, deepcopy(nlp))
    copied = deepcopy(nlp)
    expected = [answers(nlp(text)) for text in TEXTS]
    train(copied)
    assert [answers(nlp(text)) for text in TEXTS] == expected
    assert encoder_weights(copied) != encoder_weights(nlp)


def test_a_pipeline_can_be_copied_during_an_update(make_nlp: Callable) -> None:
    """The encoder is waiting for heads without labels in the batch."""
    import pickle
    from copy import deepcopy

    nlp, expected = make_nlp(), make_nlp()
    for each in (nlp, expected):
        each.update(make_examples(each, "tagger"), sgd=create_adamw_v1(0.01))
        each.get_pipe("transformer").flush()
        each.update(make_examples(each, "tagger"), sgd=create_adamw_v1(0.01))
    for copied in (deepcopy(nlp), pickle.loads(pickle.dumps(nlp))):
        assert_same(expected, copied)
        train(copied)
        heads = {id(pipe) for _, pipe in copied.pipeline[1:]}
        assert {id(head) for head in copied.get_pipe("transformer").heads} == heads


def test_extra_annotations(encoder: str) -> None:
    seen = []
    nlp = spacy.blank("en")
    nlp.add_pipe("mtl_transformer", config={"model": {"name": encoder}})
    nlp.initialize()
    nlp.get_pipe("mtl_transformer").set_extra_annotations = lambda docs, batch: seen.append(
        [len(data.rows) for data in batch.doc_data]
    )
    list(nlp.pipe(["a b c", "", "d"]))
    assert seen == [[3, 0, 1]]


# Same answer however batched


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_same_answers_in_any_batch(make_nlp: Callable, batch_size: int) -> None:
    nlp = make_nlp()
    train(nlp)
    texts = [*TEXTS, "", " ", "Porto", " ".join(TEXTS * 8)] * 2
    expected = [answers(nlp(text)) for text in texts]
    assert [answers(doc) for doc in nlp.pipe(texts, batch_size=batch_size)] == expected
    backwards = [answers(doc) for doc in nlp.pipe(texts[::-1], batch_size=batch_size)]
    assert backwards[::-1] == expected


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_two_processes(make_nlp: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # a forked process must not wait for this thread pool
    nlp = make_nlp()
    train(nlp)
    expected = [answers(nlp(text)) for text in TEXTS * 3]
    docs = nlp.pipe(TEXTS * 3, n_process=2, batch_size=2)
    assert [answers(doc) for doc in docs] == expected
    torch.set_num_threads(threads)


def test_the_same_doc_twice_in_a_batch(make_nlp: Callable) -> None:
    nlp = make_nlp()
    train(nlp)
    expected = answers(nlp(TEXTS[0]))
    doc = nlp.make_doc(TEXTS[0])
    encoder = nlp.get_pipe("transformer")
    encoder.set_annotations([doc, doc], encoder.predict([doc, doc]))
    for _, pipe in nlp.pipeline[1:]:
        pipe(doc)
    assert answers(doc) == expected


# Saving


def test_round_trips(make_nlp: Callable, tmp_path: Path) -> None:
    nlp = make_nlp()
    train(nlp)
    nlp.to_disk(tmp_path)
    assert_same(nlp, spacy.load(tmp_path))
    assert_same(nlp, spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes()))
    again = spacy.util.load_model_from_config(nlp.config, auto_fill=False, validate=True)
    assert again.config.to_str() == nlp.config.to_str()


def test_settings_of_a_trained_encoder_are_the_configs(make_nlp: Callable, tmp_path: Path) -> None:
    nlp = make_nlp(model={"precision": "bfloat16"})
    train(nlp)
    nlp.to_disk(tmp_path)
    changed = {
        "components.transformer.model.precision": "float32",
        "components.transformer.max_batch_items": 77,
    }
    loaded = spacy.load(tmp_path, config=changed)
    attrs = loaded.get_pipe("transformer").model.attrs  # type: ignore[attr-defined]
    assert (attrs["precision"], attrs["max_batch_items"]) == ("float32", 77)
    assert loaded(TEXTS[0]).cats != nlp(TEXTS[0]).cats
    assert spacy.load(tmp_path)(TEXTS[0]).cats == nlp(TEXTS[0]).cats


def test_load_needs_no_encoder_folder(encoder: str, make_nlp: Callable, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "encoder"
    shutil.copytree(encoder, copy)
    nlp = make_nlp(name=str(copy))
    train(nlp)
    nlp.to_disk(tmp_path / "model")
    shutil.rmtree(copy)
    assert_same(nlp, spacy.load(tmp_path / "model"))


def test_pipes_can_be_sourced(make_nlp: Callable) -> None:
    nlp = make_nlp()
    train(nlp)
    other = spacy.blank("en")
    for name in nlp.pipe_names:
        other.add_pipe(name, source=nlp)
    assert_same(nlp, other)


def test_heads_that_were_disabled_while_others_were_linked(make_nlp: Callable) -> None:
    """spaCy links listeners again after each added component, but only enabled ones."""
    nlp, expected = make_nlp(), make_nlp()
    for each in (nlp, expected):
        train(each)
    with nlp.select_pipes(disable=["tagger", "textcat"]):
        nlp.add_pipe("sentencizer")
    assert_same(nlp, expected)
    assert not nlp(TEXTS[0]).user_data
    losses = [each.update(make_examples(each), sgd=False, losses={}) for each in (nlp, expected)]
    assert losses[0] == losses[1]
    found, other = [each.get_pipe("transformer").diagnostics.take() for each in (nlp, expected)]
    assert set(found) == set(other) == {"tagger", "ner", "textcat"}
    assert found["textcat"]["grad_norm"] == pytest.approx(other["textcat"]["grad_norm"])
    nlp.remove_pipe("textcat")
    assert not nlp(TEXTS[0]).user_data


def test_sourcing_leaves_the_source_as_it_was(make_nlp: Callable) -> None:
    nlp = make_nlp()
    expected = [answers(nlp(text)) for text in TEXTS]
    other = spacy.blank("en")
    for name in ("transformer", "tagger"):
        other.add_pipe(name, source=nlp)
    assert [t.tag_ for t in other(TEXTS[0])] == expected[0][0]
    assert [answers(nlp(text)) for text in TEXTS] == expected


@pytest.mark.parametrize("name", ["merge_entities", "doc_cleaner", "token_splitter", "nameless"])
def test_components_without_a_name(make_nlp: Callable, name: str, tmp_path: Path) -> None:
    """Component classes may lack a name, and components may be functions."""

    @Language.component("nameless")
    def nameless(doc: Doc) -> Doc:
        return doc

    nlp = make_nlp(config={"ner": {"spans_key": None}})
    train(nlp, 30)
    expected = [[ent.text for ent in doc.ents] for doc in nlp.pipe(TEXTS)]
    assert any(" " in text for texts in expected for text in texts)
    nlp.add_pipe(name)
    nlp.to_disk(tmp_path)
    docs = [Doc(nlp.vocab).from_bytes(d.to_bytes()) for d in spacy.load(tmp_path).pipe(TEXTS)]
    assert [[ent.text for ent in doc.ents] for doc in docs] == expected
    if name == "merge_entities":
        assert all(len(ent) == 1 for doc in docs for ent in doc.ents)


@pytest.mark.parametrize("merges", [True, False])
def test_tokens_that_change_behind_the_encoder(make_nlp: Callable, merges: bool) -> None:
    """Heads for tokens would read wrong rows. A head for docs reads the original number."""
    change_name = f"change_{merges}"

    @Language.component(change_name)
    def change(doc: Doc) -> Doc:
        with doc.retokenize() as retokenizer:
            if merges:
                retokenizer.merge(doc[:2])
            else:
                parts = [doc[0].text[:1], doc[0].text[1:]]
                retokenizer.split(doc[0], parts, [(doc[0], 1), doc[1]])
        return doc

    for head in ("tagger", "ner"):
        nlp = make_nlp(head)
        nlp.add_pipe(change_name, before=head)
        with pytest.raises(
            ValueError, match=rf"M078.*'Maria.* had 8 .* {7 if merges else 9} .*{head}"
        ):
            list(nlp.pipe(TEXTS))
    nlp, changed = make_nlp("textcat"), make_nlp("textcat")
    changed.add_pipe(change_name, before="textcat")
    assert [doc.cats for doc in nlp.pipe(TEXTS)] == [doc.cats for doc in changed.pipe(TEXTS)]


def test_two_encoders_with_their_own_heads(encoder: str) -> None:
    def make(*names: str) -> Language:
        nlp = spacy.blank("en")
        for name in names:
            if name in "ab":
                nlp.add_pipe("mtl_transformer", name=name, config={"model": {"name": encoder}})
            else:
                listener = {"@architectures": "spacy-mtl.TaskListener.v1", "upstream": name[-1]}
                model = {"tok2vec": listener}
                nlp.add_pipe(f"mtl_{name[:-2]}", name=name, config={"model": model})
        nlp.initialize(lambda: make_examples(nlp))
        return nlp

    nlp = make("a", "tagger_a", "b", "ner_b")
    losses = nlp.update(make_examples(nlp), sgd=False, losses={})
    nlp.get_pipe("a").flush()
    nlp.get_pipe("b").flush()
    assert losses["tagger_a"] > 0 and losses["ner_b"] > 0
    for name, head in [("a", "tagger_a"), ("b", "ner_b")]:
        assert list(nlp.get_pipe(name).diagnostics.take()) == [head]
    nlp = make("a", "b", "tagger_a", "ner_b")
    with pytest.raises(ValueError, match=r"M077.*\['ner_b'\]"):
        nlp.update(make_examples(nlp), sgd=False)


@pytest.mark.parametrize("trained_on", [0, 2])
def test_replace_listeners(make_nlp: Callable, tmp_path: Path, trained_on: int) -> None:
    nlp = make_nlp()
    train(nlp)
    other = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    other.replace_listeners("transformer", "ner", ["model.tok2vec"])
    assert_same(nlp, other)
    assert other.get_pipe("transformer").listening_components == ["tagger", "textcat"]
    other.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert_same(nlp, loaded)
    shared = encoder_weights(loaded)
    own = [node for node in loaded.get_pipe("ner").model.walk() if node.name == "transformer"]
    assert len(own) == 1
    before = own[0].to_bytes()
    if trained_on:
        train(loaded, steps=trained_on)
        assert own[0].to_bytes() != before and encoder_weights(loaded) != shared


def test_replace_stock_listeners(encoder: str, tmp_path: Path) -> None:
    nlp = make_stock_nlp(encoder, factory="mtl_transformer")
    train(nlp)
    expected = [answers(nlp(text)) for text in TEXTS]
    nlp.replace_listeners("transformer", "tagger", ["model.tok2vec"])
    assert [answers(nlp(text)) for text in TEXTS] == expected
    nlp.to_disk(tmp_path)
    assert [answers(spacy.load(tmp_path)(text)) for text in TEXTS] == expected


@pytest.mark.parametrize("damage", ["cut", "missing", "noise"])
def test_damaged_folders(make_nlp: Callable, tmp_path: Path, damage: str) -> None:
    nlp = make_nlp("tagger")
    nlp.to_disk(tmp_path)
    file = tmp_path / "transformer" / "model"
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else b"noise" * 100)
    with pytest.raises(ValueError, match=r"M007.*transformer"):
        spacy.load(tmp_path)
    with pytest.raises(ValueError, match=r"M007.*bytes"):
        nlp.get_pipe("transformer").from_bytes(srsly.msgpack_dumps({"model": b""}))


# Determinism


def test_same_seed_same_weights(make_nlp: Callable, tmp_path: Path) -> None:
    from conftest import build_encoder

    name = str(build_encoder("bert", tmp_path, dropout=0.1))
    runs = []
    for seed in (1, 1, 2):
        nlp = make_nlp(name=name)
        train(nlp, seed=seed)
        runs.append([pipe.model.to_bytes() for _, pipe in nlp.pipeline[1:]])
        runs[-1].append(encoder_weights(nlp))
    assert runs[0] == runs[1]
    assert runs[0][-1] != runs[2][-1]


# Unusual input

ODD = [
    "",
    " ",
    "\n\n\t  \n",
    "a",
    "ab" * 5000,
    "\x00\x01\x02 control \x7f",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
    "zero\u200dwidth\u200c\u200b joiner\ufeff",
    "مرحبا بالعالم 123",
    "你好，世界。今天是星期五。",
    "สวัสดีชาวโลก",
    "e\u0301\u0302\u0303" * 50,
    "1" * 600 + " " + "!" * 600,
]


def test_odd_texts(make_nlp: Callable) -> None:
    nlp = make_nlp()
    train(nlp)
    docs = list(nlp.pipe(ODD))
    assert [doc.text for doc in docs] == ODD
    for doc in docs:
        assert all(token.tag_ for token in doc)
        assert not doc.cats or 0.0 <= min(doc.cats.values()) <= max(doc.cats.values()) <= 1.0
        assert all(not e[0].is_space and not e[-1].is_space for e in doc.ents)
    examples = [Example(nlp.make_doc(text), nlp.make_doc(text)) for text in ODD]
    nlp.update(examples + make_examples(nlp), sgd=create_adamw_v1())


def test_lone_surrogates_are_refused_by_spacy_itself(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger")
    with pytest.raises(UnicodeEncodeError):
        nlp("lone \ud800 surrogate")
    assert nlp(TEXTS[0])[0].tag_


def test_a_doc_of_100_000_tokens(make_nlp: Callable) -> None:
    nlp = make_nlp()
    words = (" ".join(TEXTS)).split()
    doc = Doc(nlp.vocab, words=(words * (100_000 // len(words) + 1))[:100_000])
    nlp.max_length = 10**7
    for _, pipe in nlp.pipeline:
        doc = pipe(doc)
    assert len(doc) == 100_000 and doc[-1].tag_ and doc.cats


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.text(max_size=60), max_size=5))
def test_any_text(make_nlp: Callable, texts: list[str]) -> None:
    texts = [text.encode("utf8", "ignore").decode("utf8") for text in texts]
    nlp = cached_nlp(make_nlp)
    assert [doc.text for doc in nlp.pipe(texts)] == texts


CACHE: dict[str, Language] = {}


def cached_nlp(make_nlp: Callable) -> Language:
    if not CACHE:
        CACHE["nlp"] = make_nlp()
    return CACHE["nlp"]


def test_labels_never_seen(make_nlp: Callable) -> None:
    nlp = make_nlp()
    eg = make_examples(nlp)[0]
    eg.reference[0].tag_ = "NEW"
    eg.reference.cats = {"unheard": 1.0}
    eg.reference.set_ents([eg.reference.char_span(0, 5, "NEWTYPE")])
    losses = nlp.update([eg], sgd=False, losses={})
    assert all(numpy.isfinite(loss) for loss in losses.values())
    nlp.evaluate([eg])


def test_listener_without_encoder() -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("mtl_tagger")
    with pytest.raises(ValueError, match="M011"):
        nlp.initialize(lambda: [Example(d, d) for d in [make_gold(nlp.vocab, 0)]])


def test_disabled_encoder(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger")
    with pytest.raises(ValueError, match=r"M012.*Maria"), nlp.select_pipes(disable="transformer"):
        nlp(TEXTS[0])


def test_default_balancer(encoder: str) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("mtl_transformer", config={"model": {"name": encoder}})
    assert nlp.config["components"]["mtl_transformer"]["balancer"] == {
        "@misc": "spacy-mtl.UncertaintyWeights.v1",
        "learn_rate": 0.1,
    }


def test_absent_task_in_the_balancer(make_nlp: Callable) -> None:
    balancer = {"@misc": "spacy-mtl.StaticWeights.v1", "weights": {"parser": 1.0}}
    with pytest.raises(ValueError, match=r"M020.*parser.*ner.*tagger"):
        make_nlp("tagger", "ner", balancer=balancer)


def test_unknown_argument(encoder: str) -> None:
    nlp = spacy.blank("en")
    with pytest.raises(Exception, match="ballancer"):
        nlp.add_pipe("mtl_transformer", config={"ballancer": {}, "model": {"name": encoder}})


def test_the_same_doc_twice(make_nlp: Callable) -> None:
    nlp = make_nlp("tagger")
    doc, other = nlp.make_doc(TEXTS[0]), nlp.make_doc(TEXTS[1])
    matrix = nlp.get_pipe("transformer").predict([doc, other, doc])
    first, _, last = (matrix.data[start:end] for start, end in matrix.bounds)
    numpy.testing.assert_allclose(first, last, atol=1e-6)
    assert abs(first).max() > 0.1


def test_replace_listeners_around_the_listener(make_nlp: Callable) -> None:
    """What would be saved could not be loaded."""
    listener = {"@architectures": "spacy-mtl.TaskListener.v1"}
    tok2vec = {"@architectures": "spacy-mtl.ConcatTok2Vec.v1", "layers": {"context": listener}}
    nlp = make_nlp("ner", "tagger", config={"ner": {"model": {"tok2vec": tok2vec}}})
    message = r"M088.*'ner'.*\['model.tok2vec.layers.context'\]"
    with pytest.raises(ValueError, match=message):
        nlp.replace_listeners("transformer", "ner", ["model.tok2vec"])


def test_who_unpickles_a_pipeline_keeps_its_threads(make_nlp: Callable) -> None:
    nlp, before = make_nlp("tagger"), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        nlp.get_pipe("transformer").model.layers[0].shims[0].process = -1
        loaded = pickle.loads(pickle.dumps(nlp))
        loaded(TEXTS[0])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_step_of_tasks_without_weight(make_nlp: Callable) -> None:
    """Not even its momentum moves the encoder."""
    weights = {"@misc": "spacy-mtl.StaticWeights.v1", "weights": {"tagger": 0.0}}
    nlp, sgd = make_nlp("tagger", "ner", balancer=weights), create_adamw_v1()
    seen = []
    for tasks in (["tagger", "ner"], ["tagger"], ["ner"]):
        nlp.update(make_examples(nlp, *tasks), sgd=sgd)
        nlp.get_pipe("transformer").flush()  # or it waits for the other head
        seen.append(encoder_weights(nlp))
    assert seen[0] == seen[1] != seen[2]


def test_an_update_is_counted_once(make_nlp: Callable) -> None:
    nlp, sgd = make_nlp("tagger"), create_adamw_v1()
    for _ in range(3):
        nlp.update(make_examples(nlp), sgd=sgd)
    (shim,) = nlp.get_pipe("transformer").model.layers[0].shims
    assert sgd.nr_update[shim.id, ""] == 3


def test_a_stock_head_behind_our_listener(make_nlp: Callable) -> None:
    """It tells its loss only when its gradient has left: the balancer sees it all the same."""
    config = {"tagger": {"model": {"tok2vec": {"@architectures": "spacy-mtl.TaskListener.v1"}}}}
    seen: list[dict[str, float]] = []

    class Watched(StaticWeights):
        def weigh(self, batch: Any) -> dict[str, float]:
            seen.append(dict(batch.losses))
            return super().weigh(batch)

    for sgd in (False, create_adamw_v1()):
        nlp = make_nlp("ner", "tagger=tagger", config=config)
        nlp.get_pipe("transformer").balancer = Watched({})
        losses = nlp.update(make_examples(nlp), sgd=sgd, drop=0.0, losses={})
        nlp.get_pipe("transformer").finish_update(create_adamw_v1())
        assert seen[-1]["tagger"] == losses["tagger"] > 0
    assert len(seen) == 2 and seen[0] == pytest.approx(seen[1])
