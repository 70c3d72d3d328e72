"""The space of a search: the values of a config to vary, read from a file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NoReturn, TypeAlias

from catalogue import RegistryError
from spacy import util
from spacy.language import Language
from spacy.util import dict_to_dot
from thinc.api import Config
from thinc.config import ConfigValidationError

from ..errors import Errors, quote
from ..types import Settings

if TYPE_CHECKING:
    from optuna.trial import Trial

Param: TypeAlias = str | float | bool | None  # as the study stores it


@dataclass(frozen=True)
class Numbers:
    """A range of numbers.

    name (str): The name of the dimension.
    path (str): The dotted path of the value in the config.
    low, high (float): The bounds, which are included.
    log (bool): Whether to draw from a logarithmic scale.
    """

    name: str
    path: str
    low: float
    high: float
    log: bool = False

    kind: ClassVar[str] = "float"
    types: ClassVar[tuple[type, ...]] = (int, float)

    def __post_init__(self) -> None:
        for key, value in (("low", self.low), ("high", self.high)):
            if isinstance(value, bool) or not isinstance(value, self.types):
                raise_bad(self.name, f"{key} = {value!r} is not of type {self.kind!r}")
        if not isinstance(self.log, bool):
            raise_bad(self.name, f"log = {self.log!r} is not true or false")
        if not self.low < self.high:
            raise_bad(self.name, f"low = {self.low} is not below high = {self.high}")
        if self.log and self.low <= 0:
            raise_bad(self.name, f"low = {self.low} has no logarithm")

    def suggest(self, trial: "Trial") -> Param:
        """RETURNS (Param): The value that a trial shall have."""
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def to_value(self, param: Param) -> object:
        """RETURNS (object): The value for the config."""
        return param

    def find(self, value: object) -> Param:
        """RETURNS (Param): A value of the config as a value of the study; None if the space
        does not have it.
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if not isinstance(value, self.types):
            return None
        return value if self.low <= value <= self.high else None


@dataclass(frozen=True)
class Integers(Numbers):
    """A range of whole numbers."""

    kind: ClassVar[str] = "int"
    types: ClassVar[tuple[type, ...]] = (int,)

    def suggest(self, trial: "Trial") -> Param:
        return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)


@dataclass(frozen=True)
class Choices:
    """A list of values, or whole sections by name.

    name (str): The name of the dimension.
    path (str): The dotted path of the value or section in the config.
    choices (Mapping[str, object]): The values by the name that the study stores.
    is_block (bool): Whether the values are sections.
    """

    name: str
    path: str
    choices: Mapping[str, object]
    is_block: bool

    def suggest(self, trial: "Trial") -> Param:
        """RETURNS (Param): The name of the choice that a trial shall have."""
        return trial.suggest_categorical(self.name, list(self.choices))

    def to_value(self, param: Param) -> object:
        """RETURNS (object): The value for the config."""
        return deepcopy(self.choices[str(param)])

    def find(self, value: object) -> Param:
        """RETURNS (Param): The name of a value of the config; None if the space lacks it."""
        found = (name for name, choice in self.choices.items() if choice == value)
        return next(found, None)


Dimension: TypeAlias = Numbers | Choices


@dataclass(frozen=True)
class Space:
    """The values of a config to vary.

    dimensions (Sequence[Dimension]): Sections first, since they may hold other values.
    """

    dimensions: Sequence[Dimension]

    def suggest(self, trial: "Trial", config: Config) -> Config:
        """Draw the values of a trial.

        trial (Trial): The trial. Gets a parameter for each dimension whose path exists with the
            sections that were drawn.
        config (Config): The config.
        RETURNS (Config): A copy of the config with the values of the trial.
        """
        config = config.copy()
        for dimension in self.dimensions:
            if has(config, dimension.path):
                put(config, dimension.path, dimension.to_value(dimension.suggest(trial)))
        return config

    def apply(self, params: Mapping[str, Param], config: Config) -> Config:
        """RETURNS (Config): A copy of a config with the values of a finished trial."""
        config = config.copy()
        for dimension in self.dimensions:
            if dimension.name in params:
                put(config, dimension.path, dimension.to_value(params[dimension.name]))
        return config

    def find_own(self, config: Config) -> dict[str, Param]:
        """RETURNS (Dict[str, Param]): The values that the config itself has, as far as the space
        has them.
        """
        own = {d.name: d.find(get(config, d.path)) for d in self.dimensions if has(config, d.path)}
        return {name: param for name, param in own.items() if param is not None}


def read_space(path: Path, config: Config) -> Space:
    """Read a space and check it against a config.

    path (Path): The file. Each section is a dimension.
    config (Config): The config, filled.
    RETURNS (Space): The space. Its sections are filled.
    RAISES (ValueError): M262 for a file without a space, M263 for a path that is not in the
        config, M264 for a wrong dimension.
    """
    try:
        sections = Config().from_disk(path, interpolate=False)
    except (OSError, ValueError) as error:
        raise ValueError(Errors.M262.format(path=path, problem=error)) from error
    dimensions = [read_dimension(name, settings) for name, settings in sections.items()]
    if not dimensions:
        raise ValueError(Errors.M262.format(path=path, problem="it has no section"))
    dimensions.sort(key=lambda d: (not is_block(d), d.path.count(".")))
    variants = [config]
    filled: list[Dimension] = []
    for dimension in dimensions:
        if not any(has(variant, dimension.path) for variant in variants):
            raise_unknown(dimension, variants)
        if isinstance(dimension, Choices) and dimension.is_block:
            new = {name: fill_with(config, dimension, name) for name in dimension.choices}
            dimension = replace(
                dimension, choices={name: get(c, dimension.path) for name, c in new.items()}
            )
            variants += new.values()
        filled.append(dimension)
    paths = [dimension.path for dimension in filled]
    for dimension in filled:
        if paths.count(dimension.path) > 1:
            raise_bad(dimension.name, f"two dimensions have the path {dimension.path!r}")
    return Space(filled)


def read_dimension(name: str, settings: object) -> Dimension:
    """RETURNS (Dimension): A dimension from its section.
    RAISES (ValueError): M264 if the section is wrong.
    """
    if not isinstance(settings, dict):
        raise_bad(name, "it is not a section")
    kinds = {"float": Numbers, "int": Integers}
    kind, path = settings.get("type"), settings.get("path")
    numeric = kind in kinds
    needed = ["type", "path", *(["low", "high"] if numeric else ["choices"])]
    allowed = [*needed, "log"] if numeric else needed
    if kind not in ("float", "int", "categorical", "block"):
        raise_bad(name, f"type = {kind!r} is not 'float', 'int', 'categorical' or 'block'")
    if missing := [key for key in needed if key not in settings]:
        raise_bad(name, f"{quote(missing)} is missing")
    if unknown := [key for key in settings if key not in allowed]:
        raise_bad(name, f"type = {kind!r} has no {quote(unknown)}")
    if not isinstance(path, str):
        raise_bad(name, f"path = {path!r} is not a string")
    if numeric:
        bounds = {key: settings[key] for key in ("low", "high", "log") if key in settings}
        return kinds[kind](name, path, **bounds)
    choices = settings["choices"]
    if kind == "block":
        blocks = choices.values() if isinstance(choices, dict) else [choices]
        if not all(isinstance(block, dict) for block in blocks):
            raise_bad(name, f"choices = {choices!r} are not sections in [{name}.choices]")
        named = dict(choices)
    else:
        if not isinstance(choices, list):
            raise_bad(name, f"choices = {choices!r} is not a list")
        named = {to_name(choice): choice for choice in choices}
    if len(named) < 2 or len(named) < len(choices):
        raise_bad(name, f"choices = {choices!r} are not two or more different ones")
    return Choices(name, path, named, kind == "block")


def raise_bad(name: str, problem: str) -> NoReturn:
    raise ValueError(Errors.M264.format(name=name, problem=problem))


def raise_unknown(dimension: Dimension, variants: Sequence[Config]) -> NoReturn:
    known = list(dict.fromkeys(path for variant in variants for path in list_paths(variant)))
    # the last parts of a path say more about what is meant than the first ones
    end = dimension.path.rpartition(".")[2]
    close = get_close_matches(dimension.path, known, 3, 0.7) or [
        path for path in known if path.rpartition(".")[2] == end
    ]
    raise ValueError(
        Errors.M263.format(
            name=dimension.name, path=dimension.path, close=quote(close[:3]) or "nothing"
        )
    )


def is_block(dimension: Dimension) -> bool:
    return isinstance(dimension, Choices) and dimension.is_block


def to_name(choice: object) -> str:
    """RETURNS (str): The name of a value: a string itself, anything else as JSON."""
    return choice if isinstance(choice, str) else json.dumps(choice)


def fill(config: Config) -> Language:
    """RETURNS (Language): A pipeline, not initialized, whose config has all defaults."""
    return util.load_model_from_config(config, auto_fill=True)


def fill_with(config: Config, block: Choices, name: str) -> Config:
    """RETURNS (Config): The config with one of the sections of a dimension, filled.
    RAISES (ValueError): M264 if the pipeline cannot be made with it.
    """
    changed = config.copy()
    put(changed, block.path, block.to_value(name))
    try:
        return fill(changed).config
    except (ConfigValidationError, ValueError, RegistryError) as error:
        raise ValueError(
            Errors.M264.format(name=block.name, problem=f"choice {name!r}: {error}")
        ) from error


def list_paths(settings: Mapping[str, object], start: str = "") -> Iterator[str]:
    """YIELDS (str): The dotted paths of all values and sections."""
    for key, value in settings.items():
        yield f"{start}{key}"
        if isinstance(value, Mapping):
            yield from list_paths(value, f"{start}{key}.")


def has(config: Settings, path: str) -> bool:
    """RETURNS (bool): Whether a config has a value or a section at a path."""
    node: object = config
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return True


def get(config: Settings, path: str) -> object:
    """RETURNS (object): The value or section at a path."""
    node: object = config
    for key in path.split("."):
        assert isinstance(node, Mapping)
        node = node[key]
    return node


def put(config: Settings, path: str, value: object) -> None:
    """Set the value or section at a path that exists."""
    *parents, last = path.split(".")
    node = config
    for key in parents:
        node = node[key]
    node[last] = value


def flatten(settings: Settings) -> Settings:
    """RETURNS (Settings): The values of a config by dotted path."""
    return dict(dict_to_dot(settings))
