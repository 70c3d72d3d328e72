"""Mix several corpora into one stream of examples."""

import random
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, count, islice
from statistics import fmean
from typing import Annotated, Any, Literal

from spacy.language import Language
from spacy.training import Example

from ..annotations import AnnotationLayer, find_layers, find_main_layer
from ..arguments import Count, Range, Seed, Share, check, checked
from ..contracts import find_tasks
from ..errors import Errors, Warnings
from ..types import Settings
from .chunks import make_bare_doc
from .scope import Selective, is_for, mark
from .streams import record

Reader = Callable[[Language], Iterable[Example]]
Sampling = Literal["proportional", "uniform", "temperature", "annealed", "dynamic"]
Unit = Literal["docs", "words", "labels"]
NAME = "spacy-mtl.MixedCorpus.v1"
LEAST_GAP = 0.01  # of a task at its target: it is still sampled, so it is not forgotten


@checked(NAME)
def create_mixed_corpus_v1(
    corpora: dict[str, Any],  # readers, or their blocks while a config is filled
    tasks: dict[str, list[str]] = {},  # noqa: B006
    sampling: Sampling = "proportional",
    temperature: Annotated[float, Range(1)] = 2.0,
    anneal_epochs: Count = 10,
    epochs: Annotated[int, Range()] = 1,
    seed: Seed = 0,
    targets: dict[str, Share] = {},  # noqa: B006
    unit: Unit = "docs",
) -> Reader:
    """Create a reader that mixes corpora into one stream of examples.

    Each example is drawn from one corpus. A corpus repeats an example only after all its examples
    were drawn. Corpus i has n_i units: docs, words or labels. Its share of the units in the stream
    is proportional to n_i ** a. The exponent a is 1 for "proportional", 0 for "uniform" and 1 /
    temperature for "temperature". For "annealed" it falls from 1 to 1 / temperature over the first
    epochs (Stickland and Murray 2019, "BERT and PALs", section 4.2).

    For "dynamic" the share is proportional to the mean gap between the scores of the corpus' tasks
    and their targets (Gottumukkala et al. 2020, "Dynamic Sampling Strategies for Multi-Task
    Reading Comprehension"; their targets are the scores of tasks trained alone). The scores are
    those of the last evaluation, from `spacy-mtl.ProgressLogger.v1` or
    `spacy-mtl.TaskCheckpoints.v1`. Before the first evaluation sampling is uniform. The least gap
    is 0.01. Tasks without a score are ignored; a corpus of such tasks alone gets the mean gap of
    the other corpora.

    corpora (Dict[str, Callable]): Readers by name.
    tasks (Dict[str, List[str]]): The components that a corpus has labels for. For all other
        components its labels are missing, even if they learn the same kind of label. A corpus that
        is not named has labels for all components.
    sampling (str): "proportional", "uniform", "temperature", "annealed" or "dynamic". "dynamic"
        needs `[training] max_epochs = -1`.
    temperature (float): 1 is proportional; higher values are closer to uniform.
    anneal_epochs (int): The epochs until "annealed" arrives at 1 / temperature.
    epochs (int): How many times the total size of the corpora to draw. 0 is an endless stream, for
        `[training] max_epochs = -1`.
    seed (int): The seed of the stream's own generator. The same seed gives the same stream.
    targets (Dict[str, float]): The target scores of components for "dynamic", from 0 to 1, such as
        the score of the task trained alone; 1 for components that are not named.
    unit (str): What shares are counted in: "docs"; "words"; or "labels", the tags, entities,
        categories and other labels of the corpus for its components. With "words" short docs are
        drawn more often, so that their corpus gets its share of the encoder's work.
        "proportional" sampling is the same with each unit.
    RAISES (ValueError): M058 or M122 for invalid arguments. When the stream is read: M223 if spaCy
        would never reach its end, M126 for a corpus that cannot be read, M123 for an empty corpus,
        M092 for a corpus without a unit,
        M124 and M085 for unknown components, M084 if "dynamic" would be read before the first
        score, M086 if each pass over a stream would draw the same examples.
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
        unit=unit,
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
    unit: Unit,
) -> Iterator[Example]:
    """Read the corpora and draw from them: the reader that `create_mixed_corpus_v1` returns.

    nlp (Language): The pipeline.
    exponent (Optional[Callable]): The exponent of the corpus sizes by the epochs drawn so far; None
        to shuffle all corpora together, or for "dynamic".
    targets (Optional[Dict[str, float]]): The target scores for "dynamic", None for other sampling.
    corpora, tasks, sampling, epochs, seed, unit: As for `create_mixed_corpus_v1`.
    YIELDS (Example): The mixed stream.
    """
    config = nlp.config.interpolate()
    max_epochs = config["training"]["max_epochs"]
    check_ends(config, epochs, corpora)
    if targets is not None:
        check_targets(nlp, targets, max_epochs)
    if sampling != "proportional" and epochs and max_epochs == -1:
        raise ValueError(Errors.M086.format(sampling=sampling, epochs=epochs))
    generator = random.Random(seed)
    loaded = {name: read_corpus(nlp, name, corpora[name], tasks.get(name)) for name in corpora}
    record(chain.from_iterable(loaded.values()))
    sizes = [len(examples) for examples in loaded.values()]
    streams = [cycle_shuffled(examples, generator) for examples in loaded.values()]
    if sampling != "proportional":
        units = [count_units(nlp, name, loaded[name], tasks.get(name), unit) for name in loaded]
        if targets is not None:
            shares = follow_gaps(nlp, [tasks.get(name) for name in loaded], targets)
        else:
            assert exponent is not None
            shares = follow_sizes(units, exponent, sum(sizes))
        means = [n / size for n, size in zip(units, sizes, strict=True)]
        stream = draw(streams, shares, means, generator)
    else:
        stream = cycle_shuffled([eg for examples in loaded.values() for eg in examples], generator)
    yield from islice(stream, epochs * sum(sizes)) if epochs else stream


def read_corpus(
    nlp: Language, name: str, reader: Reader, components: Sequence[str] | None
) -> list[Example]:
    """Read a corpus.

    nlp (Language): The pipeline.
    name (str): The name of the corpus, for messages.
    reader (Callable): Its reader.
    components (Optional[Sequence[str]]): The components that it has labels for, None for all.
    RETURNS (List[Example]): Its examples.
    RAISES (ValueError): M126 if it cannot be read, M123 if it is empty, M124 for an unknown
        component.
    """
    try:
        examples = list(reader(nlp))
    except (OSError, ValueError) as err:
        raise ValueError(Errors.M126.format(name=name, error=err)) from err
    if not examples:
        raise ValueError(Errors.M123.format(name=name))
    return examples if components is None else restrict(nlp, examples, components, name)


def check_ends(config: Settings, epochs: int, corpora: Mapping[str, Reader]) -> None:
    """Check that no endless corpus is read to its end: as train without max_epochs = -1, as dev, or
    inside another MixedCorpus.

    config (Dict[str, Any]): The config of the pipeline, interpolated.
    epochs (int): The epochs of this corpus.
    corpora (Mapping[str, Callable]): The readers inside it.
    RAISES (ValueError): M223 for an endless corpus that is read to its end.
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


def is_endless(reader: object) -> bool:
    """RETURNS (bool): Whether a reader is a MixedCorpus with epochs = 0."""
    return (
        isinstance(reader, partial) and reader.func is read_mixed and reader.keywords["epochs"] == 0
    )


def count_units(
    nlp: Language,
    name: str,
    examples: Sequence[Example],
    components: Sequence[str] | None,
    unit: Unit,
) -> int:
    """Count the units of a corpus.

    nlp (Language): The pipeline.
    name (str): The name of the corpus, for messages.
    examples (Sequence[Example]): Its examples.
    components (Optional[Sequence[str]]): The components that it has labels for, None for all.
    unit (str): "docs", "words" or "labels".
    RETURNS (int): The number of units.
    RAISES (ValueError): M092 if there are none.
    """
    docs = [eg.reference for eg in examples]
    n = len(docs)
    if unit == "words":
        n = sum(map(len, docs))
    elif unit == "labels":
        names = nlp.component_names if components is None else components
        found = [find_main_layer(nlp, task) for task in names]
        layers = {layer.name: layer for layer in found if layer}
        n = sum(len(layer.get_labels(doc) or ()) for layer in layers.values() for doc in docs)
    if not n:
        raise ValueError(Errors.M092.format(name=name, unit=unit))
    return n


def draw(
    streams: Sequence[Iterator[Example]],
    shares: Iterator[Sequence[float]],
    means: Sequence[float],
    generator: random.Random,
) -> Iterator[Example]:
    """Draw examples without end.

    streams (Sequence[Iterator[Example]]): The endless streams to draw from.
    shares (Iterator[Sequence[float]]): For each draw, the shares of the streams in all units.
    means (Sequence[float]): The mean number of units in an example of each stream.
    generator (random.Random): The random generator.
    YIELDS (Example): The next example of a stream that was chosen at random.
    """
    for current in shares:
        weights = [share / mean for share, mean in zip(current, means, strict=True)]
        (stream,) = generator.choices(streams, weights)
        yield next(stream)


def follow_sizes(
    units: Sequence[int], exponent: Callable[[float], float], n_docs: int
) -> Iterator[Sequence[float]]:
    """Compute the shares of corpora from their sizes.

    units (Sequence[int]): The number of units of each corpus.
    exponent (Callable[[float], float]): A function of the epochs drawn so far.
    n_docs (int): The number of draws in an epoch.
    YIELDS (Sequence[float]): For each draw, the numbers of units to the power of `exponent`.
    """
    for drawn in count():
        power = exponent(drawn / n_docs)
        yield [n**power for n in units]


def follow_gaps(
    nlp: Language, tasks: Sequence[Collection[str] | None], targets: Mapping[str, float]
) -> Iterator[Sequence[float]]:
    """Follow the scores that loggers store in `nlp.meta["task_scores"]`.

    nlp (Language): The pipeline.
    tasks (Sequence[Optional[Collection[str]]]): The tasks of each corpus, None for all.
    targets (Mapping[str, float]): The target scores of tasks, 1 if not named.
    YIELDS (Sequence[float]): For each draw, the mean gap of each corpus.
    """
    meta = nlp.meta
    evaluated, is_warned = meta.get("performance"), False
    while True:
        stored: dict[str, float] = meta.get("task_scores", {})
        scores = {task: stored[task] for task in stored if task in nlp.component_names}
        # A new evaluation without task scores means that the config has none of our loggers.
        is_logged = "task_scores" in meta or meta.get("performance") is evaluated
        if not (is_logged or is_warned):
            warnings.warn(Warnings.W004.format(effect="sampling = 'dynamic' stays uniform"))
            is_warned = True
        gaps = {t: max(targets.get(t, 1.0) - score, LEAST_GAP) for t, score in scores.items()}
        own = [[gaps[t] for t in (gaps if some is None else some) if t in gaps] for some in tasks]
        means = [fmean(found) for found in own if found]
        yield [fmean(found or means or [1.0]) for found in own]


def check_targets(nlp: Language, targets: Collection[str], max_epochs: int) -> None:
    """RAISES (ValueError): M085 for targets of unknown components, M084 if spaCy would read the
    whole corpus before the first evaluation.
    """
    if unknown := sorted(set(targets) - set(nlp.component_names)):
        raise ValueError(Errors.M085.format(unknown=unknown, names=nlp.component_names))
    if max_epochs != -1:
        raise ValueError(Errors.M084.format(max_epochs=max_epochs))


def cycle_shuffled(examples: Sequence[Example], generator: random.Random) -> Iterator[Example]:
    """YIELDS (Example): All examples in random order, again and again, each time in a new order."""
    order = list(examples)
    while True:
        generator.shuffle(order)
        yield from order


def restrict(
    nlp: Language, examples: Iterable[Example], components: Sequence[str], corpus: str
) -> list[Example]:
    """Restrict examples to the labels for some components.

    Layers that none of the components learns from become missing. The gold docs are marked for the
    components, and heads of spacy-mtl ignore docs that are marked for other components. Stock
    components cannot ignore docs, so docs are also marked for stock components that read one of the
    layers.

    nlp (Language): The pipeline.
    examples (Iterable[Example]): The examples. They are not modified.
    components (Sequence[str]): The components that the corpus has labels for.
    corpus (str): The name of the corpus, for messages.
    RETURNS (List[Example]): Examples with new gold docs. W012 warns of stock components that will
        learn from them although they are not among the components.
    RAISES (ValueError): M124 for unknown components.
    """
    unknown = sorted(set(components) - set(nlp.component_names))
    if unknown:
        raise ValueError(
            Errors.M124.format(unknown=unknown, corpus=corpus, names=nlp.component_names)
        )
    layers = {name: find_layers(nlp, name) for name in nlp.component_names}
    kept = {layer.name: layer for name in components for layer in layers[name]}
    stock = [
        name
        for name, pipe in nlp.components
        if name not in components and not isinstance(pipe, Selective)
        if any(layer.name in kept for layer in layers[name])
    ]
    warn_of_learners(nlp, layers, components, stock, corpus)
    restricted = []
    for eg in examples:
        bare = make_bare_doc(eg.reference)
        for layer in kept.values():
            layer.copy(eg.reference, bare)
        mark(bare, [name for name in (*components, *stock) if is_for(eg.reference, name)])
        restricted.append(Example(eg.predicted, bare))
    return restricted


def warn_of_learners(
    nlp: Language,
    layers: Mapping[str, Sequence[AnnotationLayer[object]]],
    components: Sequence[str],
    stock: Sequence[str],
    corpus: str,
) -> None:
    """Warn by W012 of stock components that learn their main layer from a corpus for others.

    nlp (Language): The pipeline.
    layers (Mapping[str, Sequence[AnnotationLayer]]): The layers of each component.
    components (Sequence[str]): The components that the corpus has labels for.
    stock (Sequence[str]): Other components that read some of its labels.
    corpus (str): The name of the corpus.
    """
    frozen = nlp.config.interpolate()["training"].get("frozen_components", [])
    taught = {name for component in components for name in get_main_layers(layers[component])}
    learners = [
        name
        for name in stock
        if name in find_tasks(nlp) and name not in frozen and layers[name][0].name in taught
    ]
    if learners:
        message = Warnings.W012.format(corpus=corpus, given=list(components), names=learners)
        warnings.warn(message)


def get_main_layers(layers: Sequence[AnnotationLayer[object]]) -> list[str]:
    """RETURNS (List[str]): The names of a component's main layer and of other layers that contain
    it: entities contain their links.
    """
    return [layer.name for layer in layers if layers[0].attributes[0] in layer.attributes]
