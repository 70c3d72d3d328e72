import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import FAMILIES, TEXTS, WIDTH, build_encoder, build_tokenizer
from spacy.tokens import Doc
from spacy_transformers.layers import TransformerModel
from spacy_transformers.layers.trfs2arrays import trfs2arrays
from spacy_transformers.span_getters import configure_strided_spans
from thinc.api import reduce_mean
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModel

from spacy_mtl.encoder.model import forward
from spacy_mtl.encoder.model import transformer as encoder_model
from spacy_mtl.encoder.model.batches import share
from spacy_mtl.encoder.model.serialization import FORMAT, build, pack_weights, unpack_weights
from spacy_mtl.encoder.model.transformer import SharedTransformer, build_shared_transformer_v1
from spacy_mtl.encoder.runtime.cpu import runtime as cpu_runtime

NLP = spacy.blank("en")
STOCK_SPANS = configure_strided_spans(64, 48)


def make_model(
    name: str, precision: Any = "float32", get_spans: Any = STOCK_SPANS, **options: Any
) -> Any:
    model = build_shared_transformer_v1(name, get_spans, {}, {}, precision, **options)
    model.initialize()
    return model


def make_docs() -> list[Doc]:
    long = " ".join(TEXTS * 12)
    return [NLP(text) for text in [TEXTS[0], long, "", TEXTS[1] + "  \n ", "x", long[:900]]]


def stock_features(name: str, docs: list[Doc]) -> numpy.ndarray:
    model = TransformerModel(name, STOCK_SPANS, {}, {})
    model.initialize(X=docs)
    batch = model.predict(docs)
    rows = trfs2arrays(reduce_mean(), 1.0).predict(batch.doc_data)
    return numpy.concatenate([r for r in rows if len(r)])


@pytest.mark.parametrize("family", FAMILIES)
def test_features_equal_stock_for_every_family(family: str, tmp_path: Path) -> None:
    folder = str(build_encoder(family, tmp_path))
    docs = make_docs()
    found = make_model(folder, alignment="spacy-transformers").predict(docs)
    assert found.data.shape == (sum(map(len, docs)), WIDTH) and found.data.dtype == "float32"
    numpy.testing.assert_allclose(found.data, stock_features(folder, docs), atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_max_length_is_what_the_encoder_can_read(family: str, tmp_path: Path) -> None:
    """A word of 20,000 characters is longer than any window and is read in parts."""
    model = make_model(str(build_encoder(family, tmp_path)))
    docs = [Doc(NLP.vocab, words=["Maria", "ab" * 10000, "flew"])]
    found = model.predict(docs).data
    assert numpy.isfinite(found).all() and numpy.abs(found).min(axis=1).all()
    assert model.max_length <= 512


def test_an_encoder_without_a_limit(encoder: str) -> None:
    """XLNet has the maximum length -1."""
    model = make_model(encoder)
    model.transformer.config.max_position_embeddings = -1
    assert model.max_length == model.tokenizer.model_max_length - 2


@pytest.mark.parametrize("kept", [(), ("pooler",)])
def test_an_encoder_whose_weights_are_all_frozen(encoder: str, kept: tuple[str, ...]) -> None:
    model = make_model(encoder)
    for name, parameter in model.transformer.named_parameters():
        parameter.requires_grad_(name.startswith(kept) if kept else False)
    matrix, backprop = model.begin_update(make_docs())
    assert backprop(numpy.ones_like(matrix.data)) == []
    assert all(p.grad is None for p in model.transformer.parameters())


def test_same_rows_however_batched(encoder: str) -> None:
    model = make_model(encoder)
    docs = make_docs()
    together = model.predict(docs)
    for (start, end), doc in zip(together.bounds, docs, strict=True):
        alone = model.predict([doc]).data
        numpy.testing.assert_allclose(alone, together.data[start:end], atol=1e-5)
    backwards = model.predict(docs[::-1])
    for (start, end), (a, b) in zip(together.bounds, backwards.bounds[::-1], strict=True):
        numpy.testing.assert_allclose(backwards.data[a:b], together.data[start:end], atol=1e-5)


@pytest.mark.parametrize("items", [1, 64, 100000])
def test_same_rows_for_any_size_of_forward_passes(encoder: str, items: int) -> None:
    model = make_model(encoder)
    docs = make_docs()
    expected = model.predict(docs).data
    model.attrs["max_batch_items"] = items
    numpy.testing.assert_allclose(model.predict(docs).data, expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_rows_in_any_order_and_size_of_batches(family: str, tmp_path: Path) -> None:
    model = make_model(str(build_encoder(family, tmp_path)))
    texts = [*TEXTS, "x", "", "Porto", " ".join(TEXTS), " ".join(TEXTS * 7), "soup " * 40] * 2
    docs = [NLP(text) for text in texts]
    expected = [rows.rows for rows in model.predict(docs).doc_data]
    rng = numpy.random.default_rng(0)
    for items in (1, 40, 333, 4096):
        order = rng.permutation(len(docs))
        model.attrs["max_batch_items"] = items
        found = model.predict([docs[i] for i in order]).doc_data
        for i, rows in zip(order, found, strict=True):
            numpy.testing.assert_allclose(rows.rows, expected[i], atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "albert"])
def test_no_padding_beyond_what_the_encoder_can_read(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of positions is no multiple of 4. Lengths must not be rounded up beyond it."""
    monkeypatch.setattr(cpu_runtime, "can_pack", lambda module: False)
    kind, extra = FAMILIES[family]
    reserved = 2 if kind == "roberta" else 0
    positions = {"max_position_embeddings": 101 + reserved}
    monkeypatch.setitem(FAMILIES, family, (kind, {**extra, **positions}))
    model = make_model(str(build_encoder(family, tmp_path)))
    model.attrs["get_spans"] = lambda docs: [[doc[:]] for doc in docs]
    assert model.max_length == 99
    shapes, masks = [], []

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))
        masks.append(kwargs.get("attention_mask"))

    model.transformer.register_forward_pre_hook(watch, with_kwargs=True)
    doc = Doc(NLP.vocab, words=list("abcdefghij" * 60))
    for length in (95, 96, 97, 98, 99, 100, 250, 600):
        found = model.predict([doc[:length].as_doc(), NLP("x")])
        assert numpy.abs(found.data).min(axis=1).all()
    longest = [shape[1] for shape in shapes]
    assert max(longest) == 101 and any(mask is not None for mask in masks)
    for shape, mask in zip(shapes, masks, strict=True):
        assert mask is None or (tuple(mask.shape) == shape and not mask.all())


def test_overlapping_windows_are_averaged(encoder: str) -> None:
    doc = NLP(" ".join(TEXTS))
    whole = make_model(encoder, get_spans=lambda docs: [[doc[:]] for doc in docs])
    spans = [doc[0:12], doc[8:20]]
    both = make_model(encoder, get_spans=lambda docs: [spans])
    single = make_model(encoder, get_spans=lambda docs: [[spans[0]]])
    found = both.predict([doc]).data
    assert not found[20:].any() and not single.predict([doc]).data[12:].any()
    only_first = single.predict([doc]).data
    numpy.testing.assert_allclose(found[:8], only_first[:8], atol=1e-6)
    assert numpy.abs(found[8:12] - only_first[8:12]).max() > 1e-4
    assert numpy.abs(whole.predict([doc]).data).all(axis=1).all()


def test_no_docs_no_tokens(encoder: str) -> None:
    model = make_model(encoder)
    assert model.predict([]).data.shape == (0, WIDTH)
    matrix, _ = model.begin_update([NLP(""), NLP("")])
    assert matrix.data.shape == (0, WIDTH) and matrix.bounds == [(0, 0), (0, 0)]


def test_one_backward_for_all_forward_passes(encoder: str) -> None:
    model = make_model(encoder)
    docs = make_docs()
    matrix, backprop = model.begin_update(docs)
    weight = numpy.random.default_rng(0).normal(size=matrix.data.shape).astype("f")
    backprop(weight)
    found = [p.grad.clone() for p in model.transformer.parameters() if p.grad is not None]
    model.transformer.zero_grad()
    for (start, end), doc in zip(matrix.bounds, docs, strict=True):
        if len(doc):
            model.begin_update([doc])[1](weight[start:end])
    expected = [p.grad for p in model.transformer.parameters() if p.grad is not None]
    assert len(found) == len(expected) > 10
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_bfloat16_is_close(encoder: str) -> None:
    docs = make_docs()
    exact = make_model(encoder).predict(docs).data
    half = make_model(encoder, "bfloat16")
    found = half.predict(docs).data
    assert found.dtype == "float32" and 0 < numpy.abs(found - exact).max() < 0.1
    matrix, backprop = half.begin_update(docs)
    backprop(numpy.ones_like(matrix.data))
    assert all(
        torch.isfinite(p.grad).all() for p in half.transformer.parameters() if p.grad is not None
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_wordpieces_are_kept_as_they_are(
    encoder: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions keep the precision until wordpieces are pooled. Training uses float32."""
    seen = []
    pool = forward.pool

    def watch(hidden: Any, pieces: Any) -> Any:
        seen.append(hidden.dtype)
        return pool(hidden, pieces)

    monkeypatch.setattr(forward, "pool", watch)
    model = make_model(encoder, precision)
    model.predict(make_docs())
    model.begin_update(make_docs())
    assert seen == [getattr(torch, precision), torch.float32]


@pytest.mark.parametrize("native", [True, False])
def test_auto_precision(encoder: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    native_check = "spacy_mtl.encoder.model.weights.has_native_bfloat16"
    monkeypatch.setattr(native_check, lambda device: native)
    docs = make_docs()
    expected = make_model(encoder, "bfloat16" if native else "float32").predict(docs).data
    numpy.testing.assert_array_equal(make_model(encoder, "auto").predict(docs).data, expected)


def test_unknown_precision(encoder: str) -> None:
    with pytest.raises(ValueError, match=r"(?:M005|M058).*int8"):
        make_model(encoder, "int8")


def test_copy_is_independent(encoder: str) -> None:
    model = make_model(encoder)
    copied = model.copy()
    docs = make_docs()
    numpy.testing.assert_array_equal(copied.predict(docs).data, model.predict(docs).data)
    with torch.no_grad():
        next(iter(copied.transformer.parameters())).mul_(2.0)
    assert numpy.abs(copied.predict(docs).data - model.predict(docs).data).max() > 1e-3
    assert copied.attrs["name"] == encoder and isinstance(copied, SharedTransformer)


def test_dropout_only_in_training(tmp_path: Path) -> None:
    model = make_model(str(build_encoder("bert", tmp_path, dropout=0.5)))
    docs = make_docs()
    numpy.testing.assert_array_equal(model.predict(docs).data, model.predict(docs).data)
    first, second = (model.begin_update(docs)[0].data for _ in range(2))
    assert numpy.abs(first - second).max() > 1e-3
    numpy.testing.assert_array_equal(model.predict(docs).data, model.predict(docs).data)


def test_unknown_encoder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"M001.*nowhere"):
        make_model(str(tmp_path / "nowhere"))


def test_slow_tokenizer(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacy_mtl.compat.load_tokenizer", lambda *args: object())
    with pytest.raises(ValueError, match=r"M002.*object"):
        make_model(encoder)


def test_special_tokens_of_a_tokenizer_without_a_class_of_its_own() -> None:
    assert len(build_tokenizer("bert").build_inputs_with_special_tokens([9])) == 1
    for kind in ("bert", "roberta", "albert"):
        tokenizer = build_tokenizer(kind)

        class Holder:
            special_ids = encoder_model.SharedTransformer.special_ids
            _get_frame = encoder_model.SharedTransformer._get_frame

        holder: Any = Holder()
        holder.tokenizer = tokenizer
        assert holder.special_ids == ([tokenizer.cls_token_id], [tokenizer.sep_token_id])


def test_no_global_state_is_changed(encoder: str) -> None:
    before = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_num_threads())
    make_model(encoder, "bfloat16").predict(make_docs())
    after = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_num_threads())
    assert before == after and not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("is_train", [False, True])
def test_out_of_memory_halves_the_batch(
    encoder: str, is_train: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, docs = make_model(encoder), make_docs()
    expected, _ = model(docs, is_train)
    read, sizes, limit = model.transformer.forward, [], 200

    def read_less(*args: Any, **kwargs: Any) -> Any:
        sizes.append(kwargs["input_ids"].numel())
        if sizes[-1] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return read(*args, **kwargs)

    monkeypatch.setattr(model.transformer, "forward", read_less)
    model.shim.for_prediction.forget()  # a copy of the module
    with pytest.warns(UserWarning, match=r"W003.*max_batch_items"):
        found, backprop = model(docs, is_train)
    assert max(sizes) > limit and min(sizes) <= limit
    numpy.testing.assert_allclose(found.data, expected.data, atol=1e-5)
    if is_train:
        backprop(numpy.ones_like(found.data))
        assert model.transformer.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_other_errors_and_a_single_sequence_are_not_tried_again(
    encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(encoder)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(message)

    monkeypatch.setattr(model.transformer, "forward", fail)
    for message, texts in [("shapes differ", TEXTS), ("can't allocate memory", TEXTS[:1])]:
        with pytest.raises(RuntimeError, match=message):
            model.predict([NLP(text) for text in texts])


# Saving


def make_unloaded() -> Any:
    return build_shared_transformer_v1("none", STOCK_SPANS, {}, {}, "float32")


def make_stock() -> Any:
    return TransformerModel("none", STOCK_SPANS, {}, {})


def describe(module: Any) -> dict[str, Any]:
    """RETURNS: All tensors, including unsaved buffers, and whether they learn."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    return {
        name: (t.tolist(), t.dtype, t.device, t.requires_grad, t.is_leaf) for name, t in tensors
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_ours_reads_what_both_save(family: str, tmp_path: Path) -> None:
    folder = build_encoder(family, tmp_path)
    model = make_model(str(folder), alignment="spacy-transformers")
    expected, docs = describe(model.transformer), make_docs()
    file, stock_file = tmp_path / "model", tmp_path / "stock"
    model.to_disk(file)
    stock = TransformerModel(str(folder), STOCK_SPANS, {}, {})
    stock.initialize(X=docs)
    stock.to_disk(stock_file)
    of_file, of_stock, of_bytes = (make_unloaded() for _ in range(3))
    of_file.from_disk(file)
    of_stock.from_disk(stock_file)
    of_bytes.from_bytes(model.to_bytes())
    for found in (of_file, of_stock, of_bytes):
        assert describe(found.transformer) == expected
        assert found.tokenizer.get_vocab() == model.tokenizer.get_vocab()
        assert found.get_dim("nO") == WIDTH
        numpy.testing.assert_array_equal(found.predict(docs).data, model.predict(docs).data)


def test_small_settings_are_kept(encoder: str, tmp_path: Path) -> None:
    """spacy-transformers loads 1e-12 as 0. Some encoders then divide by 0 in rows of padding."""
    model = make_model(encoder)
    assert model.transformer.config.layer_norm_eps == 1e-12
    model.to_disk(tmp_path / "model")
    loaded = make_unloaded().from_disk(tmp_path / "model").transformer
    assert loaded.config.layer_norm_eps == loaded.embeddings.LayerNorm.eps == 1e-12


def test_a_model_that_has_not_been_initialized(tmp_path: Path) -> None:
    model = build_shared_transformer_v1("a", STOCK_SPANS, {"b": 1}, {"c": 2}, "float32")
    model.to_disk(tmp_path / "model")
    loaded, stock = make_unloaded(), make_stock()
    for other in (loaded, stock):
        other.from_disk(tmp_path / "model")
        assert not other.attrs["has_transformer"] and other.attrs["name"] == "a"
    assert loaded.shim.loaded.tokenizer_config == stock._init_tokenizer_config == {"b": 1}
    assert loaded.shim.loaded.transformer_config == stock._init_transformer_config == {"c": 2}


def test_weights_stay_tied() -> None:
    config = AutoConfig.for_model(
        "t5", vocab_size=50, d_model=WIDTH, d_ff=WIDTH, d_kv=8, num_layers=1, num_heads=4
    )
    module = AutoModel.from_config(config)
    weights, shared = pack_weights(module.state_dict())
    assert len(weights) < 1.1 * sum(p.nbytes for p in module.parameters())
    state = unpack_weights(weights, FORMAT)
    built = build(config, state | {name: state[owner] for name, owner in shared.items()})
    assert built.shared.weight is built.encoder.embed_tokens.weight
    assert describe(built) == describe(module)


def test_weights_of_another_version_are_loaded_as_by_stock(encoder: str) -> None:
    module = make_model(encoder).transformer
    state = {**module.state_dict(), "embeddings.position_ids": torch.arange(512)[None]}
    with pytest.warns(UserWarning, match=r"W006.*Missing, and random now: \[\].*position_ids"):
        assert describe(build(module.config, dict(state))) == describe(module)
    del state["pooler.dense.weight"]
    with pytest.warns(UserWarning, match=r"W006.*\['pooler.dense.weight'\].*position_ids"):
        built = describe(build(module.config, state))
    expected = describe(module)
    assert built.keys() == expected.keys()
    assert [name for name in built if built[name] != expected[name]] == ["pooler.dense.weight"]


def test_few_copies_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading makes two copies in Python, the file and its content, and one in torch."""
    monkeypatch.setitem(FAMILIES, "bert", ("bert", {"intermediate_size": 2**15}))
    model, file = make_model(str(build_encoder("bert", tmp_path))), tmp_path / "model"
    model.to_disk(file)
    size = sum(p.nbytes for p in model.transformer.parameters())
    assert size > 2**24
    tracemalloc.start()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            make_unloaded().from_disk(file)
        assert tracemalloc.get_traced_memory()[1] < 2.2 * size
    finally:
        tracemalloc.stop()
    made = sum(max(0, event.self_cpu_memory_usage) for event in profiler.events())
    assert size <= made < 1.2 * size


# Threads


def learn(model: Any, seed: int = 0) -> tuple[numpy.ndarray, dict[str, torch.Tensor]]:
    """RETURNS: The output of a training pass, and the gradient of each weight."""
    model.transformer.zero_grad()
    torch.manual_seed(seed)
    matrix, backprop = model.begin_update(make_docs())
    d_matrix = numpy.random.default_rng(0).normal(size=matrix.data.shape).astype("f")
    backprop(d_matrix)
    weights = model.transformer.named_parameters()
    return matrix.data, {name: p.grad.clone() for name, p in weights if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_two_threads_learn_what_one_does(
    family: str, tmp_path: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(str(build_encoder(family, tmp_path)))
    parts: list[int] = []
    monkeypatch.setattr(forward, "EncoderPass", watch(forward.EncoderPass, parts))
    found, gradients = learn(model)
    torch.set_num_threads(1)
    expected, exact = learn(model)
    assert parts == [2, 1]
    numpy.testing.assert_allclose(found, expected, atol=2e-5)
    assert gradients.keys() == exact.keys() and len(exact) > 10
    largest = max(float(gradient.abs().max()) for gradient in exact.values())
    for name, gradient in exact.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=5e-6 * largest)


def watch(make: Callable, seen: list[int]) -> Callable:
    """Split calls into a fixed number of parts."""

    def watched(*args: Any) -> Any:
        made = make(*args)
        seen.append(len(made.parts))
        return made

    return watched


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_threads_draw_the_same_numbers_each_time(
    precision: str, tmp_path: Path, two_threads: None
) -> None:
    """The result does not depend on which part is faster, to the last bit."""
    model = make_model(str(build_encoder("bert", tmp_path, dropout=0.2)), precision)
    expected, exact = learn(model)
    for _ in range(5):
        found, gradients = learn(model)
        assert numpy.array_equal(found, expected)
        assert all(torch.equal(gradients[name], gradient) for name, gradient in exact.items())
    assert not numpy.array_equal(learn(model, seed=1)[0], expected)


def test_gradients_of_two_threads_are_added(encoder: str, two_threads: None) -> None:
    """They are added to existing gradients, as in gradient accumulation."""
    model = make_model(encoder)
    _, once = learn(model)
    for p in model.transformer.parameters():
        if p.grad is not None:
            p.grad *= 2
    matrix, backprop = model.begin_update(make_docs())
    backprop(numpy.random.default_rng(0).normal(size=matrix.data.shape).astype("f"))
    largest = max(float(gradient.abs().max()) for gradient in once.values())
    for name, p in model.transformer.named_parameters():
        if name in once:
            torch.testing.assert_close(p.grad, 3 * once[name], rtol=1e-4, atol=1e-5 * largest)


def test_an_error_in_a_thread_is_raised(
    encoder: str, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("lost")

    model = make_model(encoder)
    monkeypatch.setattr(model.transformer, "forward", fail)
    with pytest.raises(KeyError, match="lost"):
        model.begin_update(make_docs())


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("n_batches", [0, 1, 2, 9])
def test_shares_come_out_even(n: int, n_batches: int) -> None:
    sizes = numpy.random.default_rng(0).integers(1, 9, (n_batches, 2)).tolist()
    batches = [(numpy.arange(size), length) for size, length in sizes]
    shares = share(batches, n)
    found = sorted((len(batch), length) for part in shares for batch, length in part)
    assert len(shares) == n and found == sorted(map(tuple, sizes))
    work = [sum(len(batch) * length for batch, length in part) for part in shares]
    largest = max((size * length for size, length in sizes), default=0)
    assert max(work) - min(work) <= largest


def test_no_docs(encoder: str) -> None:
    model = make_model(encoder)
    for docs in ([], [NLP("")]):
        assert model.predict(docs).data.shape == (0, WIDTH)
        matrix, _ = model.begin_update(docs)
        assert matrix.data.shape == (0, WIDTH)


def test_segments_of_special_tokens(tmp_path: Path) -> None:
    """XLNet's tokenizer gives one special token its own segment."""
    folder = build_encoder("bert", tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for part in tokenizer["post_processor"]["single"]:
        if part.get("SpecialToken", {}).get("id") == "[SEP]":
            part["SpecialToken"]["type_id"] = 1
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    names = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_input_names": names}))
    model = make_model(str(folder))
    assert model.special_types == [0, 1]
    doc = NLP(TEXTS[0])
    batch = model.tokenizer(doc.text, return_tensors="pt")
    assert batch["token_type_ids"][0, -1] == 1
    hidden = model.transformer.eval()(**batch).last_hidden_state[0, 1:-1].detach().numpy()
    rows = model.predict([doc]).data
    numpy.testing.assert_allclose(rows[0], hidden[0], atol=1e-4)


@pytest.mark.parametrize("key", ["output_attentions", "output_hidden_states"])
def test_outputs_that_nobody_would_find(encoder: str, key: str) -> None:
    """They are an error for a new encoder. A saved encoder with such settings still loads."""
    stock = TransformerModel(encoder, STOCK_SPANS, {}, {key: True})
    for model in (
        build_shared_transformer_v1(encoder, STOCK_SPANS, {}, {key: True}),
        SharedTransformer.from_stock(stock),
    ):
        with pytest.raises(ValueError, match=f"M055.*'{key}'"):
            model.initialize()
    build_shared_transformer_v1(encoder, STOCK_SPANS, {}, {key: False}).initialize()
    stock.initialize()
    assert SharedTransformer.from_stock(stock).attrs["has_transformer"]
