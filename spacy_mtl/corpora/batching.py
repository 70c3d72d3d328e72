"""Batches of about as many wordpieces as the encoder likes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import minibatch

from ..arguments import Count, checked
from ..errors import Errors

READ_AHEAD = 256  # items to count wordpieces of in one call


@checked("spacy-mtl.batch_by_wordpieces.v1")
def create_wordpiece_batcher_v1(
    size: Count, tokenizer: str | None = None, discard_oversize: bool = False
) -> Callable[[Iterable[Any]], Iterator[list[Any]]]:
    """Batch docs or examples by wordpieces, in the order in which they come.

    What the encoder has to do is then nearly the same for each batch, which words do not tell:
    names, numbers and foreign text have several wordpieces a word.

    size (int): The most wordpieces of a batch. An item with more is a batch of its own.
    tokenizer (Optional[str]): The encoder's name or path, whose wordpieces are counted. Without
        it, one for every four characters of a word and at least one.
    discard_oversize (bool): Whether to leave out items with more than `size` wordpieces.
    RAISES (ValueError): M058 for an argument out of range.
    """
    return partial(
        batch_by_wordpieces, size=size, tokenizer=tokenizer, discard_oversize=discard_oversize
    )


def batch_by_wordpieces(
    items: Iterable[Any], *, size: int, tokenizer: str | None, discard_oversize: bool
) -> Iterator[list[Any]]:
    """YIELDS (List[Union[Doc, Example]]): The batches."""
    batch: list[Any] = []
    total = 0
    for chunk in minibatch(items, READ_AHEAD):
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


def count_wordpieces(items: Sequence[Any], tokenizer: str | None) -> list[int]:
    """RETURNS (List[int]): The wordpieces of each doc or example, without special tokens."""
    docs: list[Doc] = [i.predicted if isinstance(i, Example) else i for i in items]
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
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, ImportError) as err:
        raise ValueError(Errors.M001.format(name=name, error=err)) from err
    check_tokenizer(tokenizer, name)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer.backend_tokenizer
