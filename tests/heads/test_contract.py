"""What holds for every head of the package, as the registry lists them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
from conftest import (
    HEADS,
    SMALL,
    TEXTS,
    WIDTH,
    encoder_weights,
    make_examples,
    make_gold,
    make_predicted,
)
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed
from thinc.api import SGD, Adam, Optimizer

from spacy_mtl.annotations import find_layers
from spacy_mtl.annotations.relations import get_relations
from spacy_mtl.heads.base import Head
from spacy_mtl.training.adamw import create_adamw_v1

Make = Callable[..., Language]
# Heads that predict numbers, which are never quite right.
ESTIMATORS = {"textcat", "textcat_multilabel", "paircat", "regression"}
# Their categories are those of textcat.
OTHERS = {"textcat_multilabel", "paircat"}


@pytest.fixture(params=HEADS)
def head(request: Any) -> str:
    return request.param


def make_unlabelled(nlp: Language) -> list[Example]:
    golds = [make_gold(nlp.vocab, i, ()) for i in range(4)]
    return [Example(Doc(nlp.vocab, words=[t.text for t in gold]), gold) for gold in golds]


def update(nlp: Language, examples: list[Example], sgd: Optimizer) -> dict[str, float]:
    """Make one step of spaCy's training loop."""
    losses = nlp.update(examples, sgd=False, losses={})  # type: ignore[arg-type]
    pipes: Any = nlp.pipeline
    for _, pipe in pipes:
        pipe.finish_update(sgd)
    return losses


def get_params(nlp: Language, head: str) -> Iterator[tuple[Any, str]]:
    """YIELDS (Tuple[Model, str]): The models and names of a head's own parameters."""
    pipe: Any = nlp.get_pipe(head)
    for node in pipe.model.walk():
        for name in node.param_names:
            if node.has_param(name):
                yield node, name


def get_weights(nlp: Language, head: str) -> numpy.ndarray:
    """RETURNS (Floats1d): All of a head's weights."""
    return numpy.concatenate(
        [node.get_param(name).ravel().copy() for node, name in get_params(nlp, head)]
    )


def randomize(nlp: Language, head: str) -> None:
    """Give a head weights at random. Zeros would hide gradients."""
    random = numpy.random.default_rng(0)
    for node, name in get_params(nlp, head):
        shape = node.get_param(name).shape
        node.set_param(name, random.normal(scale=0.3, size=shape).astype("f"))


def get_answers(nlp: Language, head: str, docs: list[Doc]) -> list[Any]:
    """RETURNS (List[Any]): The annotation of docs in all layers that a head writes."""
    layers = find_layers(nlp, head)
    answers = [[layer.get_answer(doc) for layer in layers] for doc in docs]
    if head == "spancat":  # whose order has no meaning
        return [[{key: sorted(own) for key, own in a.items()} for a in parts] for parts in answers]
    return answers


def make_stock_encoder(kind: str, encoder: str, *heads: str) -> Language:
    """Our heads with an encoder and listener of spaCy."""
    fix_random_seed(0)
    nlp = spacy.blank("en")
    listener: dict[str, Any] = {"@architectures": "spacy-transformers.TransformerListener.v1"}
    listener |= {"grad_factor": 1.0, "pooling": {"@layers": "reduce_mean.v1"}}
    if kind == "transformer":
        nlp.add_pipe("transformer", config={"model": {"name": encoder}})
    else:
        listener = {"@architectures": "spacy.Tok2VecListener.v1", "width": WIDTH}
        embed = {"width": WIDTH, "depth": 1, "embed_size": 500, "window_size": 1}
        embed |= {"maxout_pieces": 2, "subword_features": True, "pretrained_vectors": None}
        architecture = {"@architectures": "spacy.HashEmbedCNN.v2", **embed}
        nlp.add_pipe("tok2vec", config={"model": architecture})
    for head in heads:
        small = SMALL.get(f"mtl_{head}", {})
        model = {"tok2vec": listener, **small.get("model", {})}
        nlp.add_pipe(f"mtl_{head}", name=head, config={**small, "model": model})
    nlp.initialize(lambda: make_examples(nlp))
    return nlp


def get_encoder_bytes(nlp: Language) -> bytes:
    name, pipe = nlp.pipeline[0]
    return encoder_weights(nlp) if name == "transformer" else pipe.model.to_bytes()  # type: ignore


# Loss and gradient


def test_gradient_is_that_of_the_loss(make_nlp: Make, head: str) -> None:
    """Finite differences of every parameter array, along a random direction. A step over the kink
    of a rectifier is wrong, so a second and a third direction are tried.
    """
    nlp = make_nlp(head)
    randomize(nlp, head)
    pipe: Any = nlp.get_pipe(head)
    examples = make_examples(nlp)
    encoder: Any = nlp.get_pipe("transformer")

    def get_loss() -> float:
        encoder.set_annotations(docs, encoder.predict(docs))
        return float(pipe.get_loss(examples, pipe.model.predict(docs))[0])

    docs = [eg.predicted for eg in examples]
    nlp.update(examples, sgd=False)  # type: ignore[arg-type]
    random = numpy.random.default_rng(1)

    def get_slopes(node: Any, name: str) -> tuple[float, float]:
        """RETURNS (Tuple[float, float]): The slope by the gradient, and by the loss."""
        before = node.get_param(name).copy()
        direction = random.normal(size=before.shape).astype("f")
        direction /= numpy.linalg.norm(direction)
        step = 0.005
        values = []
        for sign in (1, -1):
            node.set_param(name, before + sign * step * direction)
            values.append(get_loss())
        node.set_param(name, before)
        found = float(numpy.vdot(node.get_grad(name), direction))
        return found, (values[0] - values[1]) / (2 * step)

    wrong = {}
    for node, name in list(get_params(nlp, head)):
        tries = [get_slopes(node, name)]
        while len(tries) < 3 and tries[-1][0] != pytest.approx(tries[-1][1], rel=0.03, abs=3e-3):
            tries.append(get_slopes(node, name))
        if tries[-1][0] != pytest.approx(tries[-1][1], rel=0.03, abs=3e-3):
            wrong[f"{node.name}.{name}"] = tries
    assert not wrong


def test_loss_is_a_mean_over_units(make_nlp: Make, head: str) -> None:
    """The loss of a batch is the mean of the losses of its docs, weighted by their units."""
    nlp = make_nlp(head)
    randomize(nlp, head)
    pipe: Any = nlp.get_pipe(head)
    examples = make_examples(nlp) + make_unlabelled(nlp)
    encoder: Any = nlp.get_pipe("transformer")

    def get_loss(part: list[Example]) -> tuple[float, int]:
        docs = [eg.predicted for eg in part]
        encoder.set_annotations(docs, encoder.predict(docs))
        loss, _, n = pipe.loss(part, pipe.model.predict(docs))
        return loss, n

    parts = [get_loss([example]) for example in examples]
    loss, n = get_loss(examples)
    assert n == sum(n for _, n in parts) > 0
    assert loss == pytest.approx(sum(loss * n for loss, n in parts) / n, rel=1e-4)
    assert parts[4:] == [(0.0, 0)] * 4


def test_unlabelled_docs_add_nothing(make_nlp: Make, head: str) -> None:
    """Such a doc changes neither the loss nor the gradients of head and encoder."""
    runs = []
    for beside in (lambda nlp: [], make_unlabelled):
        nlp = make_nlp(head)
        before = numpy.frombuffer(encoder_weights(nlp), dtype="f")
        examples, sgd = make_examples(nlp, head) + beside(nlp), SGD(0.03)
        losses = [update(nlp, examples, sgd)[head] for _ in range(4)]
        learnt = numpy.frombuffer(encoder_weights(nlp), dtype="f") - before
        runs.append((losses, get_weights(nlp, head), learnt))
    for with_them, without in zip(*runs, strict=True):
        numpy.testing.assert_allclose(with_them, without, atol=1e-5)
    assert runs[0][0][0] > runs[0][0][-1] > 0
    assert numpy.abs(runs[0][2]).max() > 3e-5


def test_silent_head_stays_as_it_is(make_nlp: Make, head: str) -> None:
    """Its weights stay byte-equal despite momentum, and its loss is reported as 0."""
    other = "ner" if head == "tagger" else "tagger"
    nlp = make_nlp(other, head)
    sgd = Adam(0.01)
    for _ in range(2):
        losses = update(nlp, make_examples(nlp), sgd)
        assert losses[head] > 0
    before, encoder = get_weights(nlp, head), get_encoder_bytes(nlp)
    losses = update(nlp, make_examples(nlp, other), sgd)
    assert losses[head] == 0.0
    assert losses[other] > 0
    assert get_weights(nlp, head).tobytes() == before.tobytes()
    assert get_encoder_bytes(nlp) != encoder


# Predictions


def test_learns(make_nlp: Make, head: str) -> None:
    nlp = make_nlp(head)
    sgd = Adam(0.005)
    for _ in range(60):
        losses = update(nlp, make_examples(nlp), sgd)
    assert losses[head] < 0.15
    pipe: Any = nlp.get_pipe(head)
    assert nlp.evaluate(make_examples(nlp))[pipe.layer.score_key] == pytest.approx(1.0, abs=0.01)
    if head == "relation":  # whose answers have probabilities too
        found = [strip_scores(doc) for doc in nlp.pipe(eg.predicted for eg in make_examples(nlp))]
        assert found == [strip_scores(eg.reference) for eg in make_examples(nlp)]
    elif head not in ESTIMATORS:
        gold = [eg.reference for eg in make_examples(nlp)]
        found = list(nlp.pipe(eg.predicted for eg in make_examples(nlp)))
        assert get_answers(nlp, head, found) == get_answers(nlp, head, gold)


def test_the_same_however_batched(make_nlp: Make, head: str) -> None:
    nlp = make_nlp(head)
    sgd = create_adamw_v1()
    for _ in range(4):
        update(nlp, make_examples(nlp), sgd)
    texts = [*TEXTS, "", "a", " ", TEXTS[0], f"{TEXTS[1]} {TEXTS[2]}"]
    alone = get_answers(nlp, head, [nlp(text) for text in texts])
    for batch_size in (2, 100):
        piped = get_answers(nlp, head, list(nlp.pipe(texts, batch_size=batch_size)))
        if head in ESTIMATORS:
            alone, piped = (flatten(answers) for answers in (alone, piped))
            numpy.testing.assert_allclose(piped, alone, atol=1e-5)
        else:
            assert piped == alone


def strip_scores(doc: Doc) -> list[Any]:
    return [relation[:3] for relation in get_relations(doc) or ()]


def flatten(answers: Any) -> list[float]:
    if isinstance(answers, list):
        return [value for answer in answers for value in flatten(answer)]
    return list(answers.values()) if isinstance(answers, dict) else [answers]


def test_writes_only_its_own(make_nlp: Make, head: str) -> None:
    nlp = make_nlp(head)
    doc = make_predicted(make_gold(nlp.vocab, 0, [head]))
    before = doc.to_bytes()
    nlp.get_pipe(head)(nlp.get_pipe("transformer")(doc))
    assert doc.to_bytes() != before
    for layer in find_layers(nlp, head):
        layer.strip(doc)
    for key in {*doc.spans} - {"arguments"}:
        del doc.spans[key]
    assert doc.to_bytes() == before  # the rows have been read


def test_tokens_that_differ_from_the_gold_tokens(make_nlp: Make, head: str) -> None:
    """Tokens that are split or joined neither fail nor add a loss that is not finite."""
    nlp = make_nlp(head)
    gold = make_gold(nlp.vocab, 0, [head])
    words = ["Mar", "ia", "Keller", "flewto", "Lisbon", "on", "Friday", "."]
    spaces = [False, True, True, True, True, True, True, False]
    predicted = Doc(nlp.vocab, words=words, spaces=spaces)
    text = "Maria Keller flewto Lisbon on Friday ."
    assert predicted.text == text
    losses = update(nlp, [Example(predicted, gold)], create_adamw_v1())
    assert numpy.isfinite(losses[head])


# Storage


def test_round_trips(make_nlp: Make, head: str, tmp_path: Path) -> None:
    nlp = make_nlp(head)
    sgd = create_adamw_v1()
    for _ in range(3):
        update(nlp, make_examples(nlp), sgd)
    expected = get_answers(nlp, head, list(nlp.pipe(TEXTS)))
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert get_answers(loaded, head, list(loaded.pipe(TEXTS))) == expected
    assert loaded.get_pipe(head).labels == nlp.get_pipe(head).labels  # type: ignore[attr-defined]
    again = spacy.blank("en").from_config(nlp.config)
    again.from_bytes(nlp.to_bytes())
    assert get_answers(again, head, list(again.pipe(TEXTS))) == expected
    sourced = spacy.blank("en")
    for name in nlp.pipe_names:
        sourced.add_pipe(name, source=loaded)
    assert get_answers(sourced, head, list(sourced.pipe(TEXTS))) == expected


def test_the_pipe_is_a_head(make_nlp: Make, head: str) -> None:
    nlp = make_nlp(head)
    pipe = nlp.get_pipe(head)
    assert isinstance(pipe, Head)
    meta = nlp.get_factory_meta(f"mtl_{head}")
    assert pipe.layer.score_key in meta.default_score_weights
    assert pipe.layer.name in [layer.name for layer in find_layers(nlp, head)]


# Behind stock encoders


@pytest.mark.parametrize("kind", ["transformer", "tok2vec"])
def test_learns_behind_stock_encoders(encoder: str, kind: str) -> None:
    heads = [name for name in HEADS if name not in OTHERS]
    nlp = make_stock_encoder(kind, encoder, *heads)
    examples, sgd = make_examples(nlp), Adam(0.005)
    before = get_encoder_bytes(nlp)
    for _ in range(80):
        losses = update(nlp, examples, sgd)
    assert {name: losses[name] for name in heads if losses[name] > 0.15} == {}
    assert get_encoder_bytes(nlp) != before
    scores = nlp.evaluate(make_examples(nlp))
    keys = [nlp.get_pipe(name).layer.score_key for name in heads]  # type: ignore[attr-defined]
    found = {key: scores[key] for key in keys}
    assert found == pytest.approx(dict.fromkeys(keys, 1.0), abs=0.01)
    *_, empty = nlp.pipe([*TEXTS, ""])
    assert (len(empty), set(empty.cats.values())) == (0, {0.0})


@pytest.mark.parametrize("kind", ["transformer", "tok2vec"])
def test_silent_head_loses_no_gradient_behind_stock_encoders(encoder: str, kind: str) -> None:
    """With spaCy's encoder the last listener runs the backward, so it must always be called."""
    nlp = make_stock_encoder(kind, encoder, "tagger", "ner")
    sgd = Adam(0.01)
    update(nlp, make_examples(nlp), sgd)
    head, before = get_weights(nlp, "ner"), get_encoder_bytes(nlp)
    losses = update(nlp, make_examples(nlp, "tagger"), sgd)
    assert losses["ner"] == 0.0
    assert get_encoder_bytes(nlp) != before
    assert get_weights(nlp, "ner").tobytes() == head.tobytes()
