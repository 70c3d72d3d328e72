"""Everything that depends on the version of transformers, from 4.48 to 5."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from packaging.version import Version
from thinc.api import get_torch_default_device
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CONFIG_MAPPING, TOKENIZER_MAPPING, AutoConfig, AutoModel, AutoTokenizer
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
from transformers.utils.generic import ModelOutput

from .types import Settings

if TYPE_CHECKING:
    from transformers.tokenization_utils_fast import PreTrainedTokenizerFast
else:
    from transformers import PreTrainedTokenizerFast  # its module has another name in version 5

__all__ = ["CONFIG_MAPPING", "ModelOutput", "PreTrainedModel", "PreTrainedTokenizerFast"]

VERSION: str = transformers.__version__
# Version 4.56 renamed `torch_dtype`. Version 5 loads weights in their saved dtype by default.
FLOAT32: Settings = {
    "dtype" if Version(VERSION) >= Version("4.56") else "torch_dtype": torch.float32
}
# Names of the class for any tokenizer.json. Version 5 saves the last one.
ANY_TOKENIZER = {"PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"}
CHECKPOINTING = (
    "is_activation_checkpointing"
    if hasattr(PreTrainedModel, "is_activation_checkpointing")
    else "is_gradient_checkpointing"
)
Modules: Any = AutoModel  # the methods of both are untyped
Tokenizers: Any = AutoTokenizer


def load_tokenizer(source: str, settings: Settings) -> object:
    """RETURNS (PreTrainedTokenizerBase): The tokenizer of a hub name or folder."""
    tokenizer: object = Tokenizers.from_pretrained(source, **settings)
    if "add_prefix_space" in settings and isinstance(tokenizer, PreTrainedTokenizerFast):
        # Version 5 ignores the setting if the tokenizer has no class of its own.
        splitter = tokenizer.backend_tokenizer.pre_tokenizer
        if isinstance(splitter, ByteLevel):
            splitter.add_prefix_space = settings["add_prefix_space"]
            tokenizer.backend_tokenizer.pre_tokenizer = splitter
    return tokenizer


def load_config(source: str, settings: Settings) -> PretrainedConfig:
    """RETURNS (PretrainedConfig): The config of a hub name or folder, changed by settings."""
    config: PretrainedConfig = AutoConfig.from_pretrained(
        source, **{**settings, "return_dict": True}
    )
    return config


def load_module(source: str, config: PretrainedConfig) -> PreTrainedModel:
    """RETURNS (PreTrainedModel): The encoder of a hub name or folder, in float32."""
    module: PreTrainedModel = Modules.from_pretrained(source, config=config, **FLOAT32)
    return module


def make_module(config: PretrainedConfig, **options: object) -> PreTrainedModel:
    """RETURNS (PreTrainedModel): An encoder with random weights, of a class in transformers."""
    module: PreTrainedModel = Modules.from_config(config, trust_remote_code=False, **options)
    return module


def move_to_device(module: PreTrainedModel) -> PreTrainedModel:
    """RETURNS (PreTrainedModel): The same encoder, moved to thinc's active device."""
    untyped: Any = module  # the annotation of `to` lacks `self`
    untyped.to(get_torch_default_device())
    return module


def is_checkpointing(module: object) -> bool:
    """RETURNS (bool): Whether the backward pass recomputes an encoder's layers to save memory."""
    return isinstance(module, PreTrainedModel) and bool(getattr(module, CHECKPOINTING))


def drop_default_scale(query: torch.Tensor, options: Settings) -> Settings:
    """Remove torch's own default from the options of `scaled_dot_product_attention`. Version 5
    always passes it.

    query (torch.Tensor): ... x D.
    RETURNS (Settings): The other options, and the scale if it is not the default.
    """
    is_default = options.get("scale") == query.shape[-1] ** -0.5
    return {k: v for k, v in options.items() if k != "scale"} if is_default else options


def find_tokenizer_class(name: str | None, config: PretrainedConfig) -> object:
    """Find the class of a fast tokenizer.

    name (Optional[str]): The class's name in a tokenizer_config.json. Version 5 has no separate
        fast classes, and saves names without the suffix "Fast".
    config (PretrainedConfig): The encoder's config, which decides if there is no name.
    RETURNS (Optional[type]): The class, or another object if there is no fast tokenizer.
    """
    if name is None:
        found = TOKENIZER_MAPPING[type(config)]
        return found[1] if isinstance(found, tuple) else found
    if name in ANY_TOKENIZER:
        return PreTrainedTokenizerFast
    name = name.removesuffix("Fast")
    return tokenizer_class_from_name(f"{name}Fast") or tokenizer_class_from_name(name)


def get_vocab_file(tokenizer: PreTrainedTokenizerFast) -> Path | None:
    """RETURNS (Optional[Path]): The file with a tokenizer's vocabulary. Tokenizers that read only
    a tokenizer.json have none.
    """
    path = get_setting(tokenizer, "vocab_file", None)
    return Path(path) if path else None


def get_setting(config: object, name: str, default: object) -> Any:
    """RETURNS (Any): A setting that some encoders or versions of transformers lack."""
    return getattr(config, name, default)
