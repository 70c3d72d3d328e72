"""Attributes of tokens: the part of speech, and each morphological feature, such as "Case". A model
chooses one value of each.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy
from spacy.morphology import Morphology
from spacy.parts_of_speech import IDS
from spacy.strings import StringStore
from spacy.vocab import Vocab

from ...annotations.morphosyntax import EMPTY, POS
from ...types import Bools1d, Bools2d, Ints1d, Ints2d

LARGEST = 2**62


class Attributes(NamedTuple):
    """The outputs of a model, by attribute: the part of speech first, then features by name.

    outputs (List[str]): The name of each output, such as "POS=NOUN" and "Case=Nom", C. The first
        output of a feature stands for its absence, such as "Case=_".
    groups (Dict[str, slice]): The outputs of each attribute, A.
    places (Dict[str, int]): The place of each output.
    absent (Bools1d): The outputs of the absence of each feature, C.
    has_morph (bool): Whether there are features, or "_" for their absence.
    """

    outputs: list[str]
    groups: dict[str, slice]
    places: dict[str, int]
    absent: Bools1d
    has_morph: bool


def is_label(label: str) -> bool:
    """RETURNS (bool): Whether a text is one feature, one part of speech, or "_"."""
    field, _, value = label.partition("=")
    if field == POS:
        return value != "" and value in IDS
    is_feature = field != "" and value not in ("", EMPTY) and "=" not in value and "|" not in label
    return label == EMPTY or is_feature


def normalize(label: str) -> str:
    """RETURNS (str): The label with its values in order, such as "Gender=Fem,Masc"."""
    field, separator, value = label.partition("=")
    return f"{field}{separator}{','.join(sorted(value.split(',')))}"


@lru_cache(maxsize=8)
def get_attributes(labels: tuple[str, ...]) -> Attributes:
    """RETURNS (Attributes): The outputs of a model with these labels."""
    values: dict[str, list[str]] = {}
    for label in labels:
        if label != EMPTY:
            field = label.partition("=")[0]
            values.setdefault(field, [] if field == POS else [f"{field}={EMPTY}"]).append(label)
    outputs: list[str] = []
    groups = {}
    for field in sorted(values, key=lambda field: (field != POS, field)):
        groups[field] = slice(len(outputs), len(outputs) + len(values[field]))
        outputs += values[field]
    places = {output: i for i, output in enumerate(outputs)}
    absent = numpy.array([output.endswith(f"={EMPTY}") for output in outputs], dtype=bool)
    has_morph = groups.keys() != {POS} or EMPTY in labels
    return Attributes(outputs, groups, places, absent, has_morph)


def get_allowed(attributes: Attributes, gold: Ints2d, stores: Iterable[StringStore]) -> Bools2d:
    """Find the outputs that the annotation allows.

    attributes (Attributes): The outputs.
    gold (Ints2d): The hashes of each token's part of speech and features, N x 2. 0 is missing.
    stores (Iterable[StringStore]): The stores with the texts of the hashes.
    RETURNS (Bools2d): The outputs that are allowed for each token, N x C. All values of an
        attribute are allowed where it is missing, or where its value is not among the outputs.
    """
    allowed = numpy.ones((len(gold), len(attributes.outputs)), dtype=bool)
    for hashes, allow_only in zip(gold.T, (allow_pos, allow_features), strict=True):
        found, places = numpy.unique(hashes, return_inverse=True)
        distinct = numpy.ones((len(found), allowed.shape[1]), dtype=bool)
        for row, value in zip(distinct, found.tolist(), strict=True):
            if value:
                allow_only(
                    attributes, row, next(store[value] for store in stores if value in store)
                )
        allowed &= distinct[places]
    return allowed


def allow_pos(attributes: Attributes, row: Bools1d, pos: str) -> None:
    """Allow only one part of speech, if it is among the outputs, in a row of C outputs."""
    if (output := f"{POS}={pos}") in attributes.places:
        row[attributes.groups[POS]] = False
        row[attributes.places[output]] = True


def allow_features(attributes: Attributes, row: Bools1d, morph: str) -> None:
    """Allow only the features of a token, and the absence of all others, in a row of C outputs."""
    groups = attributes.groups
    row[groups[POS].stop if POS in groups else 0 :] = False
    row |= attributes.absent
    for feature in morph.split("|"):
        field = feature.partition("=")[0]
        if field in groups and field != POS:
            is_unknown = feature not in attributes.places
            row[groups[field]] = is_unknown
            row[attributes.places.get(feature, groups[field].start)] = True


def number_rows(choices: Ints2d, sizes: Sequence[int]) -> tuple[Ints1d, Ints1d]:
    """Number the distinct rows of an array.

    choices (Ints2d): The choices of each token, N x A: from 0 to below the size of the column.
    sizes (Sequence[int]): The size of each column, A.
    RETURNS (Tuple[Ints1d, Ints1d]): The places of D rows, of which all differ, and the number of
        each row among them, N.
    """
    codes, n_codes = numpy.zeros(len(choices), dtype="int64"), 1
    for column, size in zip(choices.T, sizes, strict=True):
        if n_codes * size > LARGEST:
            found, codes = numpy.unique(codes, return_inverse=True)
            n_codes = len(found)
        codes, n_codes = codes * size + column, n_codes * size
    _, first, numbers = numpy.unique(codes, return_index=True, return_inverse=True)
    return first, numbers


def make_hashes(attributes: Attributes, choices: Ints2d, vocab: Vocab) -> Ints2d:
    """Translate choices to the values of tokens. Features are added to the vocabulary.

    attributes (Attributes): The outputs.
    choices (Ints2d): The choices of each token among the outputs of each attribute, N x A.
    vocab (Vocab): The vocabulary.
    RETURNS (Ints2d): The hashes of each token's part of speech and features, N x 2, as unsigned
        integers of 64 bits. 0 if the outputs have none.
    """
    starts = numpy.array([group.start for group in attributes.groups.values()], dtype="int64")
    sizes = [group.stop - group.start for group in attributes.groups.values()]
    first, numbers = number_rows(choices, sizes)
    has_pos, absent = POS in attributes.groups, attributes.absent.tolist()
    distinct = []
    for row in (choices[first] + starts).tolist():
        pos = attributes.outputs[row[0]].partition("=")[2] if has_pos else ""
        features = "|".join(attributes.outputs[i] for i in row[has_pos:] if not absent[i])
        morph = vocab.morphology.add(features) if attributes.has_morph else 0
        distinct.append((IDS[pos], morph))
    return numpy.array(distinct, dtype="uint64").reshape(-1, 2)[numbers]


def merge_features(vocab: Vocab, weaker: Ints1d, stronger: Ints1d) -> Ints1d:
    """Unite the features of tokens.

    vocab (Vocab): The vocabulary.
    weaker (Ints1d): The hash of each token's features, N. 0 is missing.
    stronger (Ints1d): The hash of the features to replace or add, N.
    RETURNS (Ints1d): The hash of the features of both, N, as unsigned integers of 64 bits.
    """
    pairs, numbers = numpy.unique(
        numpy.stack([weaker, stronger], axis=1), axis=0, return_inverse=True
    )
    merged = []
    for pair in pairs.tolist():
        old, new = (Morphology.feats_to_dict(vocab.strings[value]) for value in pair)
        merged.append(vocab.morphology.add({**old, **new}))
    result: Ints1d = numpy.array(merged, dtype="uint64")[numbers.ravel()]
    return result
