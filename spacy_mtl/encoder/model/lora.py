"""Low-rank adapters, which are trained instead of the encoder's weights. Uses peft in training."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

import torch
from transformers.pytorch_utils import Conv1D

from ...arguments import Range, Rate, Size, checked
from ...errors import Errors
from ...extras import get_install_line

ALL = "all-linear"
LAYERS = (torch.nn.Linear, Conv1D, torch.nn.Embedding)


@dataclass(frozen=True)
class LoRA:
    """Settings of LoRA (Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models").

    rank (int): Rows of the first and columns of the second matrix of an adapter.
    alpha (float): An adapter's output is multiplied by alpha / rank.
    dropout (float): The dropout rate for an adapter's input, from 0 to below 1.
    target_modules (Union[str, Sequence[str]]): The layers that get an adapter: "all-linear", a list
        of suffixes of their names, or one regular expression for whole names.
    """

    rank: int
    alpha: float
    dropout: float
    target_modules: str | Sequence[str]

    def add_to(self, encoder: torch.nn.Module) -> Any:
        """Add adapters to an encoder and freeze its other weights. Until the adapters are trained,
        the output stays the same.

        encoder (torch.nn.Module): The encoder. It is modified in place.
        RETURNS (peft.LoraModel): The same encoder, for `merge`.
        RAISES (ValueError): M067 if a target matches no layer, M068 if peft is missing.
        """
        try:
            from peft import LoraConfig, LoraModel
        except ImportError as err:
            raise ValueError(
                Errors.M068.format(error=err, install=get_install_line("lora"))
            ) from err
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # any number will do
            lora_dropout=self.dropout,
            target_modules=self.find_targets(encoder),
        )
        adapted = LoraModel(encoder, config, "default")
        for module in encoder.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                # Autocast casts the input.
                module.cast_input_dtype_enabled = False  # type: ignore[assignment]
        return adapted

    def find_targets(self, encoder: torch.nn.Module) -> list[str]:
        """RETURNS (List[str]): The names of the layers that get an adapter. A pooler gets none,
        because its output is not used.
        RAISES (ValueError): M067 if a target matches no layer.
        """
        layers = {
            name: layer
            for name, layer in encoder.named_modules()
            if isinstance(layer, LAYERS) and not name.startswith("pooler")
        }
        if self.target_modules == ALL:
            return [n for n, layer in layers.items() if not isinstance(layer, torch.nn.Embedding)]
        if isinstance(self.target_modules, str):
            patterns = {self.target_modules: self.target_modules}
        else:
            patterns = {end: rf"(.*\.)?{re.escape(end)}" for end in self.target_modules}
        found: set[str] = set()
        for target, pattern in patterns.items():
            try:
                matched = {name for name in layers if re.fullmatch(pattern, name)}
            except re.error:
                matched = set()
            if not matched:
                names = list(layers)
                raise ValueError(Errors.M067.format(target=target, names=names[:3] + names[-3:]))
            found |= matched
        return [name for name in layers if name in found]


@checked("spacy-mtl.LoRA.v1")
def create_lora_v1(
    rank: Size = 8,
    alpha: Annotated[float, Range(0, 1e6, above=True)] = 16.0,
    dropout: Rate = 0.0,
    target_modules: str | list[str] = ALL,
) -> LoRA:
    """Create the settings of LoRA for `lora` of `spacy-mtl.SharedTransformer.v1`.

    rank (int): The rank of an adapter's matrices, >= 1.
    alpha (float): An adapter's output is multiplied by alpha / rank.
    dropout (float): The dropout rate for an adapter's input, from 0 to below 1.
    target_modules (Union[str, List[str]]): The layers that get an adapter, as in peft:
        "all-linear"; a list of suffixes of their names, such as ["query", "value"]; or a regular
        expression for whole names.
    RAISES (ValueError): M058 for an argument out of range; M067 and M068 when training begins.
    """
    return LoRA(rank, alpha, dropout, target_modules)


def merge(encoder: Any) -> Any:
    """Merge adapters into a copy of the encoder.

    encoder (Union[peft.LoraModel, torch.nn.Module]): The result of `LoRA.add_to`, or an encoder
        without adapters.
    RETURNS (torch.nn.Module): The copy. It shares the weights of layers without an adapter. An
        encoder without adapters is returned as it is.
    """
    if not hasattr(encoder, "merge_and_unload"):
        return encoder
    with torch.inference_mode(False), torch.no_grad():
        shared = {id(p): torch.nn.Parameter(p.detach(), False) for p in encoder.parameters()}
        # A safe merge makes new tensors.
        return copy.deepcopy(encoder, shared).merge_and_unload(safe_merge=True)


def check_frozen(encoder: torch.nn.Module, patterns: Sequence[str]) -> None:
    """RAISES (ValueError): M069 if the optimizer's patterns freeze all adapters."""
    learning = [name for name, p in encoder.named_parameters() if p.requires_grad]
    if all(any(fnmatchcase(name, pattern) for pattern in patterns) for name in learning):
        raise ValueError(Errors.M069.format(patterns=list(patterns), names=learning[:3]))
