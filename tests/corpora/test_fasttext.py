from pathlib import Path

import pytest
from spacy.vocab import Vocab

from spacy_mtl.corpora.fasttext import looks_like_fasttext, read_fasttext
from spacy_mtl.corpora.formats import guess_format


def test_labels_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("__label__pos Good  rain!\n\n__label__neg __label__wet bad rain\n")
    first, second = read_fasttext(path, Vocab())
    assert (first.text, second.text) == ("Good  rain!", "bad rain")
    assert first.cats == {"neg": 0.0, "pos": 1.0, "wet": 0.0}
    assert second.cats == {"neg": 1.0, "pos": 0.0, "wet": 1.0}
    assert guess_format(path) == "fasttext"


def test_lines_without_labels_or_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("__label__x hi\nno label\n__label__y\n")
    with pytest.warns(UserWarning) as told:
        docs = list(read_fasttext(path, Vocab()))
    assert [(doc.text, doc.cats) for doc in docs] == [("hi", {"x": 1.0}), ("no label", {})]
    assert "labels that are missing, in line 2" in str(told[0].message)
    assert "lines without text, in line 3" in str(told[1].message)


def test_prose_is_no_fasttext() -> None:
    assert not looks_like_fasttext("See __label__ in the manual.\n")
