"""The encoder's weights, as thinc saves, loads and updates them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import srsly
import torch
from thinc.api import Optimizer, PyTorchShim

from ...concurrency import WeightsLock
from ...contracts import ModuleOptimizer
from ...errors import Errors
from ...pretrained import PretrainedEncoder
from ...storage import CheckedShim
from ...types import Settings
from ...weights import get_average_key
from ..host import isolated
from ..runtime.cpu.gradients import keep_memory
from .lora import LoRA, check_frozen, merge
from .serialization import pack_encoder, unpack_encoder
from .weights import PredictionWeights, has_weights


class EncoderShim(CheckedShim, PyTorchShim):
    """Saves, loads, moves and updates the encoder's weights for thinc.

    loaded (PretrainedEncoder): The encoder and its tokenizer.
    lora (Optional[LoRA]): The settings of the adapters to train, if any.
    adapted (Optional[peft.LoraModel]): The same encoder with adapters, after `add_adapters`.
    for_prediction (PredictionWeights): A copy of the encoder that predictions read.
    lock (WeightsLock): Held by predictions while they read the weights, and by updates.
    process (int): The id of the process that made the shim. In a worker of the pipeline it is not
        the id of the current process.
    """

    @isolated
    def __init__(self, loaded: PretrainedEncoder, lora: LoRA | None = None) -> None:
        self.loaded = loaded
        super().__init__(loaded.transformer)
        self.lora = lora
        self.adapted: Any = None
        self.for_prediction = PredictionWeights()
        self.lock = WeightsLock()
        self.process = os.getpid()

    @property
    def _model(self) -> Any:
        # thinc's name. The encoder is kept in one place, so users can replace it here or there.
        return self.loaded.transformer

    @_model.setter
    def _model(self, module: object) -> None:
        if module is not self.loaded.transformer:
            self.loaded.transformer = module
            self.adapted = None

    def check_trainable(self) -> None:
        """RAISES (ValueError): M019 if the encoder has been replaced by an object without
        parameters, which can be neither trained nor saved.
        """
        if not has_weights(self._model):
            raise ValueError(Errors.M019.format(module=type(self._model).__name__))

    @isolated
    def add_adapters(self) -> None:
        """Add the adapters of LoRA, if it is configured and there are none. Saved and copied
        encoders have none: there they are merged into the weights.

        RAISES (ValueError): M067 or M068 if they cannot be added.
        """
        self.check_trainable()
        if self.lora and self.adapted is None:
            self.adapted = self.lora.add_to(self._model)

    @isolated
    def to_bytes(self) -> bytes:
        if self._model is not None:
            self.check_trainable()
        with self.lock.reading():
            return pack_encoder(self.merged)

    @property
    def merged(self) -> PretrainedEncoder:
        """RETURNS (PretrainedEncoder): The tokenizer, and the encoder with merged adapters."""
        if self.adapted is None:
            return self.loaded
        return replace(self.loaded, transformer=merge(self.adapted))

    def get_prediction_module(self, dtype: torch.dtype) -> Any:
        """RETURNS (torch.nn.Module): The encoder for predictions in a precision."""
        return self.for_prediction.get(self.adapted or self._model, dtype)

    def from_bytes(self, bytes_data: bytes) -> "EncoderShim":
        return self.from_dict(srsly.msgpack_loads(bytes_data))

    @isolated
    def from_dict(self, msg: Settings) -> "EncoderShim":
        """Load a message of `to_bytes` or of spacy-transformers' shim.

        msg (Settings): The unpacked message. Its weights are taken out of it.
        RAISES (ValueError): The errors of `unpack_encoder`.
        """
        self.adapted = None
        self.loaded = unpack_encoder(msg)
        return self

    @isolated
    def finish_update(self, optimizer: Optimizer) -> None:
        """Update the weights that have a gradient, and remove the gradients.

        Gradients become None, not zeros: with a zero gradient momentum would move a weight.

        RAISES (ValueError): M069 if the optimizer freezes all adapters.
        """
        with self.lock.writing():
            if isinstance(optimizer, ModuleOptimizer):
                if self.adapted is not None:
                    check_frozen(self._model, optimizer.freeze)
                optimizer.step_module(self.id, self._model)
            else:
                super().finish_update(optimizer)
            keep_memory(self._model)
            self._model.zero_grad(set_to_none=True)
            self.for_prediction.forget()

    @contextmanager
    def use_params(self, params: dict[Any, Any]) -> Iterator[None]:
        """Use other weights for the encoder inside the context. Weights are swapped, not copied.

        params (Dict[str, Union[Floats, torch.Tensor]]): Values by thinc's keys for a shim's
            weights, such as an optimizer's averages. Weights without a value stay.
        """
        named = self._model.named_parameters()
        keys = {get_average_key(self.id, name): p for name, p in named}
        kept = [(p, p.data) for key, p in keys.items() if key in params]
        try:
            with self.lock.writing():
                for key, p in keys.items():
                    if key in params:
                        p.data = torch.as_tensor(params[key], dtype=p.dtype, device=p.device)
            yield
        finally:
            with self.lock.writing():
                for p, data in kept:
                    p.data = data
