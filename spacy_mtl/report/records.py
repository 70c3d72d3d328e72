"""The content of a report: a dataclass for each kind of row. `asdict` turns it into JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from ..training.calibration import Bin
from ..types import Floats2d, Settings

Line: TypeAlias = Sequence[tuple[float, float]]  # steps and values
Curves: TypeAlias = dict[str, dict[str, Line]]  # by kind, such as "loss", and by name


@dataclass
class RunSummary:
    """A run of a report.

    name (str): Its name in the report.
    setting (Optional[str]): The setting that it belongs to; None if there is only a file of scores.
    tasks (List[str]): The trained components, without encoders.
    seed (Optional[int]): The seed of the training run.
    source (str): Where the scores come from.
    scores (Dict[str, Any]): The scores by spaCy's keys, without the ones that are None.
    steps (Optional[int]): The number of updates.
    curves (Curves): Loss, weight and gradient norm of each task, scores, and the cosine of each
        pair of tasks ("ner|tagger").
    """

    name: str
    setting: str | None
    tasks: list[str]
    seed: int | None
    source: str
    scores: Settings
    steps: int | None
    curves: Curves


@dataclass
class CorpusSize:
    """A corpus and its size.

    name (str): The path in the config, or the name of the data that the pipelines ran on.
    docs, words (Optional[int]): Their numbers; None if there is no readable .spacy file.
    """

    name: str
    docs: int | None = None
    words: int | None = None


@dataclass
class SettingSummary:
    """A setting, whose runs differ only in their seeds.

    name (str): Its name in the report.
    tasks (List[str]): The trained components, without encoders.
    seeds (List[int]): The seeds of its runs.
    encoder (Optional[str]): The name of the encoder's model; None without an encoder.
    balancer (Optional[str]): The registered name of the balancer; None without a balancer.
    weights (Dict[str, float]): The weight of each task at the end of training, a mean over seeds;
        the numbers in the config if there is no log.
    train, dev (List[CorpusSize]): The corpora.
    """

    name: str
    tasks: list[str]
    seeds: list[int]
    encoder: str | None = None
    balancer: str | None = None
    weights: dict[str, float] = field(default_factory=dict)
    train: list[CorpusSize] = field(default_factory=list)
    dev: list[CorpusSize] = field(default_factory=list)


@dataclass
class Difference:
    """A key of the config that has different values in the settings.

    key (str): The key, such as "training.batcher.size".
    values (Dict[str, Optional[str]]): The value as text by setting; None where the key is missing.
    """

    key: str
    values: dict[str, str | None]


@dataclass
class TaskRow:
    """A row about one task in one setting."""

    task: str
    setting: str


@dataclass
class Transfer:
    """A task trained with other tasks, compared with the same task trained alone.

    task (str): The task.
    single (str): The setting in which it is trained alone.
    multi (str): The setting in which it is trained with other tasks.
    measure (str): The score, such as "ents_f".
    single_mean, multi_mean (float): Mean of the score over seeds, 0 to 1.
    single_sd, multi_sd (Optional[float]): Standard deviation over seeds; None for one seed.
    difference (float): `multi_mean - single_mean`.
    p (Optional[float]): p value of the difference; None if the runs differ in other settings too.
    seeds (int): Number of seeds of each setting.
    docs (int): Number of docs with gold labels.
    differences (List[str]): Keys of the config in which the runs differ besides their tasks.
    """

    task: str
    single: str
    multi: str
    measure: str
    single_mean: float
    single_sd: float | None
    multi_mean: float
    multi_sd: float | None
    difference: float
    p: float | None
    seeds: int
    docs: int
    differences: list[str] = field(default_factory=list)

    @property
    def is_significant(self) -> bool:
        """RETURNS (bool): Whether p is below 0.05."""
        return self.p is not None and self.p < 0.05

    @property
    def spread(self) -> float | None:
        """RETURNS (Optional[float]): The larger standard deviation over seeds of the two sides;
        None for one seed.
        """
        return max((sd for sd in (self.single_sd, self.multi_sd) if sd is not None), default=None)

    @property
    def is_within_spread(self) -> bool:
        """RETURNS (bool): Whether the difference is at most the spread, so that another seed may
        turn it around.
        """
        return self.spread is not None and abs(self.difference) <= self.spread

    @property
    def is_clear(self) -> bool:
        """RETURNS (bool): Whether the difference is significant and larger than the spread."""
        return self.is_significant and not self.is_within_spread


@dataclass
class LabelScore(TaskRow):
    """The scores of one label, over all seeds.

    label (str): The label.
    p, r, f (Optional[float]): Precision, recall and F, 0 to 1; None where nothing can be counted.
    support (float): Number of gold labels; a mean over seeds.
    """

    label: str
    p: float | None
    r: float | None
    f: float | None
    support: float

    @classmethod
    def from_counts(cls, row: TaskRow, label: str, counts: Sequence[float]) -> "LabelScore":
        """Score a label.

        row (TaskRow): The task and the setting.
        label (str): The label.
        counts (Sequence[float]): The numbers of true positives, false positives, false negatives.
        RETURNS (LabelScore): The scores.
        """
        right, wrong, missed = map(float, counts)
        found, gold = right + wrong, right + missed
        return cls(
            row.task,
            row.setting,
            label,
            p=right / found if found else None,
            r=right / gold if gold else None,
            f=2 * right / (found + gold) if found + gold else None,
            support=gold,
        )


@dataclass
class TaskCalibration(TaskRow):
    """How well the probabilities of a head match the share of its predictions that is correct.

    ece_mean (float): Mean of the expected calibration error over seeds, 0 to 1.
    ece_sd (Optional[float]): Standard deviation over seeds; None for one seed.
    confidence (float): Mean probability of the predictions.
    accuracy (float): Share of the predictions that is correct.
    predictions (int): Number of predictions.
    bins (List[Bin]): Bins of about as many predictions each, by probability, over all seeds.
    """

    ece_mean: float
    ece_sd: float | None
    confidence: float
    accuracy: float
    predictions: int
    bins: list[Bin]


@dataclass
class Confusion(TaskRow):
    """The number of spans with a gold label and a predicted label, over all seeds."""

    gold: str
    predicted: str
    count: int


@dataclass
class Mark:
    """A marked part of a text: start and end in characters, and its label."""

    start: int
    end: int
    label: str


@dataclass
class Excerpt(TaskRow):
    """An excerpt of a doc with errors.

    doc (int): Index of the doc in the data.
    text (str): The excerpt.
    gold (List[Mark]): The gold labels that were missed.
    predicted (List[Mark]): The predicted labels that are wrong.
    """

    doc: int
    text: str
    gold: list[Mark]
    predicted: list[Mark]


@dataclass
class Report:
    """The whole report. Every list after `differences` is empty if the pipelines did not run.

    runs (List[RunSummary]): The runs.
    data (Optional[str]): The path of the data that the pipelines ran on.
    corpus (Optional[CorpusSize]): The size of these data.
    date (str): The date and time of the report; empty if unknown.
    versions (Dict[str, str]): The versions of the installed packages, by name.
    settings (List[SettingSummary]): The settings.
    differences (List[Difference]): How the settings differ besides tasks, balancers and seeds.
    transfer (List[Transfer]): For each task the effect of training it with other tasks.
    labels (List[LabelScore]): Scores by label.
    calibration (List[TaskCalibration]): Calibration of the heads.
    confusions (List[Confusion]): Confusions of labels.
    errors (List[Excerpt]): Excerpts with errors.
    """

    runs: list[RunSummary]
    data: str | None = None
    corpus: CorpusSize | None = None
    date: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    settings: list[SettingSummary] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    transfer: list[Transfer] = field(default_factory=list)
    labels: list[LabelScore] = field(default_factory=list)
    calibration: list[TaskCalibration] = field(default_factory=list)
    confusions: list[Confusion] = field(default_factory=list)
    errors: list[Excerpt] = field(default_factory=list)


Row = TypeVar("Row", bound=TaskRow)


def group_by_task(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """RETURNS (Dict[str, List[TaskRow]]): The rows of each task, in their order."""
    tasks = dict.fromkeys(row.task for row in rows)
    return {task: [row for row in rows if row.task == task] for task in tasks}


@dataclass
class Matrix:
    """A matrix to save as a picture.

    title (str): The title.
    values (Floats2d): Strength of the colours, blue above 0 and orange below; nan has no colour.
    texts (Sequence[Sequence[str]]): The texts of the cells.
    rows, columns (Sequence[str]): The names of the rows and columns.
    labels (Tuple[str, str]): The labels of the column axis and the row axis.
    """

    title: str
    values: Floats2d
    texts: Sequence[Sequence[str]]
    rows: Sequence[str]
    columns: Sequence[str]
    labels: tuple[str, str]
