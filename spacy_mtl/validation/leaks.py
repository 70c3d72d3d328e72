"""Finds near-duplicates of docs in other folds, by the words that they share."""

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spacy.tokens import Doc

from ..errors import Warnings
from ..types import Ints1d

WORDS = 3  # in a shingle
SHOWN = 3  # pairs in a message
LENGTH = 60  # characters of their texts
SIMILAR = 0.8  # the least share of common shingles, the Jaccard index, of near-duplicates


@dataclass(frozen=True)
class Leak:
    """Two docs in different folds with nearly the same text.

    first, second (int): The docs.
    similarity (float): The share of shingles of either doc that both have.
    """

    first: int
    second: int
    similarity: float


def make_shingles(doc: Doc) -> set[int]:
    """RETURNS (Set[int]): The hashes of all runs of WORDS words, in lower case and without
    punctuation. A shorter text is one run.
    """
    words = [token.lower_ for token in doc if not (token.is_space or token.is_punct)]
    runs = range(max(len(words) - WORDS, 0) + 1) if words else ()
    return {hash_words(words[start : start + WORDS]) for start in runs}


def hash_words(words: Sequence[str]) -> int:
    """RETURNS (int): A hash of 64 bits that is the same in each process."""
    digest = hashlib.blake2b("\n".join(words).encode("utf8"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def find_leaks(docs: Sequence[Doc], folds: Ints1d) -> list[Leak]:
    """Find near-duplicates in different folds.

    Two docs are compared only if one of their rarest shingles is the same: similar sets share some
    of these (Bayardo et al. 2007, "Scaling Up All Pairs Similarity Search").

    docs (Sequence[Doc]): The docs.
    folds (Ints1d): The fold of each doc, D.
    RETURNS (List[Leak]): One leak for each doc that has a near-duplicate, the most similar one.
    """
    shingles = [make_shingles(doc) for doc in docs]
    frequency = Counter(shingle for own in shingles for shingle in own)
    best: dict[int, Leak] = {}
    seen: dict[int, list[int]] = {}
    for i, own in enumerate(shingles):
        rarest = sorted(own, key=lambda shingle: (frequency[shingle], shingle))
        prefix = rarest[: len(own) - math.ceil(SIMILAR * len(own)) + 1] if own else []
        for j in _find_candidates(prefix, seen):
            if folds[i] == folds[j]:
                continue
            similarity = len(own & shingles[j]) / len(own | shingles[j])
            for doc, other in ((i, j), (j, i)):
                if similarity >= max(SIMILAR, best[doc].similarity if doc in best else 0):
                    best[doc] = Leak(doc, other, similarity)
        for shingle in prefix:
            seen.setdefault(shingle, []).append(i)
    return [best[doc] for doc in sorted(best)]


def warn_of_leaks(docs: Sequence[Doc], leaks: Sequence[Leak]) -> None:
    """Count near-duplicates and show the first ones: W132.

    docs (Sequence[Doc]): The docs.
    leaks (Sequence[Leak]): Their near-duplicates.
    """
    if leaks:
        pairs = [(docs[leak.first].text, docs[leak.second].text) for leak in leaks[: 2 * SHOWN]]
        texts = {tuple(sorted(" ".join(t.split())[:LENGTH] for t in pair)): None for pair in pairs}
        shown = "; ".join(f"{a!r} and {b!r}" for a, b in [*texts][:SHOWN])
        warnings.warn(Warnings.W132.format(n=len(leaks), total=len(docs), texts=shown))


def _find_candidates(prefix: Sequence[int], seen: dict[int, list[int]]) -> Iterator[int]:
    yield from dict.fromkeys(j for shingle in prefix for j in seen.get(shingle, ()))
