"""`spacy mtl init config` and `spacy mtl init project`: start with your own tasks and files."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from spacy import blank
from thinc.api import Config
from typer import Argument, Context, Option
from wasabi import msg

from ..corpora.text_io import split_names
from ..errors import Errors, quote
from ..files import replacing
from .app import command, mtl_cli
from .config_text import to_text
from .init_config import CorpusSpec, Optimize, get_paths, make_config, parse_corpus
from .init_project import PARTS, copy_assets, get_target, place_assets, write_project

init_cli: typer.Typer = typer.Typer(
    name="init", help="Write a config or a project for your own tasks.", no_args_is_help=True
)
mtl_cli.add_typer(init_cli)

Lang: TypeAlias = Annotated[str, Option("--lang", "-l", help="Language of the texts")]
Tasks: TypeAlias = Annotated[
    str,
    Option(
        "--tasks",
        "-t",
        help="Heads, such as tagger,ner,textcat. people:ner is a head ner with the name people. "
        "By default the tasks of the corpora",
    ),
]
EncoderName: TypeAlias = Annotated[
    str | None,
    Option("--encoder", "-e", help="Hugging Face name, folder, or minilm. Default by language"),
]
OnGpu: TypeAlias = Annotated[bool, Option("--gpu", "-G", help="Train on a GPU")]
OptimizeFor: TypeAlias = Annotated[
    Optimize, Option("--optimize", "-o", help="Whether a fast or a good encoder is chosen")
]
Force: TypeAlias = Annotated[bool, Option("--force", "-F", help="Overwrite what is there")]


@command("config", "Cannot write a config", group=init_cli, more_arguments=True)
def init_config_cli(
    ctx: Context,
    output: Annotated[
        Path, Argument(help="Config to write, or - for standard output", allow_dash=True)
    ],
    lang: Lang = "en",
    tasks: Tasks = "",
    corpora: Annotated[
        list[str] | None,
        Option(
            "--corpora",
            help="Corpora with labels of different tasks, each NAME=TRAIN,DEV:TASKS. Separate them "
            "by spaces. A corpus without TASKS has labels of all tasks",
        ),
    ] = None,
    train: Annotated[str | None, Option("--train", help="Training data, if one corpus")] = None,
    dev: Annotated[str | None, Option("--dev", help="Dev data, if one corpus")] = None,
    encoder: EncoderName = None,
    gpu: OnGpu = False,
    optimize: OptimizeFor = "efficiency",
    force: Force = False,
) -> None:
    """
    Write a config for your own tasks.

    The config is complete and has comments. The data are .spacy files, as `mtl convert` writes
    them.

    Example: python -m spacy mtl init config config.cfg --tasks tagger,ner
    """
    given = [parse_corpus(text) for text in [*(corpora or ()), *ctx.args]]
    if given and (train or dev):
        raise ValueError(Errors.M255)
    given = given or [CorpusSpec(train=train, dev=dev)]
    named = split_names(tasks)
    config = make_config(
        named, lang=lang, corpora=given, encoder=encoder, gpu=gpu, optimize=optimize
    )
    options = get_options(named, given, lang, encoder, optimize, gpu=gpu)
    text = make_text(config, f"python -m spacy mtl init config OUTPUT {options}")
    if str(output) == "-":
        print(text, end="")
        return
    if output.exists() and not force:
        raise ValueError(Errors.M256.format(path=output))
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as new:
        new.write_text(text, encoding="utf8")
    msg.good(f"Saved the config: {output}")
    missing = "".join(f" --paths.{k} FILE" for k, path in get_paths(given).items() if not path)
    print(f"Check it: python -m spacy mtl debug {output}{missing}")
    print(f"Train:    python -m spacy train {output}{missing} --output training")


@command("project", "Cannot write a project", group=init_cli, more_arguments=True)
def init_project_cli(
    ctx: Context,
    folder: Annotated[Path, Argument(help="Folder to make", file_okay=False)],
    lang: Lang = "en",
    tasks: Tasks = "",
    corpora: Annotated[
        list[str] | None,
        Option(
            "--corpora",
            help="Corpora with labels of different tasks, each NAME=TRAIN,DEV,TEST:TASKS. Separate "
            "them by spaces",
        ),
    ] = None,
    train: Annotated[list[Path] | None, Option("--train", help="Training data")] = None,
    dev: Annotated[
        list[Path] | None,
        Option("--dev", help="Dev data, by default every tenth document of the training data"),
    ] = None,
    test: Annotated[
        list[Path] | None,
        Option("--test", help="Test data, by default the pipeline is scored on the dev data"),
    ] = None,
    convert: Annotated[
        list[str] | None,
        Option(
            "--convert",
            help='Options of `mtl convert`, such as "--tags upos". For one of several corpora: '
            '"NAME=--tags upos"',
        ),
    ] = None,
    encoder: EncoderName = None,
    gpu: OnGpu = False,
    optimize: OptimizeFor = "efficiency",
    force: Force = False,
) -> None:
    """
    Lay out a project with your own files, from the data to a wheel.

    The files have any format that `mtl convert` reads, and are copied into the project. Give
    --train, --dev and --test once for each file. `python -m spacy project run all` in the folder
    runs all commands.

    Example: python -m spacy mtl init project news --tasks ner --train a.jsonl
    """
    specs = [parse_corpus(text, PARTS) for text in [*(corpora or ()), *ctx.args]]
    if specs and (train or dev or test):
        raise ValueError(Errors.M255)
    if folder.exists() and any(folder.iterdir()) and not force:
        raise ValueError(Errors.M256.format(path=folder))
    sources = [{part: path for part in PARTS if (path := get_files(spec, part))} for spec in specs]
    if not specs:
        given = {"train": train, "dev": dev, "test": test}
        specs, sources = [CorpusSpec()], [{part: files for part, files in given.items() if files}]
    converted = [
        CorpusSpec(spec.name, get_target(spec, "train"), get_target(spec, "dev"), tasks=spec.tasks)
        for spec in specs
    ]
    converts = parse_converts(convert or (), [spec.name for spec in specs])
    named = split_names(tasks)
    config = make_config(
        named, lang=lang, corpora=converted, encoder=encoder, gpu=gpu, optimize=optimize
    )
    options = get_options(named, specs, lang, encoder, optimize, gpu=gpu)
    places = [place_assets(spec, files) for spec, files in zip(specs, sources, strict=True)]
    for placed in places:
        copy_assets(placed, folder)
    pairs = [
        (spec, {part: [*files] for part, files in placed.items()})
        for spec, placed in zip(specs, places, strict=True)
    ]
    text = make_text(config, f"python -m spacy mtl init project FOLDER {options}")
    heads = config["nlp"]["pipeline"][1:]
    write_project(folder, text, heads, pairs, lang=lang, gpu=gpu, options=converts)
    msg.good(f"Wrote the project: {folder}")
    print(f"Run it: cd {folder} && python -m spacy project run all")


def parse_converts(texts: Iterable[str], corpora: Sequence[str]) -> dict[str, str]:
    """Parse the values of --convert.

    texts (Iterable[str]): Options for all corpora, such as "--tags upos", or for one corpus, such
        as "news=--tags upos".
    corpora (Sequence[str]): The names of the corpora.
    RETURNS (Dict[str, str]): The options for each corpus.
    RAISES (ValueError): M261 for a name of no corpus.
    """
    found: dict[str, list[str]] = {name: [] for name in corpora}
    for text in texts:
        name, mark, options = text.partition("=")
        if text.lstrip().startswith("-"):
            name, mark, options = "", "", text
        if mark and name not in found:
            raise ValueError(Errors.M261.format(value=text, corpora=quote(filter(None, corpora))))
        for corpus in [name] if mark else corpora:
            found[corpus].append(options)
    return {name: " ".join(options) for name, options in found.items()}


def get_files(spec: CorpusSpec, part: str) -> list[Path]:
    """RETURNS (List[Path]): The files of a part of a corpus: none or one."""
    path: str | None = {"train": spec.train, "dev": spec.dev, "test": spec.test}[part]
    return [Path(path)] if path else []


def get_options(
    tasks: Sequence[str],
    corpora: Sequence[CorpusSpec],
    lang: str,
    encoder: str | None,
    optimize: str,
    *,
    gpu: bool,
) -> str:
    """RETURNS (str): The options of a command, without paths of data."""
    options = ["--lang", lang]
    options += ["--tasks", ",".join(tasks)] if tasks else []
    if len(corpora) > 1:
        names = [f"{c.name}=" + (f":{','.join(c.tasks)}" if c.tasks else "") for c in corpora]
        options += ["--corpora", *names]
    options += ["--encoder", encoder] if encoder else []
    options += ["--gpu"] if gpu else []
    options += ["--optimize", optimize] if optimize != "efficiency" else []
    return shlex.join(options)


def make_text(config: Config, written_by: str) -> str:
    """RETURNS (str): The text of a config with comments, and the command that has written it."""
    tasks = ", ".join(config["nlp"]["pipeline"][1:])
    title = f"Trains {tasks} with one shared encoder. Written by:\n{written_by}"
    return to_text(blank(config["nlp"]["lang"]), config, title)
