"""The text of a config, with comments that say what each section is for and what to change."""

import re
from collections.abc import Iterator, Mapping
from textwrap import wrap

from spacy.language import Language
from spacy.util import CONFIG_SECTION_ORDER
from thinc.api import Config

WIDTH = 98
ENCODER = "components.transformer"
# Comments on sections, and on settings inside of them as "section:setting".
COMMENTS = {
    "paths": "Files. Give them on the command line, such as --paths.train corpus/train.spacy, or "
    "here. `python -m spacy mtl convert` makes them.",
    "paths:encoder": 'A Hugging Face name, a folder, or "minilm", the English encoder that comes '
    "as a Python package.",
    "system:seed": "Another seed gives another run. The same seed gives the same weights.",
    "nlp:pipeline": "To add or remove a task, write the config again with other --tasks.",
    "nlp:batch_size": "Docs per batch in predictions. Lower it if memory runs out.",
    ENCODER: "The encoder that all heads share. It runs once per doc.",
    f"{ENCODER}:max_batch_items": "Wordpieces per pass, padding included. Lower it if memory runs "
    "out.",
    f"{ENCODER}.balancer": "Weighs the tasks against each other. These weights are learned in "
    'training. To set them yourself: @misc = "spacy-mtl.StaticWeights.v1", and weights = '
    '{"ner": 2.0}.',
    f"{ENCODER}.model:precision": '"auto" is bfloat16 if the device computes it natively, else '
    "float32.",
    f"{ENCODER}.model.get_spans": "Docs are read in windows of whole sentences, at most `window` "
    "tokens long.",
    "corpora.train.tasks": "The tasks that each corpus has labels for. For the other tasks its "
    "labels count as missing, not as negative.",
    "corpora.train:sampling": "How often docs of each corpus are drawn, by its size: "
    '"proportional", "uniform", or "temperature", which is between the two.',
    "corpora.train:unit": "Shares are counted in words, so that short docs such as single "
    "sentences get as much of the encoder's work as long ones.",
    "corpora.train:epochs": "How many times the number of all docs is drawn until draws repeat.",
    "training": "max_steps: updates. eval_frequency: updates from one evaluation to the next; "
    "choose a divisor of max_steps. patience: updates without a better score until training "
    "stops, 0 for no such stop. accumulate_gradient: parts that a batch is divided into to save "
    "memory.",
    "training.batcher:size": "Wordpieces per update. Lower it if memory runs out.",
    "training.logger:output_file": "A .jsonl file for the numbers of each evaluation, which "
    "`python -m spacy mtl report` shows.",
    "training.optimizer.learn_rate": "The learning rate of the heads, which start from scratch.",
    "training.optimizer.encoder_learn_rate": "The learning rate of the encoder, which is "
    "pretrained: about 2e-4 for small encoders such as MiniLM, 5e-5 for those of BERT's size.",
    "training.score_weights": "The mean of these scores decides which pipeline becomes "
    "model-best. Scores with null are not shown in the table.",
    "initialize.components": "Heads of one kind. Give each its own labels, as a list such as "
    '["PERSON","ORG"].',
}


def to_text(nlp: Language, config: Config, title: str) -> str:
    """Write a config as text with comments.

    nlp (Language): A pipeline, which knows the factories of the components.
    config (Config): The config.
    title (str): The comment at the top.
    RETURNS (str): The text. It is read back as the same config.
    """
    comments = COMMENTS | {
        f"components.{name}": comment_head(nlp, name, settings)
        for name, settings in config["components"].items()
        if name in config["nlp"]["pipeline"][1:]
    }
    if not config["initialize"]["components"]:
        del comments["initialize.components"]
    lines = [*comment(title), ""]
    for section, settings in sort_sections(config):
        lines += [*comment(comments.get(section)), f"[{section}]"]
        for setting in settings:
            lines += comment(comments.get(f"{section}:{setting.partition(' = ')[0]}"))
            lines.append(setting)
        lines.append("")
    return "\n".join(lines)


def sort_sections(config: Config) -> list[tuple[str, list[str]]]:
    """RETURNS (List[Tuple[str, List[str]]]): The sections with their lines, each one followed by
    the sections inside of it.
    """
    sections: dict[str, list[str]] = {}
    for line in config.to_str(interpolate=False).splitlines():
        if found := re.fullmatch(r"\[(.+)\]", line):
            lines = sections[found[1]] = []
        elif line:
            lines.append(line)
    names = dict.fromkeys([*CONFIG_SECTION_ORDER, *sections])
    order = {name: i for i, name in enumerate(names)}

    def get_place(item: tuple[str, list[str]]) -> list[int]:
        parts = item[0].split(".")
        return [order[".".join(parts[:end])] for end in range(1, len(parts) + 1)]

    return sorted(sections.items(), key=get_place)


def comment_head(nlp: Language, name: str, settings: Mapping[str, object]) -> str:
    """RETURNS (str): The comment on the section of a head."""
    assigned = [*nlp.get_factory_meta(str(settings["factory"])).assigns]
    return f"The head {name} predicts {assigned[0]}." if assigned else f"The head {name}."


def comment(text: str | None) -> Iterator[str]:
    """YIELDS (str): The lines of a comment."""
    for paragraph in (text or "").splitlines():
        for line in wrap(paragraph, WIDTH, break_on_hyphens=False, break_long_words=False):
            yield f"# {line}"
