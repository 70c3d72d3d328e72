"""One view of all weights of a model or a pipeline: thinc's arrays and torch's tensors alike."""

from collections.abc import Mapping, MutableMapping, Sequence
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any, TypeAlias

from spacy.language import Language
from spacy.ty import TrainableComponent
from thinc.api import Model, PyTorchShim, torch2xp
from thinc.types import FloatsXd

from .types import get_xp

if TYPE_CHECKING:  # factories import this module: torch waits
    import torch

AnyModel: TypeAlias = Model[Any, Any]
Key: TypeAlias = tuple[int, str] | str  # of a weight, or of a tensor's average, in an optimizer


class ModelWeights:
    """All weights of some models, by names that are the same in another process: "ner/3/W" is the
    array W of the fourth node of the model of `ner`, "ner/3/0/bias" the parameter `bias` of that
    node's first torch module.

    models (Mapping[str, Model]): The models by name.
    skip (Tuple[type, ...]): Classes of shims to leave out.

    nodes (Dict[str, Model]): The nodes of the models by name.
    shims (Dict[str, PyTorchShim]): The shims of torch modules by name.
    """

    def __init__(self, models: Mapping[str, AnyModel], skip: tuple[type, ...] = ()) -> None:
        self.nodes: dict[str, AnyModel] = {
            f"{name}/{i}": node
            for name, model in models.items()
            for i, node in enumerate(model.walk())
        }
        self.shims: dict[str, PyTorchShim] = {
            f"{name}/{i}": shim
            for name, node in self.nodes.items()
            for i, shim in enumerate(node.shims)
            if isinstance(shim, PyTorchShim) and not isinstance(shim, skip)
        }

    @classmethod
    def of_pipeline(cls, nlp: Language) -> "ModelWeights":
        """RETURNS (ModelWeights): The weights of all enabled components."""
        pipes: list[tuple[str, object]] = [*nlp.pipeline]
        return cls(
            {
                name: pipe.model
                for name, pipe in pipes
                if isinstance(pipe, TrainableComponent) and isinstance(pipe.model, Model)
            }
        )

    def get_values(self) -> dict[str, "torch.Tensor"]:
        """RETURNS (Dict[str, torch.Tensor]): All weights and buffers by name. They share memory
        with the model, so that `copy_` changes it. Those of a gradient scaler are among them.
        """
        from torch.utils.dlpack import from_dlpack

        values: dict[str, torch.Tensor] = {
            f"{name}/{param}": from_dlpack(node.get_param(param))
            for name, node in self.nodes.items()
            for param in node.param_names
            if node.has_param(param)
        }
        for name, shim in self.shims.items():
            values |= {f"{name}/{key}": value for key, value in shim._model.state_dict().items()}
            values[f"{name} scale"] = shim._grad_scaler._scale
            values[f"{name} growth"] = shim._grad_scaler._growth_tracker
        return values

    def get_keys(self) -> dict[Key, str]:
        """RETURNS (Dict[Key, str]): The name for each key that an optimizer may use. Keys hold ids
        that count up in a process. Averages of torch's tensors have keys of their own.
        """
        keys: dict[Key, str] = {
            (node.id, param): f"{name}/{param}"
            for name, node in self.nodes.items()
            for param in node.param_names
        }
        for name, shim in self.shims.items():
            keys[shim.id, ""] = name
            for param in shim._model.state_dict():
                keys[shim.id, param] = f"{name}/{param}"
                keys[get_average_key(shim.id, param)] = f"{name} average/{param}"
        return keys

    def get_gradients(self) -> tuple[list[Any], list["torch.Tensor"]]:
        """RETURNS (Tuple[List[FloatsXd], List[torch.Tensor]]): The gradients that there are, of
        thinc's arrays and of torch's parameters.
        """
        arrays = [
            node.get_grad(name)
            for node in self.nodes.values()
            for name in node.param_names
            if node.has_grad(name)
        ]
        parameters = [p for shim in self.shims.values() for p in shim._model.parameters()]
        return arrays, [p.grad for p in parameters if p.grad is not None]

    def drop_broken_gradients(self) -> bool:
        """Remove all gradients if any is NaN or infinite: one update with it would ruin the
        weights.

        RETURNS (bool): Whether the gradients were removed.
        """
        arrays, tensors = self.get_gradients()
        # A GPU answers once for all arrays, and once for all tensors.
        is_finite = all_true([get_xp(array).isfinite(array).all() for array in arrays])
        if is_finite and all_true([tensor.isfinite().all() for tensor in tensors]):
            return False
        for array in arrays:
            array.fill(0)
        for shim in self.shims.values():
            shim._model.zero_grad(set_to_none=True)
        return True

    def get_norm(self) -> float:
        """RETURNS (float): The Euclidean norm of all gradients together."""
        squares = [float(sum((g * g).sum() for g in group)) for group in self.get_gradients()]
        norm: float = sum(squares) ** 0.5
        return norm

    def clip(self, limit: float) -> None:
        """Scale all gradients down so that their norm is no larger than a limit.

        limit (float): The largest norm.
        """
        norm = self.get_norm()
        if norm > limit:
            for group in self.get_gradients():
                for gradient in group:
                    gradient *= limit / norm

    def complete_averages(self, averages: MutableMapping[Key, FloatsXd]) -> None:
        """Add the tensors of torch modules to an optimizer's averages where they have none, such as
        frozen ones: thinc's `use_params` needs all tensors of a module or none.

        averages (MutableMapping[Key, FloatsXd]): The averages by key.
        """
        for shim in self.shims.values():
            for name, tensor in shim._model.state_dict().items():
                array: Any = torch2xp(tensor)
                averages.setdefault(get_average_key(shim.id, name), array)


def get_average_key(shim_id: int, name: str) -> str:
    """RETURNS (str): The key under which `use_params` of a shim looks for the average of a tensor,
    as thinc's PyTorchShim has it.
    """
    return f"pytorch_{shim_id}_{name}"


def all_true(answers: Sequence[Any]) -> bool:
    """RETURNS (bool): Whether all answers, arrays of one boolean, are true. A GPU is read once."""
    return bool(reduce(and_, answers, True))
