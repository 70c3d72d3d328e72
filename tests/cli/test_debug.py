from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import spacy
from conftest import make_examples, make_gold, make_stock_nlp
from spacy.cli._util import app
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.util import registry
from thinc.api import Config
from typer.testing import CliRunner

from spacy_mtl.checks.encoder import describe_encoder
from spacy_mtl.cli.debug import debug

ALL = ("tagger", "ner", "textcat")


def write_docs(
    path: Path, word: str, tasks: tuple[str, ...] = ALL, copies: int = 10, more: Iterable[Doc] = ()
) -> Path:
    """Write copies of the labelled texts, each with another first word."""
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
    (row,) = [row for row in rows if row[:2] == ["tagger", "transformer"]]
    assert row[3:] == ["nats", "-", "-"]


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


def test_a_score_that_no_head_gives(make_config):
    findings = debug(make_config("tagger", training={"score_weights": {"ents_f": 1.0}}))
    assert codes(findings) == ["M257"] and findings[0].is_failure
    assert "'tag_acc'" in findings[0].message


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


def test_config_with_docs_that_are_cut(make_config, tmp_path):
    vocab = spacy.blank("en").vocab
    doc = Doc(vocab, words=["rrrrr"] * 200, tags=["NN"] * 200)
    write_docs(tmp_path / "train.spacy", "train", more=[doc])
    (finding,) = debug(make_config("tagger"))
    assert finding.message.startswith("[W226] Docs of 'train'")
    assert "than 510 wordpieces" in finding.message
    assert ": 1. Long windows are read in parts." in finding.message
