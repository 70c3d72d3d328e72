"""The shared transformer: docs in, one row per token out, one backward for all of them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
from spacy.tokens import Doc
from thinc.api import Model

from ...arguments import checked
from ...compat import get_setting
from ...concurrency import WeightsLock
from ...errors import Errors
from ...pretrained import PretrainedEncoder, load_pretrained
from ...storage import load_model, pack_model, unpack_model
from ...types import Settings
from .. import stock
from ..host import isolated
from ..runtime.base import Runtime, RuntimeName
from ..runtime.choice import get_runtime
from ..runtime.cpu.threads import limit_threads
from ..stock_names import SpanGetter
from ..token_matrix import TokenMatrix
from .batches import get_first_position
from .forward import forward
from .lora import LoRA
from .serialization import check_settings
from .shim import EncoderShim
from .weights import Precision, get_dtype
from .wordpieces import Alignment, Wordpieces, get_backend, get_wordpieces

# Loading a trained pipeline keeps these settings of its config.
CONFIGURED = ("precision", "runtime", "max_batch_items")
# Settings whose output has no place in a token matrix.
REFUSED = ("output_attentions", "output_hidden_states")
STOCK: Alignment = "spacy-transformers"  # the alignment of saved weights that name none


class SharedTransformer(Model[list[Doc], TokenMatrix]):
    """A Hugging Face encoder as a thinc model from docs to one TokenMatrix.

    Its nodes have the names and the order of those in spacy-transformers' TransformerModel, so it
    loads files of that model. spacy-transformers cannot load its files: the weights are
    safetensors.
    """

    def __init__(
        self,
        name: str,
        get_spans: SpanGetter,
        tokenizer_config: Settings,
        transformer_config: Settings,
        precision: Precision,
        lora: LoRA | None = None,
        pretrained: bool = True,
        runtime: RuntimeName = "auto",
        alignment: Alignment = "auto",
    ) -> None:
        check_settings("tokenizer_config", tokenizer_config)
        check_settings("transformer_config", transformer_config)
        unloaded = PretrainedEncoder(
            tokenizer_config=dict(tokenizer_config), transformer_config=dict(transformer_config)
        )
        get_dtype(precision, torch.device("cpu"))
        get_runtime(runtime, torch.device("cpu"))
        super().__init__(
            "transformer",
            forward,
            init=init,
            layers=[
                Model(
                    "hf-pytorch",
                    forward,
                    shims=[EncoderShim(unloaded, lora)],
                    dims={"nI": None, "nO": None},
                )
            ],
            dims={"nO": None},
            attrs={
                "name": str(name),
                "get_spans": get_spans,
                "precision": precision,
                "runtime": runtime,
                "pretrained": pretrained,
                "alignment": STOCK if alignment == "auto" else alignment,
                "max_batch_items": 4096,
                "layers": None,  # the layers that listeners read, if not only the last one
                "shares": False,  # whether a listener reads the shares of wordpieces
                "has_transformer": False,
                "set_transformer": set_transformer,
            },
        )
        self.configured_alignment = alignment

    @classmethod
    def from_stock(cls, model: Model[object, object]) -> "SharedTransformer":
        """Convert a model of spacy-transformers.

        RETURNS (SharedTransformer): A model with the same settings, and the same weights if they
            have been loaded.
        """
        settings, loaded = stock.read_model(model)
        shared = cls(**settings, alignment=STOCK)
        if loaded is not None:
            set_transformer(shared, loaded)
        return shared

    @property
    def shim(self) -> EncoderShim:
        """RETURNS (EncoderShim): The object that holds the encoder and its weights."""
        (shim,) = self.layers[0].shims
        assert isinstance(shim, EncoderShim)
        return shim

    @property
    def transformer(self) -> Any:
        """RETURNS (Optional[torch.nn.Module]): The encoder, None before `initialize`."""
        return self.shim.loaded.transformer

    @property
    def tokenizer(self) -> Any:
        """RETURNS (Optional[PreTrainedTokenizerFast]): The tokenizer, None before `initialize`."""
        return self.shim.loaded.tokenizer

    @property
    def n_parameters(self) -> int:
        """RETURNS (int): The number of the encoder's parameters, without adapters; 0 before
        `initialize`.
        """
        module = self.transformer
        named = module.named_parameters() if isinstance(module, torch.nn.Module) else ()
        return sum(weight.numel() for name, weight in named if "lora_" not in name)

    @property
    def lock(self) -> WeightsLock:
        """RETURNS (WeightsLock): The lock that predictions hold while they read the weights, and
        updates while they change them.
        """
        return self.shim.lock

    @property
    def runtime(self) -> Runtime:
        """RETURNS (Runtime): The runtime that computes the encoder on its device."""
        return get_runtime(self.attrs["runtime"], self.device)

    def limit_threads(self) -> None:
        """Compute on one thread in forked processes and in the workers of a pipeline."""
        limit_threads(self.shim.process)

    @property
    def alignment(self) -> Alignment:
        """RETURNS (str): The alignment in the config, or for "auto" the one of the weights."""
        saved: Alignment = self.attrs["alignment"]
        return saved if self.configured_alignment == "auto" else self.configured_alignment

    @property
    def device(self) -> torch.device:
        """RETURNS (torch.device): The encoder's device; the CPU if it has no parameters."""
        module = self.transformer
        weights = module.parameters() if isinstance(module, torch.nn.Module) else iter(())
        return next((weight.device for weight in weights), torch.device("cpu"))

    @property
    def special_ids(self) -> tuple[list[int], list[int]]:
        """RETURNS (Tuple[List[int], List[int]]): The ids of the special tokens before and after the
        text of a sequence.
        """
        return self._get_frame("ids")

    @property
    def special_types(self) -> list[int]:
        """RETURNS (List[int]): The segment of each special token, if the encoder reads segments.
        A text has segment 0. For XLNet special tokens have others.
        """
        if "token_type_ids" not in self.tokenizer.model_input_names:
            return []
        before, after = self._get_frame("type_ids")
        return [*before, *after]

    def _get_frame(self, values: str) -> tuple[list[int], list[int]]:
        framed = get_backend(self.tokenizer).encode("a", add_special_tokens=True)
        (text,) = numpy.nonzero(numpy.array(framed.special_tokens_mask) == 0)
        found = getattr(framed, values)
        return found[: text[0]], found[text[-1] + 1 :]

    @property
    def frame_ids(self) -> list[int]:
        """RETURNS (List[int]): The ids of special tokens and of padding."""
        before, after = self.special_ids
        return [*before, *after, self.tokenizer.pad_token_id or 0]

    @property
    def max_length(self) -> int:
        """RETURNS (int): Wordpieces that fit into one sequence beside the special tokens."""
        limit: int = min(self.tokenizer.model_max_length, 1 << 20)
        positions: int = get_setting(self.transformer.config, "max_position_embeddings", None) or 0
        positions = positions if positions > 0 else limit  # XLNet has -1 for "no limit"
        positions -= get_first_position(self.transformer)
        return min(limit, positions) - sum(map(len, self.special_ids))

    def get_wordpieces(self, docs: Sequence[Doc]) -> Wordpieces:
        """RETURNS (Wordpieces): The wordpieces of the docs, aligned to their tokens."""
        spans = self.attrs["get_spans"](docs)
        return get_wordpieces(docs, spans, self.tokenizer, self.max_length, self.alignment)

    def copy(self) -> "SharedTransformer":
        """RETURNS (SharedTransformer): An independent model with the same settings and weights.
        Adapters are merged into the copy's weights, and it trains without adapters.
        """
        copied = SharedTransformer(
            self.attrs["name"],
            self.attrs["get_spans"],
            self.shim.loaded.tokenizer_config,
            self.shim.loaded.transformer_config,
            self.attrs["precision"],
            pretrained=self.attrs["pretrained"],
            runtime=self.attrs["runtime"],
            alignment=self.configured_alignment,
        )
        copied.attrs["max_batch_items"] = self.attrs["max_batch_items"]
        if self.attrs["has_transformer"]:
            copied.from_bytes(self.to_bytes())
        return copied

    def to_bytes(self) -> bytes:
        """RETURNS (bytes): The model, with checksums."""
        return pack_model(self)

    def from_bytes(self, bytes_data: bytes) -> "SharedTransformer":
        """Load what `to_bytes` returned.

        RETURNS (SharedTransformer): The same model.
        """
        load_model(self, unpack_model(self, bytes_data))
        return self

    def from_disk(self, path: str | Path) -> "SharedTransformer":
        """Load a file that `to_disk` wrote.

        RETURNS (SharedTransformer): The same model.
        """
        load_model(self, unpack_model(self, Path(path).read_bytes()))
        return self

    def from_dict(self, msg: Settings) -> "SharedTransformer":
        """Load a message of `to_dict`, except for the settings in CONFIGURED.

        RETURNS (SharedTransformer): The same model.
        """
        configured = {key: self.attrs[key] for key in CONFIGURED}
        if self.configured_alignment == "auto":
            self.attrs["alignment"] = STOCK
        super().from_dict(msg)
        self.attrs.update(configured)
        return self


@checked("spacy-mtl.SharedTransformer.v1")
def build_shared_transformer_v1(
    name: str,
    get_spans: SpanGetter,
    tokenizer_config: Settings = {},  # noqa: B006
    transformer_config: Settings = {},  # noqa: B006
    precision: Precision = "float32",
    lora: LoRA | None = None,
    pretrained: bool = True,
    runtime: RuntimeName = "auto",
    alignment: Alignment = "auto",
) -> Model[list[Doc], TokenMatrix]:
    """Build the shared encoder.

    name (str): A Hugging Face model name, a local folder, or "minilm" (extra `minilm`).
    get_spans (Callable[[List[Doc]], List[List[Span]]]): The spans of each doc to read at once.
        Spans may overlap; a token's row is the mean over all spans that hold it.
    tokenizer_config (dict): Settings for the tokenizer.
    transformer_config (dict): Settings for the encoder, such as its dropout.
    precision (str): "float32", "bfloat16", or "auto" for bfloat16 where the device computes it
        natively.
    lora (Optional[LoRA]): `spacy-mtl.LoRA.v1`: train adapters instead of the encoder's weights.
        Each training run starts with new adapters. They are merged into the saved weights, so
        predictions do not need peft.
    pretrained (bool): Whether to start with the weights of `name`. If False, the encoder has the
        same architecture and tokenizer, and random weights.
    runtime (str): "eager" computes what Hugging Face computes, by torch's own functions; "cpu" uses
        faster kernels, chosen by what the CPU can do; "auto" is "cpu" on a CPU, "eager" elsewhere.
    alignment (str): Decides which wordpieces belong to a token. "characters": the wordpieces that
        share a character with the token, except white space; the first word of a span is tokenized
        like inside its doc. "spacy-transformers": also the wordpieces that touch the space after
        the token, such as the next word's first piece if the tokenizer's offsets include the
        space; a span is tokenized as a text of its own. "auto": the alignment that the saved
        weights were trained with, and "characters" for a new encoder. Weights from
        spacy-transformers and from spacy-mtl 0.1.0 have "spacy-transformers".
    RAISES (ValueError): M058 for an argument of a wrong type; M051 for settings that make
        transformers run code; M018 for a runtime that the device lacks. When it is initialized,
        M001 to M004, M055 and M072. When training begins, M067 and M068.
    """
    return SharedTransformer(
        name,
        get_spans,
        tokenizer_config,
        transformer_config,
        precision,
        lora,
        pretrained,
        runtime,
        alignment,
    )


@isolated
def init(model: SharedTransformer, X: Iterable[Doc] | None = None, Y: object = None) -> None:
    if not model.attrs["has_transformer"]:
        load_weights(model)
    model.shim.add_adapters()


def load_weights(model: SharedTransformer) -> None:
    """Load the tokenizer and the encoder of the model's settings.

    RAISES (ValueError): M055 or M072 for settings that cannot be trained, M001 to M004 from
        `load_pretrained`.
    """
    tokenizer_config = model.shim.loaded.tokenizer_config
    transformer_config = model.shim.loaded.transformer_config
    if model.shim.lora and not model.attrs["pretrained"]:
        raise ValueError(Errors.M072)
    if refused := [key for key in REFUSED if transformer_config.get(key)]:
        raise ValueError(Errors.M055.format(settings=refused))
    loaded = load_pretrained(
        model.attrs["name"],
        tokenizer_config,
        transformer_config,
        pretrained=model.attrs["pretrained"],
    )
    set_transformer(model, loaded)
    if model.configured_alignment == "auto":
        model.attrs["alignment"] = "characters"


def set_transformer(model: SharedTransformer, loaded: PretrainedEncoder) -> None:
    """Put a loaded encoder into the model. The model's settings stay."""
    model.shim.loaded = replace(
        loaded,
        tokenizer_config=model.shim.loaded.tokenizer_config,
        transformer_config=model.shim.loaded.transformer_config,
    )
    model.attrs["has_transformer"] = True
    model.set_dim("nO", loaded.transformer.config.hidden_size)
