import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import spacy
from conftest import encoder_gradient, make_examples, make_gold, make_stock_nlp
from spacy.cli._util import app
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.util import registry
from thinc.api import Config
from typer.testing import CliRunner

from spacy_mtl.cli.debug import (
    Corpus,
    HeadStep,
    check_corpora,
    check_evaluations,
    check_paths,
    check_steps,
    check_tasks,
    count_corpora,
    count_cut,
    debug,
    describe_encoder,
    get_heads,
    get_overlap,
    pick_batch,
    run_batch,
)
from spacy_mtl.corpora.counts import Counts, TaskCounts

ALL = ("tagger", "ner", "textcat")
HEADS = {"tagger": "token.tag", "ner": "doc.ents", "textcat": "doc.cats"}


def write_docs(
    path: Path, word: str, tasks: tuple[str, ...] = ALL, copies: int = 10, more: Iterable[Doc] = ()
) -> Path:
    """Write copies of the labelled texts, each with a first word of its own."""
    vocab = spacy.blank("en").vocab
    docs = list(more)
    for i in range(4 * copies):
        gold = make_gold(vocab, i % 4, tasks)
        doc = Doc(vocab, words=[f"{word}{i}", *[token.text for token in gold[1:]]])
        doc.from_array(
            ["TAG", "ENT_IOB", "ENT_TYPE"], gold.to_array(["TAG", "ENT_IOB", "ENT_TYPE"])
        )
        doc.cats = dict(gold.cats)
        docs.append(doc)
    DocBin(docs=docs).to_disk(path)
    return path


@pytest.fixture
def make_config(make_nlp: Callable[..., Language], tmp_path: Path) -> Callable[..., Config]:
    """A function that makes a config whose train and dev hold the labelled texts.

    pipes (str): The heads, as for `make_nlp`.
    nlp (Optional[Language]): A pipeline to use instead.
    train (Optional[dict]): The section `[corpora.train]`.
    training (Optional[dict]): Settings for `[training]`.
    options (Any): More for `make_nlp`.
    """
    write_docs(tmp_path / "train.spacy", "train")
    write_docs(tmp_path / "dev.spacy", "dev")

    def make(
        *pipes: str,
        nlp: Language | None = None,
        train: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        **options: Any,
    ) -> Config:
        nlp = nlp or make_nlp(*pipes, initialize=False, **options)
        config = nlp.config.copy()
        config["paths"] = {name: str(tmp_path / f"{name}.spacy") for name in ("train", "dev")}
        config["corpora"] = {
            "train": train or read("${paths.train}"),
            "dev": read("${paths.dev}"),
        }
        config["training"].update(training or {})
        return config

    return make


def read(path: str | None) -> dict[str, Any]:
    return {"@readers": "spacy.Corpus.v1", "path": path, "gold_preproc": False}


def mix(corpora: dict[str, dict[str, Any]], **settings: Any) -> dict[str, Any]:
    return {"@readers": "spacy-mtl.MixedCorpus.v1", "corpora": corpora, **settings}


def codes(findings: list[Any]) -> list[str]:
    return [finding.message[1:5] for finding in findings]


def run(config: Config, path: Path, *args: str) -> Any:
    config.to_disk(path)
    return CliRunner().invoke(app, ["mtl", "debug", str(path), *args])


@pytest.mark.parametrize("mixed", [False, True])
def test_good_config(make_config, mixed, capsys):
    train = mix({"gum": read("${paths.train}")}) if mixed else None
    assert debug(make_config(train=train)) == []
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    name = "gum" if mixed else "train"
    assert [name, "40", "340"] in lines
    assert ["tagger", name, "340", "tokens", "40", "11"] in lines
    assert ["ner", "dev", "60", "entities", "40", "4"] in lines
    assert ["textcat", name, "40", "docs", "40", "4"] in lines


def test_batch_of_a_new_pipeline(make_nlp):
    nlp = make_nlp(balancer={"@misc": "spacy-mtl.StaticWeights.v1", "weights": {"ner": 0.5}})
    steps = run_batch(nlp, make_examples(nlp), HEADS)
    assert list(steps) == list(ALL)
    assert {name: step.weight for name, step in steps.items()} == {
        "tagger": 1.0,
        "ner": 0.5,
        "textcat": 1.0,
    }
    assert all(step.labelled and step.in_nats for step in steps.values())
    assert {step.encoder for step in steps.values()} == {"transformer"}
    # All labels are as likely: 11 tags, 4 categories.
    assert steps["tagger"].loss == pytest.approx(math.log(11), abs=1e-5)
    assert steps["textcat"].loss == pytest.approx(math.log(4), abs=1e-5)
    assert all(0 < step.gradient < math.inf for step in steps.values())
    assert check_steps(steps) == []


def test_gradient_is_measured_where_it_arrives(make_nlp):
    def measure(grad_factor: float) -> float | None:
        listener = {"@architectures": "spacy-mtl.TaskListener.v1", "grad_factor": grad_factor}
        nlp = make_nlp("tagger", config={"tagger": {"model": {"tok2vec": listener}}})
        return run_batch(nlp, make_examples(nlp), HEADS)["tagger"].gradient

    assert measure(0.25) == pytest.approx(0.25 * measure(1.0), rel=1e-5)
    assert measure(0.0) == 0.0


def test_head_without_labels_in_the_batch(make_nlp):
    nlp = make_nlp()
    steps = run_batch(nlp, make_examples(nlp, "tagger", "textcat"), HEADS)
    assert [step.labelled for step in steps.values()] == [True, False, True]
    assert (steps["ner"].loss, steps["ner"].gradient) == (0.0, 0.0)
    assert codes(check_steps(steps)) == ["W230"]


def test_stock_encoder_reports_the_gradient_of_all_heads(encoder):
    nlp = make_stock_nlp(encoder)
    steps = run_batch(nlp, make_examples(nlp), HEADS)
    norm = pytest.approx(float(numpy.linalg.norm(encoder_gradient(nlp))), rel=1e-5)
    for step in steps.values():
        assert (step.encoder, step.weight, step.in_nats) == ("transformer", None, False)
        assert step.gradient == norm
    assert norm != 0.0
    assert check_steps(steps) == []


@pytest.mark.parametrize("factory", ["transformer", "mtl_transformer"])
def test_stock_config(make_config, encoder, factory):
    nlp = make_stock_nlp(encoder, factory=factory, initialize=False)
    assert debug(make_config(nlp=nlp)) == []


def test_tok2vec_is_an_encoder(make_config):
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec")
    listener = {"@architectures": "spacy.Tok2VecListener.v1", "width": 96}
    model = {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}
    nlp.add_pipe("tagger", config={"model": model})
    assert debug(make_config(nlp=nlp)) == []
    nlp.initialize(lambda: make_examples(nlp))
    encoder = describe_encoder(nlp.get_pipe("tok2vec").model)
    assert (encoder.width, encoder.precision, encoder.max_length) == (96, "float32", None)


def test_encoder(make_nlp, encoder):
    model = make_nlp("tagger", model={"precision": "bfloat16"}).get_pipe("transformer").model
    parameters = sum(p.numel() for p in model.transformer.parameters())
    assert describe_encoder(model) == (encoder, 32, parameters, "bfloat16", 510)
    stock = make_stock_nlp(encoder, "tagger").get_pipe("transformer").model
    assert describe_encoder(stock) == (encoder, 32, parameters, "float32", 510)


@pytest.mark.parametrize("tasks", [("tagger", "textcat"), ()])
def test_task_without_data(make_config, tmp_path, tasks):
    write_docs(tmp_path / "train.spacy", "train", tasks)
    findings = debug(make_config())
    assert codes(findings) == ["M224"] * (3 - len(tasks))
    assert all(finding.is_failure for finding in findings)
    assert "'ner'" in str(findings)


def test_labels_only_count_for_the_tasks_of_the_corpus(make_config, tmp_path, capsys):
    corpora = {"a": read("${paths.train}"), "b": read("${paths.train}")}
    findings = debug(make_config(train=mix(corpora, tasks={"a": ["tagger"], "b": ["textcat"]})))
    assert codes(findings) == ["M224"]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["tagger", "a", "340", "tokens", "40", "11"] in lines
    assert ["tagger", "b", "0", "tokens", "0", "0"] in lines
    assert ["textcat", "b", "40", "docs", "40", "4"] in lines
    assert ["ner", "b", "0", "entities", "0", "0"] in lines


def test_corpus_without_the_labels_it_claims(make_config, tmp_path):
    write_docs(tmp_path / "tags.spacy", "more", ("tagger",))
    corpora = {"all": read("${paths.train}"), "tags": read(str(tmp_path / "tags.spacy"))}
    (finding,) = debug(make_config(train=mix(corpora, tasks={"tags": ["tagger", "ner"]})))
    assert codes([finding]) == ["W229"]
    assert not finding.is_failure
    assert "'tags'" in finding.message and "'ner'" in finding.message


def test_tasks_are_learnt_from_different_corpora(make_config, tmp_path):
    names = {"a": ("tagger",), "b": ("ner",), "c": ("textcat",)}
    for name, tasks in names.items():
        write_docs(tmp_path / f"{name}.spacy", name, tasks, copies=100 if name == "a" else 10)
    corpora = {name: read(str(tmp_path / f"{name}.spacy")) for name in names}
    assert debug(make_config(train=mix(corpora))) == []


@pytest.mark.parametrize("tasks", [{"a": ["tagger", "parser"]}, {"a": ["tagger"], "b": ["ner"]}])
def test_unknown_names_in_tasks(make_config, tmp_path, tasks):
    config = make_config(train=mix({"a": read("${paths.train}")}, tasks=tasks))
    result = run(config, tmp_path / "config.cfg")
    assert result.exit_code == 1
    assert ("M122" if "b" in tasks else "M124") in result.output


def make_counts(docs: int, **tasks: dict[str, int]) -> Counts:
    counts = {
        task: TaskCounts(sum(labels.values()), Counter(labels), 0) for task, labels in tasks.items()
    }
    return Counts(docs, 100, counts)


@pytest.mark.parametrize(
    ("train", "dev", "expected", "part"),
    [
        ({"A": 10}, {"A": 1}, [], ""),
        ({"A": 10}, {"A": 1, "C": 2, "B": 1}, ["W220"], "in dev but not in train: 'B', 'C'."),
        (
            {"A": 9, "B": 10, "C": 1},
            {"A": 1},
            ["W221"],
            "fewer than 10 examples in train: 'C' (1), 'A' (9).",
        ),
        ({"A": 10}, {}, ["W222"], "'x'"),
        ({"A": 1}, {"B": 1}, ["W220", "W221"], "'A' (1)"),
        ({}, {"A": 1}, ["M224"], "token.tag"),
        ({str(i): 1 for i in range(9)}, {"0": 1}, ["W221"], "and 1 more"),
    ],
)
def test_tasks(train, dev, expected, part):
    counts = make_counts(2, x=train), make_counts(2, x=dev)
    findings = check_tasks({"x": "token.tag"}, *counts, frozen=[])
    assert codes(findings) == expected
    assert part in " ".join(finding.message for finding in findings)
    assert codes(check_tasks({"x": "token.tag"}, *counts, frozen=["x"])) == ["W223"]


def test_open_labels_may_be_rare():
    counts = make_counts(2, x={"be": 1}), make_counts(2, x={"go": 1})
    assert check_tasks({"x": "token.lemma"}, *counts, frozen=[]) == []
    assert check_tasks({"x": None}, *counts, frozen=[]) == []


def make_corpus(*texts: str, claimed: tuple[str, ...] = ()) -> Corpus:
    nlp = spacy.blank("en")
    docs = [nlp.make_doc(text) for text in texts]
    return Corpus([Example(doc.copy(), doc) for doc in docs], claimed)


def test_corpora():
    train = {"a": make_corpus("one", "", "two"), "b": make_corpus(claimed=("tagger",))}
    dev = {"dev": make_corpus("two", "three", "four", "one")}
    counts = count_corpora(train, {"tagger": "token.tag", "other": None})
    assert counts["a"] == Counts(3, 2, {"tagger": TaskCounts(0, Counter(), 3)})
    findings = check_corpora(train, dev, counts)
    assert codes(findings) == ["W227", "M222", "W229", "W228"]
    assert findings[0].message.startswith("[W227] Docs of 'a'")
    assert "50.0%" in findings[3].message
    assert get_overlap(dev, train) == pytest.approx(2 / 3)
    assert get_overlap(train, {"dev": make_corpus()}) == 0.0


def test_label_only_in_dev(make_config, tmp_path):
    vocab = spacy.blank("en").vocab
    doc = Doc(vocab, words=["New", "word"], tags=["NN", "XX"])
    write_docs(tmp_path / "dev.spacy", "dev", more=[doc])
    (finding,) = debug(make_config())
    assert finding.message.startswith("[W220] 'tagger'")
    assert "'XX'" in finding.message


def test_frozen_head(make_config, tmp_path):
    write_docs(tmp_path / "train.spacy", "train", ("tagger", "textcat"))
    (finding,) = debug(make_config(training={"frozen_components": ["ner"]}))
    assert finding.message.startswith("[W223] 'ner'")
    assert not finding.is_failure


def test_frozen_encoder(make_config, make_nlp, tmp_path, capsys):
    make_nlp("tagger").to_disk(tmp_path / "source")
    frozen = {"frozen_components": ["transformer"], "annotating_components": ["transformer"]}
    config = make_config("tagger", training=frozen)
    config["components"]["transformer"] = {"source": str(tmp_path / "source")}
    findings = debug(config)
    assert codes(findings) == ["W223"]
    assert "'transformer'" in findings[0].message
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["tagger", "transformer", "2.398", "nats", "-", "-"] in rows


def test_zero_weight(make_config):
    balancer = {"@misc": "spacy-mtl.StaticWeights.v1", "weights": {"ner": 0.0}}
    (finding,) = debug(make_config(balancer=balancer))
    assert finding.message.startswith("[W224]")
    assert "'ner'" in finding.message
    assert not finding.is_failure


def test_gradient_that_does_not_arrive(make_config, tmp_path):
    listener = {"@architectures": "spacy-mtl.TaskListener.v1", "grad_factor": 0.0}
    config = make_config(config={"ner": {"model": {"tok2vec": listener}}})
    (finding,) = debug(config)
    assert finding.message.startswith("[M225] The gradient of 'ner'")
    assert finding.is_failure
    result = run(config, tmp_path / "config.cfg")
    assert result.exit_code == 1
    assert "M225" in result.output


@pytest.mark.parametrize(
    ("encoder", "labelled", "gradient", "weight", "expected"),
    [
        ("transformer", True, 1.0, 1.0, []),
        ("transformer", True, 1.0, None, []),
        ("transformer", True, None, None, []),
        ("transformer", True, 0.0, 1.0, ["M225"]),
        ("transformer", True, math.nan, 1.0, ["M225"]),
        ("transformer", True, math.inf, 1.0, ["M225"]),
        ("transformer", True, 1.0, 0.0, ["W224"]),
        ("transformer", False, 0.0, None, ["W230"]),
        (None, True, None, None, ["W225"]),
    ],
)
def test_steps(encoder, labelled, gradient, weight, expected):
    step = HeadStep(labelled, 1.0, True, encoder, weight, gradient)
    assert codes(check_steps({"x": step})) == expected


def test_head_with_a_model_of_its_own(make_config):
    own = {
        "@architectures": "spacy.HashEmbedCNN.v2",
        "pretrained_vectors": None,
        "width": 8,
        "depth": 1,
        "embed_size": 50,
        "window_size": 1,
        "maxout_pieces": 2,
        "subword_features": False,
    }
    (finding,) = debug(make_config("tagger", "ner", config={"ner": {"model": {"tok2vec": own}}}))
    assert finding.message.startswith("[W225] 'ner'")


@pytest.mark.parametrize(
    ("section", "path", "block", "option"),
    [
        ("train", "${paths.train}", "corpora.train", "--paths.train"),
        ("train", "no/such.spacy", "corpora.train", "--corpora.train.path"),
        ("train", None, "corpora.train", "--corpora.train.path"),
        ("dev", "${paths.train}", "corpora.dev", "--paths.train"),
        ("mixed", "${paths.train}", "corpora.train.corpora.a", "--paths.train"),
        ("mixed", "x/${paths.dev}", "corpora.train.corpora.a", "--corpora.train.corpora.a.path"),
    ],
)
def test_path_that_does_not_exist(tmp_path, section, path, block, option):
    good = {"train": read(str(tmp_path)), "dev": read(str(tmp_path))}
    bad = mix({"a": read(path), "b": read(str(tmp_path))})
    given = {"train": bad} if section == "mixed" else {section: read(path)}
    paths = {"train": "missing.spacy", "dev": str(tmp_path)}
    config = Config({"paths": paths, "corpora": {**good, **given}})
    (finding,) = check_paths(config, ["corpora.train", "corpora.dev"])
    assert finding.is_failure
    assert finding.message.startswith(f"[M220] [{block}] has path = ")
    assert f": {option} FILE" in finding.message


def test_path_of_a_section_that_is_a_variable():
    text = '[corpora]\ndev = ${corpora.train}\n\n[corpora.train]\n@readers = "x"\npath = "missing"'
    config = Config().from_str(text, interpolate=False)
    (finding,) = check_paths(config, ["corpora.dev"])
    assert finding.message.startswith("[M220] [corpora.dev] has path = missing")
    assert "--corpora.dev.path" in finding.message


def test_broken_corpus(make_config, tmp_path):
    (tmp_path / "dev.spacy").write_bytes(b"no corpus")
    result = run(make_config("tagger"), tmp_path / "config.cfg")
    assert result.exit_code == 1
    assert "M221" in result.output
    assert "'dev'" in result.output


def test_overrides_and_code(make_config, tmp_path):
    code = tmp_path / "code.py"
    code.write_text(
        "from spacy.util import registry\n"
        "@registry.readers('debug_code.v1')\n"
        "def create():\n"
        "    return lambda nlp: iter(())\n"
    )
    config = make_config("tagger")
    config["paths"]["train"] = None
    path = tmp_path / "config.cfg"
    good = str(tmp_path / "train.spacy")
    result = run(config, path, "--paths.train", good)
    assert result.exit_code == 0, result.output
    assert "Ready for training" in result.output
    result = run(config, path)
    assert result.exit_code == 1
    assert "M220" in result.output
    config["corpora"]["train"] = {"@readers": "debug_code.v1"}
    result = run(config, path, "--code", str(code))
    assert result.exit_code == 1
    assert "M222" in result.output


def test_pipeline_that_cannot_be_initialized(make_config, tmp_path):
    balancer = {"@misc": "spacy-mtl.StaticWeights.v1", "weights": {"parser": 1.0}}
    result = run(make_config("tagger", balancer=balancer), tmp_path / "config.cfg")
    assert result.exit_code == 1
    assert "M020" in result.output


def create_endless() -> Callable[[Language], Iterator[Example]]:
    def read_endless(nlp: Language) -> Iterator[Example]:
        while True:
            yield from make_examples(nlp)

    return read_endless


def test_endless_reader(make_config, capsys):
    registry.readers.register("debug_endless.v1", func=create_endless)
    config = make_config(train={"@readers": "debug_endless.v1"}, training={"max_epochs": -1})
    assert debug(config) == []
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train", "1,000", "8,500"] in lines


def test_endless_mix(make_config, capsys):
    train = mix({"gum": read("${paths.train}")}, epochs=0)
    assert debug(make_config(train=train, training={"max_epochs": -1})) == []
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["gum", "40", "340"] in lines


@pytest.mark.parametrize("section", ["train", "dev"])
def test_endless_mix_that_would_be_read_to_its_end(make_config, section):
    config = make_config("tagger", training={"max_epochs": 0 if section == "train" else -1})
    config["corpora"][section] = mix({"gum": read("${paths.train}")}, epochs=0)
    (finding,) = debug(config)
    assert finding.message.startswith(f"[M223] The corpus '{section}'")
    assert finding.is_failure


@pytest.mark.parametrize(
    ("max_steps", "every", "last"),
    [(250, 190, 190), (10, 200, 0), (950, 190, None), (0, 200, None)],
)
def test_updates_after_the_last_evaluation(max_steps, every, last):
    findings = check_evaluations(max_steps, every)
    assert codes(findings) == ([] if last is None else ["W231"])
    assert all(f"at step {last}," in f.message and not f.is_failure for f in findings)


def test_a_batcher_that_makes_no_batch(make_config):
    batcher = {
        "@batchers": "spacy.batch_by_words.v1",
        "size": 1,
        "tolerance": 0.0,
        "discard_oversize": True,
    }
    findings = debug(make_config(training={"batcher": batcher}))
    assert codes([finding for finding in findings if finding.is_failure]) == ["M226"]


@pytest.mark.parametrize("key", ["train_corpus", "dev_corpus"])
def test_corpus_that_is_not_there(make_config, key):
    with pytest.raises(ValueError, match=rf"M227.*'corpora.foo' .*{key}.*'corpora.train'"):
        debug(make_config(training={key: "corpora.foo"}))


def test_docs_that_are_cut(make_nlp, encoder):
    for nlp in (make_nlp("tagger"), make_stock_nlp(encoder, "tagger")):
        docs = [Doc(nlp.vocab, words=["rrrrr"] * n) for n in (102, 103, 0, 3, 110)]
        model = nlp.get_pipe("transformer").model
        assert count_cut(docs, model, 510) == 2
        assert count_cut(docs, model, 9) == 4


def test_config_with_docs_that_are_cut(make_config, tmp_path):
    vocab = spacy.blank("en").vocab
    doc = Doc(vocab, words=["rrrrr"] * 200, tags=["NN"] * 200)
    write_docs(tmp_path / "train.spacy", "train", more=[doc])
    (finding,) = debug(make_config("tagger"))
    assert finding.message.startswith("[W226] Docs of 'train'")
    assert "than 510 wordpieces" in finding.message
    assert ": 1. It is read in parts." in finding.message


def test_batch_has_labels_for_all_heads():
    nlp = spacy.blank("en")
    tags, cats = make_examples(nlp, "tagger"), make_examples(nlp, "textcat")
    examples = [*tags * 50, *cats]

    def batcher(stream: Iterable[Example]) -> Iterator[list[Example]]:
        yield [tags[0]]
        yield list(stream)

    batch = pick_batch(examples, {"tagger": "token.tag", "textcat": "doc.cats", "x": None}, batcher)
    assert batch[0] is tags[0] and batch[1] is cats[0]
    assert sorted(map(id, batch)) == sorted(map(id, [*tags, *cats]))
    assert pick_batch([], HEADS, batcher=lambda stream: []) == []


def test_heads(make_nlp):
    nlp = make_nlp("tagger", "other=morphologizer", "senter=senter", initialize=False)
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("parser")
    assert get_heads(nlp) == {
        "tagger": "token.tag",
        "other": "token.morph",
        "senter": "token.is_sent_start",
        "parser": "token.dep",
    }
