"""Statistics of the tasks in training, for the logger."""

import math
import warnings
from collections.abc import Mapping
from itertools import combinations

from ..errors import Errors, Warnings
from ..storage import check_type
from ..types import Settings, get_xp
from .runtime.cpu.ops import dot
from .training_pass import PassResult, TaskBatch, rename_keys

MAX_BROKEN = 20  # broken batches of a task in a row that stop the training
COUNTS = ("updates", "skipped", "units")
MEANS = ("loss", "weight", "grad_norm")
STATE = {
    "sums": dict[str, dict[str, float]],
    "streaks": dict[str, int],
    "warned": list[str],
    "cosines": dict[str, list[float]],
}


class Diagnostics:
    """Sums up what the tasks did in training batches, until the logger takes the means.

    sums (Dict[str, Dict[str, float]]): By task, the sums of COUNTS and MEANS.
    streaks (Dict[str, int]): By task, the number of broken batches in a row.
    warned (Set[str]): The tasks whose first broken batch has been warned of.
    cosines (Dict[str, List[float]]): By pair of tasks, the cosines of their gradients.
    """

    def __init__(self) -> None:
        self.sums: dict[str, dict[str, float]] = {}
        self.streaks: dict[str, int] = {}
        self.warned: set[str] = set()
        self.cosines: dict[str, list[float]] = {}

    def add(self, result: PassResult) -> None:
        """Add a training pass. Warns by W002 of a task's first broken batch.

        RAISES (ValueError): M026 for a task's 20th broken batch in a row.
        """
        batch = result.batch
        for task in batch.names:
            self.streaks[task] = 0
            total = self._get_sums(task)
            total["updates"] += 1
            total["units"] += batch.units.get(task, 0)
            total["loss"] += batch.losses[task]
            total["weight"] += result.weights[task]
            total["grad_norm"] += batch.norms[task]
        for pair, cosine in get_cosines(batch).items():
            self.cosines.setdefault(pair, []).append(cosine)
        for task in result.broken.names:
            self._add_broken(task, result.broken.losses[task], result.broken.norms[task])

    def _add_broken(self, task: str, loss: float, norm: float) -> None:
        self._get_sums(task)["skipped"] += 1
        self.streaks[task] = self.streaks.get(task, 0) + 1
        if self.streaks[task] >= MAX_BROKEN:
            raise ValueError(Errors.M026.format(task=task, loss=loss, norm=norm, n=MAX_BROKEN))
        if task not in self.warned:
            self.warned.add(task)
            warnings.warn(Warnings.W002.format(task=task, loss=loss, norm=norm, n=MAX_BROKEN))

    def rename(self, names: Mapping[str, str]) -> None:
        """Move the sums to new names of tasks, and drop those of all others.

        names (Mapping[str, str]): The new name of each task.
        """
        self.sums, self.streaks = rename_keys(self.sums, names), rename_keys(self.streaks, names)
        self.warned = {names[task] for task in self.warned if task in names}
        self.cosines = {
            "|".join(sorted([names[a], names[b]])): self.cosines[pair]
            for a, b in combinations(sorted(names), 2)
            if (pair := f"{a}|{b}") in self.cosines
        }

    def take(self) -> dict[str, dict[str, float]]:
        """RETURNS (Dict[str, Dict[str, float]]): For each task with labels since the last call: the
        number of batches, the number of broken ones that were left out, and of the others the
        number of labelled units, such as tokens or docs, and the means of loss, weight and gradient
        norm. A stock head has 0 units.
        """
        sums, self.sums = self.sums, {}
        return {
            task: {
                key: value if key in COUNTS else value / (total["updates"] or math.nan)
                for key, value in total.items()
            }
            for task, total in sums.items()
        }

    def take_cosines(self) -> dict[str, float]:
        """RETURNS (Dict[str, float]): For each pair of tasks with labels in one batch since the
        last call, under "a|b", the mean of `get_cosines`.
        """
        found, self.cosines = self.cosines, {}
        return {pair: sum(values) / len(values) for pair, values in found.items()}

    def state_dict(self) -> Settings:
        """RETURNS (Dict[str, Any]): The sums, as JSON can hold them."""
        return {
            "sums": {task: dict(total) for task, total in self.sums.items()},
            "streaks": dict(self.streaks),
            "warned": sorted(self.warned),
            "cosines": {pair: list(values) for pair, values in self.cosines.items()},
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Replace the sums by a result of `state_dict`."""
        found = {key: check_type(state[key], kind, key) for key, kind in STATE.items()}
        self.sums, self.streaks = found["sums"], found["streaks"]
        self.warned, self.cosines = set(found["warned"]), found["cosines"]

    def _get_sums(self, task: str) -> dict[str, float]:
        return self.sums.setdefault(task, dict.fromkeys((*COUNTS, *MEANS), 0.0))


def get_cosines(batch: TaskBatch) -> dict[str, float]:
    """Compare the gradients of each pair of tasks at the token matrix.

    RETURNS (Dict[str, float]): The cosine, under "a|b" with a before b in the alphabet. Tasks with
        a gradient of zeros are left out.
    """
    active = sorted(task for task in batch.names if batch.norms[task])
    pairs = list(combinations(active, 2))
    if not pairs:
        return {}
    xp = get_xp(batch.gradients[active[0]])
    # One transfer from a GPU.
    products = xp.stack([dot(batch.gradients[a], batch.gradients[b]) for a, b in pairs])
    return {
        f"{a}|{b}": max(-1.0, min(1.0, product / (batch.norms[a] * batch.norms[b])))
        for (a, b), product in zip(pairs, products.tolist(), strict=True)
    }
