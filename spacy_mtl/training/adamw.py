"""AdamW with a learning rate of its own for the encoder."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain
from typing import Annotated, Any

import torch
from thinc.api import Model, Optimizer, torch2xp
from thinc.types import FloatsXd, Generator
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..arguments import Range, Rate, checked
from ..encoder.levels import get_depths
from ..errors import Errors

NAME = "spacy-mtl.AdamW.v1"
RATE = Range(0, 1000)
FloatOrSchedule = float | list[float] | Generator


class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2) for
    a pipeline with one pretrained encoder and several new heads.

    The encoder's weights are updated all at once, by torch; the heads' by thinc. Norms and biases
    are not decayed. Gradients are clipped by the norm over all tensors of a component.

    learn_rate (Union[float, List[float], Generator]): Of the heads; a number or a schedule.
    encoder_learn_rate (Union[float, List[float], Generator]): Of the encoder.
    weight_decay (float): Per unit of the learning rate.
    grad_clip (float): The largest norm of a component's gradient; 0 for no clipping.
    beta1, beta2, eps (float): As in Adam.
    freeze (Sequence[str]): Patterns, with * and ?, of names of encoder parameters that stay as
        they are.
    layer_decay (float): Each encoder layer learns at this share of the rate of the layer above it.
    unfreeze_steps (int): The encoder's last layer learns after so many updates, each layer below
        after so many more, the embeddings last; 0 for all from the start.
    average (float): The decay of an exponential moving average of all weights, in `averages`; 0 for
        none.
    """

    averages: dict[Any, Any] | None

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
        self._set_attr_or_schedule("encoder_learn_rate", encoder_learn_rate)
        self.freeze = list(freeze)
        self.layer_decay, self.unfreeze_steps, self.average = layer_decay, unfreeze_steps, average
        self.modules: dict[int, tuple[torch.nn.Module, torch.optim.Optimizer]] = {}

    def __call__(
        self, key: Any, weights: FloatsXd, gradient: FloatsXd, *, lr_scale: float = 1.0
    ) -> tuple[FloatsXd, FloatsXd]:
        """Update one array of a head: the thinc way."""
        decay, self.L2 = self.L2, self.L2 if weights.ndim > 1 else 0.0
        averages, self.averages = self.averages, None  # thinc's own would begin at 0
        first: Any = weights.copy() if averages is not None and not self.nr_update[key] else None
        try:
            weights, gradient = super().__call__(key, weights, gradient, lr_scale=lr_scale)
        finally:
            self.L2, self.averages = decay, averages
        if averages is not None:
            name = get_shim_key(*key)
            name_there: Any = name if name in averages else key
            mean = averages[name_there] = averages[name_there] if first is None else first
            mean += (1 - self._get_decay(key)) * (weights - mean)
        return weights, gradient

    def get_adam(self, key: int, module: torch.nn.Module) -> torch.optim.Optimizer:
        """RETURNS (torch.optim.Optimizer): What updates an encoder, made when first asked for."""
        known, adam = self.modules.get(key, (None, None))
        if adam is None or known is not module:
            adam = torch.optim.AdamW(
                self._get_groups(module), betas=(self.b1, self.b2), eps=self.eps, fused=True
            )
            self.modules[key] = (module, adam)
            self.nr_update[key, ""] = 0
        return adam

    def step_module(self, key: int, module: torch.nn.Module) -> None:
        """Update all parameters of an encoder that have a gradient.

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
                    self.averages[get_shim_key(key, name)] = parameter.detach().clone()
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
            named = {get_shim_key(key, name): p for name, p in module.named_parameters()}
            found = {k: p for k, p in named.items() if k in self.averages and id(p) in ids}
            update = get_ema_multi_avg_fn(self._get_decay((key, "")))
            update([self.averages[k] for k in found], list(found.values()), None)

    def clip_model(self, model: Model) -> None:
        """Scale the gradients of a head's arrays down to `grad_clip`, and meet its torch layers,
        which read all of their weights from the averages or none.

        model (Model): The head's model, without any encoder.
        """
        gradients: list[Any] = [
            node.get_grad(name)
            for node in model.walk()
            for name in node.param_names
            if node.has_grad(name)
        ]
        norm = float(sum((g * g).sum() for g in gradients)) ** 0.5
        if self.grad_clip and norm > self.grad_clip:
            for gradient in gradients:
                gradient *= self.grad_clip / norm
        if self.averages is not None:
            for shim in [shim for node in model.walk() for shim in node.shims]:
                for name, tensor in shim._model.state_dict().items():
                    self.averages.setdefault(get_shim_key(shim.id, name), torch2xp(tensor))

    def _get_decay(self, key: Any) -> float:
        """RETURNS (float): Of the averages, which forget the first weights faster."""
        n = self.nr_update[key]
        return min(self.average, (1 + n) / (10 + n))

    def _get_groups(self, module: torch.nn.Module) -> list[dict[str, Any]]:
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


def get_shim_key(key: int, name: str) -> str:
    """RETURNS (str): The name under which thinc's `use_params` looks for a weight of torch."""
    return f"pytorch_{key}_{name}"


def check_rates(name: str, given: FloatOrSchedule) -> FloatOrSchedule:
    """RETURNS (Union[float, Generator]): The rate, or a schedule that checks each of its rates.
    RAISES (ValueError): M058 if the rate, or the first one, is out of range.
    """
    if isinstance(given, (int, float)):
        return RATE.check(NAME, name, given)
    rates = iter(given)
    first = RATE.check(NAME, name, next(rates, None))
    rest: Any = chain([first], map(partial(RATE.check, NAME, name), rates))
    return rest


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
    """Create the optimizer.

    learn_rate (Union[float, List[float], Generator]): Of the heads; a number or a thinc schedule.
    encoder_learn_rate (Union[float, List[float], Generator]): Of the encoder; likewise.
    weight_decay (float): Decoupled weight decay of matrices; norms and biases have none.
    grad_clip (float): The largest norm of a component's gradient; 0 for no clipping.
    beta1, beta2, eps (float): As in Adam.
    freeze (List[str]): Patterns, with * and ?, of names of encoder parameters that stay as they
        are. For BERT, RoBERTa, DistilBERT and ELECTRA alike: "embeddings*" for the embeddings,
        "*.layer.0.*" or "*.layer.[0-3].*" for layers, "*" for all but the heads.
    layer_decay (float): Each encoder layer learns at this share of the rate of the layer above it,
        the embeddings at that share of the first's, a pooler as the last; 1 for one rate.
        ALBERT's layers, which share their weights, count as one.
    unfreeze_steps (int): For so many updates only the heads learn, then the encoder's last layer
        too, after as many more the one below, the embeddings last; 0 for all from the start.
    average (float): The decay d of an exponential moving average of all weights, such as 0.999;
        after n updates it is min(d, (1 + n) / (10 + n)). `spacy train` evaluates and saves the
        averages, of encoder and heads together. They take 4 bytes more for each weight that learns,
        on its device. 0 for none.
    RAISES (ValueError): M058 for an argument out of range, or for such a number of a schedule.
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
