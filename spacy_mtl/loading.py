"""Load pipelines, docs and examples for the commands, with errors that name the fix."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import spacy
from spacy.cli._util import walk_directory
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus, Example
from spacy.vocab import Vocab

from .errors import Errors


def load_pipeline(name: str | Path) -> Language:
    """Load a pipeline.

    name (Union[str, Path]): The name of an installed pipeline, or a folder.
    RETURNS (Language): The pipeline.
    RAISES (ValueError): M204 if it cannot be loaded.
    """
    try:
        return spacy.load(name)
    except Exception as error:
        raise ValueError(Errors.M204.format(name=name, error=error)) from error


def read_docs(path: Path, vocab: Vocab, limit: int | None = None) -> list[Doc]:
    """Read docs.

    path (Path): A .spacy file, or a folder of .spacy files.
    vocab (Vocab): The vocab of the docs.
    limit (Optional[int]): The most docs to read.
    RETURNS (List[Doc]): The docs.
    RAISES (ValueError): M205 if a file cannot be read, M206 if no doc has a word.
    """
    docs = list(islice(stream_docs(path, vocab), limit))
    check_words(path, docs)
    return docs


def stream_docs(path: Path, vocab: Vocab) -> Iterator[Doc]:
    """Read docs file by file.

    path (Path): A .spacy file, or a folder of .spacy files.
    vocab (Vocab): The vocab of the docs.
    YIELDS (Doc): The docs.
    RAISES (ValueError): M205 if a file cannot be read.
    """
    try:
        for file in walk_directory(path, ".spacy"):
            yield from DocBin().from_disk(file).get_docs(vocab)
    except Exception as error:
        raise ValueError(Errors.M205.format(path=path, error=error)) from error


def read_examples(path: Path, nlp: Language) -> list[Example]:
    """Read gold docs as examples.

    path (Path): A .spacy file, or a folder of .spacy files.
    nlp (Language): The pipeline, whose tokenizer makes the predicted docs.
    RETURNS (List[Example]): The examples.
    RAISES (ValueError): M205 if a file cannot be read, M206 if no doc has a word.
    """
    try:
        examples = list(Corpus(path)(nlp))
    except Exception as error:
        raise ValueError(Errors.M205.format(path=path, error=error)) from error
    check_words(path, [eg.predicted for eg in examples])
    return examples


def check_words(path: Path, docs: list[Doc]) -> None:
    """RAISES (ValueError): M206 if no doc has a word."""
    if not any(map(len, docs)):
        raise ValueError(Errors.M206.format(path=path, docs=len(docs)))
