"""Several corpora as one stream: the sampled examples, their shares and their labels."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import pytest
import spacy
from conftest import CATS, ENTS, TAGS, TEXTS, make_gold
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import registry
from thinc.api import Config

from spacy_mtl.corpora.mixed import Sampling, create_mixed_corpus_v1, follow_gaps

SIZES = {"big": 60, "mid": 20, "small": 5}
HEADS = ("tagger", "ner", "textcat")


def numbered(name: str, size: int) -> Callable[[Language], list[Example]]:
    """RETURNS: A reader of docs whose text is the name of the corpus and a number."""

    def read(nlp: Language) -> list[Example]:
        docs = [Doc(nlp.vocab, words=[name, str(i)]) for i in range(size)]
        return [Example(doc.copy(), doc) for doc in docs]

    return read


def labelled(nlp: Language) -> Iterator[Example]:
    """RETURNS: A reader of the labelled texts with all their labels."""
    for i in range(len(TEXTS)):
        gold = make_gold(nlp.vocab, i)
        yield Example(Doc(nlp.vocab, words=TEXTS[i].split()), gold)


CORPORA = {name: numbered(name, size) for name, size in SIZES.items()}


@pytest.fixture
def nlp() -> Language:
    """RETURNS: A pipeline with one head per task, not initialized."""
    nlp = spacy.blank("en")
    for head in HEADS:
        nlp.add_pipe(f"mtl_{head}", name=head)
    return nlp


def draw(nlp: Language, n: int | None = None, **settings: Any) -> list[tuple[str, int]]:
    """RETURNS: The corpus and the number of each sampled example."""
    is_dynamic = settings.get("sampling") == "dynamic"
    is_stream = is_dynamic or settings.get("epochs") == 0
    nlp.config["training"]["max_epochs"] = -1 if is_stream else 0
    if is_dynamic:  # a stream without end
        n = n or 85 * settings.get("epochs", 1)
        settings["epochs"] = 0
    reader = create_mixed_corpus_v1(**{"corpora": CORPORA, **settings})
    return [(eg.text.split()[0], int(eg.text.split()[1])) for eg in islice(reader(nlp), n)]


def read_one(nlp: Language, gold: Doc, *components: str) -> Doc:
    """RETURNS: A gold doc from a corpus with labels for some components."""
    reader = create_mixed_corpus_v1(
        corpora={"main": lambda nlp: [Example(gold.copy(), gold)]},
        tasks={"main": list(components)},
    )
    (example,) = reader(nlp)
    assert example.predicted.text == example.reference.text
    return example.reference


@pytest.mark.parametrize("epochs", [1, 3])
def test_proportional_is_each_example_once_per_epoch(nlp: Language, epochs: int) -> None:
    drawn = draw(nlp, epochs=epochs)
    everything = {(name, i) for name, size in SIZES.items() for i in range(size)}
    assert len(drawn) == epochs * 85
    passes = [drawn[start : start + 85] for start in range(0, len(drawn), 85)]
    assert all(set(one) == everything for one in passes)
    assert len({tuple(one) for one in passes}) == epochs  # each in another order


@pytest.mark.parametrize(
    ("settings", "exponent"),
    [
        ({"sampling": "uniform"}, 0.0),
        ({"sampling": "temperature"}, 0.5),
        ({"sampling": "temperature", "temperature": 4.0}, 0.25),
        ({"sampling": "temperature", "temperature": 1.0}, 1.0),
    ],
)
def test_frequencies(nlp: Language, settings: dict[str, Any], exponent: float) -> None:
    n = 85 * 100
    drawn = draw(nlp, epochs=100, **settings)
    assert len(drawn) == n
    assert_frequencies(drawn, exponent)


def assert_frequencies(drawn: list[tuple[str, int]], exponent: float) -> None:
    counts = Counter(name for name, _ in drawn)
    powers = {name: size**exponent for name, size in SIZES.items()}
    for name, power in powers.items():
        share = power / sum(powers.values())
        deviation = (share * (1 - share) / len(drawn)) ** 0.5
        assert abs(counts[name] / len(drawn) - share) < 4 * deviation


def test_annealed_goes_from_proportional_to_the_temperature(nlp: Language) -> None:
    """Many streams give enough draws in each epoch."""
    epochs: list[list[tuple[str, int]]] = [[] for _ in range(5)]
    for seed in range(60):
        drawn = draw(
            nlp, sampling="annealed", temperature=5.0, anneal_epochs=4, epochs=5, seed=seed
        )
        for i, epoch in enumerate(epochs):
            epoch += drawn[85 * i : 85 * (i + 1)]
    # In the middle of epoch i the exponent is 1 - (i + 0.5) / 4 * (1 - 1 / 5), until the last.
    for epoch, exponent in zip(epochs, [0.9, 0.7, 0.5, 0.3, 0.2], strict=True):
        assert_frequencies(epoch, exponent)


@pytest.mark.parametrize("sampling", ["uniform", "temperature", "annealed", "dynamic"])
def test_each_of_a_corpus_once_before_any_again(nlp: Language, sampling: str) -> None:
    drawn = draw(nlp, sampling=sampling, epochs=10)
    for name, size in SIZES.items():
        own = [i for corpus, i in drawn if corpus == name]
        rounds = [own[start : start + size] for start in range(0, len(own), size)]
        assert len(rounds) > 2
        assert all(sorted(one) == list(range(size)) for one in rounds[:-1])
        assert len(set(rounds[-1])) == len(rounds[-1])


@pytest.mark.parametrize("sampling", get_args(Sampling))
def test_a_generator_of_its_own(nlp: Language, sampling: str) -> None:
    random.seed(0)
    state = random.getstate()
    first = draw(nlp, sampling=sampling, seed=3)
    assert random.getstate() == state
    random.seed(1)
    assert draw(nlp, sampling=sampling, seed=3) == first
    assert draw(nlp, sampling=sampling, seed=4) != first


@pytest.mark.parametrize("sampling", get_args(Sampling))
def test_endless(nlp: Language, sampling: str) -> None:
    endless = draw(nlp, 300, sampling=sampling, epochs=0)
    assert len(endless) == 300
    assert endless[: 3 * 85] == draw(nlp, sampling=sampling, epochs=3)


# In what shares are counted


def of_length(n_docs: int, n_words: int) -> Callable[[Language], list[Example]]:
    """RETURNS: A reader of docs of a length with an entity every ten words."""

    def read(nlp: Language) -> list[Example]:
        docs = [Doc(nlp.vocab, words=["a"] * n_words) for _ in range(n_docs)]
        for doc in docs:
            doc.set_ents([Span(doc, i, i + 1, label="X") for i in range(0, n_words, 10)])
        return [Example(doc.copy(), doc) for doc in docs]

    return read


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # 10 docs of 200 words with 20 entities each, and 500 docs of 8 words with 1
        ({"sampling": "uniform"}, {"docs": 1 / 2}),
        ({"sampling": "uniform", "unit": "words"}, {"words": 1 / 2}),
        ({"sampling": "uniform", "unit": "labels"}, {"labels": 1 / 2}),
        ({"sampling": "temperature", "unit": "words"}, {"words": 1 / (1 + 2**0.5)}),
        ({"sampling": "temperature", "unit": "labels"}, {"labels": 1 / (1 + 2.5**0.5)}),
        ({"sampling": "proportional", "unit": "words"}, {"words": 1 / 3, "docs": 10 / 510}),
    ],
)
def test_shares_are_counted_in_units(
    nlp: Language, settings: dict[str, Any], expected: dict[str, float]
) -> None:
    corpora = {"long": of_length(10, 200), "short": of_length(500, 8)}
    tasks = {"long": ["ner"], "short": ["ner"]}
    reader = create_mixed_corpus_v1(corpora=corpora, tasks=tasks, epochs=20, **settings)
    totals = {"docs": Counter[bool](), "words": Counter[bool](), "labels": Counter[bool]()}
    for eg in reader(nlp):
        is_long = len(eg.reference) == 200
        totals["docs"][is_long] += 1
        totals["words"][is_long] += len(eg.reference)
        totals["labels"][is_long] += len(eg.reference.ents)
    for unit, share in expected.items():
        assert totals[unit][True] / totals[unit].total() == pytest.approx(share, rel=0.05)


def test_a_corpus_without_the_unit(nlp: Language) -> None:
    corpora = {"long": of_length(2, 20), "bare": numbered("bare", 5)}
    reader = create_mixed_corpus_v1(
        corpora=corpora, tasks={"bare": ["ner"]}, sampling="uniform", unit="labels"
    )
    with pytest.raises(ValueError, match=r"M092.*'bare'.*no labels"):
        next(iter(reader(nlp)))


OWN = {"big": ["tagger"], "mid": ["ner"], "small": ["textcat"]}


def test_dynamic_is_uniform_without_scores(nlp: Language) -> None:
    drawn = draw(nlp, epochs=30, sampling="dynamic", tasks=OWN)
    assert drawn == draw(nlp, epochs=30, sampling="uniform", tasks=OWN)


def test_dynamic_follows_the_scores(nlp: Language) -> None:
    """Sampling follows a new score at once, in proportion to the distance from the target."""
    nlp.config["training"]["max_epochs"] = -1
    reader = create_mixed_corpus_v1(
        corpora=CORPORA, sampling="dynamic", tasks=OWN, targets={"ner": 0.5}, epochs=0
    )
    stream = (eg.text.split()[0] for eg in reader(nlp))
    n = 3000
    for scores, gaps in [
        ((0.9, 0.2, 0.4), (0.1, 0.3, 0.6)),
        ((0.5, 0.4, 0.0), (0.5, 0.1, 1.0)),
        ((1.0, 0.9, 0.98), (0.01, 0.01, 0.02)),  # no task is forgotten
    ]:
        nlp.meta["task_scores"] = dict(zip(HEADS, scores, strict=True))
        counts = Counter(islice(stream, n))
        for name, gap in zip(SIZES, gaps, strict=True):
            share = gap / sum(gaps)
            assert abs(counts[name] / n - share) < 4 * (share * (1 - share) / n) ** 0.5


@pytest.mark.parametrize(
    ("tasks", "scores", "expected"),
    [
        # the mean over the tasks of a corpus, by default over all tasks
        ([["tagger", "ner"], None], {"tagger": 0.8, "ner": 0.4, "textcat": 0.0}, [0.4, 0.6]),
        # a task without a score does not count
        ([["tagger", "ner"], ["ner"]], {"tagger": 0.75, "textcat": 0.5}, [0.25, 0.25]),
        ([["tagger"], ["ner"], ["textcat"]], {"tagger": 0.75, "textcat": 0.5}, [0.25, 0.375, 0.5]),
        ([[], ["ner"]], {"ner": 0.5}, [0.5, 0.5]),
        ([["tagger"], None], {}, [1.0, 1.0]),
        # a score above the target
        ([["ner"], ["tagger"]], {"ner": 1.5, "tagger": 0.9}, [0.01, 0.1]),
    ],
)
def test_gaps(nlp: Language, tasks: Any, scores: dict[str, float], expected: list[float]) -> None:
    nlp.meta["task_scores"] = scores
    assert next(follow_gaps(nlp, tasks, {})) == pytest.approx(expected)


def test_dynamic_before_there_are_scores(nlp: Language) -> None:
    """spaCy would read the whole corpus at once."""
    reader = create_mixed_corpus_v1(corpora=CORPORA, sampling="dynamic")
    with pytest.raises(ValueError, match=r"M084.*max_epochs = 0 "):
        next(iter(reader(nlp)))


@pytest.mark.parametrize("sampling", get_args(Sampling))
def test_passes_that_would_all_draw_the_same(nlp: Language, sampling: Sampling) -> None:
    """The other examples would never be used."""
    nlp.config["training"]["max_epochs"] = -1
    reader = create_mixed_corpus_v1(corpora=CORPORA, sampling=sampling, epochs=2)
    if sampling == "proportional":  # uses all examples
        assert len(list(reader(nlp))) == 2 * sum(SIZES.values())
        return
    with pytest.raises(ValueError, match=rf"M086.*'{sampling}'.* epochs = 2"):
        next(iter(reader(nlp)))
    endless = create_mixed_corpus_v1(corpora=CORPORA, sampling=sampling, epochs=0)
    assert next(iter(endless(nlp)))


def test_target_of_a_component_that_is_not_there(nlp: Language) -> None:
    reader = create_mixed_corpus_v1(corpora=CORPORA, sampling="dynamic", targets={"pos": 0.9})
    with pytest.raises(ValueError, match=r"M085.*\['pos'\].*\['tagger', 'ner',"):
        next(iter(reader(nlp)))


def test_each_call_restarts(nlp: Language) -> None:
    reader = create_mixed_corpus_v1(corpora=CORPORA, sampling="temperature")
    abandoned = reader(nlp)
    next(iter(abandoned))
    first, second = ([eg.text for eg in reader(nlp)] for _ in range(2))
    assert first == second and len(first) == 85


def test_corpora_that_are_not_named_keep_all(nlp: Language) -> None:
    reader = create_mixed_corpus_v1(
        corpora={"tags": labelled, "all": labelled}, tasks={"tags": ["tagger"]}
    )
    examples = list(reader(nlp))
    assert sum(eg.reference.has_annotation("ENT_IOB") for eg in examples) == 4
    assert sum(bool(eg.reference.cats) for eg in examples) == 4
    assert all(eg.reference.has_annotation("TAG") for eg in examples)


@pytest.mark.parametrize("tasks", [(), ("tagger",), ("ner",), ("textcat",), ("ner", "textcat")])
def test_labels_of_other_tasks_are_missing(nlp: Language, tasks: tuple[str, ...]) -> None:
    for i in range(len(TEXTS)):
        doc = read_one(nlp, make_gold(nlp.vocab, i), *tasks)
        ents = [(ent.start, ent.end, ent.label_) for ent in doc.ents]
        assert [t.text for t in doc] == TEXTS[i].split()
        assert [t.tag_ for t in doc] == (TAGS[i] if "tagger" in tasks else [""] * len(doc))
        assert ents == (ENTS[i] if "ner" in tasks else [])
        assert all((t.ent_iob != 0) == ("ner" in tasks) for t in doc)
        cats = {cat: float(cat == CATS[i]) for cat in CATS}
        assert doc.cats == (cats if "textcat" in tasks else {})


def test_missing_labels_stay_missing(nlp: Language) -> None:
    """Some tags, entities and categories are missing."""
    gold = Doc(nlp.vocab, words=list("abcdef"), tags=["X", "", "Y", "", "", "X"])
    gold.set_ents([Span(gold, 1, 3, "ORG")], missing=[gold[4:5]], default="outside")
    gold.cats = {"food": 1.0, "sport": 0.25}
    doc = read_one(nlp, gold, *HEADS)
    assert [t.tag_ for t in doc] == ["X", "", "Y", "", "", "X"]
    assert [t.ent_iob_ for t in doc] == ["O", "B", "I", "O", "", "O"]
    assert [ent.label_ for ent in doc.ents] == ["ORG"]
    assert doc.cats == {"food": 1.0, "sport": 0.25}


def test_none_at_all_stays_missing(nlp: Language) -> None:
    doc = read_one(nlp, make_gold(nlp.vocab, 0, ()), *HEADS)
    assert not doc.has_annotation("TAG") and not doc.has_annotation("ENT_IOB")
    assert not doc.cats


def test_checked_without_entities_is_not_missing(nlp: Language) -> None:
    gold = Doc(nlp.vocab, words=["no", "names"], ents=["O", "O"])
    assert [t.ent_iob_ for t in read_one(nlp, gold, "ner")] == ["O", "O"]


def test_empty_doc(nlp: Language) -> None:
    assert len(read_one(nlp, Doc(nlp.vocab), *HEADS)) == 0


def test_other_components_keep_what_they_learn_from() -> None:
    nlp = spacy.blank("en")
    for factory in ("morphologizer", "parser", "senter", "trainable_lemmatizer", "spancat"):
        nlp.add_pipe(factory)
    gold = Doc(
        nlp.vocab,
        words=["Cats", "sleep", ".", "Dogs", "bark"],
        spaces=[True, False, True, True, False],
        tags=["NNS", "VBP", ".", "NNS", "VBP"],
        pos=["NOUN", "VERB", "PUNCT", "NOUN", "VERB"],
        morphs=["Number=Plur", "", "", "Number=Plur", ""],
        lemmas=["cat", "sleep", ".", "dog", "bark"],
        heads=[1, 1, 1, 4, 4],
        deps=["nsubj", "ROOT", "punct", "nsubj", "ROOT"],
    )
    gold.spans["sc"] = [Span(gold, 0, 1, "ANIMAL"), Span(gold, 0, 2, "FACT")]
    expected = gold.to_json()
    kept = {
        "morphologizer": {"pos", "morph"},
        "parser": {"dep", "head", "sents"},
        "senter": {"sents"},
        "trainable_lemmatizer": {"lemma"},
        "spancat": {"spans"},
    }
    for component, keys in kept.items():
        found = read_one(nlp, gold, component).to_json()
        assert found["text"] == "Cats sleep. Dogs bark"
        empty = {"pos": "", "morph": "", "lemma": "", "dep": "", "tag": ""}
        for key in ("pos", "morph", "lemma", "dep", "tag"):
            tokens = [token.get(key, "") for token in found["tokens"]]
            of_gold = [token.get(key, "") for token in expected["tokens"]]
            assert tokens == (of_gold if key in keys else [empty[key]] * 5)
        assert found.get("sents") == (expected["sents"] if "sents" in keys else None)
        assert found.get("spans", {}) == (expected["spans"] if "spans" in keys else {})
    assert [t.head.i for t in read_one(nlp, gold, "parser")] == [1, 1, 1, 4, 4]


def test_ids_of_entities_and_spans_are_kept() -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_linker")
    nlp.add_pipe("spancat")
    gold = Doc(nlp.vocab, words=["Ada", "Lovelace", "wrote"])
    gold.ents = [Span(gold, 0, 2, "PERSON", kb_id="Q7259", span_id="ada")]
    gold.spans["sc"] = [Span(gold, 0, 3, "FACT", kb_id="Q1", span_id="fact")]
    doc = read_one(nlp, gold, "entity_linker", "spancat")
    found = [(s.label_, s.kb_id_, s.id_) for s in [*doc.ents, *doc.spans["sc"]]]
    assert found == [("PERSON", "Q7259", "ada"), ("FACT", "Q1", "fact")]


def test_the_readers_docs_are_not_modified(nlp: Language) -> None:
    source = list(labelled(nlp))
    before = [(eg.predicted.to_bytes(), eg.reference.to_bytes()) for eg in source]
    reader = create_mixed_corpus_v1(
        corpora={"main": lambda nlp: source}, tasks={"main": ["tagger"]}, epochs=2
    )
    assert len(list(reader(nlp))) == 8
    assert [(eg.predicted.to_bytes(), eg.reference.to_bytes()) for eg in source] == before
    assert len(source) == 4


def test_a_lazy_reader_is_enough(nlp: Language) -> None:
    assert len(list(create_mixed_corpus_v1(corpora={"main": labelled}, epochs=3)(nlp))) == 12


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"sampling": "by_size"}, "M058.*by_size"),
        ({"temperature": 0.5}, "M058.*temperature = 0.5"),
        ({"temperature": float("nan")}, "M058.*temperature = nan"),
        ({"epochs": -1}, "M058.*epochs = -1"),
        ({"targets": {"ner": -0.5}}, "M058.*targets\\['ner'\\] = -0.5"),
        ({"tasks": {"huge": ["tagger"]}}, r"M122.*\['huge'\].*\['big', 'mid', 'small'\]"),
        ({"corpora": {}}, "M122"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], code: str) -> None:
    with pytest.raises(ValueError, match=code):
        create_mixed_corpus_v1(**{"corpora": CORPORA, **settings})


@pytest.mark.parametrize("place", ["train", "dev", "inner"])
def test_a_stream_that_would_be_read_to_its_end(nlp: Language, place: str) -> None:
    endless = create_mixed_corpus_v1(corpora=CORPORA, epochs=0)
    nlp.config["training"]["max_epochs"] = 0 if place == "train" else -1
    reader = create_mixed_corpus_v1(corpora={"inner": endless}) if place == "inner" else endless
    if place == "dev":
        nlp.config["corpora"] = {"dev": {"@readers": "spacy-mtl.MixedCorpus.v1", "epochs": 0}}
    with pytest.raises(ValueError, match=rf"\[M223\] The corpus '(corpora\.)?{place}'"):
        next(iter(reader(nlp)))


def test_corpus_without_examples(nlp: Language) -> None:
    reader = create_mixed_corpus_v1(corpora={**CORPORA, "void": numbered("void", 0)})
    with pytest.raises(ValueError, match=r"M123.*'void'"):
        next(iter(reader(nlp)))


def test_corpus_for_a_component_that_is_not_there(nlp: Language) -> None:
    reader = create_mixed_corpus_v1(corpora=CORPORA, tasks={"mid": ["ner", "parser"]})
    with pytest.raises(ValueError, match=r"M124.*'mid'.*\['parser'\].*\['tagger', 'ner',"):
        next(iter(reader(nlp)))


CONFIG = """
[corpora]

[corpora.train]
@readers = "spacy-mtl.MixedCorpus.v1"
sampling = "temperature"
temperature = 2.0
epochs = 2
seed = 7

[corpora.train.tasks]
tags = ["tagger"]

[corpora.train.corpora]

[corpora.train.corpora.tags]
@readers = "spacy.Corpus.v1"
gold_preproc = false
path = {path}

[corpora.train.corpora.all]
@readers = "spacy.Corpus.v1"
gold_preproc = false
path = {path}
"""


def test_from_a_config(nlp: Language, tmp_path: Path) -> None:
    path = tmp_path / "train.spacy"
    DocBin(docs=[eg.reference for eg in labelled(nlp)]).to_disk(path)
    config = Config().from_str(CONFIG.replace("{path}", f'"{path.as_posix()}"'))
    reader = registry.resolve(config)["corpora"]["train"]
    examples = list(reader(nlp))
    assert len(examples) == 16
    assert {len(eg.reference.ents) for eg in examples} == {0, 1, 3}
    assert all(eg.reference.has_annotation("TAG") for eg in examples)
    assert [eg.text for eg in reader(nlp)] == [eg.text for eg in examples]


@pytest.mark.parametrize("path", [None, "nowhere.spacy"])
def test_corpus_that_cannot_be_read(path: str | None) -> None:
    from spacy.training.corpus import create_docbin_reader

    with pytest.raises(ValueError, match=r"M126.*'lost'"):
        reader = create_mixed_corpus_v1(
            {"lost": lambda nlp: create_docbin_reader(path, gold_preproc=False)(nlp)}
        )
        next(iter(reader(spacy.blank("en"))))


def test_blocked_entities_stay_so(nlp: Language) -> None:
    gold = Doc(nlp.vocab, words=["Ada", "met", "Bo"])
    gold.set_ents([], blocked=[gold[:1]], missing=[gold[2:]])
    assert [t.ent_iob for t in read_one(nlp, gold, "ner")] == [3, 2, 0]
