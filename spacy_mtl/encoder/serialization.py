"""Packs the encoder into bytes, and builds it from bytes without running or fetching anything.

A message holds the config, the tokenizer's files by their names, and the weights: as safetensors
from format 2 on, before that as a pickle of torch, which is also spacy-transformers' format.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import srsly
import torch
import transformers
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from spacy.util import SimpleFrozenDict
from spacy_transformers.data_classes import HFObjects
from thinc.api import get_torch_default_device
from torch.overrides import TorchFunctionMode
from transformers import CONFIG_MAPPING, TOKENIZER_MAPPING, AutoModel, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from ..errors import Errors, Warnings
from ..storage import check_digests, check_type, get_digest, parse_json

FORMAT = 2
SETTINGS = ("_init_tokenizer_config", "_init_transformer_config")
KINDS = {"config": dict, "tokenizer": dict, **dict.fromkeys(SETTINGS, dict)}
# The files of transformers' fast tokenizers.
TOKENIZER_FILES = {
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "normalizer.json",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
}
# Settings by which transformers imports code, or fetches code or weights from a hub.
CODE = re.compile("auto_map|trust_remote_code|backbone|use_pretrained_backbone|use_timm_backbone")
KERNEL = re.compile("_?attn_implementation.*")  # "owner/repository:function" comes from a hub
# Settings by which a tokenizer reads files that are not its own.
FILES = re.compile("init_inputs|(?!special_tokens_map_file).*_files?")


def pack_encoder(loaded: HFObjects) -> bytes:
    """RETURNS (bytes): The tokenizer, the config and the weights, with checksums.
    RAISES (ValueError): M047 if the tokenizer has files of an unknown name.
    """
    msg: dict[str, Any] = {"format": FORMAT, "config": {}, "tokenizer": {}, "state": b""}
    if loaded.transformer is None:
        msg |= {key: dict(getattr(loaded, key)) for key in SETTINGS}
    else:
        msg |= {key: {} for key in SETTINGS}
        msg["config"] = loaded.transformer.config.to_dict()
        msg["config"].pop("auto_map", None)  # the class is one of transformers, see `build_config`
        msg["tokenizer"] = pack_tokenizer(loaded.tokenizer, loaded.vocab_file_contents)
        msg["state"], msg["shared"] = pack_weights(loaded.transformer.state_dict())
    return srsly.msgpack_dumps({**msg, "checksums": get_digests(msg)})


def pack_tokenizer(tokenizer: Any, vocab_file_contents: bytes | None) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The tokenizer's files, and how to make one of them."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        if vocab_file_contents is not None:  # the tokenizer copies it
            path = folder / tokenizer.vocab_files_names["vocab_file"]
            path.write_bytes(vocab_file_contents)
            tokenizer.vocab_file = str(path)
        tokenizer.save_pretrained(name)
        files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    check_names(files)
    return {**files, "kwargs": {"use_fast": tokenizer.is_fast}}


def pack_weights(state: Mapping[str, torch.Tensor]) -> tuple[bytes, dict[str, str]]:
    """RETURNS (Tuple[bytes, Dict[str, str]]): The tensors, and for each name that shares the tensor
    of another name, as tied weights do, that name.
    """
    tensors: dict[str, torch.Tensor] = {}
    shared: dict[str, str] = {}
    owners: dict[Any, str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())
        owner = owners.setdefault(place, name) if tensor.numel() else name
        if owner == name:
            tensors[name] = tensor.contiguous()
        else:
            shared[name] = owner
    return save_tensors(tensors), shared


def get_digests(msg: Mapping[str, Any]) -> dict[str, str]:
    """RETURNS (Dict[str, str]): The checksum of each part, and of each file of the tokenizer."""
    parts = {key: value for key, value in msg.items() if key not in ("checksums", "tokenizer")}
    files = {f"tokenizer/{name}": data for name, data in msg["tokenizer"].items()}
    return {entry: get_digest(data) for entry, data in (parts | files).items()}


def unpack_encoder(msg: Any) -> HFObjects:
    """Build the encoder from a message of `pack_encoder` or of spacy-transformers.

    msg (Any): The message. Its weights are taken out of it, so that they can be freed.
    RETURNS (HFObjects): The tokenizer and the encoder on the active device.
    RAISES (ValueError): M002 if the tokenizer is not a fast one, M047 for an entry that could run
        code or touch other files, M048 for a wrong checksum, M049 for a wrong type, M050 for a
        newer format, M051 for unsafe settings, M052 for weights that are not only tensors, M053
        for an unknown type of encoder.
    """
    check_type(msg, dict[str, Any], "encoder")
    version = check_type(msg.get("format", 1), int, "format")
    if version not in (1, FORMAT):
        raise ValueError(Errors.M050.format(version=version, known=FORMAT))
    for key, kind in KINDS.items():
        check_type(msg.get(key), kind, key)
    check_names(msg["tokenizer"])
    check_entries(msg["config"], CODE, "config")
    for key in SETTINGS:
        check_settings(key, msg[key])
    tokenizer_config = msg["tokenizer"].get("tokenizer_config.json", b"{}")
    file = "tokenizer/tokenizer_config.json"
    about = check_type(parse_json(tokenizer_config, file), dict[str, Any], file)
    for pattern in (CODE, FILES):
        check_entries(about, pattern, file)
    if version == FORMAT:
        digests = check_type(msg.get("checksums"), dict[str, str], "checksums")
        check_digests(digests, get_digests(msg))
    if not msg["config"]:
        return HFObjects(None, None, None, *(msg[key] for key in SETTINGS))
    config = build_config(msg["config"])
    tokenizer, vocab_file_contents = build_tokenizer(msg["tokenizer"], about, config)
    weights = unpack_weights(check_type(msg.pop("state"), bytes, "state"), version)
    for name, owner in check_type(msg.get("shared", {}), dict[str, str], "shared").items():
        weights[name] = weights[owner]
    module = build(config, weights)
    frozen = SimpleFrozenDict(), SimpleFrozenDict()
    return HFObjects(tokenizer, module, vocab_file_contents, *frozen)


def unpack_weights(data: bytes, version: int) -> dict[str, torch.Tensor]:
    """RETURNS (Dict[str, torch.Tensor]): The tensors on the active device."""
    device = get_torch_default_device()
    if version == 1:
        return check_type(read_pickle(BytesIO(data), device), dict[str, torch.Tensor], "state")
    tensors = load_tensors(data)
    del data
    # Copies lie in memory as torch aligns it, by which sums differ in their last bit.
    return {name: tensors.pop(name).to(device, copy=True) for name in list(tensors)}


def check_names(files: Mapping[Any, Any]) -> None:
    """RAISES (ValueError): M047 for an entry that is no file of a tokenizer."""
    for name, content in files.items():
        if name == "kwargs":
            if content not in ({}, {"use_fast": True}, {"use_fast": False}):
                raise ValueError(Errors.M047.format(entry=f"tokenizer/kwargs = {content}"))
        elif name not in TOKENIZER_FILES:
            raise ValueError(Errors.M047.format(entry=f"tokenizer/{name}"))
        else:
            check_type(content, bytes, f"tokenizer/{name}")


def find_entries(data: Any, pattern: re.Pattern, entry: str) -> Iterator[str]:
    """YIELDS (str): Each setting that the pattern forbids, and its value."""
    if isinstance(data, dict):
        for key, value in data.items():
            name = str(key)
            is_kernel = KERNEL.fullmatch(name) and "/" in str(value)
            if is_kernel or (value and pattern.fullmatch(name)):
                yield f"{entry}.{name} = {value!r}"
            yield from find_entries(value, pattern, f"{entry}.{name}")
    elif isinstance(data, list | tuple):
        for i, value in enumerate(data):
            yield from find_entries(value, pattern, f"{entry}[{i}]")


def check_entries(data: Any, pattern: re.Pattern, entry: str) -> None:
    """RAISES (ValueError): M047 for a setting that the pattern forbids."""
    for found in find_entries(data, pattern, entry):
        raise ValueError(Errors.M047.format(entry=found))


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """RAISES (ValueError): M051 for settings of a config by which transformers would run code."""
    for found in find_entries(dict(settings), CODE, name):
        raise ValueError(Errors.M051.format(setting=found))


def build_config(settings: dict[str, Any]) -> Any:
    """RETURNS (PretrainedConfig): The config, of a class that is registered in transformers.
    RAISES (ValueError): M053 if there is none for its type.
    """
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        version = transformers.__version__
        raise ValueError(Errors.M053.format(kind=kind, version=version))
    return CONFIG_MAPPING[kind].from_dict(dict(settings))


def build_tokenizer(
    files: Mapping[str, Any], about: Mapping[str, Any], config: Any
) -> tuple[Any, bytes | None]:
    """Build the tokenizer in a private folder, after `check_names`.

    about (Dict[str, Any]): Its settings.
    RETURNS (Tuple[PreTrainedTokenizerFast, Optional[bytes]]): The tokenizer, and the content of its
        vocabulary file if it has one.
    RAISES (ValueError): M002 if it is not a fast one.
    """
    name = about.get("tokenizer_class") or config.tokenizer_class
    if name is None:
        found = TOKENIZER_MAPPING[type(config)][1]
    else:
        found = tokenizer_class_from_name(f"{name}".removesuffix("Fast") + "Fast")
    if not (isinstance(found, type) and issubclass(found, PreTrainedTokenizerFast)):
        raise ValueError(Errors.M002.format(name=config.name_or_path, tokenizer=name))
    with TemporaryDirectory() as folder:
        for file in files.keys() - {"kwargs"}:
            (Path(folder) / file).write_bytes(files[file])
        tokenizer = found.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not hasattr(tokenizer, "vocab_file"):
        return tokenizer, None
    return tokenizer, files.get(tokenizer.vocab_files_names["vocab_file"])


def read_pickle(file: BytesIO | Path, device: Any) -> Any:
    """Read a file of `torch.save`. Unpickles nothing but tensors and plain data.

    RETURNS (Any): The content.
    RAISES (ValueError): M052 if there is anything else in it. Its checksums are checked too.
    """
    try:
        with ZipFile(file) as archive:
            names, broken = archive.namelist(), archive.testzip()
    except OSError:
        raise
    except Exception as err:
        raise ValueError(Errors.M052.format(reason=err)) from err
    if broken:
        raise ValueError(Errors.M048.format(entry=broken))
    # torch 2.4 runs TorchScript, and unpickles files that are not zip archives.
    is_script = any(Path(name).name == "constants.pkl" for name in names)
    if isinstance(file, BytesIO):
        file.seek(0)
    try:
        if is_script:
            raise RuntimeError("TorchScript")
        return torch.load(file, map_location=device, weights_only=True)
    except Exception as err:
        # The text of torch's error tells how to unpickle the file in spite of it.
        found = re.search(r"GLOBAL (\S+)", str(err))
        reason = found.group(1) if found else type(err).__name__
    raise ValueError(Errors.M052.format(reason=reason))


class EmptyOnMeta(TorchFunctionMode):
    """While active, tensors whose values are to be set later take no memory. Weights are such
    tensors; buffers are made with their values.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        where = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **where})


def build(config: Any, weights: Mapping[str, torch.Tensor]) -> Any:
    """Build the encoder around its weights, without random ones first.

    RETURNS (torch.nn.Module): The encoder on the device of its weights.
    RAISES (RuntimeError): If the weights have other sizes.
    """
    with EmptyOnMeta():
        module = AutoModel.from_config(config, trust_remote_code=False)
    names = module.state_dict().keys()
    missing, unknown = sorted(names - weights.keys()), sorted(weights.keys() - names)
    if missing:
        module = AutoModel.from_config(config, trust_remote_code=False)
    if missing or unknown:
        warnings.warn(Warnings.W006.format(missing=missing[:5], unknown=unknown[:5]))
    module.load_state_dict(weights, strict=False, assign=True)
    module.tie_weights()
    return module.to(get_torch_default_device())
