"""A fixture for tests of formats: write a file and read it as `spacy mtl convert` does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

from spacy_mtl.corpora.formats import read_docs


@pytest.fixture
def read_file(tmp_path: Path) -> Callable[..., list[Doc]]:
    """RETURNS: A function that writes a file of text, of JSON Lines (from a list) or of JSON, reads
    it, and sends the docs through a `DocBin`.
    """

    vocab = Vocab()

    def read(content: object, name: str = "a.jsonl", **options: str | bool) -> list[Doc]:
        path = tmp_path / name
        if isinstance(content, list) and path.suffix == ".jsonl":
            content = "\n".join(map(json.dumps, content))
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_bytes(text.encode())
        docs = read_docs([path], vocab, **options)
        return list(DocBin(docs=docs, store_user_data=True).get_docs(Vocab()))

    return read
