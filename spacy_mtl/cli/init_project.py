"""The project that `spacy mtl init project` lays out: its files and its project.yml."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import srsly

from ..errors import Errors
from ..types import Settings
from .init_config import CorpusSpec

CONFIG = "configs/config.cfg"
BEST = "training/model-best"
PARTS = ("train", "dev", "test")
FOLDERS = ["assets", "configs", "corpus", "training", "metrics", "packages"]
HEADER = "# Written by `python -m spacy mtl init project`. Change it as you like.\n"
README = """# {title}

One pipeline for the tasks {tasks}, with one shared encoder.

| folder | content |
|---|---|
| `assets` | the data as it was given |
| `configs` | the config of the training, with comments |
| `corpus` | the data in spaCy's format |
| `training` | the trained pipeline: `model-best` |
| `metrics` | scores and the report |
| `packages` | the pipeline as a Python package |

`python -m spacy project run all` runs these commands:

{commands}

A command runs again only if its input has changed. `project.yml` has the commands and variables.
`python -m spacy project run train . --vars.gpu_id 0` trains on a GPU.

{notes}
"""
SPLIT = "Dev data of {names}: every tenth document of its training data, which is not trained on."
NO_TEST = (
    "Scores of {names} are from dev data, which also chose model-best. Add test data if you can."
)


def place_assets(
    corpus: CorpusSpec, files: Mapping[str, Sequence[Path]]
) -> dict[str, dict[str, Path]]:
    """Find a place in the project for each file of a corpus.

    corpus (CorpusSpec): The corpus.
    files (Mapping[str, Sequence[Path]]): The files or folders of train, dev and test.
    RETURNS (Dict[str, Dict[str, Path]]): The files of each part, by their path in the project.
    RAISES (ValueError): M260 without training data, M101 for a path that does not exist, M259 for
        two files of one name.
    """
    if not files.get("train"):
        raise ValueError(Errors.M260.format(corpus=corpus.name))
    places: dict[str, dict[str, Path]] = {}
    for part, sources in files.items():
        folder = Path("assets") / get_name(corpus, part)
        places[part] = {}
        for source in sources:
            target = (folder / source.name).as_posix()
            if not source.exists():
                raise ValueError(Errors.M101.format(path=source))
            if target in places[part]:
                raise ValueError(Errors.M259.format(name=source.name, folder=folder))
            places[part][target] = source
    return places


def copy_assets(places: Mapping[str, Mapping[str, Path]], folder: Path) -> None:
    """Copy the files of a corpus into a project.

    places (Mapping[str, Mapping[str, Path]]): The result of `place_assets`.
    folder (Path): The folder of the project.
    """
    for target, source in (pair for part in places.values() for pair in part.items()):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, folder / target, dirs_exist_ok=True)
        else:
            shutil.copy(source, folder / target)


def get_name(corpus: CorpusSpec, part: str) -> str:
    """RETURNS (str): The name of a part of a corpus, such as "train" or "news_train"."""
    return f"{corpus.name}_{part}" if corpus.name else part


def get_target(corpus: CorpusSpec, part: str) -> str:
    """RETURNS (str): The path of a part of a corpus in spaCy's format."""
    return f"corpus/{get_name(corpus, part)}.spacy"


def write_project(
    folder: Path,
    config: str,
    tasks: Sequence[str],
    corpora: Sequence[tuple[CorpusSpec, Mapping[str, Sequence[str]]]],
    *,
    lang: str,
    gpu: bool,
    options: Mapping[str, str],
) -> None:
    """Write the files of a project.

    folder (Path): The folder.
    config (str): The text of the config.
    tasks (Sequence[str]): The names of the heads.
    corpora (Sequence[Tuple[CorpusSpec, Mapping[str, Sequence[str]]]]): The corpora, and the files
        of each part in the project.
    lang (str): The language.
    gpu (bool): Whether to train on a GPU.
    options (Mapping[str, str]): Options of `mtl convert` for each corpus.
    """
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in folder.resolve().name)
    commands = make_commands(corpora, lang)
    project = {
        "title": f"{', '.join(tasks)} with one shared encoder",
        "vars": {
            "gpu_id": 0 if gpu else -1,  # -1 is the CPU
            "seed": 0,
            "lang": lang,
            "name": name,
            "version": "0.1.0",
            **{get_convert(corpus): text for corpus, text in options.items()},
        },
        "directories": FOLDERS,
        "workflows": {"all": [command["name"] for command in commands]},
        "commands": commands,
    }
    for subfolder in FOLDERS:
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(config, encoding="utf8")
    yaml = srsly.yaml_dumps(project, sort_keys=False)
    (folder / "project.yml").write_text(HEADER + yaml, encoding="utf8")
    notes = [
        note.format(names=" and ".join(names))
        for note, part in ((SPLIT, "dev"), (NO_TEST, "test"))
        if (names := [spec.name or "the corpus" for spec, files in corpora if part not in files])
    ]
    text = README.format(
        title=name,
        tasks=", ".join(tasks),
        commands="\n".join(f"- `{command['name']}`: {command['help']}" for command in commands),
        notes="\n\n".join(notes),
    )
    (folder / "README.md").write_text(text, encoding="utf8")


def get_convert(corpus: str) -> str:
    """RETURNS (str): The variable of project.yml with the options of `mtl convert` for a corpus."""
    return f"convert_{corpus}" if corpus else "convert"


def make_commands(
    corpora: Sequence[tuple[CorpusSpec, Mapping[str, Sequence[str]]]], lang: str
) -> list[Settings]:
    """RETURNS (List[Dict[str, Any]]): The commands of a project, in order.

    corpora (Sequence[Tuple[CorpusSpec, Mapping[str, Sequence[str]]]]): As for `write_project`.
    lang (str): The language.
    """
    gpu = "--gpu-id ${vars.gpu_id}"
    converts: list[str] = []
    originals: list[str] = []
    learned: list[str] = []
    tested: dict[str, str] = {}
    for spec, files in corpora:
        for part, paths in files.items():
            target, options = (
                get_target(spec, part),
                f"--lang ${{vars.lang}} ${{vars.{get_convert(spec.name)}}}",
            )
            if part == "train" and "dev" not in files:
                options = f"--dev {get_target(spec, 'dev')} {options}"
            inputs = shlex.join(paths)
            converts.append(f"python -m spacy mtl convert {inputs} {target} {options}".strip())
            originals += paths
        learned += [get_target(spec, part) for part in ("train", "dev")]
        last = "test" if "test" in files else "dev"
        tested[f"metrics/{spec.name or 'scores'}.json"] = get_target(spec, last)
    converted = list(dict.fromkeys([*learned, *tested.values()]))
    data = f"--data {converted[-1]} " if len(corpora) == 1 else ""
    wheel = f"packages/{lang}_${{vars.name}}-${{vars.version}}-py3-none-any.whl"
    return [
        {
            "name": "convert",
            "help": "Convert the data in assets/ to spaCy's format",
            "script": converts,
            "deps": originals,
            "outputs": converted,
        },
        {
            "name": "debug",
            "help": "Check the data, and that every head's gradient reaches the encoder",
            "script": [f"python -m spacy mtl debug {CONFIG} {gpu}"],
            "deps": [CONFIG, *learned],
        },
        {
            "name": "train",
            "help": "Train an encoder and its heads",
            "script": [
                f"python -m spacy train {CONFIG} --output training {gpu} --system.seed "
                "${vars.seed} --training.logger.output_file training/log.jsonl"
            ],
            "deps": [CONFIG, *learned],
            "outputs_no_cache": [BEST],
        },
        {
            "name": "evaluate",
            "help": "Score the trained pipeline",
            "script": [
                f"python -m spacy evaluate {BEST} {data_path} --output {scores} {gpu}"
                for scores, data_path in tested.items()
            ],
            "deps": [BEST, *tested.values()],
            "outputs": [*tested],
        },
        {
            "name": "report",
            "help": "Write the scores of each label, and the course of the training",
            "script": [
                f"python -m spacy mtl report training {data}--output metrics/report.md {gpu}"
            ],
            "deps": [BEST],
            "outputs": ["metrics/report.md"],
        },
        {
            "name": "package",
            "help": "Build wheels of the pipeline and of spacy-mtl, and list exact versions",
            "script": [
                f"python -m spacy mtl package {BEST} packages --name ${{vars.name}} --version "
                "${vars.version}"
            ],
            "deps": [BEST],
            "outputs_no_cache": [wheel],
        },
        {
            "name": "smoke",
            "help": "Install the wheel in a clean environment and run it without a network",
            "script": [f"python -m spacy_mtl.smoke_test {wheel}"],
            "deps": [wheel],
        },
    ]
