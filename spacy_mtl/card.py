"""The model card: the README.md of a saved pipeline."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import srsly
from spacy.language import Language
from spacy.util import load_config
from wasabi.markdown import MarkdownRenderer

from .annotations import match_layers, name_scores
from .files import replacing
from .types import Settings

CARD = "README.md"
MARK = (
    "<!-- Written by spacy-mtl each time the pipeline is saved. Delete this comment to keep your "
    "own changes. -->"
)
PACKAGES = ("spacy", "spacy-mtl", "thinc", "torch", "transformers")
LABELS = 20  # labels of a head that are listed
# Settings of [training] in the card, besides the optimizer and the batcher.
TRAINING = (
    *("max_steps", "max_epochs", "patience", "eval_frequency", "accumulate_gradient", "dropout"),
    *("frozen_components", "seed"),
)


def write_card(component: Path, parameters: int) -> None:
    """Write the card of the pipeline that an encoder is saved in. spaCy saves the meta.json and the
    config.cfg of a pipeline before its components, so the card can read them.

    component (Path): The folder of the encoder. If it is not in the folder of a pipeline, no card
        is written.
    parameters (int): The number of the encoder's parameters; 0 before `initialize`.
    """
    folder, name = component.parent, component.name
    card = folder / CARD
    if not ((folder / "meta.json").exists() and (folder / "config.cfg").exists()):
        return
    if card.exists() and MARK not in card.read_text(encoding="utf8"):
        return
    meta = srsly.read_json(folder / "meta.json")
    if name in meta.get("components", ()):
        config = load_config(folder / "config.cfg", interpolate=True)
        with replacing(card) as new:
            new.write_text(make_card(meta, config, {name: parameters}), encoding="utf8")


def make_card(meta: Settings, config: Settings, parameters: Mapping[str, int]) -> str:
    """Make a model card.

    meta (Dict[str, Any]): The meta.json of the pipeline. Its "corpora" are those of
        `corpora.inventory.count_training_corpora`, its "calibration" comes from `calibrate`.
    config (Dict[str, Any]): Its config, interpolated.
    parameters (Mapping[str, int]): The number of parameters of encoders, by component.
    RETURNS (str): The card in Markdown.
    """
    components, training = config["components"], config["training"]
    tasks = [name for name, labels in meta["labels"].items() if labels]
    md = MarkdownRenderer()
    md.add(md.title(1, f"Pipeline for {', '.join(tasks) or meta['lang']}"))
    if meta["description"]:
        md.add(meta["description"])
    rows = [
        ("Language", meta["lang"]),
        ("Components", ", ".join(map(code, meta["pipeline"]))),
        *(
            (f"Encoder {code(name)}", describe_encoder(component, parameters.get(name, 0)))
            for name, component in components.items()
            if component.get("factory") == "mtl_transformer"
        ),
        ("Seed", str(training["seed"])),
        ("License", meta["license"] or "not given: set `license` in meta.json"),
        ("Saved with", ", ".join([f"Python {python_version()}", *map(get_version, PACKAGES)])),
    ]
    md.add(make_table(rows, ("", ""), texts=2))
    md.add(md.title(2, "Tasks"))
    rows = [
        (code(task), code(components[task].get("factory", "")), describe_labels(labels))
        for task, labels in meta["labels"].items()
        if labels and task in components
    ]
    md.add(make_table(rows, ("Component", "Factory", "Labels"), texts=3))
    md.add(md.title(2, "Scores"))
    md.add(describe_scores(meta, components))
    md.add(md.title(2, "Calibration"))
    md.add(describe_calibration(meta))
    md.add(md.title(2, "Corpora"))
    md.add(describe_corpora(meta.get("corpora", {})))
    md.add(md.title(2, "Training"))
    md.add(make_table(describe_settings(config), ("Setting", "Value"), texts=2))
    md.add(md.title(2, "Limits"))
    md.add(md.list(list_limits(meta)))
    md.add(MARK)
    return f"{md.text}\n"


def describe_encoder(component: Settings, parameters: int) -> str:
    """RETURNS (str): The weights that an encoder started from, its size and settings."""
    model = component["model"]
    facts = [code(str(model.get("name")))]
    if parameters:
        facts.append(f"{parameters / 1e6:,.1f} million parameters")
    facts += [f"{key} {code(str(model[key]))}" for key in ("precision", "lora") if model.get(key)]
    return ", ".join(facts)


def describe_labels(labels: Sequence[object]) -> str:
    """RETURNS (str): The first labels of a task, and how many more there are. Labels of spaCy's
    lemmatizer are numbers.
    """
    shown = ", ".join(code(str(label)) for label in labels[:LABELS])
    return shown if len(labels) <= LABELS else f"{shown} and {len(labels) - LABELS} more"


def describe_scores(meta: Settings, components: Settings) -> str:
    """RETURNS (str): A table with the scores of each task, in percent."""
    rows = []
    for task, component in components.items():
        if "factory" not in component or not Language.has_factory(component["factory"]):
            continue
        factory = Language.get_factory_meta(component["factory"])
        layers = match_layers(factory.assigns, component)
        weights = name_scores(layers, factory.default_score_weights)
        for key in (key for own in weights for key in (own, f"{task}_{own}")):
            score = meta.get("performance", {}).get(key)
            if isinstance(score, float | int):
                rows.append((code(task), code(key), percent(score)))
    if not rows:
        return "The pipeline was not evaluated in training."
    note = "On the dev data, in percent, at the last evaluation before the pipeline was saved."
    return f"{note}\n\n{make_table(rows, ('Component', 'Score', 'Percent'), texts=2)}"


def describe_calibration(meta: Settings) -> str:
    """RETURNS (str): A table with the calibration error of each calibrated head."""
    rows = [
        (code(task), f"{c['units']:,}", f"{c['temperature']:.3f}", *map(percent, c["ece"]))
        for task, c in meta.get("calibration", {}).items()
    ]
    if not rows:
        return "Not calibrated. `python -m spacy mtl calibrate` does it."
    note = "The expected calibration error on the data of `mtl calibrate`, in percent."
    header = ("Component", "Labels", "Temperature", "Error before", "Error after")
    return f"{note}\n\n{make_table(rows, header, texts=1)}"


def describe_corpora(corpora: Settings) -> str:
    """RETURNS (str): A table with the size of each corpus, and its labelled units per task."""
    counts = [
        (part, name, found) for part, named in corpora.items() for name, found in named.items()
    ]
    if not counts:
        return (
            "Not counted. `spacy-mtl.ProgressLogger.v1` counts the corpora of `[training]` that "
            "are no streams."
        )
    tasks = list(dict.fromkeys(task for _, _, found in counts for task in found["units"]))
    rows = [
        (
            part if part == name else f"{part}: {escape(name)}",
            f"{found['docs']:,}",
            f"{found['words']:,}",
            *(f"{found['units'].get(task, 0):,}" for task in tasks),
        )
        for part, name, found in counts
    ]
    note = "Labelled units per component: tokens, entities or docs, whatever it labels."
    return f"{note}\n\n{make_table(rows, ('Corpus', 'Docs', 'Words', *map(code, tasks)), texts=1)}"


def describe_settings(config: Settings) -> Iterator[tuple[str, str]]:
    """YIELDS (Tuple[str, str]): The name and the value of the main settings of training."""
    training = config["training"]
    for name, component in config["components"].items():
        if "balancer" in component:
            yield f"Balancer of {code(name)}", describe_block(component["balancer"])
    yield "Optimizer", describe_block(training["optimizer"])
    yield "Batches", describe_block(training["batcher"])
    corpus = config.get("corpora", {}).get(training["train_corpus"].partition(".")[2], {})
    reader = {key: value for key, value in corpus.items() if not isinstance(value, dict)}
    if reader:
        yield "Training corpus", describe_block(reader)
    yield "Others", describe_block({key: training.get(key) for key in TRAINING})


def describe_block(block: Settings) -> str:
    """RETURNS (str): A section of a config in one line: the name of its function, and its
    settings.
    """
    names = [code(str(value)) for key, value in block.items() if key.startswith("@")]
    settings = {k: v for k, v in block.items() if k[0] != "@" and v not in (None, {}, [])}
    nested = {k: describe_block(v) for k, v in settings.items() if isinstance(v, dict)}
    values = {k: f"({nested[k]})" if k in nested else code(str(v)) for k, v in settings.items()}
    return ", ".join([*names, *(f"{key} {value}" for key, value in values.items())])


def list_limits(meta: Settings) -> Iterator[str]:
    """YIELDS (str): What a user of the pipeline must not expect."""
    yield "The scores are of the dev data, which also chose the weights. Expect less elsewhere."
    yield "Texts unlike the training corpora, in genre, time or language, get worse predictions."
    yield "The pipeline predicts the labels above and no others."
    if not meta.get("calibration"):
        yield "Its probabilities are not calibrated: they tend to be too high."
    yield "The licenses of the encoder and of the corpora may restrict its use."


def get_version(package: str) -> str:
    """RETURNS (str): A package and its installed version."""
    return f"{package} {version(package)}"


def make_table(rows: Iterable[Sequence[str]], header: Sequence[str], texts: int) -> str:
    """RETURNS (str): A table in Markdown. Its first columns are texts, the others numbers."""
    aligns = ["l" if i < texts else "r" for i in range(len(header))]
    return MarkdownRenderer().table(rows, header, aligns)  # type: ignore[arg-type]


def percent(share: float | None) -> str:
    """RETURNS (str): A share in percent."""
    return "-" if share is None else f"{100 * share:.1f}"


def code(text: str) -> str:
    """RETURNS (str): A text as code that can stand in a table. It may contain backticks."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, padding = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{padding}{escape(text or ' ')}{padding}{fence}"


def escape(text: str) -> str:
    """RETURNS (str): A text that cannot end a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")
