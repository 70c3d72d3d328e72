"""The scorer of answers to questions."""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from spacy.training import Example

from ...types import Settings

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def score_answers(
    examples: Iterable[Example], *, spans_key: str = "answers", **kwargs: Any
) -> Settings:
    """Score answers as SQuAD does: Rajpurkar et al. (2016), "SQuAD", section 6.1. The best of
    several gold answers counts.

    examples (Iterable[Example]): The examples. Those without a gold group are left out.
    spans_key (str): The group of the answers.
    **kwargs: Not used.
    RETURNS (Dict[str, Any]): `qa_exact`, the share of answers with the normalized text of a gold
        answer; `qa_f1`, the mean F of their words; and `qa_no_answer_f`, the F of the docs without
        an answer. All are None without gold docs.
    """
    exact, f1, nulls = list[float](), list[float](), list[tuple[bool, bool]]()
    for eg in examples:
        if spans_key not in eg.reference.spans:
            continue
        gold = [split_answer(span.text) for span in eg.reference.spans[spans_key]]
        found = [split_answer(span.text) for span in eg.predicted.spans.get(spans_key, ())]
        nulls.append((not found, not gold))
        best = found[0] if found else []
        exact.append(max((float(best == own) for own in gold), default=float(not found)))
        f1.append(max((get_overlap(best, own) for own in gold), default=float(not found)))
    if not exact:
        return dict.fromkeys(["qa_exact", "qa_f1", "qa_no_answer_f"])
    right = sum(a and b for a, b in nulls)
    n_nulls = sum(a + b for a, b in nulls)
    return {
        "qa_exact": sum(exact) / len(exact),
        "qa_f1": sum(f1) / len(f1),
        "qa_no_answer_f": 2 * right / n_nulls if n_nulls else None,
    }


def split_answer(text: str) -> list[str]:
    """RETURNS (List[str]): The words of a text in lower case, without articles and punctuation."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def get_overlap(found: list[str], gold: list[str]) -> float:
    """RETURNS (float): The F of the found words."""
    n = (Counter(found) & Counter(gold)).total()
    return 2 * n / (len(found) + len(gold)) if n else float(found == gold)


def make_qa_scorer() -> Callable[..., Settings]:
    """RETURNS (Callable): The scorer of answers."""
    return score_answers
