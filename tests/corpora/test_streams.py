from collections.abc import Iterator
from itertools import islice

import spacy
from conftest import make_examples
from spacy.training import Example

from spacy_mtl.corpora.mixed import create_mixed_corpus_v1
from spacy_mtl.corpora.streams import read_whole


def test_each_example_of_a_stream_is_read_once() -> None:
    nlp = spacy.blank("en")
    nlp.config["training"]["max_epochs"] = -1
    examples = make_examples(nlp)
    inner = create_mixed_corpus_v1({"c": lambda nlp: examples[2:], "d": lambda nlp: examples[:1]})
    corpora = {"a": lambda nlp: examples[:2], "b": inner}
    for epochs in (0, 2):
        mixed = create_mixed_corpus_v1(corpora, epochs=epochs)
        get_whole = read_whole(lambda mixed=mixed: islice(mixed(nlp), 2))  # type: ignore[misc]
        for _ in range(2):
            assert len([*get_whole()]) == len(examples) + 1  # one is in two corpora


def test_other_examples_are_read_once() -> None:
    read = []

    def read_examples() -> Iterator[Example]:
        for eg in make_examples(spacy.blank("en")):
            read.append(eg)
            yield eg

    get_whole = read_whole(read_examples)
    assert read == []
    assert get_whole() == get_whole() == read and len(read) == 4
    assert read_whole(list)() == []
