"""Several corpora as one stream, each with the labels that it has."""

import random
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice
from statistics import fmean
from typing import Annotated, Any, Literal

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example

from ..arguments import Count, Range, Seed, Share, check, checked
from ..errors import Errors, Warnings
from .scope import Selective, is_for, mark

Reader = Callable[[Language], Iterable[Example]]
Sampling = Literal["proportional", "uniform", "temperature", "annealed", "dynamic"]
NAME = "spacy-mtl.MixedCorpus.v1"
LEAST_GAP = 0.01  # of a task that has reached its target, so that it is not forgotten


@checked(NAME)
def create_mixed_corpus_v1(
    corpora: dict[str, Any],  # readers: unresolved blocks are checked too
    tasks: dict[str, list[str]] = {},  # noqa: B006
    sampling: Sampling = "proportional",
    temperature: Annotated[float, Range(1)] = 2.0,
    anneal_epochs: Count = 10,
    epochs: Annotated[int, Range()] = 1,
    seed: Seed = 0,
    targets: dict[str, Share] = {},  # noqa: B006
) -> Reader:
    """Mix corpora into one stream of examples.

    Each example is drawn from one of the corpora, and within a corpus each comes once before any
    comes again. Corpus i of size n_i is drawn with a probability in proportion to n_i ** a, where
    a is 1 ("proportional"), 0 ("uniform") or 1 / temperature ("temperature"); with "annealed" it
    falls from 1 to 1 / temperature over the first epochs (Stickland and Murray 2019, "BERT and
    PALs", section 4.2).

    With "dynamic" it is in proportion to how far the corpus' tasks, on average, are from their
    targets: Gottumukkala et al. (2020), "Dynamic Sampling Strategies for Multi-Task Reading
    Comprehension", who take the scores of each task trained alone. The scores are those of the last
    evaluation, from `spacy-mtl.ProgressLogger.v1` or `spacy-mtl.TaskCheckpoints.v1`; it is uniform
    before the first. A task at its target counts as 0.01 from it. One without a score does not
    count, and a corpus of such tasks alone gets the others' mean.

    corpora (Dict[str, Callable]): Readers by name.
    tasks (Dict[str, List[str]]): For a corpus the components that it has labels for. For all other
        components its labels are missing, also for those of the same kind. A corpus that is not
        named keeps all labels.
    sampling (str): "proportional", "uniform", "temperature", "annealed" or "dynamic". The last is
        for `[training] max_epochs = -1`.
    temperature (float): 1 is proportional, more is closer to uniform.
    anneal_epochs (int): Epochs until "annealed" arrives at the temperature.
    epochs (int): How many times the corpora's joint size to draw; 0 for an endless stream, for
        `[training] max_epochs = -1`.
    seed (int): Of the stream's own generator. The same seed gives the same stream.
    targets (Dict[str, float]): For a component the score from 0 to 1 that "dynamic" is to bring it
        to, such as that of the task trained alone; 1 if not named.
    RAISES (ValueError): M058 or M122 for arguments that make no sense; when it is read, M223 if
        spaCy would never reach the end, M126 and M123 for corpora that can't be read or are empty,
        M124 and M085 for unknown components, M084 if "dynamic" would be read before the first
        score, M086 if each pass of a stream would draw the same.
    """
    check(NAME, "corpora", corpora, dict[str, Reader])
    unknown = sorted(set(tasks) - set(corpora))
    if unknown or not corpora:
        raise ValueError(Errors.M122.format(unknown=unknown, corpora=sorted(corpora)))

    def exponent(epoch: float) -> float:
        if sampling == "annealed":
            progress = min(1.0, epoch / anneal_epochs)
            return 1 - progress * (1 - 1 / temperature)
        return 0.0 if sampling == "uniform" else 1 / temperature

    return partial(
        read_mixed,
        corpora=corpora,
        tasks=tasks,
        sampling=sampling,
        exponent=None if sampling in ("proportional", "dynamic") else exponent,
        targets=targets if sampling == "dynamic" else None,
        epochs=epochs,
        seed=seed,
    )


def read_mixed(
    nlp: Language,
    *,
    corpora: dict[str, Reader],
    tasks: dict[str, list[str]],
    sampling: Sampling,
    exponent: Callable[[float], float] | None,
    targets: dict[str, float] | None,
    epochs: int,
    seed: int,
) -> Iterator[Example]:
    """YIELDS (Example): The mixed stream."""
    config = nlp.config.interpolate()
    max_epochs = config["training"]["max_epochs"]
    check_ends(config, epochs, corpora)
    if targets is not None:
        check_targets(nlp, targets, max_epochs)
    if sampling != "proportional" and epochs and max_epochs == -1:
        raise ValueError(Errors.M086.format(sampling=sampling, epochs=epochs))
    generator = random.Random(seed)
    loaded = {}
    for name, reader in corpora.items():
        try:
            examples = list(reader(nlp))
        except (OSError, ValueError) as err:
            raise ValueError(Errors.M126.format(name=name, error=err)) from err
        if not examples:
            raise ValueError(Errors.M123.format(name=name))
        if name in tasks:
            examples = restrict(nlp, examples, tasks[name], name)
        loaded[name] = examples
    sizes = [len(examples) for examples in loaded.values()]
    streams = [cycle_shuffled(examples, generator) for examples in loaded.values()]
    if targets is not None:
        gaps = follow_gaps(nlp, [tasks.get(name) for name in loaded], targets)
        stream = draw(streams, gaps, generator)
    elif exponent is not None:
        stream = draw(streams, follow_sizes(sizes, exponent), generator)
    else:
        stream = cycle_shuffled([eg for examples in loaded.values() for eg in examples], generator)
    yield from islice(stream, epochs * sum(sizes)) if epochs else stream


def check_ends(config: Mapping[str, Any], epochs: int, corpora: Mapping[str, Reader]) -> None:
    """RAISES (ValueError): M223 for an endless corpus where it is read to its end: as train without
    max_epochs = -1, as dev, or inside another MixedCorpus.
    """
    endless = [name for name, reader in corpora.items() if is_endless(reader)]
    if epochs == 0 and config["training"]["max_epochs"] != -1:
        endless.append(config["training"]["train_corpus"])
    name = config["training"]["dev_corpus"]
    dev = config.get("corpora", {}).get(name.removeprefix("corpora."), {})
    if isinstance(dev, dict) and dev.get("@readers") == NAME and dev.get("epochs") == 0:
        endless.append(name)
    if endless:
        raise ValueError(Errors.M223.format(corpus=endless[0]))


def is_endless(reader: Any) -> bool:
    """RETURNS (bool): Whether it is a MixedCorpus with epochs = 0."""
    return getattr(reader, "func", None) is read_mixed and reader.keywords["epochs"] == 0


def draw(
    streams: Sequence[Iterator[Example]],
    weights: Iterator[Sequence[float]],
    generator: random.Random,
) -> Iterator[Example]:
    """YIELDS (Example): The next of a stream drawn in proportion to the next weights, endlessly."""
    for shares in weights:
        (stream,) = generator.choices(streams, shares)
        yield next(stream)


def follow_sizes(
    sizes: Sequence[int], exponent: Callable[[float], float]
) -> Iterator[Sequence[float]]:
    """YIELDS (Sequence[float]): For the next draw, the power of each corpus' size."""
    for drawn in count():
        power = exponent(drawn / sum(sizes))
        yield [size**power for size in sizes]


def follow_gaps(
    nlp: Language, tasks: Sequence[Collection[str] | None], targets: Mapping[str, float]
) -> Iterator[Sequence[float]]:
    """Look at the scores that loggers leave in `nlp.meta["task_scores"]`.

    nlp (Language): The pipeline.
    tasks (Sequence[Optional[Collection[str]]]): Those of each corpus, None for all.
    targets (Mapping[str, float]): The score that a task is to reach, if not 1.
    YIELDS (Sequence[float]): For the next draw, the mean gap of each corpus.
    """
    meta = nlp.meta
    evaluated, is_warned = meta.get("performance"), False
    while True:
        told: dict[str, float] = meta.get("task_scores", {})
        scores = {task: told[task] for task in told if task in nlp.component_names}
        # Or else spaCy has written down an evaluation that none of our loggers has.
        is_told = "task_scores" in meta or meta.get("performance") is evaluated
        if not (is_told or is_warned):
            warnings.warn(Warnings.W004.format(effect="sampling = 'dynamic' stays uniform"))
            is_warned = True
        gaps = {t: max(targets.get(t, 1.0) - score, LEAST_GAP) for t, score in scores.items()}
        own = [[gaps[t] for t in (gaps if some is None else some) if t in gaps] for some in tasks]
        means = [fmean(found) for found in own if found]
        yield [fmean(found or means or [1.0]) for found in own]


def check_targets(nlp: Language, targets: Collection[str], max_epochs: int) -> None:
    """RAISES (ValueError): M085 if the pipeline has no such components, M084 if spaCy reads all of
    the corpus at once.
    """
    if unknown := sorted(set(targets) - set(nlp.component_names)):
        raise ValueError(Errors.M085.format(unknown=unknown, names=nlp.component_names))
    if max_epochs != -1:
        raise ValueError(Errors.M084.format(max_epochs=max_epochs))


def cycle_shuffled(examples: Sequence[Example], generator: random.Random) -> Iterator[Example]:
    """YIELDS (Example): All examples in random order, and again in another, without end."""
    order = list(examples)
    while True:
        generator.shuffle(order)
        yield from order


# What of a gold doc a component learns from, by what its factory assigns.
ANNOTATIONS = {
    "token.tag": "tag",
    "token.pos": "pos",
    "token.morph": "morph",
    "token.lemma": "lemma",
    "token.dep": "dep",
    "token.is_sent_start": "sents",
    "doc.sents": "sents",
    "doc.ents": "ents",
    "token.ent_kb_id": "ents",
    "doc.cats": "cats",
    "doc.spans": "spans",
}


def restrict(
    nlp: Language, examples: Iterable[Example], components: Sequence[str], corpus: str
) -> list[Example]:
    """Restrict examples to the labels for some components.

    Kinds of labels that none of the components reads are removed. Within a kind the gold docs are
    marked, and the heads of spacy-mtl leave out the docs that are not for them. Other components
    cannot leave out any, so the docs are marked for them too. W012 names those among them that
    learn the same as one of the components.

    nlp (Language): The pipeline.
    examples (Iterable[Example]): The examples, which stay as they are.
    components (Sequence[str]): The components that there are labels for.
    corpus (str): The name of the corpus, for messages.
    RETURNS (List[Example]): Examples with new gold docs.
    RAISES (ValueError): M124 if the pipeline has no such component.
    """
    unknown = sorted(set(components) - set(nlp.component_names))
    if unknown:
        raise ValueError(
            Errors.M124.format(unknown=unknown, corpus=corpus, names=nlp.component_names)
        )
    kinds = {name: get_kinds(nlp, name) for name in nlp.component_names}
    kept = {kind for name in components for kind in kinds[name]}
    pipes: dict[str, Any] = dict(nlp.components)
    others = [
        name
        for name, pipe in pipes.items()
        if name not in components and not kept.isdisjoint(kinds[name])
        if not isinstance(pipe, Selective)
    ]
    learned = {kinds[name][0] for name in components if kinds[name]}
    frozen = nlp.config.interpolate()["training"].get("frozen_components", [])
    learning = [
        name
        for name in others
        if getattr(pipes[name], "is_trainable", False) and name not in frozen
        if kinds[name][0] in learned
    ]
    if learning:
        warnings.warn(Warnings.W012.format(corpus=corpus, given=list(components), names=learning))
    restricted = []
    for eg in examples:
        restricted.append(keep_annotations(eg, kept))
        names = [name for name in (*components, *others) if is_for(eg.reference, name)]
        mark(restricted[-1].reference, names)
    return restricted


def get_kinds(nlp: Language, component: str) -> list[str]:
    """RETURNS (List[str]): The kinds of labels that a component reads, by what it assigns, the main
    one first.
    """
    assigned = nlp.get_pipe_meta(component).assigns
    return [ANNOTATIONS[attribute] for attribute in assigned if attribute in ANNOTATIONS]


def keep_annotations(example: Example, kept: set[str]) -> Example:
    """RETURNS (Example): The example with all other annotation missing from its gold doc."""
    gold = example.reference
    words = [token.text for token in gold]
    spaces = [bool(token.whitespace_) for token in gold]
    values: dict[str, Any] = {}
    if "tag" in kept:
        values["tags"] = [token.tag_ for token in gold]
    if "pos" in kept:
        values["pos"] = [token.pos_ for token in gold]
    if "morph" in kept and gold.has_annotation("MORPH"):
        values["morphs"] = [str(token.morph) for token in gold]
    if "lemma" in kept:
        values["lemmas"] = [token.lemma_ for token in gold]
    if "dep" in kept and gold.has_annotation("DEP"):
        values["deps"] = [token.dep_ for token in gold]
        values["heads"] = [token.head.i for token in gold]
    elif "sents" in kept and gold.has_annotation("SENT_START"):
        values["sent_starts"] = [token.is_sent_start for token in gold]
    bare = Doc(gold.vocab, words=words, spaces=spaces, **values)
    if "ents" in kept:
        missing = [token.i for token in gold if not token.ent_iob]
        blocked = [token.i for token in gold if token.ent_iob_ == "B" and not token.ent_type]
        bare.set_ents(
            [copy_span(bare, ent) for ent in gold.ents],
            missing=[bare[i : i + 1] for i in missing],
            blocked=[bare[i : i + 1] for i in blocked],
            default="outside",
        )
    if "cats" in kept:
        bare.cats = dict(gold.cats)
    if "spans" in kept:
        for key, group in gold.spans.items():
            bare.spans[key] = [copy_span(bare, span) for span in group]
    return Example(example.predicted, bare)


def copy_span(doc: Doc, span: Span) -> Span:
    """RETURNS (Span): The span in another doc of the same tokens."""
    return Span(doc, span.start, span.end, span.label, kb_id=span.kb_id, span_id=span.id)
