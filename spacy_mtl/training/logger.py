"""The logger `spacy-mtl.ProgressLogger.v1`: losses, weights and gradient norms of each task."""

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Literal, TextIO, TypeAlias

import srsly
from spacy.language import Language
from tqdm import tqdm
from wasabi.tables import row

from ..arguments import checked
from ..contracts import find_tasks
from ..corpora.inventory import count_training_corpora
from ..encoder.pipe import SharedEncoder
from ..errors import Errors
from ..files import WriteError
from ..types import Settings
from .scoreboard import ScoreBoard, find_key, find_keys, get_score_weights

LogStep: TypeAlias = Callable[[Settings | None], None]
SetUpLogger: TypeAlias = Callable[[Language, TextIO, TextIO], tuple[LogStep, Callable[[], None]]]
Stats: TypeAlias = dict[str, float | None]

STATS = ("loss", "weight", "grad_norm", "updates", "units")
ALL = "all"  # the line of the pipeline's score
# The table: its width, the least width of the scores, the space between columns.
WIDTH, LEAST, SPACING = 100, 24, 2
ALIGNS = ("r", "r", "l", *"rrrr", "l")


@checked("spacy-mtl.ProgressLogger.v1")
def create_progress_logger_v1(
    progress_bar: Literal["eval", "train"] | None = "eval",
    output_file: str | None = None,
    console_output: bool = True,
) -> SetUpLogger:
    """Log a block of numbers at each evaluation.

    The line of each task has the means since the last evaluation: of its loss, of its weight in the
    balancer, and of the norm of its gradient at the encoder. Units are its labelled units per
    update, such as tokens or docs. Then follow its scores in percent. The last line has the score
    of the pipeline, words per second, and the time left until `max_steps`. Both times include
    evaluations. The file also has the mean cosine of the gradients of each two tasks.

    Later loggers in a `spacy.ChainLogger.v1` find the numbers of the tasks in `info["tasks"]` and
    the cosines in `info["cosines"]`. For experiment trackers each number is also an entry
    `info["tasks.NAME.loss"]` and so on, which `log_custom_stats = ["^tasks\\\\."]` matches.

    Counts the corpora of `[training]` once, for the model card of the saved pipelines.

    Publishes the score of each task to `spacy-mtl.EarlyStopping.v1` and to corpora with dynamic
    sampling: the score with the highest weight in the task's own score weights.

    progress_bar (Optional[str]): "eval" for a bar from one evaluation to the next, "train" for a
        bar over the whole run, null for none. It is shown only on a terminal.
    output_file (Optional[str]): The file to append a line of JSON to at each evaluation. Scores are
        from 0 to 1, words and seconds count from the start of the run, updates and units from the
        last evaluation. Unknown values are null.
    console_output (bool): Whether to print the rows.
    RAISES (ValueError): M058 for an argument of another kind.
    """

    def setup_logger(
        nlp: Language, stdout: TextIO = sys.stdout, stderr: TextIO = sys.stderr
    ) -> tuple[LogStep, Callable[[], None]]:
        path = Path(output_file) if output_file else None
        console = Console(nlp, progress_bar, stdout, stderr) if console_output else None
        logger = ProgressLogger(nlp, path, console)
        return logger.log_step, logger.finalize

    return setup_logger


class ProgressLogger:
    """Collects the numbers of an evaluation and of the updates before it.

    nlp (Language): The pipeline, with the frozen components disabled.
    path (Optional[Path]): The file to append to.
    console (Optional[Console]): Prints the rows.
    """

    def __init__(self, nlp: Language, path: Path | None, console: "Console | None") -> None:
        self.path = path
        self.console = console
        self.tasks = list(find_tasks(nlp))
        self.score_keys = get_score_keys(nlp)
        pipes: list[object] = [pipe for _, pipe in nlp.pipeline]
        self.encoders = [pipe for pipe in pipes if isinstance(pipe, SharedEncoder)]
        self.board = ScoreBoard(nlp, find_keys(nlp, {}))
        nlp.meta["corpora"] = count_training_corpora(nlp)  # for the model card
        self.steps = 0  # since the last evaluation
        self.words = 0  # until the last evaluation
        self.start = perf_counter()
        self.last: float | None = None
        self._take_means()  # discards updates before this run
        self._take_cosines()
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)

    def log_step(self, info: Settings | None) -> None:
        """Log an evaluation, or count a step without one.

        info (Optional[Settings]): The info of the training loop, None without an evaluation.
            Gets the tasks' numbers.
        """
        self.steps += 1
        if info is None:
            if self.console:
                self.console.advance()
            return
        self.board.publish(info["other_scores"])
        now = perf_counter()
        interval = None if self.last is None else now - self.last
        if "line" in info:  # a resumed run logs earlier evaluations again
            line = info["line"]
            self.start, interval = now - line["seconds"], None
        else:
            line = info["line"] = self._get_line(info, now - self.start, interval)
        if self.path:
            self._append(line, info.setdefault("log_sizes", {}))
        if self.console:
            self.console.print(line, self.steps, interval and interval / self.steps)
        info["tasks"], info["cosines"] = line["tasks"], line["cosines"]
        for task, stats in line["tasks"].items():
            info.update({f"tasks.{task}.{k}": v for k, v in stats.items() if v is not None})
        self.steps, self.words, self.last = 0, info["words"], now

    def finalize(self) -> None:
        """Clean up after training."""
        if self.console:
            self.console.close()

    def _get_line(self, info: Settings, seconds: float, interval: float | None) -> Settings:
        return {
            "step": info["step"],
            "epoch": info["epoch"],
            "score": float(info["score"]),
            "scores": {key: to_float(info["other_scores"].get(key)) for key in self.score_keys},
            "tasks": get_stats(self.tasks, self._take_means(), info["losses"], self.steps),
            "cosines": self._take_cosines(),
            "words": info["words"],
            "seconds": seconds,
            "words_per_second": interval and (info["words"] - self.words) / interval,
        }

    def _append(self, line: Settings, sizes: dict[str, int]) -> None:
        """Append a line to the file. A resumed run first cuts off the later lines of the run that
        was stopped.

        sizes (Dict[str, int]): The size of each log file before the line. Gets the size of this
            file.
        """
        assert self.path is not None
        size = self.path.stat().st_size if self.path.exists() else 0
        start = sizes[str(self.path)] = min(size, sizes.get(str(self.path), size))
        if start < size:
            os.truncate(self.path, start)
        try:
            srsly.write_jsonl(self.path, [to_json(line)], append=True, append_new_line=False)
        except OSError as error:
            os.truncate(self.path, start)  # half a line would make the others unreadable
            raise WriteError(Errors.M091.format(path=self.path, error=error)) from error

    def _take_means(self) -> dict[str, dict[str, float]]:
        return {
            task: means
            for encoder in self.encoders
            for task, means in encoder.diagnostics.take().items()
        }

    def _take_cosines(self) -> dict[str, float]:
        return {
            pair: cosine
            for encoder in self.encoders
            for pair, cosine in encoder.diagnostics.take_cosines().items()
        }


class Console:
    """Prints a block of lines for each evaluation, and a progress bar under it. The block has a
    line for each task with its numbers and scores, and a line "all" with the score of the pipeline.

    nlp (Language): The pipeline, with the frozen components disabled.
    progress_bar (Optional[str]): "eval", "train" or None.
    stdout (TextIO): Gets the table.
    stderr (TextIO): Gets the bar.
    """

    def __init__(
        self, nlp: Language, progress_bar: str | None, stdout: TextIO, stderr: TextIO
    ) -> None:
        training = nlp.config.interpolate()["training"]
        self.max_steps: int = training["max_steps"]
        self.eval_frequency: int = training["eval_frequency"]
        self.progress_bar = progress_bar
        self.stdout = stdout
        self.stderr = stderr
        self.bar: tqdm[None] | None = None
        self.owners = get_owners(nlp)
        names = max(map(len, [ALL, *self.owners.values()]))
        self.widths = [3, 6, names, 8, 7, 8, 7]
        rest = WIDTH - sum(self.widths) - len(self.widths) * SPACING
        self.widths.append(max(rest, LEAST))
        self._write(["E", "#", "Task", "Loss", "Weight", "Grad", "Units", "Scores"])
        self._write(["-" * width for width in self.widths])

    def print(self, line: Settings, steps: int, seconds_per_step: float | None) -> None:
        """Print the block of an evaluation and start a new bar.

        line (Settings): The numbers of the evaluation.
        steps (int): The number of steps since the last evaluation.
        seconds_per_step (Optional[float]): The mean time of a step, to estimate the time left.
        """
        self.close()
        scores: dict[str, list[str]] = {}
        for key, score in line["scores"].items():
            shown = show(score, ".0f") if key == "speed" else show_percent(score)
            scores.setdefault(self.owners.get(key, ALL), []).append(f"{key} {shown}")
        summary = [f"score {show_percent(line['score'])}"]
        if line["words_per_second"] is not None:
            summary.append(f"{line['words_per_second']:.0f} words/s")
        if self.max_steps and seconds_per_step is not None:
            left = tqdm.format_interval((self.max_steps - line["step"]) * seconds_per_step)
            summary.append(f"{left} left")
        place: list[object] = [line["epoch"], line["step"]]
        for task, stats in line["tasks"].items():
            cells = [show(stats["loss"], ".4f"), show(stats["weight"], ".3g")]
            cells.append(show(stats["grad_norm"], ".3g"))
            cells.append(show(None if stats["units"] is None else stats["units"] / steps, ".1f"))
            self._write([*place, task, *cells], scores.get(task, []))
            place = ["", ""]
        self._write([*place, ALL, "", "", "", ""], [*summary, *scores.get(ALL, [])])
        if self.progress_bar:
            whole = self.progress_bar == "train"
            self.bar = tqdm(
                desc=f"Epoch {line['epoch']}",
                total=(self.max_steps if whole else self.eval_frequency) or None,
                initial=line["step"] if whole else 0,
                disable=None,  # no bar without a terminal
                leave=False,
                file=self.stderr,
            )

    def advance(self) -> None:
        """Advance the bar by a step."""
        if self.bar is not None:
            self.bar.update(1)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _write(self, cells: Sequence[object], scores: Sequence[str] = ()) -> None:
        """Print a row. Scores that do not fit continue on the next lines.

        cells (Sequence[object]): The cells, without the scores.
        scores (Sequence[str]): The scores.
        """
        lines = [""]
        for score in scores:
            longer = f"{lines[-1]}  {score}".strip()
            if len(longer) > self.widths[-1] and lines[-1]:
                lines.append(score)
            else:
                lines[-1] = longer
        for line in lines:
            given = [*cells, line] if len(cells) < len(self.widths) else cells
            text = row(given, widths=self.widths, aligns=ALIGNS, spacing=SPACING)
            print(text.rstrip(), file=self.stdout, flush=True)
            cells = [""] * (len(self.widths) - 1)


def get_owners(nlp: Language) -> dict[str, str]:
    """RETURNS (Dict[str, str]): The task that each score belongs to. Scores over several heads of
    one kind, and those of no task, are left out.
    """
    owners: dict[str, str] = {}
    for task in find_tasks(nlp):
        for key in get_score_weights(nlp, task):
            owners.setdefault(key, task)
    return owners


def get_score_keys(nlp: Language) -> list[str]:
    """RETURNS (List[str]): The keys of the scores that have a weight, including 0, and the own
    score of each head that has siblings.
    """
    weights = nlp.config.interpolate()["training"]["score_weights"]
    own = [find_key(get_score_weights(nlp, task)) for task in find_tasks(nlp)]
    named = [key for key in own if key and key not in weights]
    return [*(key for key, weight in weights.items() if weight is not None), *named]


def get_stats(
    tasks: Sequence[str],
    means: Mapping[str, Mapping[str, float]],
    losses: Mapping[str, float],
    steps: int,
) -> dict[str, Stats]:
    """Return the numbers of each task.

    A task without an `mtl_transformer` has only the mean of its reported losses over all steps. A
    task that had no labels has no numbers.

    tasks (Sequence[str]): The components.
    means (Mapping[str, Mapping[str, float]]): The means that encoders have recorded.
    losses (Mapping[str, float]): The sums of the losses that the components reported.
    steps (int): The number of steps in these sums.
    RETURNS (Dict[str, Dict[str, Optional[float]]]): The `STATS` of each task.
    """
    stats: dict[str, Stats] = {}
    for task in tasks:
        known: Mapping[str, float] = means.get(task, {"updates": 0, "units": 0})
        total = float(losses.get(task, 0.0))
        if task not in means and total:
            known = {"loss": total / steps, "updates": steps}
        stats[task] = {key: known.get(key) for key in STATS}
    return stats


def to_float(score: float | None) -> float | None:
    """RETURNS (Optional[float]): The score as Python's own number."""
    return None if score is None else float(score)


def to_json(value: object) -> object:
    """RETURNS: The value with None in place of NaN and infinite numbers, which JSON lacks."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(value: object, style: str = "") -> str:
    """RETURNS (str): The formatted value, "-" for None."""
    return "-" if value is None else format(value, style)


def show_percent(score: float | None) -> str:
    """RETURNS (str): The score in percent, "-" for None."""
    return show(score if score is None else 100 * score, ".2f")
