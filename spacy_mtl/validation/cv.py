"""Cross-validation: a training run and an evaluation for each fold, which can be stopped and
resumed.

`names.py` lists the files of the output folder. Its folder `folds/1-3`, for the first repeat and
the third fold, has the data of the fold, and a folder for each model.
"""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from threading import Event

import numpy
import srsly
from spacy.tokens import Doc
from spacy.util import load_model_from_config
from thinc.api import Config

from ..annotations import AnnotationLayer, find_main_layer
from ..contracts import find_encoders, find_tasks
from ..corpora.documents import DOCUMENT
from ..errors import Errors, quote
from ..files import remove, replacing, try_lock
from ..training.loop import CHECKPOINT
from ..training.scoreboard import find_keys, get_score_weights
from ..types import Ints1d, Settings
from .folds import count_labels, find_groups, make_folds, warn_of_rare_labels
from .leaks import find_leaks, warn_of_leaks
from .names import CONFIG, FOLDS, LOG, PREDICTIONS, RESULT, SETTINGS
from .outcome import Outcome, evaluate, save_docs

MULTI = "multi"  # the name of the model for all tasks
PARTS = ("train", "dev", "test")
DEV_FOLDS = 10  # one of them is the dev data of a training run
WAIT = 1.0  # seconds until a locked log is tried again
INTERRUPTED = 130  # the exit code of a run that did not begin
TAIL = 15  # lines of a log in a message
PLAIN = {"@misc": "spacy-mtl.StaticWeights.v1"}


@dataclass(frozen=True)
class Task:
    """A task of the config.

    name (str): The component.
    layer (Optional[AnnotationLayer]): Its annotation layer; None if it has none.
    score (Optional[str]): The key of its score; None if it has none.
    scores (Sequence[str]): The keys of all its scores.
    """

    name: str
    layer: AnnotationLayer[object] | None
    score: str | None
    scores: Sequence[str]


@dataclass(frozen=True)
class Fold:
    """A fold and one of its models.

    repeat, fold (int): Their numbers, from 0 on.
    model (str): "multi", or the name of the task that is trained alone.
    """

    repeat: int
    fold: int
    model: str = MULTI

    @property
    def name(self) -> str:
        """RETURNS (str): The name of the fold's folder, such as "1-3"."""
        return f"{self.repeat + 1}-{self.fold + 1}"


@dataclass
class CrossValidation:
    """Trains and tests a model for each fold.

    config (Config): The config of the training runs, not interpolated.
    docs (Sequence[Doc]): The gold docs.
    output (Path): The output folder.
    k (int): The number of folds.
    group_by (str): The key in `doc.user_data` of the groups that stay in one fold, or "none".
    stratify (Optional[str]): The only annotation layer whose labels are divided evenly, such as
        "cats"; None for those of all tasks.
    repeats (int): How often to divide the docs anew.
    is_single (bool): Whether to train each task alone too.
    options (Sequence[str]): Further options of `spacy mtl train`, such as "--gpu-id".
    RAISES (ValueError): M282 if the config has no paths for data, M280 if the output folder has
        another cross-validation, M276 to M279 if the docs cannot be divided.
    """

    config: Config
    docs: Sequence[Doc]
    output: Path
    k: int = 5
    group_by: str = DOCUMENT
    stratify: str | None = None
    repeats: int = 1
    is_single: bool = False
    options: Sequence[str] = ()
    tasks: dict[str, Task] = field(init=False)
    encoders: list[str] = field(init=False)
    groups: Ints1d = field(init=False)
    folds: list[Ints1d] = field(init=False)

    def __post_init__(self) -> None:
        if not {"train", "dev"} <= self.config.get("paths", {}).keys():
            raise ValueError(Errors.M282)
        nlp = load_model_from_config(self.config.copy(), auto_fill=True, validate=False)
        keys = find_keys(nlp, {})
        self.encoders = [*find_encoders(nlp)]
        self.tasks = {}
        for name in find_tasks(nlp):
            layer = find_main_layer(nlp, name)
            own = [*get_score_weights(nlp, name)]
            self.tasks[name] = Task(name, layer, keys.get(name), own)
        layers = self.layers
        self.groups = find_groups(self.docs, self.group_by)
        labels = count_labels(self.docs, layers)
        self.folds = [make_folds(self.groups, labels, self.k, seed) for seed in range(self.repeats)]
        self._keep_settings()
        warn_of_rare_labels(self.groups, self.folds[0], labels)
        warn_of_leaks(self.docs, find_leaks(self.docs, self.folds[0]))

    @property
    def layers(self) -> dict[str, AnnotationLayer[object]]:
        """RETURNS (Dict[str, AnnotationLayer]): The layers whose labels are divided evenly."""
        layers = {task.layer.name: task.layer for task in self.tasks.values() if task.layer}
        if self.stratify is None:
            return layers
        if self.stratify not in layers:
            raise ValueError(Errors.M277.format(name=self.stratify, choices=quote(layers)))
        return {self.stratify: layers[self.stratify]}

    def _get_settings(self) -> Settings:
        """RETURNS (Dict[str, Any]): Everything that changes a fold. More repeats and single models
        may follow later.
        """
        digest = hashlib.sha256()
        for doc in self.docs:
            # Strings are a set, whose order differs between processes.
            digest.update(doc.to_bytes(exclude=["strings", "tensor", "user_data"]))
        digest.update(self.groups.tobytes())
        return {
            "config": self.config.to_str(interpolate=False),
            "number of folds": self.k,
            "--group-by": self.group_by,
            "--stratify": self.stratify,
            "data": digest.hexdigest(),
        }

    def _keep_settings(self) -> None:
        """Write the settings, or compare them with those of the folder."""
        path, own = self.output / SETTINGS, self._get_settings()
        if path.exists():
            known = srsly.read_json(path)
            for what in own:
                if known.get(what) != own[what]:
                    raise ValueError(Errors.M280.format(path=self.output, what=what))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as new:
                srsly.write_json(new, own)

    def list_folds(self) -> list[Fold]:
        """RETURNS (List[Fold]): All folds with their models, in the order of training."""
        models = [MULTI, *(self.tasks if self.is_single and len(self.tasks) > 1 else ())]
        return [Fold(*one) for one in product(range(self.repeats), range(self.k), models)]

    def get_folder(self, fold: Fold) -> Path:
        """RETURNS (Path): The folder of a fold's model."""
        return self.output / FOLDS / fold.name / fold.model

    def is_finished(self, fold: Fold) -> bool:
        """RETURNS (bool): Whether a fold has been trained and tested."""
        return (self.get_folder(fold) / RESULT).exists()

    def find_test(self, fold: Fold) -> list[int]:
        """RETURNS (List[int]): The docs that a fold is tested on."""
        return numpy.flatnonzero(self.folds[fold.repeat] == fold.fold).tolist()

    def run(self, jobs: int = 1) -> Generator[Fold, None, None]:
        """Train and test the folds that are not finished. A fold that fails does not stop the
        others.

        jobs (int): How many folds to train at once.
        YIELDS (Fold): Each fold when it is finished.
        RAISES (ValueError): M281 at the end, for the first fold whose training failed.
        """
        todo = [fold for fold in self.list_folds() if not self.is_finished(fold)]
        codes: dict[Fold, int] = {}
        processes = Processes(max(1, (os.cpu_count() or 1) // jobs))
        pool = ThreadPoolExecutor(jobs)
        futures: dict[Future[int], Fold] = {}
        try:
            for fold in todo:
                command = self.prepare(fold)
                log = self.get_folder(fold) / LOG
                futures[pool.submit(processes.run, command, log)] = fold
            for future in as_completed(futures):
                fold = futures[future]
                codes[fold] = future.result()
                if not codes[fold]:
                    self.test(fold)
                    yield fold
        finally:
            for future in futures:
                future.cancel()
            processes.stop()
            pool.shutdown()
        if failed := [fold for fold in todo if codes[fold]]:
            raise self._make_error(failed[0], codes[failed[0]])

    def _make_error(self, fold: Fold, code: int) -> ValueError:
        log = self.get_folder(fold) / LOG
        lines = log.read_text(encoding="utf8", errors="replace").splitlines()
        name = f"fold {fold.name} ({fold.model})"
        tail = "\n".join(lines[-TAIL:])
        return ValueError(Errors.M281.format(name=name, code=code, log=log, tail=tail))

    def prepare(self, fold: Fold) -> list[str]:
        """Write the data and the config of a fold.

        fold (Fold): The fold.
        RETURNS (List[str]): The command that trains it, or goes on with its training.
        """
        folder = self.get_folder(fold)
        parts = self._divide(fold)
        for part in PARTS:
            path = folder.parent / f"{part}.spacy"
            if not path.exists():
                save_docs([self.docs[i] for i in parts[part]], path)
        folder.mkdir(parents=True, exist_ok=True)
        config = self.config if fold.model == MULTI else self._keep_task(self.tasks[fold.model])
        config = deepcopy(config)
        config["paths"] |= {part: str(folder.parent / f"{part}.spacy") for part in PARTS[:2]}
        config.to_disk(folder / CONFIG, interpolate=False)
        train = [sys.executable, "-m", "spacy", "mtl", "train", str(folder / CONFIG)]
        return [*train, "--output", str(folder), "--resume", *self.options]

    def _divide(self, fold: Fold) -> dict[str, list[int]]:
        """RETURNS (Dict[str, List[int]]): The docs of each part of a fold's data. The dev data are
        whole groups too, and are never the test data: they choose model-best.
        """
        test = self.find_test(fold)
        rest: Ints1d = numpy.flatnonzero(self.folds[fold.repeat] != fold.fold)
        _, groups = numpy.unique(self.groups[rest], return_inverse=True)
        labels = count_labels([self.docs[i] for i in rest.tolist()], self.layers)
        folds = min(DEV_FOLDS, int(groups.max()) + 1)
        is_dev = make_folds(groups, labels, folds) == 0 if folds > 2 else groups == 0
        return {"train": rest[~is_dev].tolist(), "dev": rest[is_dev].tolist(), "test": test}

    def _keep_task(self, task: Task) -> Config:
        """RETURNS (Config): The config with the encoders and one task. A balancer has nothing to
        balance then, so it is the plain sum.
        """
        config = deepcopy(self.config)
        others = self.tasks.keys() - {task.name}
        config["nlp"]["pipeline"] = [n for n in config["nlp"]["pipeline"] if n not in others]
        config["components"] = {
            name: settings for name, settings in config["components"].items() if name not in others
        }
        for name in self.encoders:
            if "balancer" in config["components"].get(name, {}):
                config["components"][name]["balancer"] = dict(PLAIN)
        keys = {key for name in others for key in self.tasks[name].scores} - {*task.scores}
        training: Settings = config["training"]
        weights = training.get("score_weights", {})
        training["score_weights"] = {key: w for key, w in weights.items() if key not in keys}
        for key in ("frozen_components", "annotating_components"):
            training[key] = [name for name in training.get(key, ()) if name not in others]
        own = config.get("initialize", {}).get("components", {})
        for name in others & own.keys():
            del own[name]
        return config

    def test(self, fold: Fold) -> None:
        """Test the model of a fold, and remove what only its training needed.

        fold (Fold): The fold, trained.
        """
        folder = self.get_folder(fold)
        tasks = [*self.tasks] if fold.model == MULTI else [fold.model]
        outcome, docs = evaluate(folder / "model-best", folder.parent / "test.spacy", tasks)
        save_docs(docs, folder / PREDICTIONS)
        outcome.write(folder / RESULT)
        remove(folder / "model-last")
        remove(folder / CHECKPOINT)

    def read_outcomes(self) -> dict[Fold, Outcome]:
        """RETURNS (Dict[Fold, Outcome]): The results of the finished folds."""
        folds = [fold for fold in self.list_folds() if self.is_finished(fold)]
        return {fold: Outcome.read(self.get_folder(fold) / RESULT) for fold in folds}


class Processes:
    """Training processes that run at the same time.

    threads (int): The threads of each.
    """

    def __init__(self, threads: int) -> None:
        self.environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = Event()

    def run(self, command: Sequence[str], log: Path) -> int:
        """Run a command, after another process that still writes to the log, such as one that has
        survived an earlier cross-validation.

        command (Sequence[str]): The command. It gets no Ctrl-C of the terminal, only that of
            `stop`, so that it is interrupted once.
        log (Path): The file that its output is appended to.
        RETURNS (int): Its exit code.
        """
        with log.open("ab") as file:
            while not try_lock(file):
                if self.stopped.wait(WAIT):
                    return INTERRUPTED
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
            self.running.add(process)
            if self.stopped.is_set():
                self._interrupt(process)
            code = process.wait()
            self.running.discard(process)
            return code

    def stop(self) -> None:
        """Interrupt all processes, and those that are about to begin. They save what they have."""
        self.stopped.set()
        for process in [*self.running]:
            self._interrupt(process)

    def _interrupt(self, process: "subprocess.Popen[bytes]") -> None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
