"""Check the encoders of a pipeline, once it is initialized."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from spacy.language import Language
from spacy.tokens import Doc
from spacy.ty import TrainableComponent
from spacy.util import minibatch

from ..contracts import find_encoders
from ..corpora.inventory import Corpus
from ..errors import Warnings
from ..weights import AnyModel, ModelWeights
from .finding import Finding

if TYPE_CHECKING:
    from ..encoder.model.transformer import SharedTransformer


@dataclass
class EncoderSummary:
    """An encoder.

    source (str): The name of its weights or of its model.
    width (int): The width of its output.
    parameters (int): The number of its parameters.
    precision (str): The number format that it computes in.
    max_length (Optional[int]): The most wordpieces that it reads at once, without special tokens;
        None if it is no transformer, or has no fast tokenizer.
    """

    source: str
    width: int
    parameters: int
    precision: str
    max_length: int | None


def describe_encoders(nlp: Language) -> dict[str, EncoderSummary]:
    """RETURNS (Dict[str, EncoderSummary]): The initialized components with listeners."""
    return {
        name: describe_encoder(pipe.model)
        for name, pipe in find_encoders(nlp).items()
        if pipe.listener_map and isinstance(pipe, TrainableComponent)
    }


def describe_encoder(model: AnyModel) -> EncoderSummary:
    """RETURNS (EncoderSummary): A transformer or another initialized model."""
    weights, transformer = ModelWeights({"": model}), get_transformer(model)
    nodes, shims = weights.nodes.values(), weights.shims.values()
    arrays = [n.get_param(name) for n in nodes for name in n.param_names if n.has_param(name)]
    tensors = [parameter for shim in shims for parameter in shim._model.parameters()]
    return EncoderSummary(
        source=str(model.attrs.get("name", model.name)),
        width=model.get_dim("nO"),
        parameters=sum(a.size for a in arrays) + sum(t.numel() for t in tensors),
        precision=get_precision(model),
        max_length=transformer.max_length if transformer else None,
    )


def get_precision(model: AnyModel) -> str:
    """RETURNS (str): "mixed", or the number format, such as "bfloat16"."""
    from ..encoder.model.transformer import SharedTransformer
    from ..encoder.model.weights import get_dtype

    if isinstance(model, SharedTransformer):
        dtype = get_dtype(model.attrs["precision"], model.transformer.device)
        return str(dtype).removeprefix("torch.")
    is_mixed = any(s._mixed_precision for s in ModelWeights({"": model}).shims.values())
    return "mixed" if is_mixed else "float32"


def get_transformer(model: AnyModel) -> "SharedTransformer | None":
    """RETURNS (Optional[SharedTransformer]): The model itself, or a model of spacy-transformers
    converted; None if it is no transformer, or has no fast tokenizer.
    """
    from ..encoder.model.transformer import SharedTransformer
    from ..encoder.stock import is_stock_model, read_model

    if isinstance(model, SharedTransformer):
        return model
    loaded = read_model(model)[1] if is_stock_model(model) else None
    return SharedTransformer.from_stock(model) if loaded and loaded.tokenizer.is_fast else None


def check_encoders(
    nlp: Language,
    encoders: Mapping[str, EncoderSummary],
    corpora: Mapping[str, Corpus],
    frozen: Collection[str],
) -> list[Finding]:
    """Find encoders that are not trained, and docs that are too long for one pass.

    nlp (Language): The pipeline.
    encoders (Mapping[str, EncoderSummary]): Its encoders.
    corpora (Mapping[str, Corpus]): All corpora.
    frozen (Collection[str]): The components that are not trained.
    RETURNS (List[Finding]): W223 for a frozen encoder, W226 for docs with too long windows.
    """
    from ..encoder.pipe import SharedEncoder

    findings = []
    for name, encoder in encoders.items():
        if name in frozen:
            findings.append(Finding(Warnings.W223.format(name=name)))
        pipe: object = nlp.get_pipe(name)
        if encoder.max_length is None or not isinstance(pipe, TrainableComponent):
            continue
        is_ours = isinstance(pipe, SharedEncoder)
        effect = (
            "Long windows are read in parts" if is_ours else "The end of long windows is not read"
        )
        for corpus, content in corpora.items():
            docs = [eg.predicted for eg in content.examples]
            if cut := count_cut(docs, pipe.model, encoder.max_length):
                message = Warnings.W226.format(
                    cut=cut,
                    corpus=corpus,
                    max_length=encoder.max_length,
                    encoder=name,
                    effect=effect,
                )
                findings.append(Finding(message))
    return findings


def count_cut(docs: Iterable[Doc], model: AnyModel, max_length: int) -> int:
    """Count the docs with a window that is too long.

    docs (Iterable[Doc]): The docs.
    model (Model): An initialized transformer with a fast tokenizer.
    max_length (int): The most wordpieces that it reads at once.
    RETURNS (int): The number of docs with a window of more wordpieces.
    """
    from ..encoder.model.wordpieces import tokenize

    transformer, cut = get_transformer(model), 0
    assert transformer is not None
    for batch in minibatch(docs, 256):  # type: ignore[no-untyped-call]
        texts = [
            [span.text for span in spans if len(span)] for spans in model.attrs["get_spans"](batch)
        ]
        lengths, *_ = tokenize(transformer.tokenizer, [text for spans in texts for text in spans])
        rest = iter((lengths > max_length).tolist())
        cut += sum(any(list(islice(rest, len(spans)))) for spans in texts)
    return cut
