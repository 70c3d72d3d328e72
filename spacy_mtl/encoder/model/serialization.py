"""Packs the encoder into bytes, and builds it from bytes without running or fetching anything.

A message holds the config, the tokenizer's files by their names, and the weights. From format 2 on
weights are safetensors. Before, and in spacy-transformers 1, they are a pickle of torch;
spacy-transformers 2 saves safetensors in an otherwise equal message.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import srsly
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from thinc.api import get_torch_default_device
from torch.overrides import TorchFunctionMode
from transformers.configuration_utils import PretrainedConfig

from ... import compat
from ...compat import CONFIG_MAPPING, PreTrainedModel, PreTrainedTokenizerFast, get_setting
from ...errors import Errors, Warnings
from ...pretrained import PretrainedEncoder
from ...storage import check_digests, check_type, get_digest, parse_json
from ...types import Settings

FORMAT = 2
# Keys of a message, and the fields of PretrainedEncoder that they hold.
SETTINGS = {
    "_init_tokenizer_config": "tokenizer_config",
    "_init_transformer_config": "transformer_config",
}
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
# Settings that make transformers import code, or fetch code or weights from a hub.
CODE = re.compile("auto_map|trust_remote_code|backbone|use_pretrained_backbone|use_timm_backbone")
# Their value "owner/repository:function" makes transformers fetch code from a hub.
KERNEL = re.compile("_?(attn|experts)_implementation.*")
# Settings that make a tokenizer read files outside its folder.
FILES = re.compile("init_inputs|(?!special_tokens_map_file).*_files?")


def pack_encoder(loaded: PretrainedEncoder) -> bytes:
    """RETURNS (bytes): The tokenizer, the config and the weights, with checksums.
    RAISES (ValueError): M047 if the tokenizer has files of an unknown name.
    """
    msg: Settings = {"format": FORMAT, "config": {}, "tokenizer": {}, "state": b""}
    if loaded.transformer is None:
        msg |= {key: dict(getattr(loaded, field)) for key, field in SETTINGS.items()}
    else:
        msg |= {key: {} for key in SETTINGS}
        msg["config"] = loaded.transformer.config.to_dict()
        msg["config"].pop("auto_map", None)  # `build_config` uses a class of transformers
        msg["tokenizer"] = pack_tokenizer(loaded.tokenizer, loaded.vocab_file_contents)
        msg["state"], msg["shared"] = pack_weights(loaded.transformer.state_dict())
    packed: bytes = srsly.msgpack_dumps({**msg, "checksums": get_digests(msg)})
    return packed


def pack_tokenizer(tokenizer: PreTrainedTokenizerFast, vocab: bytes | None) -> Settings:
    """Pack a tokenizer's files.

    tokenizer (PreTrainedTokenizerFast): The tokenizer.
    vocab (Optional[bytes]): The content of its vocabulary file, if it has one.
    RETURNS (Settings): The content of each file, and settings for loading them.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        if vocab is not None:  # the tokenizer copies the file
            path = folder / tokenizer.vocab_files_names["vocab_file"]
            path.write_bytes(vocab)
            tokenizer.vocab_file = str(path)
        tokenizer.save_pretrained(name)
        files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    check_names(files)
    return {**files, "kwargs": {"use_fast": True}}


def pack_weights(state: Mapping[str, torch.Tensor]) -> tuple[bytes, dict[str, str]]:
    """Pack tensors as safetensors, which cannot hold tied weights.

    RETURNS (Tuple[bytes, Dict[str, str]]): The tensors; and for each name whose tensor is packed
        under another name, that other name.
    """
    tensors: dict[str, torch.Tensor] = {}
    shared: dict[str, str] = {}
    owners: dict[tuple[object, ...], str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())
        owner = owners.setdefault(place, name) if tensor.numel() else name
        if owner == name:
            tensors[name] = tensor.contiguous()
        else:
            shared[name] = owner
    return save_tensors(tensors), shared


def get_digests(msg: Settings) -> dict[str, str]:
    """RETURNS (Dict[str, str]): The checksum of each part, and of each file of the tokenizer."""
    parts = {key: value for key, value in msg.items() if key not in ("checksums", "tokenizer")}
    files = {f"tokenizer/{name}": data for name, data in msg["tokenizer"].items()}
    return {entry: get_digest(data) for entry, data in (parts | files).items()}


def unpack_encoder(msg: Settings) -> PretrainedEncoder:
    """Build the encoder from a message of `pack_encoder` or of spacy-transformers.

    msg (Settings): The message. Its weights are taken out of it, so that they can be freed.
    RETURNS (PretrainedEncoder): The tokenizer and the encoder on the active device.
    RAISES (ValueError): M002 if the tokenizer is not a fast one, M047 for an entry that could run
        code or read other files, M048 for a wrong checksum, M049 for a wrong type, M050 for a
        newer format, M051 for unsafe settings, M052 for weights that are not only tensors, M053
        for an unknown type of encoder.
    """
    version, about = check_message(msg)
    if not msg["config"]:
        return PretrainedEncoder(**{field: msg[key] for key, field in SETTINGS.items()})
    config = build_config(msg["config"])
    tokenizer, vocab = build_tokenizer(msg["tokenizer"], about, config)
    weights = unpack_weights(check_type(msg.pop("state"), bytes, "state"), version)
    for name, owner in check_type(msg.get("shared", {}), dict[str, str], "shared").items():
        weights[name] = weights[owner]
    return PretrainedEncoder(tokenizer, build(config, weights), vocab)


def check_message(msg: Settings) -> tuple[int, Settings]:
    """Check everything in a message except the weights.

    RETURNS (Tuple[int, Settings]): The format, and the content of tokenizer_config.json.
    RAISES (ValueError): M047 to M051, as in `unpack_encoder`.
    """
    check_type(msg, Settings, "encoder")
    version: int = check_type(msg.get("format", 1), int, "format")
    if version not in (1, FORMAT):
        raise ValueError(Errors.M050.format(version=version, known=FORMAT))
    for key, kind in KINDS.items():
        check_type(msg.get(key), kind, key)
    check_names(msg["tokenizer"])
    check_entries(msg["config"], CODE, "config")
    for key in SETTINGS:
        check_settings(key, msg[key])
    file = "tokenizer/tokenizer_config.json"
    content = msg["tokenizer"].get("tokenizer_config.json", b"{}")
    about: Settings = check_type(parse_json(content, file), Settings, file)
    for pattern in (CODE, FILES):
        check_entries(about, pattern, file)
    if version == FORMAT:
        digests = check_type(msg.get("checksums"), dict[str, str], "checksums")
        check_digests(digests, get_digests(msg))
    return version, about


def unpack_weights(data: bytes, version: int) -> dict[str, torch.Tensor]:
    """RETURNS (Dict[str, torch.Tensor]): The tensors on the active device."""
    device = get_torch_default_device()
    if version == 1 and data[8:9] != b"{":  # the place where safetensors have it
        content = read_pickle(BytesIO(data), device)
        found: dict[str, torch.Tensor] = check_type(content, dict[str, torch.Tensor], "state")
        return found
    tensors = load_tensors(data)
    del data
    # Copied for torch's own alignment in memory: it changes the last bit of sums.
    return {name: tensors.pop(name).to(device, copy=True) for name in list(tensors)}


def check_names(files: Settings) -> None:
    """RAISES (ValueError): M047 for an entry that is not a file of a tokenizer."""
    for name, content in files.items():
        if name == "kwargs":
            if content not in ({}, {"use_fast": True}, {"use_fast": False}):
                raise ValueError(Errors.M047.format(entry=f"tokenizer/kwargs = {content}"))
        elif name not in TOKENIZER_FILES:
            raise ValueError(Errors.M047.format(entry=f"tokenizer/{name}"))
        else:
            check_type(content, bytes, f"tokenizer/{name}")


def find_entries(data: object, pattern: re.Pattern[str], entry: str) -> Iterator[str]:
    """YIELDS (str): Each setting that the pattern forbids, with its value."""
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


def check_entries(data: object, pattern: re.Pattern[str], entry: str) -> None:
    """RAISES (ValueError): M047 for a setting that the pattern forbids."""
    for found in find_entries(data, pattern, entry):
        raise ValueError(Errors.M047.format(entry=found))


def check_settings(name: str, settings: Settings) -> None:
    """RAISES (ValueError): M051 for settings in a config that make transformers run code."""
    for found in find_entries(dict(settings), CODE, name):
        raise ValueError(Errors.M051.format(setting=found))


def build_config(settings: Settings) -> PretrainedConfig:
    """RETURNS (PretrainedConfig): The config, of a class that is registered in transformers.
    RAISES (ValueError): M053 if no class is registered for its type.
    """
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ValueError(Errors.M053.format(kind=kind, version=compat.VERSION))
    config: PretrainedConfig = CONFIG_MAPPING[kind].from_dict(dict(settings))
    return config


def build_tokenizer(
    files: Settings, about: Settings, config: PretrainedConfig
) -> tuple[PreTrainedTokenizerFast, bytes | None]:
    """Build the tokenizer in a temporary folder. Its files must have been checked.

    files (Settings): The content of each file.
    about (Settings): The content of tokenizer_config.json.
    RETURNS (Tuple[PreTrainedTokenizerFast, Optional[bytes]]): The tokenizer, and the content of its
        vocabulary file if it has one.
    RAISES (ValueError): M002 if it is not a fast tokenizer.
    """
    name = about.get("tokenizer_class") or get_setting(config, "tokenizer_class", None)
    found = compat.find_tokenizer_class(name, config)
    if not (isinstance(found, type) and issubclass(found, PreTrainedTokenizerFast)):
        raise ValueError(Errors.M002.format(name=config.name_or_path, tokenizer=name))
    with TemporaryDirectory() as folder:
        for file in files.keys() - {"kwargs"}:
            (Path(folder) / file).write_bytes(files[file])
        tokenizer = found.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if compat.get_vocab_file(tokenizer) is None:
        return tokenizer, None
    return tokenizer, files.get(tokenizer.vocab_files_names["vocab_file"])


def read_pickle(file: BytesIO | Path, device: torch.device | str) -> object:
    """Read a file of `torch.save`. Nothing is unpickled except tensors and plain data.

    RETURNS (object): The content.
    RAISES (ValueError): M048 for a wrong checksum, M052 for other content.
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
        content: object = torch.load(file, map_location=device, weights_only=True)
        return content
    except Exception as err:
        # torch's message explains how to unpickle the file anyway, so it is not passed on.
        found = re.search(r"GLOBAL (\S+)", str(err))
        reason = found.group(1) if found else type(err).__name__
    raise ValueError(Errors.M052.format(reason=reason))


class EmptyOnMeta(TorchFunctionMode):
    """Makes uninitialized tensors on the meta device, where they take no memory. Weights are such
    tensors at first; buffers are made with their values.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Settings | None = None,
    ) -> object:
        where = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **where})


def build(config: PretrainedConfig, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """Build the encoder around its weights, without making random ones first.

    RETURNS (PreTrainedModel): The encoder on the device of its weights.
    RAISES (RuntimeError): If the weights have other sizes.
    """
    with EmptyOnMeta():
        module = compat.make_module(config)
    names = module.state_dict().keys()
    missing, unknown = sorted(names - weights.keys()), sorted(weights.keys() - names)
    if missing:
        module = compat.make_module(config)
    if missing or unknown:
        warnings.warn(Warnings.W006.format(missing=missing[:5], unknown=unknown[:5]))
    module.load_state_dict(weights, strict=False, assign=True)
    module.tie_weights()  # type: ignore[no-untyped-call]
    return compat.move_to_device(module)
