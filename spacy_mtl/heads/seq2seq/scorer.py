"""The scorer of texts: exact matches and chrF."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from spacy.training import Example

from ...annotations.documents import DEFAULT_TEXT, Texts
from ...types import Settings

ORDER = 6  # the longest n-gram of characters
BETA = 2  # how many times as much recall counts as precision


def score_texts(
    examples: Iterable[Example], *, attribute: str = DEFAULT_TEXT, **kwargs: Any
) -> Settings:
    """Score the texts of docs.

    examples (Iterable[Example]): The examples. Those without a gold text are left out.
    attribute (str): The custom attribute that the texts are in.
    **kwargs: Not used.
    RETURNS (Dict[str, Any]): The share of texts that are equal to the gold text, under
        `texts_ATTRIBUTE_exact`, and chrF over all texts, from 0 to 1, under `texts_ATTRIBUTE_chrf`.
        Both are None without gold texts.
    """
    layer, pairs = Texts(attribute), list[tuple[str, str]]()
    for eg in examples:
        gold = layer.get_texts(eg.reference).get(attribute)
        if gold is not None:
            pairs.append((layer.get_texts(eg.predicted).get(attribute, ""), gold))
    n_right = sum(found == gold for found, gold in pairs)
    return {
        f"texts_{attribute}_exact": n_right / len(pairs) if pairs else None,
        f"texts_{attribute}_chrf": get_chrf(pairs) if pairs else None,
    }


def get_chrf(pairs: Sequence[tuple[str, str]]) -> float:
    """Compute chrF: Popović (2015), "chrF: character n-gram F-score for automatic MT evaluation".
    The n-grams of all texts are counted together, up to a length of 6 and without white space.
    Precision and recall are means over the lengths that occur.

    pairs (Sequence[Tuple[str, str]]): The predicted and the gold texts.
    RETURNS (float): F with a beta of 2, from 0 to 1. If no text has a character it is 1.
    """
    precisions, recalls = list[float](), list[float]()
    for n in range(1, ORDER + 1):
        n_found = n_gold = n_right = 0
        for texts in pairs:
            found, gold = (count_ngrams(text, n) for text in texts)
            n_found, n_gold = n_found + found.total(), n_gold + gold.total()
            n_right += (found & gold).total()
        if n_found or n_gold:
            precisions.append(n_right / max(n_found, 1))
            recalls.append(n_right / max(n_gold, 1))
    if not precisions:
        return 1.0
    p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (1 + BETA**2) * p * r / (BETA**2 * p + r) if p + r else 0.0


def count_ngrams(text: str, n: int) -> Counter[str]:
    """RETURNS (Counter[str]): How often each n-gram of characters occurs."""
    text = "".join(text.split())
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def make_seq2seq_scorer() -> Callable[..., Settings]:
    """RETURNS (Callable): The scorer of texts."""
    return score_texts
