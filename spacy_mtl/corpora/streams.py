"""All examples behind a stream of draws, for initialization. spaCy initializes components with the
first 100 examples of an endless stream, and other streams need not contain all examples.
"""

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import cache
from itertools import islice

from spacy.training import Example

# Gets the examples of the stream that begins while it is set.
_recorder: ContextVar[list[Example] | None] = ContextVar("recorder", default=None)


def record(examples: Iterable[Example]) -> None:
    """Record all examples of a stream that begins, for `read_whole`. A stream that contains others
    begins last, and replaces their examples.
    """
    found = _recorder.get()
    if found is not None:
        found[:] = examples


def read_whole(get_examples: Callable[[], Iterable[Example]]) -> Callable[[], list[Example]]:
    """Read the examples for an initialization once: all of them, if they are draws of a stream.

    get_examples (Callable): Returns examples, or the first draws of a stream.
    RETURNS (Callable): Returns the same examples, or each example of the stream once, always the
        same list.
    """

    @cache
    def get_whole() -> list[Example]:
        found: list[Example] = []
        token = _recorder.set(found)
        try:
            examples = iter(get_examples())
            first = [*islice(examples, 1)]
        finally:
            _recorder.reset(token)
        return found or [*first, *examples]

    return get_whole
