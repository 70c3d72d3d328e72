"""The config that `spacy mtl init config` writes: the defaults of the factories, and a small table
of choices by device and encoder.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from typing import Any, Literal

from spacy import blank
from spacy.cli.init_config import RECOMMENDATIONS
from spacy.language import Language
from spacy.util import load_model_from_config
from thinc.api import Config

from ..corpora.text_io import split_names
from ..errors import Errors, quote
from ..types import Settings

Optimize = Literal["efficiency", "accuracy"]

ENCODER = "transformer"  # the name of its component
EMBEDDED, EMBEDDED_LANG = "minilm", "en"
LISTENER = "spacy-mtl.TaskListener.v1"
CORPUS = re.compile(r"(?P<name>\w+)=(?P<paths>.*?)(?::(?P<tasks>[\w,]*))?")


@dataclass(frozen=True)
class Device:
    """The settings that depend on the device.

    batch_size (int): Docs per batch in predictions.
    max_batch_items (int): Wordpieces per forward pass.
    precision (str): The precision of the encoder.
    wordpieces (int): Wordpieces per update.
    max_steps, eval_frequency, patience, warmup_steps (int): Numbers of updates.
    gpu_allocator (Optional[str]): As in `[system]`.
    """

    batch_size: int
    max_batch_items: int
    precision: str
    wordpieces: int
    max_steps: int
    eval_frequency: int
    patience: int
    warmup_steps: int
    gpu_allocator: str | None


CPU = Device(1000, 4096, "auto", 2000, 950, 190, 0, 95, None)
GPU = Device(256, 16384, "bfloat16", 8000, 4000, 200, 1600, 400, "pytorch")
# Learning rates of the heads and of the encoder, for encoders of the size of MiniLM and of BERT.
SMALL_RATES = {"learn_rate": 5e-3, "encoder_learn_rate": 2e-4}
BASE_RATES = {"learn_rate": 2e-3, "encoder_learn_rate": 5e-5}
SAMPLING: Settings = {
    **{"sampling": "temperature", "temperature": 2.0, "unit": "words"},
    **{"epochs": 10, "seed": "${system.seed}"},
}
# The heads' settings that differ from the defaults of their factories.
HEADS: dict[str, Settings] = {"mtl_ner": {"model": {"dropout": 0.3}}}
# Components that read the encoder and learn nothing. They need no corpus, and come last.
READERS = {"mtl_vectors"}
# An uncased encoder does not see capitals, which matter to these heads.
READ_FORMS = {"mtl_tagger", "mtl_morphologizer", "mtl_lemmatizer", "mtl_senter"}
LEXICAL: Settings = {
    "@architectures": "spacy-mtl.ConcatTok2Vec.v1",
    "layers": {
        "context": {"@architectures": LISTENER},
        "lexical": {
            "@architectures": "spacy-mtl.LexicalEmbed.v1",
            "width": 96,
            "attrs": ["NORM", "PREFIX", "SUFFIX", "SHAPE"],
            "rows": [5000, 1000, 2500, 2500],
        },
    },
}


@dataclass(frozen=True)
class CorpusSpec:
    """A corpus of --corpora.

    name (str): Its name, "" if it is the only one.
    train, dev, test (Optional[str]): The paths of its parts.
    tasks (Optional[Sequence[str]]): The components that it has labels for, None for all.
    """

    name: str = ""
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    tasks: Sequence[str] | None = None


def parse_corpus(text: str, parts: Sequence[str] = ("train", "dev")) -> CorpusSpec:
    """Parse a corpus such as "news=news_train.spacy,news_dev.spacy:tagger,ner".

    text (str): The name, the path of each part, and the tasks. Paths and tasks may be left out.
    parts (Sequence[str]): The parts.
    RETURNS (CorpusSpec): The corpus.
    RAISES (ValueError): M252 if the text has another form.
    """
    match = CORPUS.fullmatch(text)
    paths = match["paths"].split(",") if match else []
    if match is None or len(paths) > len(parts):
        form = f"NAME={','.join(part.upper() for part in parts)}:TASKS"
        raise ValueError(Errors.M252.format(value=text, form=form))
    named = {part: path.strip() or None for part, path in zip(parts, paths, strict=False)}
    tasks = None if match["tasks"] is None else split_names(match["tasks"])
    return CorpusSpec(match["name"], tasks=tasks, **named)


def get_heads(nlp: Language) -> dict[str, str]:
    """Find the factories whose model listens to the shared encoder, those of other packages too.

    nlp (Language): A pipeline, which knows all factories.
    RETURNS (Dict[str, str]): The factories by the name of their task: "ner" for "mtl_ner".
    """
    names = {entry.name for entry in entry_points(group="spacy_factories")}
    heads = [
        name
        for name in names
        if nlp.has_factory(name) and has_listener(nlp.get_factory_meta(name).default_config)
    ]
    return {name.removeprefix("mtl_"): name for name in sorted(heads)}


def has_listener(config: object) -> bool:
    """RETURNS (bool): Whether a model or a part of it is a listener of this package."""
    if not isinstance(config, Mapping):
        return False
    return config.get("@architectures") == LISTENER or any(map(has_listener, config.values()))


def parse_tasks(texts: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
    """Parse tasks such as "ner" and "people:ner".

    texts (Iterable[str]): The tasks: names of heads, or "NAME:HEAD" with another component name.
    known (Mapping[str, str]): The factories by the name of their task.
    RETURNS (Dict[str, str]): The factory of each component.
    RAISES (ValueError): M250 for an unknown task, M251 for two components of one name, or none.
    """
    factories: dict[str, str] = {}
    for text in texts:
        name, _, head = text.partition(":")
        factory = head or name
        factory = known.get(factory, factory)
        if factory not in known.values():
            raise ValueError(Errors.M250.format(task=text, known=quote(known)))
        name = name.removeprefix("mtl_")
        if not re.fullmatch(r"\w+", name) or name in {*factories, ENCODER}:
            raise ValueError(Errors.M251.format(name=name))
        factories[name] = factory
    return factories


def recommend_encoder(lang: str, optimize: Optimize, *, gpu: bool) -> str:
    """Choose an encoder.

    lang (str): The language.
    optimize (str): "efficiency" or "accuracy".
    gpu (bool): Whether the pipeline is trained on a GPU.
    RETURNS (str): The embedded encoder for fast English pipelines on a CPU; else the transformer
        that spaCy's own `init config` recommends for the language.
    """
    if lang == EMBEDDED_LANG and optimize == "efficiency" and not gpu:
        return EMBEDDED
    known: Any = RECOMMENDATIONS
    name: str = known.get(lang, known["__default__"])["transformer"][optimize]["name"]
    return name


def make_config(
    tasks: Sequence[str],
    *,
    lang: str = "en",
    corpora: Sequence[CorpusSpec] = (),
    encoder: str | None = None,
    gpu: bool = False,
    optimize: Optimize = "efficiency",
) -> Config:
    """Make the config of a pipeline with one shared encoder.

    tasks (Sequence[str]): The heads, such as "ner", or "people:ner" for the component `people`. If
        empty, the tasks of the corpora.
    lang (str): The language.
    corpora (Sequence[CorpusSpec]): The corpora. Several corpora are mixed.
    encoder (Optional[str]): A Hugging Face name, a folder, or "minilm"; None for the recommended
        encoder.
    gpu (bool): Whether the pipeline is trained on a GPU.
    optimize (str): "efficiency" for a fast encoder, "accuracy" for a better one.
    RETURNS (Config): The config with all settings.
    RAISES (ValueError): M250 or M251 for wrong tasks, M179 if none of them learns, M253 if a corpus
        is for another task or no corpus is for a task, M254 for two corpora of one name.
    """
    nlp = blank(lang)
    named = tasks or [task for corpus in corpora for task in corpus.tasks or ()]
    factories = parse_tasks(dict.fromkeys(named), get_heads(nlp))
    if not factories:
        raise ValueError(Errors.M250.format(task="", known=quote(get_heads(nlp))))
    learners = {task: name for task, name in factories.items() if name not in READERS}
    if not learners:
        raise ValueError(Errors.M179.format(names=quote(factories)))
    factories = learners | factories
    check_corpora(corpora, learners)
    device = GPU if gpu else CPU
    name = encoder or recommend_encoder(lang, optimize, gpu=gpu)
    raw: Settings = {
        "paths": {**get_paths(corpora), "encoder": name},
        "system": {"seed": 0, "gpu_allocator": device.gpu_allocator},
        "nlp": {
            "lang": lang,
            "pipeline": [ENCODER, *factories],
            "batch_size": device.batch_size,
        },
        "components": {
            ENCODER: make_encoder(device),
            **{task: make_head(factory, name) for task, factory in factories.items()},
        },
        "corpora": {part: make_reader(corpora, part) for part in ("train", "dev")},
        "training": make_training(device, name),
        "initialize": {"components": make_labels(learners, corpora)},
    }
    config = load_model_from_config(Config(raw), auto_fill=True).config
    for unused in {"train", "dev"} - raw["paths"].keys():
        del config["paths"][unused]
    return config


def check_corpora(corpora: Sequence[CorpusSpec], tasks: Iterable[str]) -> None:
    """RAISES (ValueError): M254 for two corpora of one name, M253 if a corpus names a task that is
    not trained, or a task has no corpus.
    """
    names = [corpus.name for corpus in corpora]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(Errors.M254.format(name=name))
    known = list(tasks)
    given = [task for corpus in corpora for task in (corpus.tasks or known)]
    for task in [*given, *known] if corpora else ():
        if task not in known or task not in given:
            where = "--tasks" if task not in known else "--corpora"
            raise ValueError(Errors.M253.format(task=task, where=where, known=quote(known)))


def get_paths(corpora: Sequence[CorpusSpec]) -> dict[str, str | None]:
    """RETURNS (Dict[str, Optional[str]]): The paths of the corpora by the name of their variable in
    `[paths]`: "train" and "dev" for one corpus, "NAME_train" and "NAME_dev" for several.
    """
    paths: dict[str, str | None] = {}
    for corpus in corpora or [CorpusSpec()]:
        prefix = f"{corpus.name}_" if len(corpora) > 1 else ""
        paths |= {f"{prefix}train": corpus.train, f"{prefix}dev": corpus.dev}
    return paths


def make_reader(corpora: Sequence[CorpusSpec], part: str) -> Settings:
    """RETURNS (Dict[str, Any]): The section of a reader: of train or dev."""

    def read(path: str) -> Settings:
        return {"@readers": "spacy.Corpus.v1", "path": path, "gold_preproc": False}

    if len(corpora) < 2:
        return read(f"${{paths.{part}}}")
    return {
        "@readers": "spacy-mtl.MixedCorpus.v1",
        **(SAMPLING if part == "train" else {}),
        "tasks": {corpus.name: list(corpus.tasks) for corpus in corpora if corpus.tasks},
        "corpora": {corpus.name: read(f"${{paths.{corpus.name}_{part}}}") for corpus in corpora},
    }


def make_encoder(device: Device) -> Settings:
    """RETURNS (Dict[str, Any]): The section of the encoder."""
    return {
        "factory": "mtl_transformer",
        "max_batch_items": device.max_batch_items,
        "model": {
            "@architectures": "spacy-mtl.SharedTransformer.v1",
            "name": "${paths.encoder}",
            "precision": device.precision,
            "get_spans": {"@span_getters": "spacy-mtl.sentence_spans.v1", "window": 160},
        },
    }


def make_head(factory: str, encoder: str) -> Settings:
    """RETURNS (Dict[str, Any]): The section of a head."""
    settings: Settings = {"factory": factory, **HEADS.get(factory, {})}
    if factory in READ_FORMS and (encoder == EMBEDDED or "uncased" in encoder):
        settings["model"] = {"@architectures": "spacy-mtl.TaggerHead.v1", "tok2vec": LEXICAL}
    return settings


def make_training(device: Device, encoder: str) -> Settings:
    """RETURNS (Dict[str, Any]): The section `[training]`."""
    rates = SMALL_RATES if EMBEDDED in encoder.lower() else BASE_RATES
    return {
        "dropout": 0.1,
        "max_epochs": 0,
        **{key: asdict(device)[key] for key in ("max_steps", "eval_frequency", "patience")},
        "batcher": {
            "@batchers": "spacy-mtl.batch_by_wordpieces.v1",
            "size": device.wordpieces,
            "tokenizer": "${paths.encoder}",
        },
        "logger": {"@loggers": "spacy-mtl.ProgressLogger.v1"},
        "optimizer": {
            "@optimizers": "spacy-mtl.AdamW.v1",
            **{
                key: {
                    "@schedules": "warmup_linear.v1",
                    "warmup_steps": device.warmup_steps,
                    "total_steps": "${training.max_steps}",
                    "initial_rate": rate,
                }
                for key, rate in rates.items()
            },
        },
    }


def make_labels(factories: Mapping[str, str], corpora: Sequence[CorpusSpec]) -> Settings:
    """RETURNS (Dict[str, Any]): A section for the labels of each head that learns from the same
    corpora as another head of its kind.
    """
    kinds = [*factories.values()]
    if all(corpus.tasks for corpus in corpora) and corpora:
        return {}
    return {
        task: {"labels": None} for task, factory in factories.items() if kinds.count(factory) > 1
    }
