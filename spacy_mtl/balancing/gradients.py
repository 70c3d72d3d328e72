# ruff: noqa: B006 -- empty dicts of weights, which nothing changes
"""Weights from the tasks' gradients: from their norms and the angles between them.

What can be seen of a conflict depends on the level:

- "features", the token matrix, costs next to nothing. Tasks labelled on different docs have
  different rows there, so that their gradients are orthogonal, whatever they do to the weights.
- "last_layer", the weights of the encoder's last layer, sees conflicts between any tasks, as far
  as they come up in this layer. It costs a backward through it for each task.
- "params", all weights of the encoder, is what the papers have. It costs a whole backward, and the
  memory of a whole gradient, for each task.

At every level the encoder's gradient is the weighted sum of the tasks' gradients, by one backward.
The plain sum that it is given the norm of is that of the gradients times their `weights`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from itertools import permutations
from typing import Annotated, Any, Literal

import numpy
import torch
from thinc.api import get_array_module

from ..arguments import Range, Seed, Share, checked
from ..encoder.hub import TaskBatch, rename_keys
from ..errors import Errors
from ..products import norm
from ..types import Floats2d
from .base import RandomBalancer
from .static import StaticWeights

Level = Literal["features", "last_layer", "params"]
CHUNK = 1 << 20  # columns that are turned to float64 at a time
CANCELLED = 1e-10  # of the squared norms: a sum below it holds nothing but rounding


class PriorBalancer(RandomBalancer):
    """Has the tasks' gradients multiplied by numbers before its method looks at them, as if these
    were factors of the losses.

    weights (Dict[str, Any]): As of `StaticWeights`.
    seed (int): Of the random numbers.
    """

    def __init__(self, weights: dict[str, Any], seed: int) -> None:
        super().__init__(seed)
        self.prior = StaticWeights(weights)

    def check(self, tasks: Sequence[str]) -> None:
        self.prior.check(tasks)

    def step(self) -> None:
        self.prior.step()

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"prior": self.prior.to_dict()}

    def from_dict(self, state: dict[str, Any]) -> None:
        super().from_dict(state)
        self.prior.from_dict(state.get("prior", {}))


class GradientBalancer(PriorBalancer):
    """Weigh the tasks by the Gramian of their gradients.

    The Gramian is divided by its mean diagonal, so that no method depends on how large gradients
    are. Tasks without a gradient at the level are left out, and keep the weight that they are
    given. A method is a subclass with `solve`.

    level (str): Where to take the gradients: "features", "last_layer" or "params".
    rescale (bool): Whether to give the result the norm of the plain sum, at that level.
    weights (Dict[str, Any]): What to multiply the gradients by before.
    seed (int): Of the random numbers.
    """

    def __init__(self, level: str, rescale: bool, weights: dict[str, Any], seed: int = 0) -> None:
        super().__init__(weights, seed)
        self.level, self.rescale = level, rescale

    def solve(self, tasks: list[str], gramian: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        """RETURNS (torch.Tensor): The weights of the tasks, K, for their Gramian, K x K."""
        raise NotImplementedError

    def weigh(self, batch: TaskBatch) -> dict[str, float]:
        seeds = self.draw_seeds()
        weights = self.prior.weigh(batch)
        active = sorted(task for task in batch.names if weights[task] * batch.norms[task])
        if len(active) < 2:
            return weights
        gramian = get_gramian(batch.get_rows(active, self.level))
        # A head that reads lower layers only has no gradient in the last one.
        seen = gramian.diagonal().nonzero().flatten()
        if len(seen) < 2:
            return weights
        active, gramian = [active[i] for i in seen], gramian[seen][:, seen]
        prior = torch.tensor([weights[task] for task in active], dtype=gramian.dtype)
        gramian *= torch.outer(prior, prior)
        gramian /= gramian.diagonal().mean()
        found = self.solve(active, gramian, seeds)
        if self.rescale:
            found = found * get_scale(gramian, found)
        weights.update(zip(active, (prior * found).tolist(), strict=True))
        return weights


class TorchJD(GradientBalancer):
    """A method of TorchJD, which is imported when training begins: predicting does without.

    name (str): The registered name, without prefix and version.
    method (Optional[str]): The name of TorchJD's weighting, without the ending, if it is another.
    settings (Any): For the weighting.
    """

    def __init__(
        self,
        name: str,
        level: str,
        rescale: bool,
        weights: dict[str, Any],
        seed: int = 0,
        method: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(level, rescale, weights, seed)
        self.name, self.method, self.settings = name, method or name, settings

    @cached_property
    def weighting(self) -> Callable[[torch.Tensor], torch.Tensor]:
        try:
            aggregation = import_module("torchjd.aggregation")
            return getattr(aggregation, f"{self.method}Weighting")(**self.settings)
        except ImportError as err:
            raise ValueError(Errors.M023.format(method=self.name, error=err)) from err

    def check(self, tasks: Sequence[str]) -> None:
        """RAISES (ValueError): M020 for weights of other tasks, M023 if a package is missing."""
        super().check(tasks)
        _ = self.weighting

    def solve(self, tasks: list[str], gramian: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        (seed,) = numpy.random.SeedSequence(seeds).generate_state(1).tolist()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.weighting(gramian)


class GradVac(GradientBalancer):
    """Turn each task's gradient towards the others', to their mean cosine so far.

    TorchJD's keeps the means by number, for the same tasks in each batch, and does not save them.

    beta (float): How much of a cosine goes into its mean.
    """

    STATE = {**GradientBalancer.STATE, "cosines": dict[str, dict[str, float]]}

    def __init__(
        self, beta: float, level: str, rescale: bool, weights: dict[str, Any], seed: int
    ) -> None:
        super().__init__(level, rescale, weights, seed)
        self.beta = beta
        self.cosines: dict[str, dict[str, float]] = {}

    def solve(self, tasks: list[str], gramian: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        products, weights = gramian.numpy(), numpy.eye(len(tasks))
        pairs = list(permutations(range(len(tasks)), 2))
        for i, j in numpy.random.default_rng(seeds).permutation(pairs):
            means = self.cosines.setdefault(tasks[i], {})
            mean = means.get(tasks[j], 0.0)
            norm = max(float(weights[i] @ products @ weights[i]), CANCELLED) ** 0.5
            other = float(products[j, j]) ** 0.5
            cosine = min(1.0, max(-1.0, float(weights[i] @ products[j]) / (norm * other)))
            if cosine < mean:
                # Short of a mean of 1, which would take an infinite weight.
                sine = max((1 - mean**2) ** 0.5, 0.01)
                excess = mean * (1 - cosine**2) ** 0.5 - cosine * sine
                weights[i, j] += norm * excess / (other * sine)
            means[tasks[j]] = (1 - self.beta) * mean + self.beta * cosine
        return torch.from_numpy(weights.sum(axis=0))

    def rename(self, names: Mapping[str, str]) -> None:
        cosines = rename_keys(self.cosines, names)
        self.cosines = {task: rename_keys(means, names) for task, means in cosines.items()}


class ConFIG(GradientBalancer):
    """Go where all tasks' gradients have the same, positive cosine with the result.

    TorchJD has it for the gradients only. The result's direction, the pseudoinverse of the unit
    gradients U times ones, is the sum of the unit gradients with the weights (U U')^-1 1, for
    which the Gramian is enough.
    """

    def solve(self, tasks: list[str], gramian: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        norms = gramian.diagonal().sqrt()
        cosines = gramian / torch.outer(norms, norms)
        direction = torch.linalg.pinv(cosines, hermitian=True).sum(dim=1) / norms
        products = gramian @ direction
        # None that all gain from: two gradients are opposite.
        length = products.sum() / (direction @ products).clamp(min=CANCELLED)
        return direction * length


class GradDrop(PriorBalancer):
    """In each component keep only the positive or only the negative gradients, by lot, with odds
    as their sums. A task's weight is the share of its gradient, by squared norm, that is kept.

    No weighted sum has this result, so it is for the token matrix alone. Rows of docs that have
    labels for one task only stay as they are.

    TorchJD draws from torch's own generators and does not tell the shares.

    rescale (bool): Whether to give the result the norm of the plain sum.
    weights (Dict[str, Any]): What to multiply the gradients by before.
    seed (int): Of the random numbers.
    """

    def __init__(self, rescale: bool, weights: dict[str, Any], seed: int) -> None:
        super().__init__(weights, seed)
        self.rescale = rescale

    def combine(self, batch: TaskBatch) -> tuple[Floats2d, dict[str, float]]:
        prior = self.prior.weigh(batch)
        gradients = {task: prior[task] * g for task, g in batch.gradients.items()}
        total, size = sum(gradients.values()), sum(map(abs, gradients.values()))
        xp = get_array_module(total)
        odds = 0.5 + 0.5 * total / xp.maximum(size, numpy.finfo("f").tiny)
        lots = numpy.random.default_rng(self.draw_seeds()).random(odds.shape, dtype="f")
        is_positive = odds > xp.asarray(lots)
        kept = {task: g * ((g > 0) == is_positive) for task, g in gradients.items()}
        result = sum(kept.values())
        length = norm(result)
        scale = norm(total) / length if self.rescale and length else 1.0
        weights = {}
        for task in kept:
            whole = prior[task] * batch.norms[task]
            share = norm(kept[task]) ** 2 / (whole**2 or 1.0)
            weights[task] = scale * prior[task] * share
        return scale * result, weights


def get_gramian(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """RETURNS (torch.Tensor): The products of all rows, K x K, float64 on the CPU."""
    gramian = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for chunk in zip(*(row.split(CHUNK) for row in rows), strict=True):
        part = torch.stack(chunk).double()
        gramian += (part @ part.T).cpu()
    return gramian


def get_scale(gramian: torch.Tensor, weights: torch.Tensor) -> float:
    """RETURNS (float): What gives the weighted sum the norm of the plain one, and turns it round if
    it would raise the sum of the losses, as IMTL-G's may; 1 if nothing is left of it, where the
    tasks are at an optimum.
    """
    products = gramian @ weights
    square = float(weights @ products)
    if square <= CANCELLED * float(weights**2 @ gramian.diagonal()):
        return 1.0
    norm = (max(float(gramian.sum()), 0.0) / square) ** 0.5
    return math.copysign(norm, float(products.sum()))


@checked("spacy-mtl.PCGrad.v1")
def create_pcgrad_v1(
    level: Level = "last_layer", rescale: bool = True, seed: Seed = 0, weights: dict[str, Any] = {}
) -> GradientBalancer:
    """Take from each task's gradient what goes against another's: Yu et al. (2020), "Gradient
    Surgery for Multi-Task Learning", algorithm 1.

    level (str): Where conflicts are looked for: "features", the token matrix, which sees none
        between tasks that are labelled on different docs; "last_layer", the weights of the
        encoder's last layer; "params", all its weights, at a backward for each task.
    rescale (bool): Whether to give the result the norm of the plain sum, at that level, so that
        the learning rate means the same.
    seed (int): Of the order in which tasks are compared.
    weights (Dict[str, Union[float, Iterable[float]]]): For a component a number >= 0 or a schedule
        to multiply its gradient by before, as if it were a factor of its loss; 1 if not named.
    RAISES (ValueError): M058 for an argument out of range; in training M020 for a name that no
        component has, M023 if a package is missing and M025 if the encoder has no such level.
    """
    return TorchJD("PCGrad", level, rescale, weights, seed)


@checked("spacy-mtl.GradVac.v1")
def create_gradvac_v1(
    beta: Share = 0.01,
    level: Level = "last_layer",
    rescale: bool = True,
    seed: Seed = 0,
    weights: dict[str, Any] = {},
) -> GradientBalancer:
    """Turn each task's gradient towards the others', to their mean cosine so far: Wang et al.
    (2021), "Gradient Vaccine", algorithm 1.

    beta (float): How much of a cosine goes into its mean, from 0, which is PCGrad, to 1.
    level, rescale, seed, weights: As in `spacy-mtl.PCGrad.v1`.
    RAISES (ValueError): M058 for another beta; the rest as in `spacy-mtl.PCGrad.v1`, but M023.
    """
    return GradVac(beta, level, rescale, weights, seed)


@checked("spacy-mtl.CAGrad.v1")
def create_cagrad_v1(
    c: Annotated[float, Range(0, 10)] = 0.4,
    level: Level = "last_layer",
    rescale: bool = True,
    weights: dict[str, Any] = {},
) -> GradientBalancer:
    """Help the task that gains least, near the mean gradient: Liu et al. (2021), "Conflict-Averse
    Gradient Descent", algorithm 1.

    c (float): How far from the mean gradient, in parts of its norm, 0 to 10.
    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`.
    RAISES (ValueError): M058 for another c; the rest as in `spacy-mtl.PCGrad.v1`.
    """
    # By TorchJD's own norm_eps a task that is nearly done would stop all others.
    return TorchJD("CAGrad", level, rescale, weights, c=c, norm_eps=1e-10)


@checked("spacy-mtl.MGDA.v1")
def create_mgda_v1(
    level: Level = "last_layer", rescale: bool = True, weights: dict[str, Any] = {}
) -> GradientBalancer:
    """Take the shortest mean of the gradients, which goes against none: Sener and Koltun (2018),
    "Multi-Task Learning as Multi-Objective Optimization", algorithm 2.

    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`, with the same errors.
    """
    return TorchJD("MGDA", level, rescale, weights)


@checked("spacy-mtl.IMTLG.v1")
def create_imtl_g_v1(
    level: Level = "last_layer", rescale: bool = True, weights: dict[str, Any] = {}
) -> GradientBalancer:
    """Give the result equal projections onto all gradients: IMTL-G, the gradient balance of Liu et
    al. (2021), "Towards Impartial Multi-task Learning", section 3.1. Weights can be negative; with
    rescale the result is ConFIG's.

    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`, with the same errors.
    """
    return TorchJD("IMTLG", level, rescale, weights)


@checked("spacy-mtl.AlignedMTL.v1")
def create_aligned_mtl_v1(
    level: Level = "last_layer", rescale: bool = True, weights: dict[str, Any] = {}
) -> GradientBalancer:
    """Make the gradients orthogonal and of equal norm, as near to themselves as can be: Senushkin
    et al. (2023), "Independent Component Alignment for Multi-Task Learning", algorithm 1.

    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`, with the same errors.
    """
    return TorchJD("AlignedMTL", level, rescale, weights)


@checked("spacy-mtl.NashMTL.v1")
def create_nash_mtl_v1(
    level: Level = "last_layer", rescale: bool = True, weights: dict[str, Any] = {}
) -> GradientBalancer:
    """Take the tasks' bargaining solution, the weights w with G w = 1 / w for their Gramian G:
    Navon et al. (2022), "Multi-Task Learning as a Bargaining Game", claim 3.1.

    This is FairGrad's equation for alpha = 1, and is solved as such.

    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`, with the same errors.
    """
    return TorchJD("NashMTL", level, rescale, weights, method="FairGrad", alpha=1.0)


@checked("spacy-mtl.UPGrad.v1")
def create_upgrad_v1(
    level: Level = "last_layer", rescale: bool = True, weights: dict[str, Any] = {}
) -> GradientBalancer:
    """Project each gradient to where it goes against none, and take the mean: Quinton and Rey
    (2024), "Jacobian Descent for Multi-Objective Optimization", section 3.

    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`, with the same errors.
    """
    return TorchJD("UPGrad", level, rescale, weights)


@checked("spacy-mtl.FairGrad.v1")
def create_fairgrad_v1(
    alpha: Annotated[float, Range(0.01, 10)] = 2.0,
    level: Level = "last_layer",
    rescale: bool = True,
    weights: dict[str, Any] = {},
) -> GradientBalancer:
    """Share out the tasks' gains fairly: Ban and Ji (2024), "Fair Resource Allocation in
    Multi-Task Learning", equation 4.

    alpha (float): From 0.01 to 10. With 1 it is Nash-MTL; the higher, the more for the task that
        gains least.
    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`.
    RAISES (ValueError): M058 for another alpha; the rest as in `spacy-mtl.PCGrad.v1`.
    """
    return TorchJD("FairGrad", level, rescale, weights, alpha=alpha)


@checked("spacy-mtl.ConFIG.v1")
def create_config_v1(
    level: Level = "last_layer", rescale: bool = True, weights: dict[str, Any] = {}
) -> GradientBalancer:
    """Go where all tasks gain, in proportion to their gradients' norms: Liu, Chu and Thuerey
    (2024), "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks",
    equation 2.

    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`, with the same errors.
    """
    return ConFIG(level, rescale, weights)


@checked("spacy-mtl.GradDrop.v1")
def create_graddrop_v1(
    rescale: bool = True, seed: Seed = 0, weights: dict[str, Any] = {}
) -> GradDrop:
    """In each component of the token matrix keep gradients of one sign only, drawn by lot: Chen et
    al. (2020), "Just Pick a Sign", algorithm 1, lines 10 to 15.

    There is no level: the paper too has it at a layer's outputs. The weights that are logged are
    the shares of the gradients that were kept.

    rescale (bool): Whether to give the result the norm of the plain sum.
    seed (int): Of the random numbers.
    weights: As in `spacy-mtl.PCGrad.v1`.
    RAISES (ValueError): M020 and M058 as in `spacy-mtl.PCGrad.v1`.
    """
    return GradDrop(rescale, weights, seed)
