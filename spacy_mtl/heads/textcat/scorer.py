"""The scorer of exclusive categories."""

from collections.abc import Callable, Iterable
from typing import Any

from spacy.scorer import Scorer
from spacy.training import Example

from ...types import Settings


def score_textcat(examples: Iterable[Example], *, labels: Iterable[str], **kwargs: Any) -> Settings:
    """Score exclusive categories over the docs that have a gold category of the head. spaCy's
    scorer counts docs without one as errors.

    examples (Iterable[Example]): The examples.
    labels (Iterable[str]): The head's labels.
    **kwargs: Further arguments of `Scorer.score_cats`.
    RETURNS (Dict[str, Any]): The scores of `Scorer.score_cats`. If no doc has a category, all are
        None except `cats_score_desc`.
    """
    labels = list(labels)
    labelled = [eg for eg in examples if any(map(eg.reference.cats.get, labels))]
    scores = Scorer.score_cats(labelled, "cats", labels=labels, multi_label=False, **kwargs)
    if not labelled:
        return dict.fromkeys(scores) | {"cats_score_desc": scores["cats_score_desc"]}
    return scores


def make_textcat_scorer() -> Callable[..., Settings]:
    """RETURNS (Callable): The scorer of exclusive categories."""
    return score_textcat
