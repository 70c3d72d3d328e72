import numpy
import spacy
from spacy.ml.models.tok2vec import MultiHashEmbed
from thinc.api import fix_random_seed

from spacy_mtl.encoder.lexical import build_lexical_embed_v1

NLP = spacy.blank("en")
ATTRS = ["NORM", "PREFIX", "SUFFIX", "SHAPE"]
ROWS = [50, 20, 30, 30]


def test_equals_spacys_embedding_in_output_and_gradient() -> None:
    docs = [NLP("The dog saw the other dog ."), NLP(""), NLP("the The THE dog's can't")]
    models = []
    for build in (
        lambda: build_lexical_embed_v1(8, ATTRS, ROWS),
        lambda: MultiHashEmbed(8, ATTRS, ROWS, include_static_vectors=False),
    ):
        fix_random_seed(0)
        model = build()
        model.initialize(X=docs)
        models.append(model)
    (ours, backprop_ours), (stock, backprop_stock) = (m.begin_update(docs) for m in models)
    for mine, theirs in zip(ours, stock, strict=True):
        numpy.testing.assert_allclose(mine, theirs, atol=1e-6)
    generator = numpy.random.default_rng(0)
    gradient = [generator.normal(size=y.shape).astype("f") for y in stock]
    backprop_ours([g.copy() for g in gradient])
    backprop_stock(gradient)
    nodes = [[n for n in m.walk() if n.grad_names] for m in models]
    found = [[n.get_grad(p) for n in ns for p in n.grad_names if n.has_grad(p)] for ns in nodes]
    assert len(found[0]) == len(found[1]) > 6
    for mine, theirs in zip(*found, strict=True):
        numpy.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_words_that_differ_by_attributes_in_other_places() -> None:
    attrs = ["IS_TITLE", "IS_ALPHA", "IS_PUNCT", "LIKE_URL", "IS_UPPER"]
    docs = [NLP("Berlin USA")]
    models = []
    for build in (build_lexical_embed_v1, MultiHashEmbed):
        fix_random_seed(0)
        more = {} if build is build_lexical_embed_v1 else {"include_static_vectors": False}
        model = build(8, attrs, [20] * 5, **more)
        model.initialize(X=docs)
        models.append(model)
    ours, stock = (model.predict(docs)[0] for model in models)
    numpy.testing.assert_allclose(ours, stock, atol=1e-6)
    assert abs(ours[0] - ours[1]).max() > 1e-3
