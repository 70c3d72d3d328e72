"""The factory of `mtl_transformer`. spaCy imports it for every pipeline: no torch at import."""

from collections.abc import Callable
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import Config, Model

from ..arguments import Count, checked
from .stock_names import register_names

register_names()
DEFAULT_CONFIG = """
[transformer]
max_batch_items = 4096

[transformer.set_extra_annotations]
@annotation_setters = "spacy-transformers.null_annotation_setter.v1"

[transformer.balancer]
@misc = "spacy-mtl.UncertaintyWeights.v1"

[transformer.model]
@architectures = "spacy-mtl.SharedTransformer.v1"
name = "minilm"
tokenizer_config = {"use_fast": true}
transformer_config = {}
precision = "float32"
runtime = "auto"
lora = null
pretrained = true
alignment = "auto"

[transformer.model.get_spans]
@span_getters = "spacy-mtl.sentence_spans.v1"
window = 160
"""


@Language.factory(
    "mtl_transformer",
    assigns=["doc._.trf_data"],
    default_config=Config().from_str(DEFAULT_CONFIG)["transformer"],
)
@checked("mtl_transformer")
def make_mtl_transformer(
    nlp: Language,
    name: str,
    model: Model[list[Doc], Any],
    balancer: Any,
    set_extra_annotations: Callable[..., None],
    max_batch_items: Count,
) -> Any:
    """Construct the shared encoder.

    model (Model[List[Doc], TokenMatrix]): `spacy-mtl.SharedTransformer.v1`, or a model of
        spacy-transformers, which is converted with its weights.
    balancer (Balancer): Combines the tasks' gradients.
    set_extra_annotations (Callable[[List[Doc], TokenMatrix], None]): Called after encoding.
    max_batch_items (int): Wordpieces per forward pass, padding included.
    """
    from .pipe import SharedEncoder

    return SharedEncoder(
        nlp.vocab,
        model,
        balancer,
        set_extra_annotations,
        name=name,
        max_batch_items=max_batch_items,
    )
