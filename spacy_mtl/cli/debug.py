"""`spacy mtl debug`: check the data and the pipeline of a config before training."""

from collections.abc import Callable

from spacy.cli._util import parse_config_overrides, show_validation_error
from spacy.util import load_config
from thinc.api import Config
from typer import Context
from wasabi import msg

from ..checks import Examination, Finding
from ..checks.finding import has_failure
from .app import command
from .options import CodePath, ConfigPath, GpuId, prepare


@command("debug", "Cannot go on", overrides=True)
def debug_cli(
    ctx: Context,
    config_path: ConfigPath,
    code_path: CodePath = None,
    gpu_id: GpuId = -1,
) -> None:
    """
    Check data and pipeline of a config before training.

    Counts the labels of each corpus for each task, and tries one batch to check that every head
    sends a gradient to the encoder. Settings of the config are overridden as for `spacy train`,
    such as --paths.train corpus/train.spacy. The exit code is 1 if training would be pointless.

    Example: python -m spacy mtl debug config.cfg --paths.train train.spacy
    """
    overrides = parse_config_overrides(ctx.args)
    prepare(code_path, gpu_id)
    with show_validation_error(config_path):
        findings = debug(load_config(config_path, overrides=overrides, interpolate=False))
    if failures := sum(finding.is_failure for finding in findings):
        msg.fail(f"Not ready for training. Failures: {failures}", exits=1)
    msg.good(f"Ready for training. Warnings: {len(findings)}")


def debug(config: Config) -> list[Finding]:
    """Check a config, and print the results.

    config (Config): The config, not interpolated.
    RETURNS (List[Finding]): The findings up to the first section with a failure.
    RAISES (ValueError): If the corpora cannot be read or the pipeline cannot be initialized.
    """
    findings: list[Finding] = []
    examination = Examination(config)
    for title, (check, show) in SECTIONS.items():
        msg.divider(title)
        found = check(examination)
        show(examination)
        for finding in found:
            if finding.is_failure:
                msg.fail(finding.message)
            else:
                msg.warn(finding.message)
        findings += found
        if has_failure(found):
            break
    return findings


def show_corpora(examination: Examination) -> None:
    """Print the sizes of the corpora."""
    if n := examination.n_streamed:
        msg.info(f"max_epochs = -1: only the first {n:,} docs of the stream are checked")
    rows = [(name, f"{c.docs:,}", f"{c.words:,}") for name, c in examination.counts]
    if rows:
        msg.table(rows, header=("Corpus", "Docs", "Words"), aligns=("l", "r", "r"), divider=True)


def show_tasks(examination: Examination) -> None:
    """Print the labels of each corpus for each task."""
    rows = []
    for task, layer in examination.tasks.items():
        if layer is None:
            msg.info(f"{task}: not counted, since its kind of labels is unknown")
            continue
        for name, counts in examination.counts:
            own = counts.tasks[task]
            labelled = f"{own.units:,} {layer.unit}"
            n_docs = counts.docs - own.missing
            rows.append((task, name, labelled, f"{n_docs:,}", f"{len(own.labels):,}"))
    header = ("Task", "Corpus", "Labelled", "In docs", "Labels")
    msg.table(rows, header=header, aligns=("l", "l", "r", "r", "r"), divider=True)


def show_encoders(examination: Examination) -> None:
    """Print a line about each encoder."""
    if not examination.encoders:
        msg.info("No component listens to another: nothing is shared")
    for name, encoder in examination.encoders.items():
        most = f", at most {encoder.max_length} wordpieces at once" if encoder.max_length else ""
        size = f"width {encoder.width}, {encoder.parameters:,} parameters"
        msg.info(f"{name}: {encoder.source}, {size}, {encoder.precision}{most}")


def show_scores(examination: Examination) -> None:
    """Print the scores that decide which pipeline is the best."""
    weights = examination.nlp.config.interpolate()["training"]["score_weights"]
    shares = [f"{key} {weight:g}" for key, weight in weights.items() if weight]
    msg.info(f"model-best has the highest mean of the scores: {', '.join(shares) or 'none'}")


def show_batch(examination: Examination) -> None:
    """Print the loss, the weight and the gradient of each task in one batch."""
    words = sum(len(eg.predicted) for eg in examination.batch)
    msg.info(f"{len(examination.batch)} docs, {words:,} words")
    rows = []
    for task, step in examination.steps.items():
        weight = "-" if step.weight is None else f"{step.weight:.3g}"
        gradient = "-"
        if step.labelled and step.gradient is not None:
            gradient = f"{step.gradient:.3g}" + (" (all heads)" if step.weight is None else "")
        unit = " nats" if step.in_nats else ""
        rows.append((task, step.encoder or "-", f"{step.loss:.3f}{unit}", weight, gradient))
    header = ("Task", "Encoder", "Loss", "Weight", "Gradient")
    if rows:
        msg.table(rows, header=header, aligns=("l", "l", "r", "r", "r"), divider=True)


Check = Callable[[Examination], list[Finding]]
SECTIONS: dict[str, tuple[Check, Callable[[Examination], None]]] = {
    "Corpora": (Examination.check_corpora, show_corpora),
    "Tasks": (Examination.check_tasks, show_tasks),
    "Encoder": (Examination.check_encoders, show_encoders),
    "Scores": (Examination.check_scores, show_scores),
    "One batch": (Examination.check_batch, show_batch),
}
