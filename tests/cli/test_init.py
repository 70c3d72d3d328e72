"""`spacy mtl init config`: complete configs that all commands accept as they are."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import spacy
from conftest import TEXTS, make_gold, run_spacy
from spacy.cli.debug_config import debug_config
from spacy.cli.debug_data import debug_data
from spacy.tokens import DocBin
from spacy.training import Example
from spacy.training.initialize import init_nlp
from spacy.util import load_config
from thinc.api import Config
from typer.testing import CliRunner

from spacy_mtl.cli import mtl_cli
from spacy_mtl.cli.config_text import COMMENTS
from spacy_mtl.cli.init import make_text
from spacy_mtl.cli.init_config import CorpusSpec, has_listener, make_config, parse_corpus

ROOT = Path(__file__).parents[2]
SEPARATE = ["a=a.spacy,b.spacy:tagger", "b=c.spacy:ner,textcat"]


def init_config(*args: str) -> Any:
    return CliRunner().invoke(mtl_cli, ["init", "config", *args])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Copies of the labelled texts, as many as `debug data` wants."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.spacy"
    vocab = spacy.blank("en").vocab
    DocBin(docs=[make_gold(vocab, i % len(TEXTS)) for i in range(200)]).to_disk(path)
    return str(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=x.spacy:ner", CorpusSpec("a", "x.spacy", tasks=["ner"])),
        ("a=x,y:ner,tagger", CorpusSpec("a", "x", "y", tasks=["ner", "tagger"])),
        ("a=x.spacy", CorpusSpec("a", "x.spacy")),
        ("a=:ner", CorpusSpec("a", tasks=["ner"])),
        (r"a=C:\x.spacy:ner", CorpusSpec("a", r"C:\x.spacy", tasks=["ner"])),
        (r"a=C:\x.spacy", CorpusSpec("a", r"C:\x.spacy")),
    ],
)
def test_corpora_are_parsed(text: str, expected: CorpusSpec) -> None:
    assert parse_corpus(text) == expected


WRONG = [
    (["--tasks", "tagger,coreference"], "M250", "'textcat_multilabel'"),
    ([], "M250", "'textcat_multilabel'"),
    (["--tasks", "ner,ner:tagger"], "M251", "'ner'"),
    (["--tasks", "transformer:ner"], "M251", "'transformer'"),
    (["--corpora", "x.spacy"], "M252", "'x.spacy'"),
    (["--corpora", "a=x,y,z:ner"], "M252", "NAME=TRAIN,DEV:TASKS"),
    (["--tasks", "ner", "--corpora", "a=x:tagger"], "M253", "--tasks"),
    (["--tasks", "ner,tagger", "--corpora", "a=x:tagger"], "M253", "--corpora"),
    (["--corpora", "a=x:tagger", "a=y:ner"], "M254", "'a'"),
    (["--tasks", "ner", "--corpora", "a=x:ner", "--train", "y"], "M255", "--train"),
    (["--tasks", "ner", "--encoder", "x"], "M256", "--force"),
]


def test_wrong_arguments(tmp_path: Path) -> None:
    path = tmp_path / "config.cfg"
    path.write_text("mine")
    offenders = []
    for args, code, part in WRONG:
        result = init_config(str(path), *args)
        if result.exit_code != 1 or code not in result.output or part not in result.output:
            offenders.append((args, result.output, result.exception))
    assert offenders == []
    assert path.read_text() == "mine"
    assert init_config(str(path), "--tasks", "ner", "--force").exit_code == 0
    assert path.read_text() != "mine"


def test_configs_of_the_repository_are_written_by_the_command(tmp_path: Path) -> None:
    """The comment at the top of such a config has the command."""
    offenders = []
    for path in (ROOT / "configs").glob("mtl_*.cfg"):
        title, *_ = path.read_text(encoding="utf8").split("\n\n")
        command = " ".join(line.removeprefix("# ") for line in title.splitlines())
        _, _, options = command.partition("python -m spacy mtl init config OUTPUT ")
        result = init_config(str(tmp_path / path.name), *shlex.split(options))
        assert result.exit_code == 0, result.output
        if (tmp_path / path.name).read_text(encoding="utf8") != path.read_text(encoding="utf8"):
            offenders.append(command)
    assert offenders == []


def test_one_corpus() -> None:
    """The simplest reader, and the scores of the heads."""
    config = make_config(["tagger", "textcat"], corpora=[CorpusSpec(train="x", dev="y")])
    assert config["nlp"]["pipeline"] == ["transformer", "tagger", "textcat"]
    assert config["corpora"]["train"]["@readers"] == "spacy.Corpus.v1"
    assert (config["paths"]["train"], config["paths"]["dev"]) == ("x", "y")
    weights = config["training"]["score_weights"]
    assert {key for key, weight in weights.items() if weight} == {"tag_acc", "cats_score"}
    assert config["training"]["max_epochs"] == 0


def test_several_corpora() -> None:
    config = make_config([], corpora=[parse_corpus(text) for text in SEPARATE])
    assert config["nlp"]["pipeline"] == ["transformer", "tagger", "ner", "textcat"]
    for part in ("train", "dev"):
        reader = config["corpora"][part]
        assert reader["@readers"] == "spacy-mtl.MixedCorpus.v1"
        assert reader["tasks"] == {"a": ["tagger"], "b": ["ner", "textcat"]}
        assert reader["corpora"]["a"]["path"] == f"${{paths.a_{part}}}"
    paths = {key: path for key, path in config["paths"].items() if key.endswith(("train", "dev"))}
    assert paths == {
        **{"a_train": "a.spacy", "a_dev": "b.spacy"},
        **{"b_train": "c.spacy", "b_dev": None},
    }
    assert config["corpora"]["train"]["unit"] == "words"


def test_several_heads_of_a_kind() -> None:
    """On one corpus each gets a place for its labels. With corpora of their own they need none."""
    tasks = ["people:ner", "places:ner", "tagger"]
    config = make_config(tasks)
    assert config["initialize"]["components"] == {
        name: {"labels": None} for name in ("people", "places")
    }
    assert (
        "labels" in make_text(config, "").partition("[initialize.components]")[0].splitlines()[-1]
    )
    corpora = [CorpusSpec(name, tasks=[name]) for name in ("people", "places", "tagger")]
    assert make_config(tasks, corpora=corpora)["initialize"]["components"] == {}


def test_encoders_and_devices() -> None:
    """spaCy's recommendation, except for English on a CPU. Features of the spelling are only for
    uncased encoders.
    """
    small = make_config(["tagger"])
    assert small["paths"]["encoder"] == "minilm"
    assert "LexicalEmbed" in str(small["components"]["tagger"])
    cased = make_config(["tagger"], optimize="accuracy", gpu=True)
    assert cased["paths"]["encoder"] == "roberta-base"
    assert "LexicalEmbed" not in str(cased["components"]["tagger"])
    assert cased["system"]["gpu_allocator"] == "pytorch"
    german = make_config(["tagger"], lang="de")
    assert german["nlp"]["lang"] == "de" and "german" in german["paths"]["encoder"]
    rates = [
        config["training"]["optimizer"]["encoder_learn_rate"]["initial_rate"]
        for config in (small, cased, make_config(["ner"], encoder="some/folder"))
    ]
    assert rates[0] > rates[1] == rates[2]


def test_heads_of_other_packages_are_found_by_their_listener() -> None:
    listener = {"@architectures": "spacy-mtl.TaskListener.v1"}
    assert has_listener({"model": {"@architectures": "acme.v1", "tok2vec": listener}})
    assert not has_listener({"model": {"@architectures": "spacy.Tagger.v2", "nO": None}})


def test_text_has_comments_and_reads_back(tmp_path: Path) -> None:
    """Each comment is used in some config, and a comment fits the line."""
    configs = [
        make_config(["tagger", "people:ner", "places:ner"]),
        make_config([], corpora=[parse_corpus(text) for text in SEPARATE]),
    ]
    texts = [make_text(config, "some command") for config in configs]
    for text, config in zip(texts, configs, strict=True):
        assert "some command" in text.partition("[paths]")[0]
        assert max(map(len, text.splitlines())) <= 100
        assert Config().from_str(text, interpolate=False) == config
        assert Config().from_str(text)["components"]["transformer"]["model"]["name"] == "minilm"
        assert "The head tagger predicts token.tag." in text
    words = [" ".join(re.sub("^# ", "", text, flags=re.M).split()) for text in texts]
    unused = [c for c in COMMENTS.values() if not any(" ".join(c.split()) in w for w in words)]
    assert unused == []


def test_standard_output() -> None:
    result = init_config("-", "--tasks", "ner")
    assert Config().from_str(result.stdout)["nlp"]["pipeline"] == ["transformer", "ner"]


def test_two_ways_to_give_several_corpora() -> None:
    first, second = (
        init_config("-", *args).output
        for args in (["--corpora", *SEPARATE], ["--corpora", SEPARATE[0], "--corpora", SEPARATE[1]])
    )
    assert first == second and "a_train" in first


@pytest.fixture(scope="module", params=["one", "several"])
def config(request: Any, corpus: str, encoder: str, tmp_path_factory: Any) -> Path:
    """A config as the command writes it. Only the numbers of updates are changed, to save time."""
    path = tmp_path_factory.mktemp(request.param) / "config.cfg"
    options = {
        "one": ["--tasks", "tagger,ner,textcat", "--train", corpus, "--dev", corpus],
        "several": ["--corpora", f"a={corpus},{corpus}:tagger,ner", f"b={corpus},{corpus}:textcat"],
    }
    result = init_config(str(path), *options[request.param], "--encoder", encoder)
    assert result.exit_code == 0, result.output
    text = path.read_text(encoding="utf8")
    for name, value in (("max_steps", 2), ("eval_frequency", 2), ("warmup_steps", 1)):
        text = re.sub(f"(?m)^{name} = .*", f"{name} = {value}", text)
    path.write_text(text, encoding="utf8")
    return path


def test_the_commands_accept_the_config(config: Path, tmp_path: Path, capsys: Any) -> None:
    debug_config(config)
    if config.parent.name.startswith("one"):
        debug_data(config, silent=False)
    else:  # it counts docs of the corpus for other tasks as docs without a category
        with pytest.raises(SystemExit):
            debug_data(config, silent=False)
        assert "without mutually-exclusive classes" in capsys.readouterr().out
    assert "Ready for training" in run_spacy("mtl", "debug", str(config))
    for name in ("transformer", "ner"):
        assert "Successfully ended" in run_spacy("debug", "model", str(config), name)
    run_spacy("train", str(config), "--output", str(tmp_path / "stock"))
    run_spacy("mtl", "train", str(config), "--output", str(tmp_path / "own"))
    for folder in ("stock", "own"):
        nlp = spacy.load(tmp_path / folder / "model-best")
        gold = make_gold(nlp.vocab, 0)
        example = Example(nlp.make_doc(gold.text), gold)
        losses = nlp.update([example], sgd=nlp.resume_training(), losses={})
        assert all(losses[name] > 0 for name in ("tagger", "ner", "textcat"))


@pytest.mark.parametrize("is_endless", [False, True])
def test_all_labels_of_separate_corpora_are_found(
    encoder: str, tmp_path: Path, is_endless: bool
) -> None:
    """spaCy initializes components with the first 100 examples of an endless stream."""
    vocab = spacy.blank("en").vocab
    golds = [make_gold(vocab, 0) for _ in range(300)]
    for i, gold in enumerate(golds):
        gold.cats = {f"label_{i}": 1.0}
    gold_path = tmp_path / "cats.spacy"
    DocBin(docs=golds).to_disk(gold_path)
    path = tmp_path / "config.cfg"
    corpora = [f"{name}={gold_path},{gold_path}:{name}" for name in ("textcat", "ner")]
    assert init_config(str(path), "--corpora", *corpora, "--encoder", encoder).exit_code == 0
    endless = {"training.max_epochs": -1, "corpora.train.epochs": 0} if is_endless else {}
    nlp = init_nlp(load_config(path, overrides=endless))
    assert len(nlp.get_pipe("textcat").labels) == 300  # type: ignore[attr-defined]
