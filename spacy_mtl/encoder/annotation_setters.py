"""Functions for `set_extra_annotations` of `mtl_transformer`, which keep token vectors on docs."""

from collections.abc import Callable, Sequence
from typing import Any

from spacy.tokens import Doc
from thinc.backends import get_array_ops

from ..arguments import checked
from .token_matrix import TokenMatrix, get_rows

Setter = Callable[[Sequence[Doc], TokenMatrix], None]


@checked("spacy-mtl.doc_tensor.v1")
def configure_doc_tensor() -> Setter:
    """Keep the last hidden states of each doc in `doc.tensor`: a float32 array in main memory, n x
    H, one row per token. A row is the mean over the token's wordpieces. `doc.to_bytes` saves
    it. Without static word vectors, `token.vector` and `doc.similarity` read it.

    RETURNS (Callable): A function for `set_extra_annotations`.
    """
    return set_doc_tensor


def set_doc_tensor(docs: Sequence[Doc], matrix: TokenMatrix) -> None:
    ops: Any = get_array_ops(matrix.data)  # type: ignore[no-untyped-call]
    data = ops.to_numpy(matrix.data[:, -matrix.width :])
    for doc, (start, end) in zip(docs, matrix.bounds, strict=True):
        doc.tensor = data[start:end].copy()  # a view would keep the vectors of the whole batch


@checked("spacy-mtl.trf_data.v1")
def configure_trf_data() -> Setter:
    """Keep `doc._.trf_data` after all heads have read it, as spacy-transformers does. It has the
    attributes `last_hidden_layer_state`, `model_output.last_hidden_state`, `tensors` and `align`.
    The encoder has pooled wordpieces to tokens already: `align` has one row per token. Docs of a
    batch share one array, which stays in memory while any of them does.

    RETURNS (Callable): A function for `set_extra_annotations`.
    """
    return keep_trf_data


def keep_trf_data(docs: Sequence[Doc], matrix: TokenMatrix) -> None:
    for doc in docs:
        rows = get_rows(doc)
        if rows is not None:
            rows.readers = None
