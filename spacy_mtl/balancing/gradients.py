# ruff: noqa: B006 -- empty default dicts, which nothing modifies
"""Balancers that weight tasks by the norms of their gradients and the angles between them.

The level sets which conflicts are visible, and the cost:

- "features", the token matrix, costs almost nothing. Tasks labelled on different docs have
  gradients in different rows. These are orthogonal, whatever they do to the weights.
- "last_layer", the weights of the encoder's last layer, shows conflicts between any two tasks, as
  far as they appear in this layer. It costs a backward through that layer per task.
- "params", all weights of the encoder, is the level of the papers. It costs a whole backward per
  task, and the memory for a whole gradient per task.

At every level the encoder runs one backward, for the weighted sum of the tasks' gradients. With
`rescale` this sum gets the norm of the plain sum, which is the sum after the prior `weights`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from itertools import permutations
from typing import Annotated, Literal

import numpy
import torch

from ..arguments import Range, Seed, Share, checked
from ..encoder.runtime.cpu.ops import norm
from ..encoder.training_pass import TaskBatch, rename_keys
from ..errors import Errors
from ..extras import get_install_line
from ..types import Floats2d, get_xp
from .base import ROUNDING, GradientBalancer, PriorBalancer, ScalarBalancer, add
from .static import StaticWeights, Weights

Level = Literal["features", "last_layer", "params"]


class TorchJD(GradientBalancer):
    """Calls a weighting of TorchJD. The package is imported when training begins: prediction does
    not need it.

    name (str): The registered name, without prefix and version.
    prior (ScalarBalancer): Gives weights that the gradients are multiplied by first.
    method (Optional[str]): The name of TorchJD's class without "Weighting", if it is not `name`.
    settings (float): The arguments of that class.
    """

    def __init__(
        self,
        name: str,
        level: str,
        rescale: bool,
        prior: ScalarBalancer,
        seed: int = 0,
        method: str | None = None,
        **settings: float,
    ) -> None:
        super().__init__(level, rescale, prior, seed)
        self.name, self.method, self.settings = name, method or name, settings

    @cached_property
    def weighting(self) -> Callable[[torch.Tensor], torch.Tensor]:
        try:
            aggregation = import_module("torchjd.aggregation")
            weighting: Callable[[torch.Tensor], torch.Tensor] = getattr(
                aggregation, f"{self.method}Weighting"
            )(**self.settings)
            return weighting
        except ImportError as err:
            raise ValueError(
                Errors.M023.format(
                    method=self.name, error=err, install=get_install_line("balancing")
                )
            ) from err

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
    """Turns each task's gradient towards another's until their cosine is its running mean.

    TorchJD's GradVac needs the same tasks in each batch, and does not save the means.

    beta (float): The weight of a new cosine in the running mean.
    """

    STATE = {**GradientBalancer.STATE, "cosines": dict[str, dict[str, float]]}

    def __init__(
        self, beta: float, level: str, rescale: bool, prior: ScalarBalancer, seed: int
    ) -> None:
        super().__init__(level, rescale, prior, seed)
        self.beta = beta
        self.cosines: dict[str, dict[str, float]] = {}

    def solve(self, tasks: list[str], gramian: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        products, weights = gramian.numpy(), numpy.eye(len(tasks))
        pairs = list(permutations(range(len(tasks)), 2))
        for i, j in numpy.random.default_rng(seeds).permutation(pairs):
            means = self.cosines.setdefault(tasks[i], {})
            mean = means.get(tasks[j], 0.0)
            norm = max(float(weights[i] @ products @ weights[i]), ROUNDING) ** 0.5
            other = float(products[j, j]) ** 0.5
            cosine = min(1.0, max(-1.0, float(weights[i] @ products[j]) / (norm * other)))
            if cosine < mean:
                # A mean of 1 would need an infinite weight.
                sine = max((1 - mean**2) ** 0.5, 0.01)
                excess = mean * (1 - cosine**2) ** 0.5 - cosine * sine
                weights[i, j] += norm * excess / (other * sine)
            means[tasks[j]] = (1 - self.beta) * mean + self.beta * cosine
        return torch.from_numpy(weights.sum(axis=0))

    def rename(self, names: Mapping[str, str]) -> None:
        super().rename(names)
        cosines = rename_keys(self.cosines, names)
        self.cosines = {task: rename_keys(means, names) for task, means in cosines.items()}


class ConFIG(GradientBalancer):
    """Finds the direction that has the same, positive cosine with every task's gradient.

    TorchJD's ConFIG needs the gradients themselves. The direction is pinv(U) 1 for the unit
    gradients U. This is their sum with the weights (U U')^-1 1, so the Gramian is enough.
    """

    def solve(self, tasks: list[str], gramian: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        norms = gramian.diagonal().sqrt()
        cosines = gramian / torch.outer(norms, norms)
        direction: torch.Tensor = torch.linalg.pinv(cosines, hermitian=True).sum(dim=1) / norms
        products = gramian @ direction
        # The clamp is for opposite gradients: no direction helps both tasks.
        length = products.sum() / (direction @ products).clamp(min=ROUNDING)
        return direction * length


class GradDrop(PriorBalancer):
    """Keeps only the positive or only the negative gradients in each component, drawn with
    probabilities in proportion to their sums. The weight of a task is the share of its squared
    gradient norm that is kept.

    The result is no weighted sum, so it exists only at the token matrix. Rows of docs with labels
    for one task stay as they are.

    TorchJD's GradDrop draws from torch's global generators and does not return the shares.

    rescale (bool): Whether to give the result the norm of the plain sum.
    prior (ScalarBalancer): Gives weights that the gradients are multiplied by first.
    seed (int): The seed of the random numbers.
    """

    def __init__(self, rescale: bool, prior: ScalarBalancer, seed: int) -> None:
        super().__init__(prior, seed)
        self.rescale = rescale

    def combine(self, batch: TaskBatch) -> tuple[Floats2d, dict[str, float]]:
        prior = self.prior.weigh(batch)
        gradients = {task: prior[task] * g for task, g in batch.gradients.items()}
        total, size = add(gradients.values()), add(map(abs, gradients.values()))
        xp = get_xp(total)
        p_positive = 0.5 + 0.5 * total / xp.maximum(size, numpy.finfo("f").tiny)
        draws = numpy.random.default_rng(self.draw_seeds()).random(total.shape, dtype="f")
        is_positive = p_positive > xp.asarray(draws)
        kept = {task: g * ((g > 0) == is_positive) for task, g in gradients.items()}
        result = add(kept.values())
        length = norm(result)
        scale = norm(total) / length if self.rescale and length else 1.0
        weights = {}
        for task in kept:
            full_norm = prior[task] * batch.norms[task]
            share = norm(kept[task]) ** 2 / (full_norm**2 or 1.0)
            weights[task] = scale * prior[task] * share
        return scale * result, weights


@checked("spacy-mtl.PCGrad.v1")
def create_pcgrad_v1(
    level: Level = "last_layer", rescale: bool = True, seed: Seed = 0, weights: Weights = {}
) -> GradientBalancer:
    """Project each task's gradient onto the normal plane of any gradient that it conflicts with:
    Yu et al. (2020), "Gradient Surgery for Multi-Task Learning", algorithm 1.

    level (str): Where conflicts are looked for. "features" is the token matrix, where tasks
        labelled on different docs show no conflict. "last_layer" is the weights of the encoder's
        last layer. "params" is all its weights, at the cost of a backward per task.
    rescale (bool): Whether to give the result the norm of the plain sum at that level, so that
        the learning rate keeps its meaning.
    seed (int): The seed of the order in which tasks are compared.
    weights (Dict[str, Union[float, Iterable[float]]]): By component a number >= 0 or a schedule
        that multiplies its gradient first, like a factor of its loss. The default is 1.
    RAISES (ValueError): M058 for an argument out of range. In training, M020 for a name that no
        component has, M023 if a package is missing, M025 if the encoder lacks the level.
    """
    return TorchJD("PCGrad", level, rescale, StaticWeights(weights), seed)


@checked("spacy-mtl.GradVac.v1")
def create_gradvac_v1(
    beta: Share = 0.01,
    level: Level = "last_layer",
    rescale: bool = True,
    seed: Seed = 0,
    weights: Weights = {},
) -> GradientBalancer:
    """Turn each task's gradient towards another's until their cosine is its running mean: Wang et
    al. (2021), "Gradient Vaccine", algorithm 1.

    beta (float): The weight of a new cosine in the running mean, from 0, which is PCGrad, to 1.
    level, rescale, seed, weights: As in `spacy-mtl.PCGrad.v1`.
    RAISES (ValueError): M058 for a beta out of range, M020 and M025 as in `spacy-mtl.PCGrad.v1`.
    """
    return GradVac(beta, level, rescale, StaticWeights(weights), seed)


@checked("spacy-mtl.CAGrad.v1")
def create_cagrad_v1(
    c: Annotated[float, Range(0, 10)] = 0.4,
    level: Level = "last_layer",
    rescale: bool = True,
    weights: Weights = {},
) -> GradientBalancer:
    """Maximize the smallest gain of any task near the mean gradient: Liu et al. (2021),
    "Conflict-Averse Gradient Descent", algorithm 1.

    c (float): The largest distance from the mean gradient, relative to its norm, 0 to 10.
    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`.
    RAISES (ValueError): M058 for a c out of range; the rest as in `spacy-mtl.PCGrad.v1`.
    """
    # With TorchJD's default norm_eps a task that has almost converged would stop all others.
    return TorchJD("CAGrad", level, rescale, StaticWeights(weights), c=c, norm_eps=1e-10)


@checked("spacy-mtl.MGDA.v1")
def create_mgda_v1(
    level: Level = "last_layer", rescale: bool = True, weights: Weights = {}
) -> GradientBalancer:
    """Take the weighted mean of the gradients with the smallest norm, which conflicts with none:
    Sener and Koltun (2018), "Multi-Task Learning as Multi-Objective Optimization", algorithm 2.

    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`, with the same errors.
    """
    return TorchJD("MGDA", level, rescale, StaticWeights(weights))


@checked("spacy-mtl.IMTLG.v1")
def create_imtl_g_v1(
    level: Level = "last_layer", rescale: bool = True, weights: Weights = {}
) -> GradientBalancer:
    """Give the result equal projections onto all gradients: IMTL-G, the gradient balance of Liu et
    al. (2021), "Towards Impartial Multi-task Learning", section 3.1. Weights can be negative. With
    `rescale` the result equals that of ConFIG.

    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`, with the same errors.
    """
    return TorchJD("IMTLG", level, rescale, StaticWeights(weights))


@checked("spacy-mtl.AlignedMTL.v1")
def create_aligned_mtl_v1(
    level: Level = "last_layer", rescale: bool = True, weights: Weights = {}
) -> GradientBalancer:
    """Replace the gradients by the nearest ones that are orthogonal and of equal norm: Senushkin
    et al. (2023), "Independent Component Alignment for Multi-Task Learning", algorithm 1.

    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`, with the same errors.
    """
    return TorchJD("AlignedMTL", level, rescale, StaticWeights(weights))


@checked("spacy-mtl.NashMTL.v1")
def create_nash_mtl_v1(
    level: Level = "last_layer", rescale: bool = True, weights: Weights = {}
) -> GradientBalancer:
    """Find the Nash bargaining solution, the weights w with G w = 1 / w for the Gramian G: Navon et
    al. (2022), "Multi-Task Learning as a Bargaining Game", claim 3.1.

    It is computed as FairGrad with alpha = 1, which has the same equation.

    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`, with the same errors.
    """
    return TorchJD("NashMTL", level, rescale, StaticWeights(weights), method="FairGrad", alpha=1.0)


@checked("spacy-mtl.UPGrad.v1")
def create_upgrad_v1(
    level: Level = "last_layer", rescale: bool = True, weights: Weights = {}
) -> GradientBalancer:
    """Project each gradient onto the directions that conflict with no gradient, and take the mean:
    Quinton and Rey (2024), "Jacobian Descent for Multi-Objective Optimization", section 3.

    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`, with the same errors.
    """
    return TorchJD("UPGrad", level, rescale, StaticWeights(weights))


@checked("spacy-mtl.FairGrad.v1")
def create_fairgrad_v1(
    alpha: Annotated[float, Range(0.01, 10)] = 2.0,
    level: Level = "last_layer",
    rescale: bool = True,
    weights: Weights = {},
) -> GradientBalancer:
    """Distribute the tasks' gains by alpha-fairness: Ban and Ji (2024), "Fair Resource Allocation
    in Multi-Task Learning", equation 4.

    alpha (float): From 0.01 to 10. With 1 it is Nash-MTL. A higher value favours the task that
        gains least.
    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`.
    RAISES (ValueError): M058 for an alpha out of range; the rest as in `spacy-mtl.PCGrad.v1`.
    """
    return TorchJD("FairGrad", level, rescale, StaticWeights(weights), alpha=alpha)


@checked("spacy-mtl.ConFIG.v1")
def create_config_v1(
    level: Level = "last_layer", rescale: bool = True, weights: Weights = {}
) -> GradientBalancer:
    """Find the direction in which each task gains in proportion to its gradient's norm: Liu, Chu
    and Thuerey (2024), "ConFIG: Towards Conflict-free Training of Physics Informed Neural
    Networks", equation 2.

    level, rescale, weights: As in `spacy-mtl.PCGrad.v1`, with the same errors.
    """
    return ConFIG(level, rescale, StaticWeights(weights))


@checked("spacy-mtl.GradDrop.v1")
def create_graddrop_v1(rescale: bool = True, seed: Seed = 0, weights: Weights = {}) -> GradDrop:
    """Keep gradients of one random sign in each component of the token matrix: Chen et al. (2020),
    "Just Pick a Sign", algorithm 1, lines 10 to 15.

    There is no level: the paper, too, works on the outputs of a layer. The logger shows as weights
    the shares of the gradients that were kept.

    rescale (bool): Whether to give the result the norm of the plain sum.
    seed (int): The seed of the random numbers.
    weights: As in `spacy-mtl.PCGrad.v1`.
    RAISES (ValueError): M020 and M058 as in `spacy-mtl.PCGrad.v1`.
    """
    return GradDrop(rescale, StaticWeights(weights), seed)
