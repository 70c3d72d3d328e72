"""AdamW with a learning rate of its own for the encoder."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from thinc.api import Model, Optimizer
from thinc.types import FloatsXd, Generator

from ..errors import Errors

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
    """

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
    ) -> None:
        super().__init__(
            learn_rate,
            L2=weight_decay,
            L2_is_weight_decay=True,
            grad_clip=grad_clip,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            use_averages=False,
        )
        self.encoder_learn_rate = 0.0
        self._set_attr_or_schedule("encoder_learn_rate", encoder_learn_rate)
        self.freeze = list(freeze)
        self.modules: dict[int, tuple[torch.nn.Module, torch.optim.Optimizer]] = {}

    def __call__(
        self, key: Any, weights: FloatsXd, gradient: FloatsXd, *, lr_scale: float = 1.0
    ) -> tuple[FloatsXd, FloatsXd]:
        """Update one array of a head: the thinc way."""
        decay, self.L2 = self.L2, self.L2 if weights.ndim > 1 else 0.0
        try:
            return super().__call__(key, weights, gradient, lr_scale=lr_scale)
        finally:
            self.L2 = decay

    def step_module(self, key: int, module: torch.nn.Module) -> None:
        """Update all parameters of an encoder that have a gradient.

        key (int): Identifies the module's moments between calls.
        module (torch.nn.Module): The encoder.
        RAISES (ValueError): M041 if a pattern of `freeze` matches no parameter.
        """
        known, adam = self.modules.get(key, (None, None))
        if known is not module:
            adam = torch.optim.AdamW(
                self._get_groups(module), betas=(self.b1, self.b2), eps=self.eps, fused=True
            )
            self.modules[key] = (module, adam)
        assert adam is not None
        for group in adam.param_groups:
            group["lr"] = self.encoder_learn_rate
        learning = [p for group in adam.param_groups for p in group["params"]]
        if self.grad_clip:
            torch.nn.utils.clip_grad_norm_(learning, self.grad_clip)
        adam.step()

    def clip_model(self, model: Model) -> None:
        """Scale the gradients of a head's arrays down to `grad_clip`.

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

    def _get_groups(self, module: torch.nn.Module) -> list[dict[str, Any]]:
        names = [name for name, _ in module.named_parameters()]
        for pattern in self.freeze:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(Errors.M041.format(pattern=pattern, names=names[:3] + names[-3:]))
        decayed: list[torch.nn.Parameter] = []
        plain: list[torch.nn.Parameter] = []
        for name, parameter in module.named_parameters():
            if not any(fnmatchcase(name, pattern) for pattern in self.freeze):
                (decayed if parameter.ndim > 1 else plain).append(parameter)
        return [
            {"params": decayed, "weight_decay": self.L2},
            {"params": plain, "weight_decay": 0.0},
        ]


def create_adamw_v1(
    learn_rate: FloatOrSchedule = 1e-3,
    encoder_learn_rate: FloatOrSchedule = 1e-4,
    weight_decay: float = 0.01,
    grad_clip: float = 1.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    freeze: list[str] = [],  # noqa: B006
) -> AdamW:
    """Create the optimizer.

    learn_rate (Union[float, List[float], Generator]): Of the heads; a number or a thinc schedule.
    encoder_learn_rate (Union[float, List[float], Generator]): Of the encoder; likewise.
    weight_decay (float): Decoupled weight decay of matrices; norms and biases have none.
    grad_clip (float): The largest norm of a component's gradient; 0 for no clipping.
    beta1, beta2, eps (float): As in Adam.
    freeze (List[str]): Patterns, with * and ?, of names of encoder parameters that stay as they
        are, such as "embeddings.*" or "encoder.layer.0.*".
    RAISES (ValueError): M040 for a number that makes no sense.
    """
    numbers = {"weight_decay": weight_decay, "grad_clip": grad_clip, "eps": eps}
    numbers |= {
        name: rate
        for name, rate in [("learn_rate", learn_rate), ("encoder_learn_rate", encoder_learn_rate)]
        if isinstance(rate, (int, float))
    }
    for name, value in numbers.items():
        if not value >= 0:
            raise ValueError(Errors.M040.format(name=name, value=value))
    return AdamW(learn_rate, encoder_learn_rate, weight_decay, grad_clip, beta1, beta2, eps, freeze)
