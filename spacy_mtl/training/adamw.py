"""AdamW with a learning rate of its own for the encoder."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain
from typing import Annotated, Any

import torch
from thinc.api import Optimizer
from thinc.types import FloatsXd, Generator
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..arguments import Range, Rate, checked
from ..encoder.model.backward import get_depths
from ..encoder.model.shim import EncoderShim
from ..errors import Errors
from ..types import Settings
from ..weights import AnyModel, Key, ModelWeights, get_average_key

NAME = "spacy-mtl.AdamW.v1"
RATE = Range(0, 1000)
FloatOrSchedule = float | list[float] | Generator


class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2) for
    a pipeline with one pretrained encoder and several new heads.

    torch updates all weights of the encoder at once; thinc updates the weights of the heads. Norms
    and biases do not decay. Gradients are clipped by their norm over all weights of a component.

    learn_rate (Union[float, List[float], Generator]): The learning rate of the heads; a number or a
        schedule.
    encoder_learn_rate (Union[float, List[float], Generator]): The learning rate of the encoder.
    weight_decay (float): The decay per unit of the learning rate.
    grad_clip (float): The largest norm of a component's gradient; 0 for no clipping.
    beta1, beta2, eps (float): The parameters of Adam.
    freeze (Sequence[str]): Patterns, with * and ?, for the names of encoder parameters that do not
        change.
    layer_decay (float): The learning rate of each encoder layer as a share of the next layer's.
    unfreeze_steps (int): The updates until the encoder's last layer is unfrozen, and from there
        until each layer below is. The embeddings are unfrozen last; 0 for all from the start.
    average (float): The decay of an exponential moving average of all weights, in `averages`; 0 for
        none.

    modules (Dict[int, Tuple[torch.nn.Module, torch.optim.Optimizer]]): The encoders and their torch
        optimizers, by the id of the encoder's shim.
    """

    averages: dict[Key, FloatsXd] | None  # type: ignore[assignment]

    def __init__(
        self,
        learn_rate: FloatOrSchedule,
        encoder_learn_rate: FloatOrSchedule,
        weight_decay: float,
        grad_clip: float,
        beta1: float,
        beta2: float,
        eps: float,
        freeze: Sequence[str],
        layer_decay: float = 1.0,
        unfreeze_steps: int = 0,
        average: float = 0.0,
    ) -> None:
        super().__init__(
            learn_rate,
            L2=weight_decay,
            L2_is_weight_decay=True,
            grad_clip=grad_clip,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            use_averages=bool(average),
        )
        self.encoder_learn_rate = 0.0
        self._set_attr_or_schedule(  # type: ignore[no-untyped-call]
            "encoder_learn_rate", encoder_learn_rate
        )
        self.freeze = list(freeze)
        self.layer_decay, self.unfreeze_steps, self.average = layer_decay, unfreeze_steps, average
        self.modules: dict[int, tuple[torch.nn.Module, torch.optim.Optimizer]] = {}

    def __call__(
        self, key: tuple[int, str], weights: FloatsXd, gradient: FloatsXd, *, lr_scale: float = 1.0
    ) -> tuple[FloatsXd, FloatsXd]:
        """Update one array of a head, as thinc's optimizer does.

        key (Tuple[int, str]): The id of the node or shim, and the name of the array.
        weights, gradient (FloatsXd): The array and its gradient. Both are changed.
        lr_scale (float): A factor of the learning rate.
        RETURNS (Tuple[FloatsXd, FloatsXd]): The new weights, and zeros.
        """
        decay, self.L2 = self.L2, self.L2 if weights.ndim > 1 else 0.0
        averages, self.averages = self.averages, None  # thinc's averages would begin at 0
        first: Any = weights.copy() if averages is not None and not self.nr_update[key] else None
        try:
            weights, gradient = super().__call__(key, weights, gradient, lr_scale=lr_scale)
        finally:
            self.L2, self.averages = decay, averages
        if averages is not None:
            of_tensor = get_average_key(*key)
            place: Key = of_tensor if of_tensor in averages else key
            mean: Any = averages[place] if first is None else first
            averages[place] = mean
            mean += (1 - self._get_decay(key)) * (weights - mean)
        return weights, gradient

    def get_adam(self, key: int, module: torch.nn.Module) -> torch.optim.Optimizer:
        """RETURNS (torch.optim.Optimizer): The torch optimizer of an encoder. It is created at the
        first call, and again if the module was replaced.
        """
        known, adam = self.modules.get(key, (None, None))
        if adam is None or known is not module:
            adam = torch.optim.AdamW(
                self._get_groups(module), betas=(self.b1, self.b2), eps=self.eps, fused=True
            )
            self.modules[key] = (module, adam)
            self.nr_update[key, ""] = 0
        return adam

    def step_module(self, key: int, module: torch.nn.Module) -> None:
        """Update all parameters of an encoder that have a gradient, except frozen ones.

        key (int): Identifies the module's moments between calls.
        module (torch.nn.Module): The encoder.
        RAISES (ValueError): M041 if a pattern of `freeze` matches no parameter, M046 if the encoder
            has no layers, but settings for them.
        """
        adam = self.get_adam(key, module)
        n_done = self.nr_update[key, ""]
        learning = [p for group in adam.param_groups for p in group["params"]]
        ids = set(map(id, learning))
        if self.averages is not None and not n_done:
            for name, parameter in module.named_parameters():
                if id(parameter) in ids:
                    first: Any = parameter.detach().clone()
                    self.averages[get_average_key(key, name)] = first
        for group in adam.param_groups:
            group["lr"] = self.encoder_learn_rate * self.layer_decay ** group["above"]
            if n_done < self.unfreeze_steps * (group["above"] + 1):
                for parameter in group["params"]:
                    parameter.grad = None
        if self.grad_clip:
            torch.nn.utils.clip_grad_norm_(learning, self.grad_clip)
        adam.step()
        self.nr_update[key, ""] += 1
        if self.averages and learning:
            named = {get_average_key(key, name): p for name, p in module.named_parameters()}
            found = {k: p for k, p in named.items() if k in self.averages and id(p) in ids}
            update: Any = get_ema_multi_avg_fn(self._get_decay((key, "")))
            update([self.averages[k] for k in found], list(found.values()), None)

    def clip_model(self, model: AnyModel) -> None:
        """Scale the gradients of a head down to the norm `grad_clip`. An encoder inside the head
        does not count: `step_module` clips it.

        model (Model): The head's model.
        """
        weights = ModelWeights({"": model}, skip=(EncoderShim,))
        if self.grad_clip:
            weights.clip(self.grad_clip)
        if self.averages is not None:
            weights.complete_averages(self.averages)

    def _get_decay(self, key: tuple[int, str]) -> float:
        """RETURNS (float): The decay of averages. It is smaller in the first updates."""
        n = self.nr_update[key]
        return min(self.average, (1 + n) / (10 + n))

    def _get_groups(self, module: torch.nn.Module) -> list[Settings]:
        names = [name for name, _ in module.named_parameters()]
        has_depths = self.layer_decay < 1 or self.unfreeze_steps
        depths = get_depths(module) if has_depths else dict.fromkeys(names, 0)
        for pattern in self.freeze:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(Errors.M041.format(pattern=pattern, names=names[:3] + names[-3:]))
        n = max(depths.values())
        groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {
            (n - depth, is_matrix): []
            for depth in sorted(set(depths.values()), reverse=True)
            for is_matrix in (True, False)
        }
        for name, parameter in module.named_parameters():
            is_frozen = any(fnmatchcase(name, pattern) for pattern in self.freeze)
            if parameter.requires_grad and not is_frozen:
                groups[n - depths[name], parameter.ndim > 1].append(parameter)
        return [
            {"params": found, "weight_decay": self.L2 if is_matrix else 0.0, "above": above}
            for (above, is_matrix), found in groups.items()
        ]


def check_rates(name: str, given: FloatOrSchedule) -> FloatOrSchedule:
    """RETURNS (Union[float, Generator]): The rate, or a schedule that checks each rate.
    RAISES (ValueError): M058 if the rate, or the first one, is out of range.
    """
    if isinstance(given, (int, float)):
        rate: float = RATE.check(NAME, name, given)
        return rate
    rates = iter(given)
    first = RATE.check(NAME, name, next(rates, None))
    checked_rates = chain([first], map(partial(RATE.check, NAME, name), rates))
    return checked_rates  # type: ignore[return-value]  # an iterator is enough


@checked(NAME)
def create_adamw_v1(
    learn_rate: FloatOrSchedule = 1e-3,
    encoder_learn_rate: FloatOrSchedule = 1e-4,
    weight_decay: Annotated[float, Range(0, 1000)] = 0.01,
    grad_clip: Annotated[float, Range()] = 1.0,
    beta1: Annotated[float, Range(0, 1, above=True, below=True)] = 0.9,
    beta2: Annotated[float, Range(0, 1, above=True, below=True)] = 0.999,
    eps: Annotated[float, Range(1e-30, 1)] = 1e-8,
    freeze: list[str] = [],  # noqa: B006
    layer_decay: Annotated[float, Range(0, 1, above=True)] = 1.0,
    unfreeze_steps: Annotated[int, Range()] = 0,
    average: Rate = 0.0,
) -> AdamW:
    """Create an AdamW optimizer with one learning rate for the encoder and one for the heads.

    learn_rate (Union[float, List[float], Generator]): The learning rate of the heads; a number or a
        thinc schedule.
    encoder_learn_rate (Union[float, List[float], Generator]): The learning rate of the encoder; a
        number or a thinc schedule.
    weight_decay (float): The decoupled weight decay of matrices. Norms and biases do not decay.
    grad_clip (float): The largest norm of a component's gradient; 0 for no clipping.
    beta1, beta2, eps (float): The parameters of Adam.
    freeze (List[str]): Patterns, with * and ?, for the names of encoder parameters that do not
        change. For BERT, RoBERTa, DistilBERT and ELECTRA alike: "embeddings*" for the embeddings,
        "*.layer.0.*" or "*.layer.[0-3].*" for layers, "*" for all but the heads.
    layer_decay (float): The learning rate of each encoder layer as a share of the next layer's; 1
        for one rate. The embeddings come before the first layer, and a pooler has the rate of the
        last. ALBERT's layers share their weights and count as one.
    unfreeze_steps (int): Only the heads learn during this number of updates. Then the encoder's
        last layer is unfrozen, and one more layer after each such number of updates, the embeddings
        last. 0 for all from the start.
    average (float): The decay d of an exponential moving average of all weights, such as 0.999;
        after n updates it is min(d, (1 + n) / (10 + n)). `spacy train` evaluates and saves the
        averages of encoder and heads. They take 4 bytes for each weight that learns, on its device.
        0 for none.
    RAISES (ValueError): M058 for an argument or a number of a schedule that is out of range.
    """
    return AdamW(
        check_rates("learn_rate", learn_rate),
        check_rates("encoder_learn_rate", encoder_learn_rate),
        weight_decay,
        grad_clip,
        beta1,
        beta2,
        eps,
        freeze,
        layer_decay,
        unfreeze_steps,
        average,
    )
