"""The help of the commands, as an ordinary terminal shows it."""

from collections.abc import Iterator

import typer
from spacy.cli._util import app
from typer.testing import CliRunner

from spacy_mtl.cli import mtl_cli

TERMINAL = {"COLUMNS": "80", "TERMINAL_WIDTH": "80"}


def get_help(*args: str) -> str:
    result = CliRunner().invoke(app, ["mtl", *args, "--help"], env=TERMINAL)
    assert result.exit_code == 0, result.output
    return str(result.output)


def walk(group: typer.Typer, *path: str) -> Iterator[tuple[tuple[str, ...], bool]]:
    """YIELDS: The words of each command and group of commands, and whether it is a group."""
    yield path, True
    for command in group.registered_commands:
        yield (*path, str(command.name)), False
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from walk(inner.typer_instance, *path, str(inner.typer_instance.info.name))


def test_help() -> None:
    """A group lists whole sentences. A command has one example, on one line."""
    offenders = []
    commands = list(walk(mtl_cli))
    assert (("init", "config"), False) in commands
    for path, is_group in commands:
        text = get_help(*path)
        if is_group:
            lines = text.partition("Commands:")[2].strip().splitlines()
            is_whole = all(line.endswith(".") and "..." not in line for line in lines)
            offenders += [] if is_whole else [text]
            continue
        example = f"  Example: python -m spacy mtl {' '.join(path)}"
        found = [line for line in text.splitlines() if line.startswith("  Example: ")]
        if len(found) != 1 or not f"{found[0]} ".startswith(f"{example} ") or len(found[0]) > 79:
            offenders.append(f"{path}: {found}")
    assert offenders == []


def test_examples_have_options_that_exist() -> None:
    offenders = []
    for path, is_group in walk(mtl_cli):
        if is_group:
            continue
        text = get_help(*path)
        (example,) = [line for line in text.splitlines() if line.startswith("  Example: ")]
        given = [word for word in example.split() if word.startswith("-") and word != "-m"]
        known = text.partition("Options:")[2]
        unknown = [w for w in given if w not in known and not w.startswith("--paths.")]
        offenders += [f"{path}: {unknown}"] if unknown else []
    assert offenders == []
