"""`spacy mtl debug`: look at the data and the pipeline of a config before training."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from spacy.cli._util import (
    import_code,
    parse_config_overrides,
    setup_gpu,
    show_validation_error,
)
from spacy.language import Language
from spacy.schemas import ConfigSchemaTraining
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import (
    get_sourced_components,
    load_config,
    load_model_from_config,
    minibatch,
    registry,
    resolve_dot_names,
)
from thinc.api import Adam, Config, fix_random_seed
from typer import Argument, Context, Option
from wasabi import msg

from ..corpora.counts import (
    ATTRIBUTES,
    Counts,
    TaskCounts,
    add_counts,
    count_docs,
    read_labels,
)
from ..corpora.mixed import Reader, read_mixed, restrict
from ..errors import Errors, Warnings
from . import command

LEAST = 10  # examples of a label
LISTED = 8  # labels in a message
TRIED = 16  # docs for each head to make a batch of
STREAMED = 1000  # docs of a stream to look at
INITIAL = 100  # docs of a stream that spaCy initializes the pipeline with
OPEN = ("token.lemma", "token.ent_kb_id")  # without a fixed set of labels


class Finding(NamedTuple):
    """A message with its code. After a failure there is no point in training."""

    message: str
    is_failure: bool


class Corpus(NamedTuple):
    """Examples, and the components that `tasks` of MixedCorpus says they have labels for."""

    examples: list[Example]
    claimed: Sequence[str]


class Encoder(NamedTuple):
    """What is behind the listeners. `max_length` is in wordpieces, without special tokens; `None`
    where there is none, or where the tokenizer does not tell.
    """

    source: str
    width: int
    parameters: int
    precision: str
    max_length: int | None


class HeadStep(NamedTuple):
    """What a batch does to a head.

    labelled (bool): Whether the batch has labels for it.
    loss (float): Its loss before training; in nats per labelled unit if `in_nats`, otherwise in
        whatever unit a stock head reports.
    in_nats (bool): Whether it is one of our heads.
    encoder (Optional[str]): The component that it listens to.
    weight (Optional[float]): Its weight by the balancer, if there is one.
    gradient (Optional[float]): Norm of its gradient where it arrives at the encoder, N x H. A
        stock encoder keeps no tasks apart: norm of the gradient of all heads at its parameters.
        `None` if the encoder is frozen.
    """

    labelled: bool
    loss: float
    in_nats: bool
    encoder: str | None
    weight: float | None
    gradient: float | None


@command("debug", "Cannot go on", overrides=True)
def debug_cli(
    ctx: Context,
    config_path: Annotated[Path, Argument(help="The config", exists=True, allow_dash=True)],
    code_path: Annotated[
        Path | None, Option("--code", "-c", help="Python file with registered functions to import")
    ] = None,
    gpu_id: Annotated[int, Option("--gpu-id", "-g", help="GPU ID or -1 for CPU")] = -1,
) -> None:
    """
    Look at the data and the pipeline of a config before an hour is spent on training.

    Counts what each corpus holds for each task, and tries one batch to see that every head has a
    gradient for the encoder. Settings of the config are overridden as for `spacy train`, such as
    --paths.train corpus/train.spacy. The exit code is 1 if training makes no sense.
    """
    overrides = parse_config_overrides(ctx.args)
    import_code(code_path)
    setup_gpu(gpu_id)
    with show_validation_error(config_path):
        findings = debug(load_config(config_path, overrides=overrides, interpolate=False))
    if failures := sum(finding.is_failure for finding in findings):
        msg.fail(f"Not ready for training. Failures: {failures}", exits=1)
    msg.good(f"Ready for training. Warnings: {len(findings)}")


def debug(config: Config) -> list[Finding]:
    """Look at the data and the pipeline of a config, and print what there is.

    config (Config): The config, not interpolated.
    RETURNS (List[Finding]): What is wrong or doubtful, up to the first section with a failure.
    RAISES (ValueError): If the corpora cannot be read or the pipeline cannot be initialized.
    """
    findings: list[Finding] = []
    for section in _examine(config):
        for finding in section:
            if finding.is_failure:
                msg.fail(finding.message)
            else:
                msg.warn(finding.message)
        findings += section
        if any(finding.is_failure for finding in section):
            break
    return findings


def _examine(config: Config) -> Iterator[list[Finding]]:
    from ..training.loop import check_training

    nlp = load_model_from_config(config, auto_fill=True)
    filled = nlp.config.interpolate()
    training = registry.resolve(filled["training"], schema=ConfigSchemaTraining)
    check_training(training)
    frozen, annotating = training["frozen_components"], training["annotating_components"]
    heads = get_heads(nlp)
    is_stream = training["max_epochs"] == -1

    msg.divider("Corpora")
    names = [training["train_corpus"], training["dev_corpus"]]
    for key, name in zip(("train_corpus", "dev_corpus"), names, strict=True):
        if name.partition(".")[2] not in filled["corpora"]:
            known = [f"corpora.{corpus}" for corpus in filled["corpora"]]
            raise ValueError(Errors.M227.format(name=name, key=key, known=known))
    yield check_paths(nlp.config, names)
    train_reader, dev_reader = resolve_dot_names(filled, names)
    yield check_streams(train_reader, dev_reader, is_stream=is_stream)
    yield check_evaluations(training["max_steps"], training["eval_frequency"])
    train = read_corpora(nlp, "train", train_reader, STREAMED if is_stream else None)
    dev = read_corpora(nlp, "dev", dev_reader, None)
    if is_stream and _get_mixed(train_reader) is None:
        msg.info(f"max_epochs = -1: only the first {STREAMED:,} docs of the stream are looked at")
    train_counts, dev_counts = count_corpora(train, heads), count_corpora(dev, heads)
    corpora = [*train_counts.items(), *dev_counts.items()]
    _print_corpora(corpora)
    yield check_corpora(train, dev, train_counts)

    msg.divider("Tasks")
    _print_tasks(heads, corpora)
    yield check_tasks(
        heads, add_counts(train_counts.values()), add_counts(dev_counts.values()), frozen
    )

    msg.divider("Encoder")
    if is_stream:
        examples = list(islice(train_reader(nlp), INITIAL))
    else:
        examples = [eg for corpus in train.values() for eg in corpus.examples]
    initialize(nlp, examples, training, get_sourced_components(config))
    encoders = get_encoders(nlp)
    _print_encoders(encoders)
    yield check_encoders(nlp, encoders, {**train, **dev}, frozen)

    msg.divider("One batch")
    batch = pick_batch(examples, heads, training["batcher"])
    if not batch:
        yield [Finding(Errors.M226.format(n=len(examples)), True)]
    steps = run_batch(nlp, batch, heads, frozen=frozen, annotating=annotating)
    _print_steps(batch, steps)
    yield check_steps(steps)


def check_paths(config: Config, names: Iterable[str]) -> list[Finding]:
    """Find the readers whose path leads nowhere.

    config (Config): The config, not interpolated.
    names (Iterable[str]): The sections of the readers, such as "corpora.train".
    RETURNS (List[Finding]): M220 for each such path.
    """
    filled = config.interpolate()
    findings = []
    for name in names:
        for block, path in _find_paths(_get_section(filled, name), name):
            if path is None or not Path(path).exists():
                variable = re.fullmatch(r"\$\{([^:}]+)\}", str(_get_raw_path(config, block)))
                option = variable[1] if variable else f"{block}.path"
                message = Errors.M220.format(block=block, path=path or "null", option=option)
                findings.append(Finding(message, True))
    return findings


def _find_paths(section: Mapping[str, Any], name: str) -> Iterator[tuple[str, str | None]]:
    if "@readers" in section and "path" in section:
        yield name, section["path"]
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _find_paths(value, f"{name}.{key}")


def _get_section(config: Any, name: str) -> Any:
    for key in name.split("."):
        config = config[key]
    return config


def _get_raw_path(config: Config, block: str) -> Any:
    try:
        return _get_section(config, f"{block}.path")
    except (KeyError, TypeError):  # the block itself is a variable
        return None


def check_streams(train: Reader, dev: Reader, *, is_stream: bool) -> list[Finding]:
    """Find corpora without end where spaCy reads to the end.

    train (Callable): The reader of train.
    dev (Callable): The reader of dev.
    is_stream (bool): Whether train is read as a stream, `[training] max_epochs = -1`.
    RETURNS (List[Finding]): M223 for each such corpus.
    """
    read = {"dev": dev} if is_stream else {"train": train, "dev": dev}
    return [
        Finding(Errors.M223.format(corpus=name), True)
        for name, reader in read.items()
        if (settings := _get_mixed(reader)) is not None and settings["epochs"] == 0
    ]


def check_evaluations(max_steps: int, every: int) -> list[Finding]:
    """Find updates that no evaluation follows.

    max_steps (int): The updates, 0 if something else ends the training.
    every (int): After how many of them there is an evaluation.
    RETURNS (List[Finding]): W231 if the last updates have none.
    """
    left = max_steps % every
    message = Warnings.W231.format(max_steps=max_steps, every=every, last=max_steps - left)
    return [Finding(message, False)] if left else []


def _get_mixed(reader: Any) -> dict[str, Any] | None:
    """RETURNS (Optional[dict]): The settings of a MixedCorpus, `None` for any other reader."""
    return reader.keywords if getattr(reader, "func", None) is read_mixed else None


def read_corpora(nlp: Language, name: str, reader: Reader, limit: int | None) -> dict[str, Corpus]:
    """Read a corpus, or each of those that a MixedCorpus mixes with the labels that it keeps.

    nlp (Language): The pipeline.
    name (str): The name of a corpus that is not mixed.
    reader (Callable): The reader.
    limit (Optional[int]): How many docs to read of a corpus that is not mixed; `None` for all.
    RETURNS (Dict[str, Corpus]): The corpora by name.
    RAISES (ValueError): M124 if `tasks` names unknown components, M221 if a corpus is unreadable.
    """
    settings = _get_mixed(reader)
    if settings is None:
        return {name: Corpus(_read_examples(nlp, name, reader, limit), [])}
    corpora = {}
    for key, mixed in settings["corpora"].items():
        claimed = settings["tasks"].get(key)
        examples = _read_examples(nlp, key, mixed, None)
        if claimed is not None:
            examples = restrict(nlp, examples, claimed, key)
        corpora[key] = Corpus(examples, claimed or [])
    return corpora


def _read_examples(nlp: Language, name: str, reader: Reader, limit: int | None) -> list[Example]:
    try:
        return list(islice(reader(nlp), limit))
    except Exception as error:  # whatever a broken file makes a reader do
        raise ValueError(Errors.M221.format(corpus=name, error=error)) from error


def get_heads(nlp: Language) -> dict[str, str | None]:
    """Find the components that learn from labels.

    nlp (Language): The pipeline.
    RETURNS (Dict[str, Optional[str]]): For each, in order, the attribute that its labels are in,
        `None` if it is not known how to count them.
    """
    heads = {}
    for name, pipe in nlp.pipeline:
        if getattr(pipe, "is_trainable", False) and not hasattr(pipe, "listener_map"):
            assigns = nlp.get_pipe_meta(name).assigns
            heads[name] = next((attr for attr in assigns if attr in ATTRIBUTES), None)
    return heads


def count_corpora(
    corpora: Mapping[str, Corpus], heads: Mapping[str, str | None]
) -> dict[str, Counts]:
    """RETURNS (Dict[str, Counts]): What each corpus holds for each head that can be counted."""
    tasks = {head: attribute for head, attribute in heads.items() if attribute}
    return {
        name: count_docs([eg.reference for eg in corpus.examples], tasks)
        for name, corpus in corpora.items()
    }


def check_corpora(
    train: Mapping[str, Corpus], dev: Mapping[str, Corpus], counts: Mapping[str, Counts]
) -> list[Finding]:
    """Find corpora that do not hold what they should.

    train (Mapping[str, Corpus]): The corpora of train.
    dev (Mapping[str, Corpus]): The corpora of dev.
    counts (Mapping[str, Counts]): What those of train hold.
    RETURNS (List[Finding]): M222 for a corpus without docs, W227 for docs without tokens, W228 for
        dev docs that are in train, W229 for labels that `tasks` promises and that are not there.
    """
    findings = []
    for name, (examples, _) in [*train.items(), *dev.items()]:
        if not examples:
            findings.append(Finding(Errors.M222.format(corpus=name), True))
        if empty := sum(not len(eg.predicted) for eg in examples):
            findings.append(Finding(Warnings.W227.format(corpus=name, empty=empty), False))
    for name, (_, claimed) in train.items():
        for task in claimed:
            if task in counts[name].tasks and not counts[name].tasks[task].units:
                findings.append(Finding(Warnings.W229.format(corpus=name, task=task), False))
    if share := get_overlap(train, dev):
        findings.append(Finding(Warnings.W228.format(share=share), False))
    return findings


def get_overlap(train: Mapping[str, Corpus], dev: Mapping[str, Corpus]) -> float:
    """RETURNS (float): The share of the docs in dev whose text is in train too."""
    seen = {eg.reference.text for corpus in train.values() for eg in corpus.examples}
    shared = [eg.reference.text in seen for corpus in dev.values() for eg in corpus.examples]
    return sum(shared) / max(1, len(shared))


def check_tasks(
    heads: Mapping[str, str | None], train: Counts, dev: Counts, frozen: Collection[str]
) -> list[Finding]:
    """Find heads that have not enough to learn from.

    heads (Mapping[str, Optional[str]]): The attribute of each head.
    train (Counts): What all of train holds.
    dev (Counts): What all of dev holds.
    frozen (Collection[str]): The components that are not trained.
    RETURNS (List[Finding]): M224 without training data, W222 without dev data, W220 for labels
        only in dev, W221 for rare ones; W223 alone for a frozen head.
    """
    findings = []
    for task, attribute in heads.items():
        if task in frozen:
            findings.append(Finding(Warnings.W223.format(name=task), False))
        elif attribute:
            findings += _check_task(task, attribute, train.tasks[task], dev.tasks[task])
    return findings


def _check_task(task: str, attribute: str, train: TaskCounts, dev: TaskCounts) -> list[Finding]:
    if not train.units:
        return [Finding(Errors.M224.format(task=task, attribute=attribute), True)]
    messages = []
    if not dev.units:
        messages.append(Warnings.W222.format(task=task))
    if attribute not in OPEN:
        unseen = [repr(label) for label in sorted(dev.labels) if label not in train.labels]
        rare = [f"{label!r} ({n})" for label, n in train.labels.most_common()[::-1] if n < LEAST]
        if unseen:
            messages.append(Warnings.W220.format(task=task, labels=_shorten(unseen)))
        if rare:
            messages.append(Warnings.W221.format(task=task, labels=_shorten(rare), least=LEAST))
    return [Finding(message, False) for message in messages]


def _shorten(labels: Sequence[str]) -> str:
    more = f", and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
    return ", ".join(labels[:LISTED]) + more


def initialize(
    nlp: Language,
    examples: Sequence[Example],
    training: Mapping[str, Any],
    sourced: Collection[str],
) -> None:
    """Initialize the pipeline as `spacy train` does, but from examples that are already read.

    nlp (Language): The pipeline.
    examples (Sequence[Example]): The examples.
    training (Mapping[str, Any]): The resolved section `[training]`.
    sourced (Collection[str]): The components that come from other pipelines.
    """
    if training["seed"] is not None:
        fix_random_seed(training["seed"])
    frozen = training["frozen_components"]
    resumed = [name for name in sourced if name not in frozen]
    if resumed:
        with nlp.select_pipes(enable=resumed):
            nlp.resume_training(sgd=training["optimizer"])
    nlp._link_components()
    with nlp.select_pipes(disable=[*frozen, *resumed]):
        nlp.initialize(lambda: examples, sgd=training["optimizer"])


def get_encoders(nlp: Language) -> dict[str, Encoder]:
    """RETURNS (Dict[str, Encoder]): The components that others listen to, once initialized."""
    pipes: list[tuple[str, Any]] = nlp.pipeline
    return {
        name: describe_encoder(pipe.model)
        for name, pipe in pipes
        if getattr(pipe, "listener_map", None)
    }


def describe_encoder(model: Any) -> Encoder:
    """RETURNS (Encoder): What there is to say about a transformer or another initialized model."""
    from ..encoder.model import SharedTransformer
    from ..encoder.precision import get_dtype

    nodes = list(model.walk())
    arrays = [n.get_param(name) for n in nodes for name in n.param_names if n.has_param(name)]
    parameters = sum(array.size for array in arrays)
    parameters += sum(parameter.numel() for parameter in _get_torch_parameters(model))
    max_length, precision = None, "float32"
    if "get_spans" in model.attrs:
        if isinstance(model, SharedTransformer):
            dtype = get_dtype(model.attrs["precision"], model.transformer.device)
            precision = str(dtype).removeprefix("torch.")
        elif model.layers[0].shims[0]._mixed_precision:
            precision = "mixed"
        if model.tokenizer.is_fast:
            max_length = SharedTransformer.from_stock(model).max_length
    source = str(model.attrs.get("name", model.name))
    return Encoder(source, model.get_dim("nO"), parameters, precision, max_length)


def _get_torch_parameters(model: Any) -> list[Any]:
    shims = [shim for node in model.walk() for shim in node.shims]
    return [parameter for shim in shims for parameter in shim._model.parameters()]


def check_encoders(
    nlp: Language,
    encoders: Mapping[str, Encoder],
    corpora: Mapping[str, Corpus],
    frozen: Collection[str],
) -> list[Finding]:
    """Find encoders that are not trained and docs that they cannot read as they are.

    nlp (Language): The pipeline.
    encoders (Mapping[str, Encoder]): Its encoders.
    corpora (Mapping[str, Corpus]): All corpora.
    frozen (Collection[str]): The components that are not trained.
    RETURNS (List[Finding]): W223 for a frozen encoder, W226 for docs that are cut.
    """
    findings = []
    for name, encoder in encoders.items():
        if name in frozen:
            findings.append(Finding(Warnings.W223.format(name=name), False))
        if encoder.max_length is None:
            continue
        pipe: Any = nlp.get_pipe(name)
        is_ours = hasattr(pipe, "diagnostics")
        effect = "It is read in parts" if is_ours else "What is over is not read"
        for corpus, (examples, _) in corpora.items():
            if cut := count_cut([eg.predicted for eg in examples], pipe.model, encoder.max_length):
                message = Warnings.W226.format(
                    cut=cut,
                    corpus=corpus,
                    max_length=encoder.max_length,
                    encoder=name,
                    effect=effect,
                )
                findings.append(Finding(message, False))
    return findings


def count_cut(docs: Iterable[Doc], model: Any, max_length: int) -> int:
    """Count the docs with a window, or even one token, of too many wordpieces.

    docs (Iterable[Doc]): The docs.
    model (TransformerModel): The encoder, initialized.
    max_length (int): The most wordpieces that it can read at once.
    RETURNS (int): How many docs have a window with more.
    """
    from ..encoder.wordpieces import tokenize

    cut = 0
    for batch in minibatch(docs, 256):
        texts = [
            [span.text for span in spans if len(span)] for spans in model.attrs["get_spans"](batch)
        ]
        lengths, *_ = tokenize(model.tokenizer, [text for spans in texts for text in spans])
        rest = iter((lengths > max_length).tolist())
        cut += sum(any(list(islice(rest, len(spans)))) for spans in texts)
    return cut


def pick_batch(
    examples: Sequence[Example],
    heads: Mapping[str, str | None],
    batcher: Callable[[Iterable[Example]], Iterable[list[Example]]],
) -> list[Example]:
    """Make a batch as training makes it, with labels for all heads if there is room.

    examples (Sequence[Example]): The examples to choose from.
    heads (Mapping[str, Optional[str]]): The attribute of each head.
    batcher (Callable): The batcher of the config.
    RETURNS (List[Example]): Of the batches from a few docs for each head, the one with labels for
        the most heads.
    """
    counted = [(head, attribute) for head, attribute in heads.items() if attribute]
    turns = zip_longest(
        *(islice(_find_labelled(examples, *pair), TRIED) for pair in counted), examples[:TRIED]
    )
    sample = {id(eg): eg for turn in turns for eg in turn if eg is not None}

    def count_labelled(batch: list[Example]) -> int:
        return sum(any(read_labels(eg.reference, *pair) for eg in batch) for pair in counted)

    return max(map(list, batcher(sample.values())), key=count_labelled, default=[])


def _find_labelled(examples: Iterable[Example], head: str, attribute: str) -> Iterator[Example]:
    return (eg for eg in examples if read_labels(eg.reference, head, attribute))


def run_batch(
    nlp: Language,
    batch: Sequence[Example],
    heads: Mapping[str, str | None],
    *,
    frozen: Collection[str] = (),
    annotating: Collection[str] = (),
) -> dict[str, HeadStep]:
    """Train on a batch to see each head's loss and what it sends to the encoder.

    nlp (Language): The pipeline, initialized. Its heads make a step.
    batch (Sequence[Example]): The batch.
    heads (Mapping[str, Optional[str]]): The attribute of each head.
    frozen (Collection[str]): The components that are not trained.
    annotating (Collection[str]): The components that annotate the docs in training.
    RETURNS (Dict[str, HeadStep]): What happens to each head that is not frozen.
    """
    from ..heads.head import Head

    def update() -> dict[str, float]:
        return nlp.update(
            list(batch),
            sgd=False,  # type: ignore[arg-type]
            losses={},
            exclude=frozen,
            annotates=annotating,
        )

    pipes: dict[str, Any] = {
        name: pipe
        for name, pipe in nlp.pipeline
        if name not in frozen and getattr(pipe, "is_trainable", False)
    }
    losses = update()
    # Output layers start at zero and let no gradient through: the heads take a step first.
    for name, pipe in pipes.items():
        pipe.finish_update(Adam(0.001 if name in heads else 0.0))
    for name in pipes.keys() - heads.keys():
        _take_gradients(pipes[name])
    update()
    arrived = {name: _take_gradients(pipes[name]) for name in pipes.keys() - heads.keys()}
    listens = {
        task: name for name, pipe in nlp.pipeline for task in getattr(pipe, "listener_map", {})
    }
    counts = count_corpora({"": Corpus(list(batch), [])}, heads)[""].tasks
    steps = {}
    for task in [name for name in heads if name in pipes]:
        encoder, loss = listens.get(task), float(losses.get(task, 0.0))
        weight, gradient = None, None
        if encoder in arrived:
            weight, gradient = arrived[encoder].get(task, (None, 0.0))
        steps[task] = HeadStep(
            labelled=counts[task].units > 0 if task in counts else loss != 0,
            loss=loss,
            in_nats=isinstance(pipes[task], Head),
            encoder=encoder,
            weight=weight,
            gradient=gradient,
        )
    return steps


def _take_gradients(pipe: Any) -> dict[str, tuple[float | None, float]]:
    """RETURNS (Dict[str, Tuple[Optional[float], float]]): For each head of an encoder its weight
    and the norm of its gradient, as HeadStep has them.
    """
    if hasattr(pipe, "diagnostics"):
        pipe.flush()
        means = pipe.diagnostics.take()
        return {task: (mean["weight"], mean["grad_norm"]) for task, mean in means.items()}
    nodes = list(pipe.model.walk())
    gradients = [node.get_grad(name) for node in nodes for name in node.grad_names]
    gradients += [p.grad for p in _get_torch_parameters(pipe.model) if p.grad is not None]
    norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
    return dict.fromkeys(pipe.listener_map, (None, norm))


def check_steps(steps: Mapping[str, HeadStep]) -> list[Finding]:
    """Find heads that teach the encoder nothing.

    steps (Mapping[str, HeadStep]): What a batch does to each head.
    RETURNS (List[Finding]): M225 if its gradient does not reach the encoder, W224 if it weighs
        nothing, W225 if there is no encoder, W230 if the batch has no labels for it.
    """
    findings = []
    for task, step in steps.items():
        if step.encoder is None:
            findings.append(Finding(Warnings.W225.format(task=task), False))
        elif not step.labelled:
            findings.append(Finding(Warnings.W230.format(task=task), False))
        elif step.gradient is not None and not 0 < step.gradient < math.inf:
            message = Errors.M225.format(
                task=task, encoder=step.encoder, gradient=step.gradient, loss=step.loss
            )
            findings.append(Finding(message, True))
        elif step.weight == 0:
            findings.append(Finding(Warnings.W224.format(task=task, encoder=step.encoder), False))
    return findings


def _print_corpora(corpora: Iterable[tuple[str, Counts]]) -> None:
    rows = [(name, f"{counts.docs:,}", f"{counts.words:,}") for name, counts in corpora]
    msg.table(rows, header=("Corpus", "Docs", "Words"), aligns=("l", "r", "r"), divider=True)


def _print_tasks(heads: Mapping[str, str | None], corpora: Collection[tuple[str, Counts]]) -> None:
    rows = []
    for task, attribute in heads.items():
        if attribute is None:
            msg.info(f"{task}: not known what it learns from, so not counted")
            continue
        for name, counts in corpora:
            units, labels, missing = counts.tasks[task]
            labelled = f"{units:,} {ATTRIBUTES[attribute].unit}"
            rows.append((task, name, labelled, f"{counts.docs - missing:,}", f"{len(labels):,}"))
    header = ("Task", "Corpus", "Labelled", "In docs", "Labels")
    msg.table(rows, header=header, aligns=("l", "l", "r", "r", "r"), divider=True)


def _print_encoders(encoders: Mapping[str, Encoder]) -> None:
    if not encoders:
        msg.info("No component listens to another: nothing is shared")
    for name, (source, width, parameters, precision, max_length) in encoders.items():
        at_most = f", at most {max_length} wordpieces at once" if max_length else ""
        msg.info(
            f"{name}: {source}, width {width}, {parameters:,} parameters, {precision}{at_most}"
        )


def _print_steps(batch: Sequence[Example], steps: Mapping[str, HeadStep]) -> None:
    msg.info(f"{len(batch)} docs, {sum(len(eg.predicted) for eg in batch):,} words")
    rows = []
    for task, step in steps.items():
        weight = "-" if step.weight is None else f"{step.weight:.3g}"
        gradient = "-"
        if step.labelled and step.gradient is not None:
            gradient = f"{step.gradient:.3g}" + (" (all heads)" if step.weight is None else "")
        unit = " nats" if step.in_nats else ""
        rows.append((task, step.encoder or "-", f"{step.loss:.3f}{unit}", weight, gradient))
    header = ("Task", "Encoder", "Loss", "Weight", "Gradient")
    msg.table(rows, header=header, aligns=("l", "l", "r", "r", "r"), divider=True)
