"""The encoder's weights, as thinc saves, loads and updates them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import srsly
import torch
from spacy_transformers.data_classes import HFObjects
from spacy_transformers.layers.hf_shim import HFShim

from ..storage import CheckedShim
from .levels import keep_memory
from .lora import LoRA, check_frozen, merge
from .precision import PredictionWeights
from .serialization import pack_encoder, unpack_encoder


class EncoderShim(CheckedShim, HFShim):
    """Holds the encoder's weights for thinc: saving, loading, moving and updating them.

    lora (Optional[LoRA]): The adapters to train with, if any.
    adapted (Optional[peft.LoraModel]): The same encoder, when it has got adapters.
    for_prediction (PredictionWeights): The same weights as predictions read them.
    """

    def __init__(self, hf_model: HFObjects, lora: LoRA | None = None) -> None:
        super().__init__(hf_model)
        self.lora = lora
        self.adapted: Any = None
        self.for_prediction = PredictionWeights()

    def add_adapters(self) -> None:
        """Make ready for training. What is saved and copied has no adapters: they are merged.

        RAISES (ValueError): M067 or M068 if they cannot be added.
        """
        if self.lora and self.adapted is None:
            self.adapted = self.lora.add_to(self._model)

    def to_bytes(self) -> bytes:
        return pack_encoder(self.merged)

    @property
    def merged(self) -> HFObjects:
        """RETURNS (HFObjects): The tokenizer and the encoder, in which adapters are merged."""
        if self.adapted is None:
            return self._hfmodel
        return replace(self._hfmodel, transformer=merge(self.adapted))

    def from_bytes(self, bytes_data: bytes) -> "EncoderShim":
        return self.from_dict(srsly.msgpack_loads(bytes_data))

    def from_dict(self, msg: dict[str, Any]) -> "EncoderShim":
        """Load what `to_bytes` has packed, or spacy-transformers.

        msg (dict): The unpacked message. Its weights are taken out of it.
        RAISES (ValueError): As `unpack_encoder`.
        """
        self.adapted = None
        self._hfmodel = unpack_encoder(msg)
        self._model = self._hfmodel.transformer
        return self

    def finish_update(self, optimizer: Any) -> None:
        """Update the weights that have a gradient, and drop the gradients.

        A zero gradient is not the same as none: it would move a weight by its momentum.

        RAISES (ValueError): M069 if there are adapters, and the optimizer freezes all of them.
        """
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
            for key, p in keys.items():
                if key in params:
                    p.data = torch.as_tensor(params[key], dtype=p.dtype, device=p.device)
            yield
        finally:
            for p, data in kept:
                p.data = data
