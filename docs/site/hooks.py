"""Generates the pages that come from the code: the reference, the configs and the benchmarks."""

import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint, distribution
from inspect import cleandoc, getdoc
from pathlib import Path

import click
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

import spacy_mtl.api
import spacy_mtl.cli
from spacy_mtl.annotations import get_layers
from spacy_mtl.corpora.formats import get_formats
from spacy_mtl.errors import Errors, Warnings

ROOT = Path(__file__).parents[2]
ASSETS = (".png", ".svg")
PREFIX = "spacy-mtl."
ERRORS = "reference/errors.md"
# Links to files outside docs/, as GitHub needs them, and their pages in the site.
LINKS = {
    "../benchmarks/README.md": "benchmarks.md",
    "../CHANGELOG.md": "changelog.md",
    "../assets/": "assets/",
}
REGISTRIES = {
    "components": ("Components", ["spacy_factories"]),
    "architectures": ("Architectures", ["spacy_architectures"]),
    "balancers": ("Balancers and losses", ["spacy_misc"]),
}
OTHERS = ("training", "Training and data")
TABLES = ("spacy_cli", "spacy_mtl_annotation_layers", "spacy_mtl_formats")  # no functions
INTROS = {
    "components": "Use a name as `factory` of a section `[components.NAME]`.",
    "architectures": "Use a name as `@architectures` of a component's `model`, or inside of one.",
    "balancers": "Use a name as `@misc`.",
    "training": "Use a name in `[training]`, `[corpora]` or a component, after the registry's `@`.",
}
GROUPS = {
    "M0": "Encoder, heads, balancing and training",
    "M1": "Corpora and formats",
    "M2": "Commands",
    "W": "Warnings",
}
# The beginning of the sentence that says what to do.
FIX = re.compile(
    "(Add|Call|Check|Choose|Close|Compare|Connect|Convert|Copy|Correct|Delete|Do|First|Free|Give"
    "|Install|Keep|Leave|Lower|Make|Move|Name|Put|Raise|Reduce|Register|Remove|Rename|Replace|Run"
    "|Save|Select|Set|Source|Split|To|Train|Try|Update|Use|Write)\\b"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the pictures of assets/."""
    pages = {
        "benchmarks.md": (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "reference/configs.md": write_configs(),
        "reference/commands.md": write_commands(),
        "reference/formats.md": write_formats(),
        "reference/api.md": write_api(),
        ERRORS: write_errors(),
    }
    pages |= {f"reference/{name}.md": text for name, text in write_registries()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for path in sorted((ROOT / "assets").iterdir()):
        if path.suffix in ASSETS:
            files.append(File.generated(config, f"assets/{path.name}", abs_src_path=str(path)))
    files.append(
        File.generated(config, "extra.css", abs_src_path=str(Path(__file__).parent / "extra.css"))
    )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that lead out of docs/ to the pages of the site."""
    for target, name in LINKS.items():
        markdown = markdown.replace(f"]({target}", f"]({name}")
    return re.sub(r"\]\(\.\./configs/(\w+)\.cfg\)", r"](reference/configs.md#\1)", markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link the codes of messages to their causes and fixes."""
    errors = files.get_file_from_path(ERRORS)
    if errors is None or page.file is errors:
        return html
    url = get_relative_url(errors.url, page.url)
    known = "|".join(get_messages())
    return re.sub(
        rf"(?<=[\s(>])({known})(?=[\s,.;:)<])",
        lambda match: f'<a href="{url}#{match[0].lower()}">{match[0]}</a>',
        html,
    )


def write_configs() -> str:
    """RETURNS (str): The page with all configs of configs/."""
    parts = ["# Example configs", "They are in the folder `configs/` of the repository."]
    for path in sorted((ROOT / "configs").glob("*.cfg")):
        text = path.read_text(encoding="utf-8").strip()
        parts += [f"## {path.name} {{#{path.stem}}}", f"```ini\n{text}\n```"]
    return "\n\n".join(parts)


def get_entries() -> list[EntryPoint]:
    return sorted(distribution("spacy-mtl").entry_points, key=lambda entry: entry.name.lower())


def write_registries() -> Iterator[tuple[str, str]]:
    """YIELDS (Tuple[str, str]): The name and text of each page about registered functions."""
    entries = get_entries()
    named = {group for _, groups in REGISTRIES.values() for group in groups}
    rest = sorted({entry.group for entry in entries} - named - {*TABLES})
    for name, (title, groups) in {**REGISTRIES, OTHERS[0]: (OTHERS[1], rest)}.items():
        parts = [f"# {title}", INTROS[name]]
        for group in groups:
            if len(groups) > 1:
                parts.append(f"## `@{group.partition('_')[2]}`")
            level = 3 if len(groups) > 1 else 2
            parts += [write_function(entry, level) for entry in entries if entry.group == group]
        yield name, "\n\n".join(parts)


def write_function(entry: EntryPoint, level: int) -> str:
    """RETURNS (str): The section of a registered function, which mkdocstrings fills."""
    module, _, function = entry.value.partition(":")
    text = (
        f"::: {module}.{function}\n    options:\n"
        f'      heading: "{entry.name}"\n      toc_label: "{entry.name.removeprefix(PREFIX)}"\n'
        f"      heading_level: {level}\n"
    )
    if entry.group == "spacy_factories":
        text += f"\nDefault config:\n\n```ini\n{get_default_config(entry)}\n```\n"
    return text


def get_default_config(entry: EntryPoint) -> str:
    """RETURNS (str): The default settings of a factory, as a section of a config."""
    import spacy
    from thinc.api import Config

    name = entry.name.removeprefix("mtl_")
    meta = spacy.blank("en").get_factory_meta(entry.name)
    section = {"factory": entry.name, **meta.default_config}
    return Config({"components": {name: section}}).to_str().partition("\n\n")[2].strip()


def write_formats() -> str:
    """RETURNS (str): The page with the formats of `mtl convert` and the annotation layers."""
    parts = [
        "# Formats and annotations",
        "## Formats",
        "`python -m spacy mtl convert` guesses the format. `--format NAME` names it. "
        "[Your own data](../data.md) has an example of each.",
        "| format | files | options | |\n|---|---|---|---|\n"
        + "\n".join(
            f"| `{name}` | {quote(format.patterns)} | {quote(format.options)} "
            f"| {get_summary(format.read)} |"
            for name, format in sorted(get_formats().items())
        ),
        "## Annotation layers",
        "An annotation layer is one kind of label. `convert --tasks` and the reports use its name.",
        "| layer | counted in | |\n|---|---|---|\n"
        + "\n".join(
            f"| `{name}` | {layer.unit} | {get_summary(type(layer))} |"
            for name, layer in get_layers().items()
        ),
    ]
    return "\n\n".join(parts)


def quote(names: object) -> str:
    return ", ".join(f"`{name}`" for name in names)  # type: ignore[attr-defined]


def get_summary(described: object) -> str:
    """RETURNS (str): The first sentence of a docstring, without spaCy's "RETURNS (type):"."""
    paragraph = (getdoc(described) or "").partition("\n\n")[0]
    sentence = re.split(r"(?<=\.)\s", " ".join(paragraph.split()))[0]
    return re.sub(r"^(RETURNS|YIELDS) \(.*?\): ", "", sentence).replace("|", "\\|")


def write_commands() -> str:
    """RETURNS (str): The page with the options of each command."""
    parts = ["# Commands"]
    group = typer.main.get_command(spacy_mtl.cli.setup_cli())
    for name, command in walk_commands(group, "mtl"):
        text = re.sub(
            r"^Example: (.+)", r"```console\n\1\n```", cleandoc(command.help or ""), flags=re.M
        )
        parts += [f"## {name}", text, write_usage(name, command)]
    return "\n\n".join(parts)


def walk_commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """YIELDS (Tuple[str, Command]): Each command and subcommand, with its name."""
    commands = getattr(command, "commands", None)
    if commands is None:
        yield name, command
    for child, subcommand in (commands or {}).items():
        yield from walk_commands(subcommand, f"{name} {child}")


def write_usage(name: str, command: click.Command) -> str:
    """RETURNS (str): A line with the arguments, and a table with the options of a command."""
    words, rows = [], []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            metavar = f"{(parameter.name or '').upper()}{'...' if parameter.nargs < 0 else ''}"
            words.append(metavar if parameter.required else f"[{metavar}]")
            names = [metavar]
        else:
            names = [*parameter.opts, *parameter.secondary_opts]
        default = parameter.default
        shown = "" if default is None or callable(default) else f"`{default}`"
        text = (getattr(parameter, "help", None) or "").replace("|", "\\|")
        rows.append(f"| {quote(names)} | {shown} | {text} |")
    usage = " ".join(["python -m spacy", name, *words])
    table = "\n".join(["| argument | default | |", "|---|---|---|", *rows])
    return f"Usage: `{usage} [OPTIONS]`\n\n{table}"


def write_api() -> str:
    """RETURNS (str): The page of `spacy_mtl.api`."""
    options = "    options:\n      members: null\n      show_signature: true\n"
    parts = [
        "# Python interface",
        "`spacy_mtl.api` is for packages that [add a head, a balancer or a format]"
        "(../third_party.md), and follows semantic versioning.",
    ]
    for name in sorted(spacy_mtl.api.__all__, key=str.lower):
        described = getattr(spacy_mtl.api, name)
        if getattr(described, "__module__", "").startswith("spacy_mtl"):
            parts.append(
                f"::: {described.__module__}.{described.__qualname__}\n{options}"
                f'      heading: "{name}"\n      toc_label: "{name}"\n'
            )
    return "\n\n".join(parts)


def write_errors() -> str:
    """RETURNS (str): The page with the cause and the fix of each code."""
    parts = [
        "# Errors and warnings",
        "Each message of spacy-mtl has a code, as in spaCy. Names in braces stand for the values "
        "of your case.",
    ]
    codes = get_messages()
    for prefix, title in GROUPS.items():
        parts.append(f"## {title}")
        for code in sorted(code for code in codes if code.startswith(prefix)):
            cause, fix = split_message(codes[code])
            parts += [f"### {code} {{#{code.lower()}}}", escape(cause)]
            parts += [f"**Fix:** {escape(fix)}"] if fix else []
    return "\n\n".join(parts)


def get_messages() -> dict[str, str]:
    """RETURNS (Dict[str, str]): All messages by their codes."""
    return {
        code: str(getattr(messages, code)).partition("] ")[2]
        for messages in (Errors, Warnings)
        for code in vars(messages)
        if re.fullmatch(r"[MW]\d{3}", code)
    }


def split_message(message: str) -> tuple[str, str]:
    """Split a message where it begins to say what to do.

    message (str): The message.
    RETURNS (Tuple[str, str]): The cause, and the fix, which is empty if no sentence begins with a
        verb of `FIX`.
    """
    sentences = re.split(r"(?<=[.:])\s+(?=[A-Z{])|\n", message)
    for i, sentence in enumerate(sentences):
        if i and FIX.match(sentence):
            return " ".join(sentences[:i]), " ".join(sentences[i:])
    return message, ""


def escape(text: str) -> str:
    """RETURNS (str): A message as Markdown: names in braces as code, nothing else as markup."""
    text = text.replace("{{", "{").replace("}}", "}").replace("\n", " ")
    parts = re.split(r"(`[^`]+`)", text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*_<>\[\]])", r"\\\1", parts[i])
    return "".join(parts)
