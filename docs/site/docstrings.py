"""Reads docstrings in spaCy's style, for the reference of the docs."""

import re
from collections import defaultdict
from functools import cache
from importlib.metadata import distribution
from inspect import cleandoc
from typing import Any

import spacy
from griffe import Extension, Function, Object
from thinc.api import Config

SECTIONS = {"RETURNS": "Returns", "YIELDS": "Yields", "RAISES": "Raises"}
FIELD = re.compile(r"(RETURNS|YIELDS|RAISES|\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \((.+?)\))?: (.+)")


def to_google_style(text: str, fields: str = "Args") -> str:
    """Convert a docstring from spaCy's style to Google's, which mkdocstrings reads.

    text (str): The docstring, with lines such as "name (type): text." and "RETURNS (type): text.".
    fields (str): The section for lines with names: "Args", or "Attributes" of a class.
    RETURNS (str): The docstring with the sections Args, Returns, Yields and Raises.
    """
    prose: list[str] = []
    sections: dict[str, list[str]] = defaultdict(list)
    target = prose
    for line in cleandoc(text).split("\n"):
        field = FIELD.match(line)
        if field and (field[2] or target is not prose):
            kind, annotation, rest = field.groups()
            target = sections[SECTIONS.get(kind, fields)]
            if kind in SECTIONS:
                target.append(f"    {annotation}: {rest}")
            else:
                for name in kind.split(", "):
                    typed = f"{name} ({annotation})" if annotation else name
                    target.append(f"    {typed}: {rest}")
        elif target is prose or not line.startswith("    "):
            target = prose
            prose.append(line)
        else:
            target.append(f"    {line}")
    parts = ["\n".join(prose).strip()]
    parts += ["\n".join([f"{title}:", *sections[title]]) for title in sections]
    return "\n\n".join(filter(None, parts))


class SpacyDocstrings(Extension):
    """Converts the docstring of each object, and gives factories their default settings."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring:
            has_arguments = (
                obj.is_function or "__init__" in obj.members or "dataclass" in obj.labels
            )
            fields = "Args" if has_arguments else "Attributes"
            obj.docstring.value = to_google_style(obj.docstring.value, fields)

    def on_function(self, *, func: Function, **kwargs: Any) -> None:
        for parameter in func.parameters:
            default = get_factory_settings().get(func.path, {}).get(parameter.name)
            if default is not None or func.path in get_factory_settings():
                is_section = isinstance(default, dict) and default
                parameter.default = "see below" if is_section else to_config(default)


@cache
def get_factory_settings() -> dict[str, dict[str, Any]]:
    """RETURNS (Dict[str, Dict[str, Any]]): The default settings of factories, by the path of the
    function.
    """
    nlp = spacy.blank("en")
    return {
        entry.value.replace(":", "."): nlp.get_factory_meta(entry.name).default_config
        for entry in distribution("spacy-mtl").entry_points
        if entry.group == "spacy_factories"
    }


def to_config(value: object) -> str:
    """RETURNS (str): A value as it is written in a config."""
    return Config({"a": {"b": value}}).to_str().partition("b = ")[2].strip()
