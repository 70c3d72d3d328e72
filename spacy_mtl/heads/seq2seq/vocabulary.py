"""Pieces of texts: a vocabulary that is learned from texts, and the tokens of a doc.

Texts are spelled with one character per byte of UTF-8, so that 256 characters can spell every text.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

END = ""  # the label of the end of a text
WORD = re.compile(r" ?\w+| ?[^\w\s]+|\s+")  # no piece goes beyond one
BYTES = [chr(byte) for byte in range(256)]
MAX_PIECE = 24  # bytes of a piece at most


@lru_cache(maxsize=100_000)
def spell(text: str) -> str:
    """RETURNS (str): The text with one character per byte."""
    return text.encode("utf-8", errors="replace").decode("latin-1")


def unspell(spelled: str) -> str:
    """RETURNS (str): The text of these bytes, without incomplete characters."""
    return spelled.encode("latin-1").decode("utf-8", errors="ignore")


def learn_pieces(texts: Iterable[str], size: int) -> list[str]:
    """Learn a vocabulary by byte-pair encoding: Sennrich et al. (2016), "Neural Machine Translation
    of Rare Words with Subword Units", section 3.2. A piece occurs at least twice.

    texts (Iterable[str]): The texts.
    size (int): The largest number of pieces; more than 256.
    RETURNS (List[str]): The end of texts, the bytes, and the learned pieces.
    """
    from tokenizers import Tokenizer, models, trainers  # slow to import

    words = (spell(word) for text in texts for word in WORD.findall(text))
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        min_frequency=2,
        initial_alphabet=BYTES,
        max_token_length=MAX_PIECE,
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.train_from_iterator(words, trainer)
    found: dict[str, int] = tokenizer.get_vocab()
    return [END, *BYTES, *sorted(found.keys() - set(BYTES), key=found.__getitem__)]


class Vocabulary:
    """The pieces of texts, by number.

    pieces (Sequence[str]): The end of texts, and pieces that include all bytes.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces
        self.index = {piece: i for i, piece in enumerate(pieces)}
        self.lengths = {len(piece) for piece in pieces}

    def __len__(self) -> int:
        return len(self.pieces)

    def find_problem(self) -> str | None:
        """RETURNS (Optional[str]): Why the pieces cannot write every text; None if they can."""
        if not self.pieces or self.pieces[0] != END:
            return "the first one is not empty"
        missing = [byte for byte in BYTES if byte not in self.index]
        return f"the bytes {missing[:5]} are missing" if missing else None


class Units:
    """What a doc's text can be written with: the pieces of the vocabulary and copies of its tokens.
    Each token can be copied with and without a space before it. A copy that equals a piece has the
    number of the piece; other copies have the numbers after the pieces.

    vocabulary (Vocabulary): The pieces.
    tokens (Sequence[str]): The texts of the doc's tokens, T.
    copies (List[int]): The number of each token's copy, and of its copy with a space, 2 x T.
    """

    def __init__(self, vocabulary: Vocabulary, tokens: Sequence[str]) -> None:
        self.vocabulary = vocabulary
        self.own: dict[str, int] = {}
        self.copies = [
            self._add(space + spelled) for space in ("", " ") for spelled in map(spell, tokens)
        ]
        lengths = vocabulary.lengths.union(map(len, self.own))
        self.lengths = sorted(lengths - {0}, reverse=True)

    def _add(self, copy: str) -> int:
        known = self.vocabulary.index.get(copy)
        if known is None:
            known = self.own.setdefault(copy, len(self.vocabulary) + len(self.own))
        return known

    def encode(self, text: str) -> list[int]:
        """Write a text with the longest units that fit, from its start to its end.

        text (str): The text.
        RETURNS (List[int]): The numbers of the units, with the end of the text.
        """
        spelled, index, own = spell(text), self.vocabulary.index, self.own
        numbers, start = list[int](), 0
        while start < len(spelled):
            candidates = (spelled[start : start + length] for length in self.lengths)
            unit = next(unit for unit in candidates if unit in own or unit in index)
            numbers.append(own[unit] if unit in own else index[unit])
            start += len(unit)
        return [*numbers, index[END]]

    def decode(self, numbers: Iterable[int]) -> str:
        """RETURNS (str): The text of some units."""
        pieces, own = self.vocabulary.pieces, list(self.own)
        units = [pieces[i] if i < len(pieces) else own[i - len(pieces)] for i in numbers]
        return unspell("".join(units))
