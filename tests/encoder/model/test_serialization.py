"""An encoder's file may contain only known entries. Nothing else is read, run or written."""

import json
import pickle
import re
import tempfile
import traceback
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy
import pytest
import spacy
import srsly
import torch
import transformers
from conftest import STOCK_MODELS, make_stock_nlp
from spacy.language import Language
from spacy_transformers.layers.hf_shim import HFShim

from spacy_mtl.encoder.model.serialization import (
    FORMAT,
    TOKENIZER_FILES,
    get_digests,
    pack_weights,
    read_pickle,
    unpack_weights,
)
from spacy_mtl.encoder.model.spans import configure_sentence_spans
from spacy_mtl.encoder.model.transformer import SharedTransformer, build_shared_transformer_v1
from spacy_mtl.training.resume import read_checkpoint

SPANS = configure_sentence_spans(100)
NLP = spacy.blank("en")
Change = Callable[[dict[str, Any]], None]


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def pack(state: Any, **options: Any) -> bytes:
    torch.save(state, file := BytesIO(), **options)
    return file.getvalue()


def make_model(name: str = "none") -> SharedTransformer:
    model: Any = build_shared_transformer_v1(name, SPANS)
    if name != "none":
        model.initialize()
    return model


def to_old_format(model: Any) -> bytes:
    """Save an encoder in the format of spacy-mtl 0.1.0 and spacy-transformers."""
    msg = srsly.msgpack_loads(model.to_bytes())
    del msg["checksums"]
    msg["shims"][1] = [HFShim(model.shim.loaded).to_bytes()]
    return srsly.msgpack_dumps(msg)


def craft(data: bytes, change: Change) -> bytes:
    """Change the message of the encoder in the file of any model, with correct checksums."""
    msg = srsly.msgpack_loads(data)
    for shims in msg["shims"]:
        for i, packed in enumerate(shims):
            content = srsly.msgpack_loads(packed)
            change(content)
            if content.get("format") == FORMAT:
                content["checksums"] = get_digests(content)
            shims[i] = srsly.msgpack_dumps(content)
    return srsly.msgpack_dumps(msg)


@pytest.fixture(scope="module")
def files(encoder: str) -> dict[int, bytes]:
    """RETURNS: The same encoder in both formats."""
    model = make_model(encoder)
    return {1: to_old_format(model), 2: model.to_bytes()}


@pytest.fixture(autouse=True)
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Check that no file was written."""
    folder = tmp_path / "a" / "temporary"
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setenv("HF_MODULES_CACHE", str(folder))
    yield folder
    assert [path for path in (tmp_path / "a").rglob("*") if path != folder] == []


def refuse(data: bytes, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        make_model().from_bytes(data)
    assert "weights_only" not in "".join(traceback.format_exception(caught.value))


# Names and settings


@pytest.mark.parametrize("version", [1, 2])
def test_only_bare_names_of_tokenizer_files(
    files: dict[int, bytes], untouched: Path, version: int
) -> None:
    names = [
        str(untouched / "vocab.txt"),
        "../vocab.txt",
        "../../vocab.txt",
        "below/vocab.txt",
        "./vocab.txt",
        "..\\vocab.txt",
        "C:\\vocab.txt",
        "vocab.txt\0",
        "vocab.pkl",
        "modeling_evil.py",
        "config.json",
        "",
        "..",
    ]
    for name in names:
        data = craft(files[version], lambda c, name=name: c["tokenizer"].update({name: b"{}"}))
        refuse(data, "(?s)M047.*" + re.escape(f"tokenizer/{name}'"))
    data = craft(files[version], lambda c: c["tokenizer"].update({"vocab.txt": "text"}))
    refuse(data, "M049.*tokenizer/vocab.txt.*bytes")


def set_tokenizer(**settings: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        about = json.loads(content["tokenizer"]["tokenizer_config.json"]) | settings
        content["tokenizer"]["tokenizer_config.json"] = json.dumps(about).encode()

    return change


def set_config(**settings: Any) -> Change:
    return lambda content: content["config"].update(settings)


def set_classes(content: dict[str, Any]) -> None:
    set_tokenizer(tokenizer_class=None)(content)
    set_config(tokenizer_class="Evil")(content)


REMOTE = {"AutoTokenizer": [None, "evil.Evil"], "AutoModel": "evil.Evil"}
CODE: dict[str, tuple[Change, str]] = {
    "kwargs": (
        lambda content: content["tokenizer"].update(kwargs={"trust_remote_code": True}),
        "M047.*tokenizer/kwargs.*trust_remote_code",
    ),
    "tokenizer's map": (set_tokenizer(auto_map=REMOTE), "M047.*tokenizer_config.json.auto_map"),
    "tokenizer's file": (set_tokenizer(vocab_file="passwd"), "M047.*vocab_file = 'passwd'"),
    "tokenizer's files": (set_tokenizer(fast_tokenizer_files=["../x"]), "M047.*_tokenizer_files"),
    "tokenizer's inputs": (set_tokenizer(init_inputs=["passwd"]), "M047.*init_inputs"),
    "tokenizer's class": (set_tokenizer(tokenizer_class="AutoModel"), "M002.*AutoModel"),
    "slow tokenizer": (set_tokenizer(tokenizer_class="TransfoXLTokenizer"), "M002.*TransfoXL"),
    "config's map": (set_config(auto_map=REMOTE), "M047.*config.auto_map"),
    "config's class": (set_classes, "M002.*Evil"),
    "trust": (set_config(trust_remote_code=True), "M047.*config.trust_remote_code"),
    "inner": (set_config(text_config={"auto_map": REMOTE}), "M047.*config.text_config.auto_map"),
    "kernel": (set_config(_attn_implementation_internal="me/it:run"), "M047.*me/it:run"),
    "backbone": (set_config(use_pretrained_backbone=True), "M047.*use_pretrained_backbone"),
    "type": (set_config(model_type="evil"), "M053.*evil"),
    "settings": (
        lambda content: content.update(config={}, _init_tokenizer_config={"auto_map": REMOTE}),
        "M051.*_init_tokenizer_config.auto_map",
    ),
    "wrong type": (lambda content: content.update(config=[1]), "M049.*'config' is"),
    "no settings": (lambda content: content.pop("config"), "M049.*'config' is None"),
    "no JSON": (
        lambda content: content["tokenizer"].update({"tokenizer_config.json": b"{"}),
        "M049.*tokenizer/tokenizer_config.json.*JSON",
    ),
}


@pytest.mark.parametrize("version", [1, 2])
def test_no_setting_runs_code_or_reads_other_files(files: dict[int, bytes], version: int) -> None:
    for change, match in CODE.values():
        refuse(craft(files[version], change), match)


def test_a_newer_format(files: dict[int, bytes]) -> None:
    refuse(craft(files[2], lambda content: content.update(format=3)), "M050.*format 3")


def test_settings_of_a_config_that_would_run_code() -> None:
    for settings in ({"trust_remote_code": True}, {"auto_map": REMOTE}):
        for key in ("tokenizer_config", "transformer_config"):
            with pytest.raises(ValueError, match=f"M051.*{key}.{next(iter(settings))}"):
                build_shared_transformer_v1("none", SPANS, **{key: settings})  # type: ignore[arg-type]
    build_shared_transformer_v1("none", SPANS, {"trust_remote_code": False, "use_fast": True})


def test_tokenizer_files_are_those_of_transformers() -> None:
    """The allowed names are the files of fast tokenizers and of tokenizers in general."""
    folder = Path(transformers.__file__).parent / "models"
    found = {"added_tokens.json", "chat_template.jinja", "special_tokens_map.json"}
    for path in folder.glob("*/tokenization_*_fast.py"):
        text = path.read_text(encoding="utf8")
        for names in re.findall(r"VOCAB_FILES_NAMES = (\{.*?\})", text, flags=re.DOTALL):
            found |= set(re.findall(r': "([^"]+)"', names))
    assert found == TOKENIZER_FILES


# Weights


def test_weights_are_not_unpickled(files: dict[int, bytes], untouched: Path) -> None:
    mark = untouched / "mark"
    pickles = {
        "zip": pack({"a": Bomb(mark)}),
        "legacy": pack({"a": Bomb(mark)}, _use_new_zipfile_serialization=False),
        "bare": pickle.dumps(Bomb(mark)),
    }
    with ZipFile(script := BytesIO(pickles["zip"]), "a") as archive:
        archive.writestr("archive/constants.pkl", b"")  # torch recognizes TorchScript by this file
    pickles["script"] = script.getvalue()
    for state in pickles.values():
        refuse(craft(files[1], lambda c, state=state: c.update(state=state)), "M052")
        with pytest.raises(Exception):  # noqa: B017
            make_model().from_bytes(craft(files[2], lambda c, state=state: c.update(state=state)))
    assert not mark.exists()
    refuse(
        craft(files[1], lambda c: c.update(state=pack({"a": 1}))), "M049.*'state.a' is 1.*Tensor"
    )


def test_all_kinds_of_tensors() -> None:
    x = torch.randn(4, 6)
    state = {
        "plain": x,
        "tied": x,
        "turned": x.T,
        "half": x.half(),
        "brain": x.bfloat16(),
        "ids": torch.arange(3),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(1.5),
        "part": torch.arange(8.0)[::2],
    }
    data, shared = pack_weights(state)
    assert shared == {"tied": "plain"}
    found = unpack_weights(data, FORMAT)
    assert found.keys() | shared.keys() == state.keys()
    for name, tensor in found.items():
        assert tensor.dtype == state[name].dtype and torch.equal(tensor, state[name])
        assert tensor.data_ptr() % 64 == 0 or not tensor.numel()  # the alignment of torch


def test_the_old_format_is_read(files: dict[int, bytes], untouched: Path) -> None:
    old, new = (make_model().from_bytes(files[version]) for version in (1, 2))
    docs = [NLP("Maria Keller flew to Lisbon on Friday ."), NLP("x")]
    numpy.testing.assert_array_equal(old.predict(docs).data, new.predict(docs).data)
    assert old.transformer.config.to_dict() == new.transformer.config.to_dict()
    assert old.tokenizer.get_vocab() == new.tokenizer.get_vocab()
    assert old.to_bytes() == new.to_bytes()


def test_a_file_of_spacy_transformers_2_is_read(files: dict[int, bytes], untouched: Path) -> None:
    """It differs from one of version 1 in the weights, which are safetensors."""
    content = srsly.msgpack_loads(srsly.msgpack_loads(files[2])["shims"][1][0])
    data = craft(files[1], lambda c: c.update(state=content["state"]))
    assert make_model().from_bytes(data).to_bytes() == make_model().from_bytes(files[2]).to_bytes()


# Damage


def test_a_changed_byte_is_found(files: dict[int, bytes], encoder: str) -> None:
    data = files[2]
    weight = make_model(encoder).transformer.encoder.layer[0].attention.self.query.weight
    places = {
        data.index(weight.detach().numpy().tobytes()): "'state'",
        data.index(b'"version":', data.index(b"tokenizer.json")): "'tokenizer/tokenizer.json'",
        data.index(b"hidden_act") + 12: "'config'",
        data.index(b'"cls_token"') + 14: "'tokenizer/tokenizer_config.json'|special_tokens_map",
        data.index(b"max_batch_items") - 3: "'attrs'|M049",
    }
    for place, entry in places.items():
        changed = bytearray(data)
        changed[place + 1] ^= 1
        refuse(bytes(changed), entry)


def test_any_changed_byte_is_found_or_harmless(files: dict[int, bytes]) -> None:
    """Harmless changes are in names of ignored entries, or in lengths with the same meaning."""
    data, found = files[2], 0
    expected = make_model().from_bytes(data).to_bytes()
    for place in numpy.random.default_rng(0).integers(len(data), size=40).tolist():
        changed = bytearray(data)
        changed[place] ^= 16
        try:
            loaded = make_model().from_bytes(bytes(changed))
        except Exception:
            found += 1
        else:
            assert loaded.to_bytes() == expected
    assert found > 35


# All places of an encoder


@pytest.fixture(scope="module")
def folder(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RETURNS: A pipeline where a head of ours and a head of spaCy have their own encoders."""
    nlp = make_stock_nlp(encoder, "textcat", factory="mtl_transformer", initialize=False)
    nlp.add_pipe("mtl_tagger", name="tagger")
    from conftest import make_examples

    nlp.initialize(lambda: make_examples(nlp))
    for name in ("tagger", "textcat"):
        nlp.replace_listeners("transformer", name, ["model.tok2vec"])
    path = tmp_path_factory.mktemp("pipeline")
    nlp.to_disk(path)
    assert STOCK_MODELS["textcat"]["tok2vec"]["@architectures"].startswith("spacy-transformers.")
    return path


ATTACKS: dict[str, Change] = {
    "name": lambda content: content["tokenizer"].update({"../evil.txt": b"x"}),
    "code": lambda content: content["tokenizer"].update({"evil.py": b"1/0"}),
    "remote": CODE["kwargs"][0],
}


@pytest.mark.parametrize(
    "pipe, attack", [("transformer", "name"), ("tagger", "code"), ("textcat", "remote")]
)
def test_everywhere(folder: Path, pipe: str, attack: str) -> None:
    file = folder / pipe / "model"
    kept = file.read_bytes()
    source: Any = {"components": {pipe: {"source": str(folder)}}, "nlp": {"pipeline": [pipe]}}
    nlp = spacy.load(folder)
    data = srsly.msgpack_loads(nlp.to_bytes())
    part = srsly.msgpack_loads(data[pipe])
    part["model"] = craft(part["model"], ATTACKS[attack])
    data[pipe] = srsly.msgpack_dumps(part)
    ways: dict[str, Callable[[], Language]] = {
        "disk": lambda: spacy.load(folder),
        "source": lambda: spacy.blank("en").from_config(source),
        "bytes": lambda: nlp.from_bytes(srsly.msgpack_dumps(data)),
    }
    try:
        file.write_bytes(craft(kept, ATTACKS[attack]))
        for way, load in ways.items():
            with pytest.raises(ValueError, match=r"M047.*tokenizer/") as caught:
                load()
            if pipe != "textcat":  # a stock head
                where = "bytes" if way == "bytes" else str(file)
                assert f"M007] Can't read the model of '{pipe}' from {where}" in str(caught.value)
    finally:
        file.write_bytes(kept)


def test_a_checkpoint_is_not_unpickled(untouched: Path, tmp_path: Path) -> None:
    mark, path = untouched / "mark", tmp_path / "checkpoint"
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        path.write_bytes(pack({"plain": "{}", "tensors": {"a": Bomb(mark)}}, **options))
        with pytest.raises(ValueError, match="M061") as caught:
            read_checkpoint(path, spacy.blank("en"))
        assert not mark.exists()
        assert "weights_only" not in "".join(traceback.format_exception(caught.value))
    path.write_bytes(pack([1]))
    assert read_pickle(path, "cpu") == [1]
