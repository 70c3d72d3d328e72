"""spacy-transformers: what its listeners read from our docs, and pipelines without it."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import spacy
from spacy.tokens import Doc
from spacy_transformers import span_getters
from spacy_transformers.data_classes import TransformerData
from thinc.api import reduce_mean

from spacy_mtl.encoder import stock, stock_names
from spacy_mtl.encoder.token_matrix import KEY, TokenMatrix, TokenRows, set_rows

NLP = spacy.blank("en")


def make_docs(*lengths: int) -> list[Doc]:
    return [Doc(NLP.vocab, words=["word"] * length) for length in lengths]


def test_rows_look_like_those_of_other_encoders() -> None:
    docs = make_docs(3, 0, 2)
    data = numpy.arange(20, dtype="f").reshape(5, 4)
    stock.install_extension()
    set_rows(docs, TokenMatrix(data, [3, 0, 2]))
    for doc, expected in zip(docs, (data[:3], data[:0], data[3:]), strict=True):
        rows = doc._.trf_data
        assert isinstance(rows, TokenRows) and isinstance(rows, TransformerData)
        assert rows.last_hidden_layer_state.dataXd.tolist() == expected.tolist()
        assert rows.last_hidden_layer_state.lengths.tolist() == [1] * len(doc)
        assert [output.dataXd.tolist() for output in rows.all_outputs] == [expected.tolist()]
        assert rows.align.dataXd.tolist() == list(range(len(doc)))
        assert len(rows.wordpieces) == bool(len(doc)) and rows.width == 4
        if len(doc):
            assert rows.model_output.last_hidden_state.tolist() == [expected.tolist()]
            assert rows.tensors[0].tolist() == [expected.tolist()]
        for copied in (
            pickle.loads(pickle.dumps(rows)),
            TransformerData.empty().from_bytes(rows.to_bytes()),
        ):
            assert type(copied) is TransformerData
            assert copied.align.dataXd.tolist() == list(range(len(doc)))
        again = Doc(NLP.vocab).from_bytes(doc.to_bytes())
        assert type(again.user_data[KEY]) is TransformerData


@pytest.mark.parametrize("window, stride", [(1, 1), (4, 3), (7, 2), (5, 5)])
def test_strided_spans_are_those_of_spacy_transformers(window: int, stride: int) -> None:
    docs = make_docs(*range(20))
    ours = stock_names.configure_strided_spans(window, stride)(docs)
    theirs = span_getters.configure_strided_spans(window, stride)(docs)
    bounds = [[[(s.start, s.end) for s in spans] for spans in found] for found in (ours, theirs)]
    assert bounds[0] == bounds[1]


def test_pooling_needs_spacy_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("spacy_transformers")]:
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
    assert not stock.is_loaded()
    with pytest.raises(ValueError, match="M014"):
        stock.pool_rows(reduce_mean(), 1.0)


WITHOUT = """
import sys

import catalogue

get_entry_points = catalogue.Registry._get_entry_points
catalogue.Registry._get_entry_points = lambda registry: [
    entry for entry in get_entry_points(registry) if "spacy_transformers" not in entry.value
]
sys.modules["spacy_transformers"] = None
sys.path.insert(0, sys.argv[1])
encoder, folder = sys.argv[2:]

import spacy
from conftest import PLAIN_SUM, TEXTS, make_examples
from spacy.tokens import Doc

spans = {"@span_getters": "spacy-transformers.strided_spans.v1", "window": 8, "stride": 6}
setter = {"@annotation_setters": "spacy-transformers.null_annotation_setter.v1"}
nlp = spacy.blank("en")
nlp.add_pipe("mtl_transformer", name="transformer", config={
    "model": {"name": encoder, "get_spans": spans},
    "balancer": PLAIN_SUM,
    "set_extra_annotations": setter,
})
for name in ("tagger", "ner", "textcat"):
    nlp.add_pipe(f"mtl_{name}", name=name)
examples = make_examples(nlp)
sgd = nlp.initialize(lambda: examples)
nlp.update(examples, sgd=sgd)
nlp.to_disk(folder)
loaded = spacy.load(folder)
for text in TEXTS:
    doc, again = nlp(text), loaded(text)
    assert [t.tag for t in doc] == [t.tag for t in again] and doc.cats == again.cats
rows = nlp.get_pipe("transformer").predict([doc]).doc_data[0]
doc._.trf_data = rows
assert rows.model_output.last_hidden_state.shape == (1, len(doc), rows.width)
again = Doc(nlp.vocab).from_bytes(doc.to_bytes())
assert again._.trf_data.rows.tolist() == rows.rows.tolist()
assert sum(1 for _ in nlp.pipe(TEXTS * 2, n_process=2)) == 2 * len(TEXTS)
"""


def test_a_pipeline_without_spacy_transformers(encoder: str, tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", WITHOUT, str(tests), encoder, str(tmp_path / "pipeline")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
