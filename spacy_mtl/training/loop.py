"""spaCy's training loop with checkpoints: a run can be stopped at any time and resumed."""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter
from typing import TextIO

from spacy.language import Language
from spacy.schemas import ConfigSchemaTraining
from spacy.training import Example
from spacy.training.loop import (
    DIR_MODEL_BEST,
    DIR_MODEL_LAST,
    clean_output_dir,
    create_before_to_disk_callback,
    create_evaluation_callback,
    create_train_batches,
    update_meta,
)
from spacy.util import registry, resolve_dot_names
from thinc.api import Optimizer, fix_random_seed, set_gpu_allocator
from wasabi.printer import Printer

from ..encoder.runtime.cpu.capability import get_choice, use_choice
from ..files import WriteError, clean_up, replacing
from ..types import Settings
from .replay import ResumeReplay
from .resume import find_kernels
from .scoreboard import check_score_weights
from .step import StepSettings, check_training, skip_step, train_step

CHECKPOINT = "checkpoint"
END = "Raise max_steps, max_epochs or patience, whichever has ended it, to go on."


class OutputFolder:
    """Saves the pipeline of a training run.

    path (Optional[Path]): The folder for model-best, model-last and the checkpoint. None saves
        nothing.
    nlp (Language): The pipeline.
    optimizer (Optimizer): The optimizer. Its averages are saved in the place of the weights.
    before_to_disk (Optional[Callable]): Returns the pipeline to save.
    """

    def __init__(
        self,
        path: Path | None,
        nlp: Language,
        optimizer: Optimizer,
        before_to_disk: Callable[[Language], Language] | None,
    ) -> None:
        self.path, self.nlp, self.optimizer = path, nlp, optimizer
        self.before_to_disk = create_before_to_disk_callback(before_to_disk)

    def prepare(self, *, is_new: bool) -> None:
        """Complete or remove half-written files.

        is_new (bool): Whether a new run begins: then the pipelines and the checkpoint of an
            earlier run are removed.
        """
        if self.path:
            clean_up(self.path)
            if is_new:
                clean_output_dir(self.path)
                (self.path / CHECKPOINT).unlink(missing_ok=True)

    def save(self, *, is_best: bool) -> None:
        """Save model-last, and copy it to model-best.

        is_best (bool): Whether to copy.
        RAISES (WriteError): M091 if the pipeline cannot be written. The old one is still there.
        """
        if not self.path:
            return
        last = self.path / DIR_MODEL_LAST
        with self.nlp.use_params(self.optimizer.averages), replacing(last) as new:
            self.before_to_disk(self.nlp).to_disk(new)
        if is_best:
            with replacing(self.path / DIR_MODEL_BEST) as new:
                shutil.copytree(last, new)


def train(
    nlp: Language,
    output: Path | None = None,
    past: Settings | None = None,
    *,
    use_gpu: int = -1,
    stdout: TextIO = sys.stdout,
    stderr: TextIO = sys.stderr,
) -> None:
    """Train a pipeline as `spacy.training.loop.train` does, with a checkpoint at each evaluation
    and at the end.

    nlp (Language): The pipeline, initialized from its config.
    output (Optional[Path]): The folder for model-best, model-last and the checkpoint.
    past (Optional[Settings]): The checkpoint to resume from, as `read_checkpoint` returned
        it. Its evaluations are logged again, without their output path.
    use_gpu (int): The GPU, or -1. Call `require_gpu` first.
    stdout, stderr (TextIO): Get the messages.
    RAISES (ValueError): M058 if a number of `[training]` is out of range, M257 for a score weight
        of a score that does not exist, M062 if the corpora differ from those of the checkpoint,
        M091 if a pipeline or the checkpoint cannot be written: the old ones are still there.
    """
    msg = Printer(no_print=True)
    T = resolve_training(nlp, use_gpu)
    check_score_weights(nlp)
    config = nlp.config.interpolate()
    train_corpus, dev_corpus = resolve_dot_names(config, [T["train_corpus"], T["dev_corpus"]])
    optimizer, frozen = T["optimizer"], T["frozen_components"]
    folder = OutputFolder(output, nlp, optimizer, T["before_to_disk"])
    replay = ResumeReplay(nlp, optimizer, past or {})
    score = create_evaluation_callback(nlp, dev_corpus, T["score_weights"])
    batches = create_train_batches(nlp, train_corpus, T["batcher"], T["max_epochs"])
    steps = train_while_improving(nlp, optimizer, replay, batches, score, T)

    def write(text: str) -> None:
        stdout.write(f"{text}\n")

    folder.prepare(is_new=not past)
    for text in describe(nlp, T):
        write(msg.info(text))
    with nlp.select_pipes(disable=frozen):
        log_step, finalize = T["logger"](nlp, stdout, stderr)
    is_best: bool | None = None
    info: Settings = {}
    can_write = True
    kernels_before = use_choice(find_kernels(past["machine"]) if past else get_choice())
    try:
        for info, is_best in steps:
            if is_best is None:
                log_step(None)
                continue
            with nlp.select_pipes(disable=frozen):
                update_meta(T, nlp, info)
            if output and not replay.is_past:
                folder.save(is_best=is_best)
                info["output_path"] = str(output / DIR_MODEL_LAST)
            log_step(info)
            if output and not replay.is_past:
                replay.remember(info)
                replay.save(output / CHECKPOINT, {})
    except Exception as err:
        can_write = not isinstance(err, WriteError)
        if output and can_write and not replay.is_past:
            write(msg.warn(f"Aborting and saving the final model. Encountered: {err!r}"))
        raise
    finally:
        finalize()
        use_choice(kernels_before)
        if can_write and not replay.is_past:
            folder.save(is_best=False)
    if replay.is_past:
        replay.restore()
        folder.save(is_best=False)  # a stop during writing may have broken it
        write(msg.good(f"Training had finished at step {replay.n_past - 1}. {END}"))
    elif output:
        if is_best is None and info:
            replay.save(output / CHECKPOINT, info["losses"])
        write(msg.good("Saved pipeline to output directory", output / DIR_MODEL_LAST))


def train_while_improving(
    nlp: Language,
    optimizer: Optimizer,
    replay: ResumeReplay,
    batches: Iterable[tuple[int, list[Example]]],
    score: Callable[[], tuple[float, Settings]],
    training: Settings,
) -> Iterator[tuple[Settings, bool | None]]:
    """Update a pipeline until `max_steps`, until `patience` updates bring no better score, or until
    the batches end. spaCy's function of this name has the same results.

    nlp (Language): The pipeline.
    optimizer (Optimizer): The optimizer.
    replay (ResumeReplay): Stands in for the updates and evaluations before the checkpoint.
    batches (Iterable[Tuple[int, List[Example]]]): Batches with the number of their epoch.
    score (Callable): Evaluates the pipeline and returns the score and all scores by key.
    training (Settings): The resolved section `[training]`.
    YIELDS (Tuple[Settings, Optional[bool]]): For each update what a logger gets, and whether
        its evaluation is the best so far. None without an evaluation.
    """
    settings = StepSettings.from_training(training)
    results: list[tuple[float, int]] = []
    losses: dict[str, float] = {}
    words, start = 0, perf_counter()
    for step, (epoch, batch) in enumerate(replay.draw(batches)):
        if replay.is_past:
            skip_step(nlp, optimizer, settings, step=step, epoch=epoch)
            losses.update(replay.get_losses())
        else:
            train_step(nlp, optimizer, batch, settings, step=step, epoch=epoch, losses=losses)
        words += sum(map(len, batch))
        info: Settings = {
            "epoch": epoch,
            "step": step,
            "score": None,
            "other_scores": None,
            "losses": losses,
            "checkpoints": results,
            "seconds": int(perf_counter() - start),
            "words": words,
        }
        is_best = None
        if step % training["eval_frequency"] == 0:
            info |= replay.recall(words) if replay.is_past else evaluate(nlp, optimizer, score)
            results.append((info["score"], step))
            is_best = info["score"] == max(results)[0]
        yield info, is_best
        if is_best is not None:
            losses = {}
        _, best_step = max(results, key=lambda result: (result[0], -result[1]))
        if training["patience"] and step - best_step >= training["patience"]:
            return
        if training["max_steps"] and step >= training["max_steps"]:
            return


def evaluate(
    nlp: Language, optimizer: Optimizer, score: Callable[[], tuple[float, Settings]]
) -> Settings:
    """RETURNS (Settings): The scores of the optimizer's averages, or else of the weights."""
    with nlp.use_params(optimizer.averages):
        total, scores = score()
    return {"score": total, "other_scores": scores}


def resolve_training(nlp: Language, use_gpu: int = -1) -> Settings:
    """Seed the random number generators and resolve the section `[training]`.

    nlp (Language): The pipeline.
    use_gpu (int): The GPU, or -1.
    RETURNS (Settings): The section with its functions called.
    RAISES (ValueError): M058 if a number is out of range.
    """
    training = nlp.config.interpolate()["training"]
    if training["seed"] is not None:
        fix_random_seed(training["seed"])
    if use_gpu >= 0 and training["gpu_allocator"]:
        set_gpu_allocator(training["gpu_allocator"])
    resolved: Settings = registry.resolve(training, schema=ConfigSchemaTraining)
    check_training(resolved)
    return resolved


def describe(nlp: Language, training: Settings) -> list[str]:
    """RETURNS (List[str]): The messages at the start of a run."""
    lines = [f"Pipeline: {nlp.pipe_names}"]
    if training["frozen_components"]:
        lines.append(f"Frozen components: {training['frozen_components']}")
    if training["annotating_components"]:
        lines.append(f"Set annotations on update for: {training['annotating_components']}")
    return [*lines, f"Initial learn rate: {training['optimizer'].learn_rate}"]
