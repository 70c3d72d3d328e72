"""Test the description of encoders, and the check for docs that are too long for them."""

from conftest import make_stock_nlp
from spacy.tokens import Doc

from spacy_mtl.checks.encoder import EncoderSummary, count_cut, describe_encoder


def test_encoders_are_described(make_nlp, encoder):
    model = make_nlp("tagger", model={"precision": "bfloat16"}).get_pipe("transformer").model
    parameters = sum(p.numel() for p in model.transformer.parameters())
    assert describe_encoder(model) == EncoderSummary(encoder, 32, parameters, "bfloat16", 510)
    stock = make_stock_nlp(encoder, "tagger").get_pipe("transformer").model
    assert describe_encoder(stock) == EncoderSummary(encoder, 32, parameters, "float32", 510)


def test_docs_with_too_long_windows_are_counted(make_nlp, encoder):
    for nlp in (make_nlp("tagger"), make_stock_nlp(encoder, "tagger")):
        docs = [Doc(nlp.vocab, words=["rrrrr"] * n) for n in (102, 103, 0, 3, 110)]
        model = nlp.get_pipe("transformer").model
        assert count_cut(docs, model, 510) == 2
        assert count_cut(docs, model, 9) == 4
