"""Saves and loads components. Checks the content of a file before anything uses it."""

import gc
import hashlib
import json
import reprlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeAlias, TypeGuard, TypeVar, get_args, get_origin

import numpy
import srsly
from spacy import util
from spacy.vocab import Vocab
from thinc.api import Model
from thinc.util import convert_recursive, is_xp_array

from .errors import Errors
from .types import Settings

AnyModel: TypeAlias = Model[Any, Any]
Reader: TypeAlias = tuple[Callable[[bytes], Any], Callable[[Any], None]]  # parses, loads
P = TypeVar("P", bound="SavedPipe")
CHECKED = ("nodes", "attrs", "params")  # parts of a model's message with a checksum


class CheckedShim(ABC):
    """A shim whose bytes are a msgpack message with its own checksums."""

    @abstractmethod
    def from_dict(self, msg: Settings) -> object:
        """Load the unpacked message. Weights are removed from it, to free their memory."""


@contextmanager
def reading(name: str, part: str, source: object) -> Iterator[None]:
    """Convert every error raised while a file is read into M007, which names the file.

    name (str): The name of the component.
    part (str): The part of the component in the file.
    source (Union[Path, str]): The file, or "bytes".
    RAISES (ValueError): M007, with the original error as its cause.
    """
    collects = gc.isenabled()
    try:
        yield
    except Exception as err:
        text = f"{type(err).__name__}: {err}" if type(err) is not ValueError else str(err)
        raise ValueError(
            Errors.M007.format(part=part, name=name, source=source, error=text)
        ) from err
    finally:
        if collects:
            gc.enable()  # srsly's msgpack leaves the collector disabled after an error


def check_type(value: object, kind: Any, entry: str) -> Any:
    """Check data from a file against a type, including all nested values.

    value (object): Data from JSON or msgpack.
    kind (type): A type such as `dict[str, tuple[float, int]]`. `float` means a finite number, `int`
        a whole number >= 0.
    entry (str): The name of the value, for the message.
    RETURNS (object): The value, with lists converted to tuples where the type has tuples.
    RAISES (ValueError): M049 if a value has another type.
    """
    origin, args = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return value
    if origin is UnionType:
        kind = NoneType if value is None and NoneType in args else args[0]
        return check_type(value, kind, entry)
    if origin is dict and isinstance(value, dict):
        keys, values = args or (Any, Any)
        return {
            check_type(k, keys, f"{entry}.{k}"): check_type(v, values, f"{entry}.{k}")
            for k, v in value.items()
        }
    if origin is list and isinstance(value, list):
        return [check_type(item, args[0], f"{entry}[{i}]") for i, item in enumerate(value)]
    if origin is tuple and isinstance(value, list | tuple) and len(value) == len(args):
        pairs = zip(value, args, strict=True)
        return tuple(check_type(item, arg, f"{entry}[{i}]") for i, (item, arg) in enumerate(pairs))
    if kind is float:
        fits = is_number(value) and abs(value) <= sys.float_info.max
    elif kind is int:
        fits = is_number(value) and isinstance(value, int) and value >= 0
    elif origin is Literal:
        fits = value in args
    else:
        fits = not args and isinstance(value, kind)
    if not fits:
        names = {float: "a finite number", int: "a whole number >= 0"}
        expected = names.get(kind, str(kind) if args else kind.__name__)
        raise_mismatch(entry, reprlib.repr(value), expected)
    return value


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def raise_mismatch(entry: str, value: str, expected: str) -> NoReturn:
    raise ValueError(Errors.M049.format(entry=entry, value=value, expected=expected))


def parse_json(data: bytes | str, entry: str) -> Any:
    """RETURNS (object): The content of a JSON file.
    RAISES (ValueError): M049 if the data is not JSON or is nested too deeply.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as err:
        value = reprlib.repr(data)
        raise ValueError(Errors.M049.format(entry=entry, value=value, expected="JSON")) from err


def get_digest(data: object) -> str:
    """RETURNS (str): The sha256 of bytes, or of the msgpack encoding of other data."""
    packed = data if isinstance(data, bytes) else srsly.msgpack_dumps(data)
    return hashlib.sha256(packed).hexdigest()


def check_digests(expected: dict[str, str], found: dict[str, str]) -> None:
    """RAISES (ValueError): M048 for the first entry whose checksums differ."""
    for entry in expected | found:
        if expected.get(entry) != found.get(entry):
            raise ValueError(Errors.M048.format(entry=entry))


def pack_model(model: AnyModel) -> bytes:
    """RETURNS (bytes): The message of `model.to_bytes` plus checksums, which thinc ignores."""
    to_numpy = partial(model.ops.to_numpy, byte_order="<")
    msg = convert_recursive(is_xp_array, to_numpy, model.to_dict())
    packed: bytes = srsly.msgpack_dumps({**msg, "checksums": get_model_digests(model, msg)})
    return packed


def get_model_digests(model: AnyModel, msg: Settings) -> dict[str, str]:
    digests = {part: get_digest(msg[part]) for part in CHECKED}
    for i, node in enumerate(model.walk()):
        for j, shim in enumerate(node.shims):
            if not isinstance(shim, CheckedShim):
                digests[f"shims[{i}][{j}]"] = get_digest(msg["shims"][i][j])
    return digests


def unpack_model(model: AnyModel, data: bytes) -> Settings:
    """Read a message of `pack_model` or `model.to_bytes`.

    model (Model): The model that the message is for.
    data (bytes): The message.
    RETURNS (Dict[str, Any]): The message, for `load_model`.
    RAISES (ValueError): M048 for a wrong checksum, M049 if the message does not match the model.
    """
    msg: Settings = check_type(srsly.msgpack_loads(data), dict, "model")
    lists = {"nodes": dict, "attrs": dict[str, bytes], "params": dict, "shims": list[bytes]}
    for part, kind in lists.items():
        check_type(msg.get(part), list[kind], part)  # type: ignore[valid-type]
    nodes = list(model.walk())
    if any(len(msg[part]) != len(nodes) for part in lists):
        raise_mismatch("nodes", f"{len(msg['nodes'])} layers", f"a model of {len(nodes)}")
    for i, (node, shims) in enumerate(zip(nodes, msg["shims"], strict=True)):
        if len(shims) != len(node.shims):
            raise_mismatch(f"shims[{i}]", f"a list of {len(shims)}", f"one of {len(node.shims)}")
    for i, params in enumerate(msg["params"]):
        for name, value in params.items():
            if value is not None:
                array = check_type(value, numpy.ndarray, f"params[{i}].{name}")
                check_type(array.dtype.kind, Literal["f", "i", "u", "b"], f"params[{i}].{name}")
    if "checksums" in msg:
        digests = check_type(msg.pop("checksums"), dict[str, str], "checksums")
        check_digests(digests, get_model_digests(model, msg))
    return msg


def load_model(model: AnyModel, msg: Settings) -> None:
    """Load a message into a model. The bytes of each shim are freed before the shim is built."""
    packed, msg["shims"] = msg["shims"], [[] for _ in msg["shims"]]
    model.from_dict(msg)
    for node, shims in zip(model.walk(), packed, strict=True):
        for shim in node.shims:
            if isinstance(shim, CheckedShim):
                shim.from_dict(srsly.msgpack_loads(shims.pop(0)))
            else:
                shim.from_bytes(shims.pop(0))


class SavedPipe:
    """Mixin for trainable pipes: saves the model with checksums and checks all loaded data."""

    name: str
    vocab: Vocab
    model: AnyModel
    cfg: Settings
    CFG: Settings = {}  # types of the settings in `cfg`

    def _get_writers(self) -> dict[str, Callable[[], bytes]]:
        """RETURNS (Dict[str, Callable]): By file a function that returns its content."""
        return {
            "cfg": lambda: srsly.json_dumps(self.cfg, indent=2).encode(),
            "model": lambda: pack_model(self.model),
        }

    def _get_readers(self) -> dict[str, Reader]:
        """RETURNS (Dict[str, Tuple[Callable, Callable]]): By file a function that parses its
        content, and one that loads the result. There are two, so that the content can be freed
        before the weights are built.
        """
        return {
            "cfg": (partial(parse_json, entry="cfg"), self._load_cfg),
            "model": (partial(unpack_model, self.model), self._load_model),
        }

    def _load_cfg(self, cfg: object) -> None:
        settings: Settings = check_type(cfg, dict[str, Any], "cfg")
        for key, kind in self.CFG.items():
            if key in settings:
                check_type(settings[key], kind, f"cfg.{key}")
        self.cfg.update(settings)

    def _load_model(self, msg: Settings) -> None:
        load_model(self.model, msg)

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """Serialize the pipe to a bytestring.

        exclude (Iterable[str]): String names of serialization fields to exclude.
        RETURNS (bytes): The serialized object.
        """
        writers = {Path(f).stem: w for f, w in self._get_writers().items()}
        writers["vocab"] = lambda: self.vocab.to_bytes(exclude=exclude)
        return util.to_bytes(writers, exclude)

    def from_bytes(self: P, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> P:
        """Load the pipe from a bytestring.

        bytes_data (bytes): A result of `to_bytes`.
        exclude (Iterable[str]): String names of serialization fields to exclude.
        RETURNS (Pipe): The pipe.
        RAISES (ValueError): M007 if a part cannot be read.
        """
        with reading(self.name, "message", "bytes"):
            msg = check_type(srsly.msgpack_loads(bytes_data), dict[str, Any], "message")
        for file, (parse, load) in self._get_readers().items():
            part = Path(file).stem
            if part not in exclude and part in msg:
                with reading(self.name, part, "bytes"):
                    load(parse(msg.pop(part)))
        if "vocab" not in exclude and "vocab" in msg:
            with reading(self.name, "vocab", "bytes"):
                self.vocab.from_bytes(msg["vocab"], exclude=exclude)
        return self

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Serialize the pipe to a folder.

        path (str / Path): The folder.
        exclude (Iterable[str]): String names of serialization fields to exclude.
        """
        writers: dict[str, Callable[[Path], Any]] = {
            file: lambda path, writer=writer: path.write_bytes(writer())  # type: ignore[misc]
            for file, writer in self._get_writers().items()
        }
        writers["vocab"] = lambda path: self.vocab.to_disk(path, exclude=exclude)
        util.to_disk(path, writers, exclude)

    def from_disk(self: P, path: str | Path, *, exclude: Iterable[str] = ()) -> P:
        """Load the pipe from a folder.

        path (str / Path): The folder. The file `model` must be there.
        exclude (Iterable[str]): String names of serialization fields to exclude.
        RETURNS (Pipe): The pipe.
        RAISES (ValueError): M007 if a file cannot be read.
        """
        for name, (parse, load) in self._get_readers().items():
            file = Path(path) / name
            if file.stem not in exclude and (name == "model" or file.exists()):
                with reading(self.name, file.stem, file):
                    load(parse(file.read_bytes()))
        if "vocab" not in exclude:
            with reading(self.name, "vocab", Path(path) / "vocab"):
                self.vocab.from_disk(Path(path) / "vocab", exclude=exclude)
        return self
