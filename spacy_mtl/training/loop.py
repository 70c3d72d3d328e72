"""spaCy's training, which can be stopped at any time and goes on where it was."""

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import IO, Annotated, Any

from spacy.language import Language
from spacy.schemas import ConfigSchemaTraining
from spacy.training.loop import (
    DIR_MODEL_BEST,
    DIR_MODEL_LAST,
    clean_output_dir,
    create_before_to_disk_callback,
    create_evaluation_callback,
    create_train_batches,
    train_while_improving,
    update_meta,
)
from spacy.util import registry, resolve_dot_names
from thinc.api import Optimizer, fix_random_seed, set_gpu_allocator
from wasabi import Printer

from ..arguments import Count, Range, Rate, check
from ..encoder.cpu import get_choice, use_choice
from ..errors import Errors
from ..files import WriteError, clean_up, replacing
from .resume import (
    find_kernels,
    get_random_states,
    get_state,
    seed_cupy,
    set_random_states,
    set_state,
    write_checkpoint,
)

CHECKPOINT = "checkpoint"
NUMBERS = {
    "dropout": Rate,
    "accumulate_gradient": Count,
    "patience": Annotated[int, Range()],
    "max_epochs": Annotated[int, Range(-1)],
    "max_steps": Annotated[int, Range()],
    "eval_frequency": Count,
}
Evaluate = Callable[[], tuple[float, dict[str, Any]]]


class Replay:
    """Stands for the pipeline in spaCy's loop. The steps that a checkpoint has behind it are gone
    through once more without learning: the same batches are drawn, schedules move on, and what the
    evaluations found is known. Then the state is that of the checkpoint.

    nlp (Language): The pipeline.
    optimizer (Optimizer): The optimizer.
    past (Mapping[str, Any]): The checkpoint; empty for a training that begins.
    """

    def __init__(self, nlp: Language, optimizer: Optimizer, past: Mapping[str, Any]) -> None:
        self.nlp, self.optimizer, self.past = nlp, optimizer, past
        self.step = -1
        self.n_past: int = past.get("step", -1) + 1
        self.evaluations: dict[int, dict[str, Any]] = {
            info["step"]: info for info in past.get("evaluations", [])
        }
        # The states of generators before a draw, where the draws before have not left them so.
        self.tape: dict[int, dict[str, Any]] = dict(past.get("tape", []))

    @property
    def is_past(self) -> bool:
        """RETURNS (bool): Whether the step is one that the checkpoint has behind it."""
        return max(self.step, 0) < self.n_past

    @property
    def pipeline(self) -> list[tuple[str, Any]]:
        return [] if self.is_past else self.nlp.pipeline

    def update(self, *args: Any, losses: dict[str, float], **kwargs: Any) -> None:
        if not self.is_past:
            self.nlp.update(*args, losses=losses, **kwargs)
        elif self.step == self.n_past - 1:
            losses.update(self.past["losses"])

    def use_params(self, params: Any) -> Any:
        return self.nlp.use_params(params)

    def draw(self, batches: Iterable[Any]) -> Iterator[Any]:
        """YIELDS (Any): The batches, in a resumed training the same from the beginning on."""
        left: dict[str, Any] = {}
        for n, stream in enumerate(repeat(iter(batches))):
            if n < self.n_past:
                set_random_states(left | self.tape.get(n, {}))
            elif n and n == self.n_past:
                self.restore()
            before = get_random_states()
            try:
                batch = next(stream)
            except StopIteration:
                return
            after = get_random_states()
            used = [kind for kind in after if before.get(kind) != after[kind]]
            if found := {k: before[k] for k in used if k in before and before[k] != left.get(k)}:
                self.tape[n] = found
            left |= {kind: after[kind] for kind in used}
            self.step = n
            yield batch

    def wrap_evaluate(self, evaluate: Evaluate) -> Evaluate:
        """RETURNS (Callable): The evaluation, or what it found."""

        def evaluate_or_remember() -> tuple[float, dict[str, Any]]:
            if not self.is_past:
                return evaluate()
            info = self.evaluations[self.step]
            return info["score"], info["other_scores"]

        return evaluate_or_remember

    def recall(self, info: dict[str, Any]) -> None:
        """Complete what the loop tells of an evaluation that the checkpoint has behind it.

        RAISES (ValueError): M062 if the batches before it were others.
        """
        known = self.evaluations[self.step]
        if known["words"] != info["words"]:
            reason = f"{info['words']} words until step {self.step}, not {known['words']}"
            raise ValueError(Errors.M062.format(reason=reason))
        info.update(known)

    def remember(self, info: Mapping[str, Any]) -> None:
        """Keep what there is to tell of an evaluation."""
        known = {k: v for k, v in info.items() if k not in ("checkpoints", "output_path")}
        self.evaluations[self.step] = json.loads(json.dumps(known, default=to_plain, skipkeys=True))

    def save(self, path: Path, losses: Mapping[str, float]) -> None:
        """Write a checkpoint.

        path (Path): The file.
        losses (Mapping[str, float]): Their sums since the last evaluation.
        """
        tensors, plain = get_state(self.nlp, self.optimizer)
        plain |= {
            "step": self.step,
            "evaluations": list(self.evaluations.values()),
            "tape": list(self.tape.items()),
            "losses": {name: float(loss) for name, loss in losses.items()},
        }
        write_checkpoint(path, self.nlp, tensors, plain)
        seed_cupy(self.step)

    def restore(self) -> None:
        """Give the pipeline and the optimizer the state of the checkpoint."""
        set_state(self.nlp, self.optimizer, self.past["tensors"], self.past)
        seed_cupy(self.step)
        self.past = {}


def train(
    nlp: Language,
    output: Path | None = None,
    past: Mapping[str, Any] | None = None,
    *,
    use_gpu: int = -1,
    stdout: IO = sys.stdout,
    stderr: IO = sys.stderr,
) -> None:
    """Train a pipeline as `spacy.training.loop.train` does, with a checkpoint at each evaluation
    and at the end.

    nlp (Language): The pipeline, initialized from its config.
    output (Optional[Path]): The folder for model-best, model-last and the checkpoint.
    past (Optional[Mapping[str, Any]]): The checkpoint to go on from, as `read_checkpoint` returned
        it. Its evaluations are told to the logger again, but without their output path.
    use_gpu (int): The GPU, or -1. It must have been required before.
    stdout, stderr (IO): Get the messages.
    RAISES (ValueError): M058 if a number of `[training]` is out of range, M062 if the corpora are
        not those of the checkpoint, M091 if a pipeline or the checkpoint cannot be written: the
        ones before are still there.
    """
    msg = Printer(no_print=True)
    config = nlp.config.interpolate()
    if config["training"]["seed"] is not None:
        fix_random_seed(config["training"]["seed"])
    if use_gpu >= 0 and config["training"]["gpu_allocator"]:
        set_gpu_allocator(config["training"]["gpu_allocator"])
    T: Any = registry.resolve(config["training"], schema=ConfigSchemaTraining)
    check_training(T)
    train_corpus, dev_corpus = resolve_dot_names(config, [T["train_corpus"], T["dev_corpus"]])
    optimizer, frozen = T["optimizer"], T["frozen_components"]
    before_to_disk = create_before_to_disk_callback(T["before_to_disk"])
    replay = Replay(nlp, optimizer, past or {})
    before_update = T["before_update"] and (lambda _, step: T["before_update"](nlp, step))
    steps = train_while_improving(
        replay,  # type: ignore[arg-type]
        optimizer,
        replay.draw(create_train_batches(nlp, train_corpus, T["batcher"], T["max_epochs"])),
        replay.wrap_evaluate(create_evaluation_callback(nlp, dev_corpus, T["score_weights"])),
        dropout=T["dropout"],
        accumulate_gradient=T["accumulate_gradient"],
        patience=T["patience"],
        max_steps=T["max_steps"],
        eval_frequency=T["eval_frequency"],
        exclude=frozen,
        annotating_components=T["annotating_components"],
        before_update=before_update,
    )

    def save_last() -> None:
        if output:
            with nlp.use_params(optimizer.averages), replacing(output / DIR_MODEL_LAST) as new:
                before_to_disk(nlp).to_disk(new)

    def save(is_best: bool) -> None:
        if output and not replay.is_past:
            save_last()
            if is_best:
                with replacing(output / DIR_MODEL_BEST) as new:
                    shutil.copytree(output / DIR_MODEL_LAST, new)

    def write(text: str) -> None:
        stdout.write(f"{text}\n")

    if output:
        clean_up(output)
    if output and not past:
        clean_output_dir(output)
        (output / CHECKPOINT).unlink(missing_ok=True)
    write(msg.info(f"Pipeline: {nlp.pipe_names}"))
    if frozen:
        write(msg.info(f"Frozen components: {frozen}"))
    if T["annotating_components"]:
        write(msg.info(f"Set annotations on update for: {T['annotating_components']}"))
    write(msg.info(f"Initial learn rate: {optimizer.learn_rate}"))
    with nlp.select_pipes(disable=frozen):
        log_step, finalize = T["logger"](nlp, stdout, stderr)
    is_best, info, can_write = None, {}, True
    machine = replay.past.get("machine")  # not in checkpoints of 0.1.0
    kernels_before = use_choice(find_kernels(machine) if machine else get_choice())
    try:
        for _, info, is_best in steps:
            if is_best is None:
                log_step(None)
                continue
            if replay.is_past:
                replay.recall(info)
            with nlp.select_pipes(disable=frozen):
                update_meta(T, nlp, info)
            save(is_best)
            if output and not replay.is_past:
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
        if can_write:
            save(False)
    if replay.is_past:
        replay.restore()
        save_last()  # a stop while it was written may have broken it
        end = "Raise max_steps, max_epochs or patience, whichever has ended it, to go on."
        write(msg.good(f"Training had finished at step {replay.n_past - 1}. {end}"))
    elif output:
        if is_best is None and info:
            replay.save(output / CHECKPOINT, info["losses"])
        write(msg.good("Saved pipeline to output directory", output / DIR_MODEL_LAST))


def check_training(training: Mapping[str, Any]) -> None:
    """RAISES (ValueError): M058 if a number of the section `[training]` is out of range."""
    for name, expected in NUMBERS.items():
        check("[training]", name, training[name], expected)


def to_plain(value: Any) -> Any:
    """RETURNS (Any): What JSON can hold of a number or an array; else a description."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)
