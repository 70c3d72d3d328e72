"""Texts that are written about docs."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spacy
from conftest import FORMS, SMALL, TEXTS, make_examples, make_gold
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from thinc.api import Adam

from spacy_mtl.annotations import find_layers
from spacy_mtl.annotations.documents import Texts
from spacy_mtl.heads.seq2seq.vocabulary import BYTES

Make = Callable[..., Language]
NAMES = ["Ada", "Bo", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ida", "Jo", "Kim", "Mia"]
ANSWERS = ["yes", "no", "no", "yes"]


def make_example(nlp: Language, text: str, gold: str | None, attribute: str = "generated") -> Any:
    example = Example(nlp.make_doc(text), nlp.make_doc(text))
    Texts().write(example.reference, {attribute: gold})
    return example


def train(nlp: Language, examples: list[Example], n: int = 60) -> dict[str, float]:
    sgd = Adam(0.005)
    for _ in range(n):
        losses = nlp.update(examples, sgd=sgd)
    return losses


def initialize(make_nlp: Make, *texts: tuple[str, str | None], **config: Any) -> Any:
    """Make a pipeline that is initialized with some texts and their gold texts.

    RETURNS (Tuple[Language, List[Example]]): The pipeline and the examples.
    """
    nlp = make_nlp("seq2seq", config={"seq2seq": config}, initialize=False)
    examples = [make_example(nlp, *pair) for pair in texts]
    nlp.initialize(lambda: examples)
    return nlp, examples


@pytest.fixture(scope="module")
def trained(make_nlp: Make) -> Language:
    """Learns to copy the name of a request."""
    pairs = [(f"please call {name} now", f"call({name})") for name in NAMES]
    nlp, examples = initialize(make_nlp, *pairs)
    train(nlp, examples, 80)
    return nlp


def test_writes_words_never_seen(trained: Language) -> None:
    """The encoder is random, so the place of the name is all that it can learn from."""
    labels = trained.get_pipe("seq2seq").labels  # type: ignore[attr-defined]
    words = ["Zyxw", "Qqq", "Überlinger"]
    assert not any(part in word for word in words for part in labels if len(part) > 1)
    found = [trained(f"please call {word} now")._.generated for word in words]
    assert found == [f"call({word})" for word in words]


def test_settings_of_the_search(trained: Language) -> None:
    head: Any = trained.get_pipe("seq2seq")
    settings = head.cfg.copy()
    head.cfg["beam_width"] = 4
    assert trained("please call Mia now")._.generated == "call(Mia)"
    head.cfg["max_length"] = 2
    assert len(trained("please call Mia now")._.generated) <= len("call(")
    head.cfg = settings


def test_empty_docs(trained: Language) -> None:
    assert [doc._.generated for doc in trained.pipe(["", ""])] == ["", ""]
    docs = list(trained.pipe(["", "please call Mia now", ""]))
    assert [doc._.generated for doc in docs] == ["", "call(Mia)", ""]
    example = make_example(trained, "", "call(Mia)")
    assert trained.update([example], sgd=Adam(0.01))["seq2seq"] == 0


def test_texts_stay_in_docs(trained: Language) -> None:
    doc = trained("please call Mia now")
    assert doc.copy()._.generated == Doc(trained.vocab).from_bytes(doc.to_bytes())._.generated
    (again,) = DocBin(docs=[doc], store_user_data=True).get_docs(trained.vocab)
    assert again._.generated == "call(Mia)"
    assert doc.to_json(underscore=["generated"])["_"]["generated"] == "call(Mia)"
    piped = trained.pipe(["please call Mia now", "please call Ada now"], n_process=2)
    assert [own._.generated for own in piped] == ["call(Mia)", "call(Ada)"]


def test_missing_and_empty_targets(make_nlp: Make) -> None:
    nlp, examples = initialize(make_nlp, ("a b", None), ("c d", ""), ("e f", "x"))
    head: Any = nlp.get_pipe("seq2seq")
    train(nlp, examples, 40)
    assert [nlp(text)._.generated for text in ("c d", "e f")] == ["", "x"]
    assert head.loss(examples[:1], get_scores(nlp, examples[:1]))[2] == 0
    assert head.loss(examples[1:], get_scores(nlp, examples[1:]))[2] == 1 + 2


def get_scores(nlp: Language, examples: list[Example]) -> Any:
    encoder: Any = nlp.get_pipe("transformer")
    head: Any = nlp.get_pipe("seq2seq")
    docs = [eg.predicted for eg in examples]
    encoder.set_annotations(docs, encoder.predict(docs))
    return head.model.predict(docs)


def test_no_target_at_all(make_nlp: Make) -> None:
    """The vocabulary has the bytes then, which can write every text."""
    nlp, examples = initialize(make_nlp, ("a b", None))
    head: Any = nlp.get_pipe("seq2seq")
    assert head.labels == ("", *BYTES)
    assert nlp.evaluate(examples)["texts_generated_chrf"] is None
    assert nlp.update([make_example(nlp, "a b", "ü")], sgd=Adam(0.01))["seq2seq"] > 0


def test_long_targets_count_as_missing(make_nlp: Make) -> None:
    long = "".join(chr(97 + i * i % 26) for i in range(10_000))
    pairs = [("a b", long), ("c d", "short"), ("e f", None)]
    nlp = make_nlp("seq2seq", initialize=False)
    examples = [make_example(nlp, *pair) for pair in pairs]
    with pytest.warns(UserWarning, match=r"\[W142\] 'seq2seq' does not learn from 1 of 2 gold"):
        nlp.initialize(lambda: examples)
    head: Any = nlp.get_pipe("seq2seq")
    both = head.loss(examples, get_scores(nlp, examples))
    alone = head.loss(examples[1:2], get_scores(nlp, examples[1:2]))
    assert both[0] == pytest.approx(alone[0]) and both[2] == alone[2] < 10
    assert nlp.update(examples[:1], sgd=Adam(0.01))["seq2seq"] == 0
    loaded = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    with pytest.warns(UserWarning, match=r"\[W142\] 'seq2seq' does not learn from 1 of 1 gold"):
        loaded.update([make_example(loaded, "a b", long)], sgd=Adam(0.01))


def test_long_targets_can_be_learned(make_nlp: Make) -> None:
    """10,000 characters with a higher cap, and a long source."""
    pairs = [(" ".join("abcdef" * 100), "a b c d e f " * 833)]
    nlp, examples = initialize(make_nlp, *pairs, max_length=20_000)
    assert 0 < nlp.update(examples, sgd=Adam(0.01))["seq2seq"] < 20


def test_gold_that_is_no_text(make_nlp: Make) -> None:
    nlp = make_nlp("seq2seq", initialize=False)
    example = make_example(nlp, "a b", "c")
    example.reference._.generated = 3
    with pytest.raises(ValueError, match=r"\[M295\] .*`doc\._\.generated` of the doc 'a b' is 3"):
        nlp.initialize(lambda: [example])


# Attributes


def test_two_heads_with_attributes_of_their_own(make_nlp: Make, tmp_path: Path) -> None:
    nlp = make_nlp(
        "first=mtl_seq2seq",
        "second=mtl_seq2seq",
        config={"first": {"attribute": "normal_form"}, "second": {"attribute": "topic"}},
        initialize=False,
    )
    pairs = zip(TEXTS, FORMS, strict=True)
    examples = [make_example(nlp, text, form, "normal_form") for text, form in pairs]
    for example, topic in zip(examples, ANSWERS, strict=True):
        example.reference._.topic = topic
    nlp.initialize(lambda: examples)
    train(nlp, examples, 60)
    scores = nlp.evaluate(examples)
    for attribute in ("normal_form", "topic"):
        assert scores[f"texts_{attribute}_exact"] == scores[f"texts_{attribute}_chrf"] == 1
    assert [layer.name for layer in find_layers(nlp, "second")] == ["texts_topic"]
    nlp.to_disk(tmp_path)
    doc = spacy.load(tmp_path)(TEXTS[0])
    assert (doc._.normal_form, doc._.topic) == (FORMS[0], "yes")


def test_two_heads_of_one_attribute_are_scored_apart(make_nlp: Make) -> None:
    """A gold text that is a piece of the other head's vocabulary stays."""
    nlp: Any = make_nlp("first=mtl_seq2seq", "second=mtl_seq2seq", initialize=False)
    examples = [make_example(nlp, *pair) for pair in zip(TEXTS, ANSWERS, strict=True)]
    nlp.initialize(lambda: examples)
    first, second = (nlp.get_pipe(name) for name in ("first", "second"))
    assert "yes" in second.labels
    first.set_annotations([examples[0].predicted], ["yes"])
    second.set_annotations([examples[0].predicted], ["maybe"])
    found = [head.isolate(examples[0]) for head in (first, second)]
    assert [eg.predicted._.generated for eg in found] == ["yes", "maybe"]
    assert [eg.reference._.generated for eg in found] == ["yes", "yes"]
    scores = first.score(examples[:1])
    assert (scores["first_texts_generated_exact"], scores["texts_generated_exact"]) == (1, 0.5)


@pytest.mark.parametrize("attribute", ["scores", "relations", "two words", ""])
def test_attributes_that_cannot_be_used(make_nlp: Make, attribute: str) -> None:
    with pytest.raises(ValueError, match=r"\[M296\] 'seq2seq' .* unlike \['relations', 'scores'\]"):
        make_nlp("seq2seq", config={"seq2seq": {"attribute": attribute}}, initialize=False)


def test_heads_that_do_not_divide_the_width(make_nlp: Make) -> None:
    with pytest.raises(ValueError, match=r"\[M298\] heads = 3 .* decoder, 16\."):
        make_nlp("seq2seq", config={"seq2seq": {"model": {"width": 16, "heads": 3}}})


# Labels


def test_labels_as_init_labels_writes_them(make_nlp: Make) -> None:
    nlp = make_nlp("seq2seq")
    head: Any = nlp.get_pipe("seq2seq")
    again = make_nlp("seq2seq", initialize=False)
    again.config["initialize"]["components"]["seq2seq"] = {"labels": head.label_data}
    again.initialize(lambda: [make_example(again, "a b", None)])
    assert again.get_pipe("seq2seq").labels == head.labels  # type: ignore[attr-defined]
    third = make_nlp("seq2seq", initialize=False)
    third.config["initialize"]["components"]["seq2seq"] = {"labels": ["a", "b"]}
    with pytest.raises(ValueError, match=r"\[M297\] 'seq2seq' .*: the first one is not empty"):
        third.initialize(lambda: make_examples(third))


def test_a_loaded_head_learns_new_texts(make_nlp: Make) -> None:
    nlp = make_nlp("seq2seq")
    loaded = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    examples = [make_example(loaded, "We sang", "sing(日本)")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(loaded, examples, 30)
    assert loaded("We sang")._.generated == "sing(日本)"


def test_several_layers_and_label_smoothing(make_nlp: Make) -> None:
    model = {**SMALL["mtl_seq2seq"]["model"], "depth": 2}
    nlp = make_nlp("seq2seq", config={"seq2seq": {"model": model, "label_smoothing": 0.1}})
    assert train(nlp, make_examples(nlp), 60)["seq2seq"] > 0.5  # the entropy of smoothed targets
    assert [doc._.generated for doc in nlp.pipe(TEXTS)] == FORMS


def test_corpora_for_other_heads(make_nlp: Make) -> None:
    """A pipeline beside an entity recognizer, each with examples of its own."""
    nlp = make_nlp("ner", "seq2seq")
    golds = [make_gold(nlp.vocab, 0, ["ner"]), make_gold(nlp.vocab, 1, ["seq2seq"])]
    for gold, silent in zip(golds, ("seq2seq", "ner"), strict=True):
        example = Example(Doc(nlp.vocab, words=[token.text for token in gold]), gold)
        losses = nlp.update([example], sgd=Adam(0.01))
        assert losses[silent] == 0 < losses["ner"] + losses["seq2seq"]
