"""Batches with about the same number of wordpieces."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import minibatch

from ..arguments import Count, checked
from ..errors import Errors
from ..extras import get_install_line

Item = TypeVar("Item", bound=Doc | Example)
READ_AHEAD = 256  # items tokenized in one call


@checked("spacy-mtl.batch_by_wordpieces.v1")
def create_wordpiece_batcher_v1(
    size: Count, tokenizer: str | None = None, discard_oversize: bool = False
) -> Callable[[Iterable[Item]], Iterator[list[Item]]]:
    """Batch docs or examples by wordpieces, in their given order.

    The work of the encoder is then nearly the same for each batch. With batches by words it is not:
    names, numbers and foreign text have several wordpieces per word.

    size (int): The largest number of wordpieces in a batch. A larger item becomes its own batch.
    tokenizer (Optional[str]): The name or path of the encoder whose wordpieces are counted. If
        `None`, a word counts as one wordpiece per four characters, rounded up.
    discard_oversize (bool): Whether to leave out items with more than `size` wordpieces.
    RAISES (ValueError): M058 for an argument out of range.
    """
    return partial(
        batch_by_wordpieces, size=size, tokenizer=tokenizer, discard_oversize=discard_oversize
    )


def batch_by_wordpieces(
    items: Iterable[Item], *, size: int, tokenizer: str | None, discard_oversize: bool
) -> Iterator[list[Item]]:
    """YIELDS (List[Union[Doc, Example]]): The batches."""
    batch: list[Item] = []
    total = 0
    for chunk in minibatch(items, READ_AHEAD):  # type: ignore[no-untyped-call]
        for item, length in zip(chunk, count_wordpieces(chunk, tokenizer), strict=True):
            if length > size and discard_oversize:
                continue
            if batch and total + length > size:
                yield batch
                batch, total = [], 0
            batch.append(item)
            total += length
    if batch:
        yield batch


def count_wordpieces(items: Sequence[Doc | Example], tokenizer: str | None) -> list[int]:
    """RETURNS (List[int]): The number of wordpieces per doc or example, without special tokens."""
    docs = [i.predicted if isinstance(i, Example) else i for i in items]
    if tokenizer is None:
        return [sum(1 + (len(token) - 1) // 4 for token in doc) for doc in docs]
    encodings = load_tokenizer(tokenizer).encode_batch(
        [doc.text for doc in docs], add_special_tokens=False
    )
    return [len(encoding) for encoding in encodings]


@lru_cache(maxsize=4)
def load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    from ..pretrained import MINILM, check_tokenizer, embedded_minilm

    source = str(embedded_minilm()) if name == MINILM else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, ImportError) as err:
        raise ValueError(
            Errors.M001.format(name=name, error=err, install=get_install_line("minilm"))
        ) from err
    check_tokenizer(tokenizer, name)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer.backend_tokenizer
