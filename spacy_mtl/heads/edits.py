"""Edits that turn a form into its lemma, as labels of a lemmatizer.

An edit changes the case of the form, then applies one of spaCy's edit trees: Müller et al. (2015),
"Joint Lemmatization and Morphological Tagging with Lemming", section 2. As case is apart, "Dogs"
and "dogs" have the same tree, and no capital letter needs a tree of its own. Straka (2018), "UDPipe
2.0 Prototype at CoNLL 2018 UD Shared Task", section 4.4, also separates case.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from spacy.pipeline._edit_tree_internals.edit_trees import EditTrees
from spacy.strings import StringStore

LONGEST = 100  # characters. The time to find a tree grows with the square, and more.
NO_TREE = 2**32 - 1  # in spaCy's trees
CASES: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "capitalize": str.capitalize,
    "keep": str,
}
# A tree is one of:
# [a string, its substitute]
# [n characters before a part that stays, m characters after it, a tree for each of the two]
# None, which leaves an empty string empty
Tree: TypeAlias = list[Any] | None


class Edit(NamedTuple):
    """An edit of a form to its lemma.

    case (str): The change of case that comes first: a key of CASES.
    tree (Tree): The edit tree.
    """

    case: str
    tree: Tree


def find_edit(form: str, lemma: str) -> str | None:
    """Find the edit of a form to its lemma.

    form, lemma (str): The form and the lemma.
    RETURNS (Optional[str]): The edit as JSON, such as '["lower",[0,1,null,["s",""]]]'; None if the
        lemma is empty, the form is white space, or one of them has more than LONGEST characters.
    """
    return write_edit(form, lemma) if has_edit(form) and 0 < len(lemma) <= LONGEST else None


@lru_cache(maxsize=2**16)
def write_edit(form: str, lemma: str) -> str:
    case = find_case(form, lemma)
    strings = StringStore()
    trees = EditTrees(strings)
    tree = to_tree(trees, strings, trees.add(CASES[case](form), lemma))
    return json.dumps([case, tree], ensure_ascii=False, separators=(",", ":"))


def has_edit(form: str) -> bool:
    """RETURNS (bool): Whether a form can have edits: it is no white space and not too long."""
    return len(form) <= LONGEST and not form.isspace()


def find_case(form: str, lemma: str) -> str:
    """RETURNS (str): The change of case of a form that makes it most similar to its lemma."""
    if lemma == lemma.lower():
        return "lower"
    if form.isupper() and len(form) > 1 and not lemma.isupper():
        return "capitalize"
    return "keep"


def to_tree(trees: EditTrees, strings: StringStore, i: int) -> Tree:
    """RETURNS (Tree): The i-th of spaCy's trees."""
    if i == NO_TREE:
        return None
    node = trees[i]
    if "orig" in node:
        return [strings[node["orig"]], strings[node["subst"]]]
    parts = [to_tree(trees, strings, node[key]) for key in ("prefix_tree", "suffix_tree")]
    return [node["prefix_len"], node["suffix_len"], *parts]


@lru_cache(maxsize=2**13)
def parse_edit(label: str) -> Edit | None:
    """RETURNS (Optional[Edit]): The edit in a label, None if the label is no edit."""
    try:
        case, tree = json.loads(label)
    except (ValueError, TypeError, RecursionError):
        return None
    return Edit(case, tree) if case in [*CASES] and is_tree(tree) and tree else None


def is_tree(value: object, depth: int = LONGEST) -> bool:
    """RETURNS (bool): Whether a value is a tree of at most this depth."""
    if value is None:
        return True
    if not isinstance(value, list) or not depth:
        return False
    kinds = [type(item) for item in value]
    if kinds == [str, str]:
        return True
    is_node = len(value) == 4 and kinds[:2] == [int, int] and min(value[:2]) >= 0
    return is_node and all(is_tree(part, depth - 1) for part in value[2:])


@lru_cache(maxsize=2**16)
def apply_edit(label: str, form: str) -> str | None:
    """RETURNS (Optional[str]): The lemma of a form that has edits; None if this one does not fit,
    or would leave nothing.
    """
    edit = parse_edit(label)
    return apply_tree(edit.tree, CASES[edit.case](form)) or None if edit else None


def apply_tree(tree: Tree, form: str) -> str | None:
    """RETURNS (Optional[str]): The edited form, None if the tree does not fit."""
    if tree is None:
        return None if form else ""
    if len(tree) == 2:
        original, substitute = tree
        return str(substitute) if form == original else None
    n_before, n_after, before, after = tree
    end = len(form) - n_after
    if n_before > end:
        return None
    prefix, suffix = apply_tree(before, form[:n_before]), apply_tree(after, form[end:])
    return None if prefix is None or suffix is None else prefix + form[n_before:end] + suffix
