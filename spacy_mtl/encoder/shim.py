"""The encoder's weights, as thinc saves, loads and updates them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import srsly
import torch
from spacy_transformers.data_classes import HFObjects
from spacy_transformers.layers.hf_shim import HFShim

from ..concurrency import WeightsLock
from ..errors import Errors
from ..storage import CheckedShim
from .host import isolated
from .levels import keep_memory
from .lora import LoRA, check_frozen, merge
from .precision import PredictionWeights, has_weights
from .serialization import pack_encoder, unpack_encoder


class EncoderShim(CheckedShim, HFShim):
    """Holds the encoder's weights for thinc: saving, loading, moving and updating them.

    lora (Optional[LoRA]): The adapters to train with, if any.
    adapted (Optional[peft.LoraModel]): The same encoder, when it has got adapters.
    for_prediction (PredictionWeights): The same weights as predictions read them.
    lock (WeightsLock): Held by predictions while they read the weights, and by updates.
    process (int): Where it was made: another process in workers of the pipeline.
    """

    @isolated
    def __init__(self, hf_model: HFObjects, lora: LoRA | None = None) -> None:
        super().__init__(hf_model)
        self.lora = lora
        self.adapted: Any = None
        self.for_prediction = PredictionWeights()
        self.lock = WeightsLock()
        self.process = os.getpid()

    @property
    def _model(self) -> Any:
        # The one place of the encoder: what others put here or at `_hfmodel.transformer` is used.
        return self._hfmodel.transformer

    @_model.setter
    def _model(self, module: Any) -> None:
        if module is not self._hfmodel.transformer:
            self._hfmodel.transformer = module
            self.adapted = None

    def check_trainable(self) -> None:
        """RAISES (ValueError): M019 if the encoder has been replaced by a module that has no
        parameters, which can be neither trained nor saved.
        """
        if not has_weights(self._model):
            raise ValueError(Errors.M019.format(module=type(self._model).__name__))

    @isolated
    def add_adapters(self) -> None:
        """Make ready for training. What is saved and copied has no adapters: they are merged.

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
    def merged(self) -> HFObjects:
        """RETURNS (HFObjects): The tokenizer and the encoder, in which adapters are merged."""
        if self.adapted is None:
            return self._hfmodel
        return replace(self._hfmodel, transformer=merge(self.adapted))

    def from_bytes(self, bytes_data: bytes) -> "EncoderShim":
        return self.from_dict(srsly.msgpack_loads(bytes_data))

    @isolated
    def from_dict(self, msg: dict[str, Any]) -> "EncoderShim":
        """Load what `to_bytes` has packed, or spacy-transformers.

        msg (dict): The unpacked message. Its weights are taken out of it.
        RAISES (ValueError): As `unpack_encoder`.
        """
        self.adapted = None
        self._hfmodel = unpack_encoder(msg)
        self._model = self._hfmodel.transformer
        return self

    @isolated
    def finish_update(self, optimizer: Any) -> None:
        """Update the weights that have a gradient, and drop the gradients.

        A zero gradient is not the same as none: it would move a weight by its momentum.

        RAISES (ValueError): M069 if there are adapters, and the optimizer freezes all of them.
        """
        with self.lock.writing():
            if hasattr(optimizer, "step_module"):
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
        """Put other weights in the place of the encoder's for a while, without copies.

        params (dict): Arrays or tensors by the names that thinc gives to a shim's weights, such as
            the averages of an optimizer. Weights that have none there stay.
        """
        keys = {f"pytorch_{self.id}_{name}": p for name, p in self._model.named_parameters()}
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
