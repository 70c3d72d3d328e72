"""The checks of a config, one section after the other."""

from collections.abc import Collection, Sequence
from itertools import islice

from spacy.language import Language
from spacy.schemas import ConfigSchemaTraining
from spacy.training import Example
from spacy.util import (
    get_sourced_components,
    load_model_from_config,
    registry,
    resolve_dot_names,
)
from thinc.api import Config, fix_random_seed

from ..corpora.counts import Counts, add_counts
from ..corpora.inventory import count_corpora, get_mixed, get_task_layers, read_corpora
from ..corpora.mixed import Reader
from ..errors import Errors
from ..training.step import check_training
from ..types import Settings
from .batch import TaskStep, check_steps, pick_batch, try_batch
from .corpora import (
    check_corpora,
    check_evaluations,
    check_names,
    check_paths,
    check_streams,
)
from .encoder import EncoderSummary, check_encoders, describe_encoders
from .finding import Finding, has_failure
from .tasks import check_tasks

STREAMED = 1000  # docs of a stream to read
INITIAL = 100  # docs of a stream that spaCy initializes the pipeline with


class Examination:
    """The checks of a config. Each section needs the sections before it, without a failure.

    config (Config): The config, not interpolated.
    nlp (Language): The pipeline.
    tasks (Mapping[str, Optional[AnnotationLayer]]): The layer of each task.
    counts (List[Tuple[str, Counts]]): The labels of each corpus of train and dev.
    n_streamed (Optional[int]): How many docs of a stream are read; None if all docs are read.
    encoders (Dict[str, EncoderSummary]): The encoders.
    batch (List[Example]): The batch that was tried.
    steps (Dict[str, TaskStep]): Its effect on each task.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.nlp = load_model_from_config(config, auto_fill=True)
        self._filled = self.nlp.config.interpolate()
        self._training: Settings = registry.resolve(
            self._filled["training"], schema=ConfigSchemaTraining
        )
        check_training(self._training)
        self._is_stream = self._training["max_epochs"] == -1
        self._frozen: list[str] = self._training["frozen_components"]
        self.tasks = get_task_layers(self.nlp)
        self.counts: list[tuple[str, Counts]] = []
        self.n_streamed: int | None = None
        self.encoders: dict[str, EncoderSummary] = {}
        self.batch: list[Example] = []
        self.steps: dict[str, TaskStep] = {}

    def check_corpora(self) -> list[Finding]:
        """Read the corpora and check them.

        RETURNS (List[Finding]): The findings.
        RAISES (ValueError): M124, M221 or M227 if the corpora cannot be read.
        """
        names = {key: self._training[key] for key in ("train_corpus", "dev_corpus")}
        check_names(self._filled, names)
        findings = check_paths(self.nlp.config, names.values())
        if has_failure(findings):
            return findings
        self._train_reader, dev_reader = resolve_dot_names(self._filled, [*names.values()])
        findings += check_streams(self._train_reader, dev_reader, is_stream=self._is_stream)
        if has_failure(findings):
            return findings
        max_steps, every = (self._training[key] for key in ("max_steps", "eval_frequency"))
        findings += check_evaluations(max_steps, every)
        return findings + self._read(self._train_reader, dev_reader)

    def _read(self, train_reader: Reader, dev_reader: Reader) -> list[Finding]:
        if self._is_stream and get_mixed(train_reader) is None:
            self.n_streamed = STREAMED
        self._train = read_corpora(self.nlp, "train", train_reader, self.n_streamed)
        self._dev = read_corpora(self.nlp, "dev", dev_reader, None)
        self._train_counts = count_corpora(self._train, self.tasks)
        self._dev_counts = count_corpora(self._dev, self.tasks)
        self.counts = [*self._train_counts.items(), *self._dev_counts.items()]
        return check_corpora(self._train, self._dev, self._train_counts)

    def check_tasks(self) -> list[Finding]:
        """RETURNS (List[Finding]): The findings about the labels of each task."""
        train, dev = (add_counts(c.values()) for c in (self._train_counts, self._dev_counts))
        return check_tasks(self.tasks, train, dev, self._frozen)

    def check_encoders(self) -> list[Finding]:
        """Initialize the pipeline and check its encoders.

        RETURNS (List[Finding]): The findings.
        RAISES (ValueError): If the pipeline cannot be initialized.
        """
        self._examples = [eg for corpus in self._train.values() for eg in corpus.examples]
        if self.n_streamed:
            self._examples = list(islice(self._train_reader(self.nlp), INITIAL))
        sourced = get_sourced_components(self.config)
        initialize(self.nlp, self._examples, self._training, sourced)
        self.encoders = describe_encoders(self.nlp)
        return check_encoders(self.nlp, self.encoders, {**self._train, **self._dev}, self._frozen)

    def check_scores(self) -> list[Finding]:
        """RETURNS (List[Finding]): M257 for score weights of scores that do not exist."""
        from ..training.scoreboard import check_score_weights

        try:
            check_score_weights(self.nlp)
        except ValueError as error:
            return [Finding(str(error), is_failure=True)]
        return []

    def check_batch(self) -> list[Finding]:
        """RETURNS (List[Finding]): The findings about a batch that is tried."""
        self.batch = pick_batch(self._examples, self.tasks, self._training["batcher"])
        if not self.batch:
            return [Finding(Errors.M226.format(n=len(self._examples)), is_failure=True)]
        annotating: list[str] = self._training["annotating_components"]
        self.steps = try_batch(
            self.nlp, self.batch, self.tasks, frozen=self._frozen, annotating=annotating
        )
        return check_steps(self.steps)


def initialize(
    nlp: Language,
    examples: Sequence[Example],
    training: Settings,
    sourced: Collection[str],
) -> None:
    """Initialize the pipeline as `spacy train` does, but from examples that are already read.

    nlp (Language): The pipeline.
    examples (Sequence[Example]): The examples.
    training (Dict[str, Any]): The section `[training]`, resolved.
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
