"""The scorer of relations."""

from collections.abc import Callable, Iterable
from typing import Any

from spacy.scorer import PRFScore
from spacy.training import Example

from ...annotations.relations import find_aligned, get_relations
from ...types import Settings


def score_relations(examples: Iterable[Example], **kwargs: Any) -> Settings:
    """Score relations. A predicted relation is right if a gold relation has the same two spans and
    the same label. The types of the spans do not matter.

    examples (Iterable[Example]): The examples. Those without gold relations are left out.
    **kwargs: Not used.
    RETURNS (Dict[str, Any]): `rel_micro_p`, `rel_micro_r` and `rel_micro_f` over all relations,
        `rel_macro_f`, the mean F of the gold labels, and `rel_per_type`. All are None without gold
        docs.
    """
    per_type: dict[str, PRFScore] = {}
    gold_labels, total, is_known = set[str](), PRFScore(), False
    for eg in examples:
        gold = get_relations(eg.reference)
        if gold is None:
            continue
        is_known = True
        right = {relation[:3] for relation in gold}
        found = {relation[:3] for relation in find_aligned(eg)}
        gold_labels |= {label for *_, label in right}
        total.score_set(found, right)
        for label in {label for *_, label in right | found}:
            own = per_type.setdefault(label, PRFScore())
            own.score_set(*({item for item in side if item[2] == label} for side in (found, right)))
    if not is_known:
        keys = ("rel_micro_p", "rel_micro_r", "rel_micro_f", "rel_macro_f", "rel_per_type")
        return dict.fromkeys(keys)
    macro = [per_type[label].fscore for label in gold_labels]
    return {
        "rel_micro_p": total.precision,
        "rel_micro_r": total.recall,
        "rel_micro_f": total.fscore,
        "rel_macro_f": sum(macro) / max(len(macro), 1),
        "rel_per_type": {label: own.to_dict() for label, own in sorted(per_type.items())},
    }


def make_relation_scorer() -> Callable[..., Settings]:
    """RETURNS (Callable): The scorer of relations."""
    return score_relations
