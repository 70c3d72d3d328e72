import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from spacy.cli._util import app
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab
from typer.testing import CliRunner

from spacy_mtl.annotations import get_layers
from spacy_mtl.cli import mtl_cli, setup_cli
from spacy_mtl.cli.convert import convert
from spacy_mtl.corpora.counts import Counts, TaskCounts, count_docs
from spacy_mtl.corpora.formats import find_files, guess_format

ROW = "{}\t{}\t_\t{}\t{}\t_\t0\t_\t_\tNER={}\n"
CONLLU = (
    "# newdoc id = news-1\n# meta::genre = news\n"
    + ROW.format(1, "Anna", "PROPN", "NNP", "B-PER")
    + ROW.format(2, "sleeps", "VERB", "VBZ", "O")
    + "\n"
    + ROW.format(1, "Why", "ADV", "WRB", "O")
    + "\n# newdoc id = chat-2\n# meta::genre = talk\n"
    + ROW.format(1, "Bob", "PROPN", "NNP", "B-PER")
    + "\n"
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """RETURNS: A folder with one small corpus per format."""
    files = {
        "ud/a.conllu": CONLLU,
        "slots/seq.in": "play abba\n",
        "slots/seq.out": "O B-artist\n",
        "slots/label": "Play\n",
        "jsonl/a.jsonl": '{"text": "a b", "entities": []}\n{"text": "c", "label": "x"}\n',
        "csv/a.csv": "text,label\nhi,x\n",
        "csv/b.csv": "text,label\nyo,y\n",
        "other/README.md": "not a corpus",
        "tsv/a.tsv": "body\tkind\nhi\tx;y\n",
        "clinc/a.json": json.dumps({"train": [["hi", "x"]], "val": [["yo", "y"]]}),
        "empty/a.csv": "text,label\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf8")
    return tmp_path


def load(path: Path) -> list[Doc]:
    return list(DocBin().from_disk(path).get_docs(Vocab()))


def test_counts(corpus):
    counts = convert([corpus / "ud"], corpus / "out.spacy")
    assert counts == Counts(
        docs=2,
        words=4,
        tasks={
            "tags": TaskCounts(4, Counter(NNP=2, VBZ=1, WRB=1), 0),
            "ents": TaskCounts(2, Counter(PER=2), 0),
            "cats": TaskCounts(2, Counter(news=1, talk=1), 0),
        },
    )
    tasks = {name: get_layers()[name] for name in counts.tasks}
    assert count_docs(load(corpus / "out.spacy"), tasks) == counts


def test_missing_annotations_are_counted_as_missing(corpus):
    counts = convert([corpus / "jsonl"], corpus / "out.spacy")
    assert counts.tasks == {
        "tags": TaskCounts(0, Counter(), 2),
        "ents": TaskCounts(0, Counter(), 1),
        "cats": TaskCounts(1, Counter(x=1), 1),
    }


def test_categories_have_a_value_for_every_label_of_their_file(corpus):
    """Files that share a label know the labels of each other."""
    (corpus / "csv" / "c.csv").write_text("text,label\nup,y\nno,z\n", encoding="utf8")
    convert([corpus / "ud" / "a.conllu", corpus / "csv", corpus / "jsonl"], corpus / "out.spacy")
    assert [doc.cats for doc in load(corpus / "out.spacy")] == [
        {"news": 1.0, "talk": 0.0},
        {"news": 0.0, "talk": 1.0},
        {"x": 1.0},
        {"y": 1.0, "z": 0.0},
        {"y": 1.0, "z": 0.0},
        {"y": 0.0, "z": 1.0},
        {},
        {"x": 1.0},
    ]


def test_every_tenth_document_is_dev_data(tmp_path):
    """Documents are split before they are cut. Both parts have all categories."""
    path, out, dev = (tmp_path / name for name in ("a.jsonl", "new/out.spacy", "other/dev.spacy"))
    rows = [{"text": f"{i} a. b.", "label": f"label{i % 2}"} for i in range(1, 26)]
    path.write_text("".join(map("{}\n".format, map(json.dumps, rows))), encoding="utf8")
    counts = convert([path], out, dev=dev)
    assert [doc.text for doc in load(dev)] == ["10 a. b.", "20 a. b."]
    assert counts.docs == len(load(out)) == 23
    assert {tuple(doc.cats) for doc in [*load(out), *load(dev)]} == {("label0", "label1")}
    path.write_text("".join(map("{}\n".format, map(json.dumps, rows[:9]))), encoding="utf8")
    with pytest.raises(ValueError, match=r"M258.*9 documents"):
        convert([path], out, dev=dev)


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (0, ["Anna sleeps Why ", "Bob "]),
        (2, ["Anna sleeps ", "Why ", "Bob "]),
        (1, ["Anna sleeps ", "Why ", "Bob "]),
        (3, ["Anna sleeps Why ", "Bob "]),
    ],
)
def test_words_in_a_chunk(corpus, words, texts):
    convert([corpus / "ud"], corpus / "out.spacy", words=words)
    assert [doc.text for doc in load(corpus / "out.spacy")] == texts


@pytest.mark.parametrize(
    ("tasks", "kept"),
    [
        (["tags", "ents", "cats"], (True, True, True)),
        (["tags"], (True, False, False)),
        (["ents"], (False, True, False)),
        (["cats"], (False, False, True)),
    ],
)
def test_dropped_tasks_become_missing(corpus, tasks, kept):
    counts = convert([corpus / "ud"], corpus / "out.spacy", tasks=tasks)
    for doc in load(corpus / "out.spacy"):
        assert all(doc.has_annotation(attr) is kept[0] for attr in ("TAG", "POS"))
        assert doc.has_annotation("ENT_IOB") is kept[1]
        assert bool(doc.cats) is kept[2]
    for task, has in zip(counts.tasks.values(), kept, strict=True):
        assert task.missing == (0 if has else 2)


def test_output_folder_is_made(corpus):
    convert([corpus / "slots"], corpus / "deep" / "er" / "out.spacy")
    (doc,) = load(corpus / "deep" / "er" / "out.spacy")
    assert (doc.text, doc.cats) == ("play abba", {"Play": 1.0})


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("x/a.conllu", "conllu"),
        ("x/seq.in", "slots"),
        ("x/seq.out", "slots"),
        ("x/label", "slots"),
        ("x/a.jsonl", "jsonl"),
        ("x/a.csv", "csv"),
        ("x/a.tsv", "tsv"),
        ("x/a.json", "json"),
        ("x/a.parquet", "parquet"),
        ("x/a.spacy", "spacy"),
        ("x/a.txt", None),
        ("x/my.label", None),
    ],
)
def test_guess_format(name, format):
    assert guess_format(Path(name)) == format


def test_find_files(corpus):
    triple = [corpus / "slots" / name for name in ("seq.in", "seq.out", "label")]
    assert find_files(triple) == find_files([corpus / "slots"]) == [("slots", corpus / "slots")]
    folder = corpus / "csv"
    assert find_files([folder]) == [("csv", folder / "a.csv"), ("csv", folder / "b.csv")]
    assert find_files([corpus / "other" / "README.md"], "csv") == [
        ("csv", corpus / "other" / "README.md")
    ]


def test_command(corpus):
    args = [corpus / "ud", corpus / "slots", corpus / "out.spacy", "--tags", "upos", "-c", "newdoc"]
    result = CliRunner().invoke(app, ["mtl", "convert", *map(str, args)])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert ["tags", "4", "tokens", "3", "1"] in lines
    assert ["ents", "3", "entities", "2", "0"] in lines
    assert ["cats", "3", "docs", "3", "0"] in lines
    assert ["tags:", "'PROPN'", "(2),", "'VERB'", "(1),", "'ADV'", "(1)"] in lines
    first, second, third = load(corpus / "out.spacy")
    assert [token.tag_ for token in first] == ["PROPN", "VERB", "ADV"]
    assert first.cats == {"chat": 0.0, "news": 1.0}
    assert second.cats == {"chat": 1.0, "news": 0.0}
    assert third.cats == {"Play": 1.0}
    assert not third.has_annotation("TAG")


@pytest.mark.parametrize(
    ("args", "text", "cats"),
    [
        (["clinc"], "hi", {"x": 1.0}),
        (["clinc", "--split", "val"], "yo", {"y": 1.0}),
        (
            ["tsv", "--text", "body", "--category", "kind", "--separator", ";"],
            "hi",
            {"x": 1.0, "y": 1.0},
        ),
        (["csv/b.csv", "--format", "csv", "--tasks", "tags, ents"], "yo", {}),
    ],
)
def test_command_options(corpus, args, text, cats):
    name, *options = args
    paths = [str(corpus / name), str(corpus / "out.spacy")]
    result = CliRunner().invoke(app, ["mtl", "convert", *paths, *options])
    assert result.exit_code == 0, result.output
    (doc,) = load(corpus / "out.spacy")
    assert (doc.text, doc.cats) == (text, cats)


def test_an_option_of_the_command_among_those_of_formats(corpus):
    paths = [str(corpus / "clinc"), str(corpus / "out.spacy")]
    result = CliRunner().invoke(app, ["mtl", "convert", *paths, "-o", "lang=de"])
    assert result.exit_code == 1 and "M113" in result.output and "--lang" in result.output


@pytest.mark.parametrize(
    ("name", "options", "code", "part"),
    [
        ("none.csv", {}, "M101", "none.csv"),
        ("other/README.md", {}, "M102", "README.md"),
        ("ud", {"format": "csv"}, "M102", "'csv'"),
        ("ud/a.conllu", {"format": "xml"}, "M102", "'xml'"),
        ("empty", {}, "M112", "empty"),
        ("ud", {"tasks": ["tags", "deps"]}, "M113", "'deps'"),
        ("ud", {"tags": "feats"}, "M113", "'feats'"),
        ("ud", {"column": "xpos"}, "M113", "'column'"),
        ("ud", {"columns": "word,tag"}, "M130", "--columns"),
        ("csv", {"split": "train"}, "M130", "--split"),
    ],
)
def test_errors(corpus, name, options, code, part):
    with pytest.raises(ValueError, match=code) as error:
        convert([corpus / name], corpus / "out.spacy", **options)
    assert part in str(error.value)
    assert not (corpus / "out.spacy").exists()


@pytest.mark.parametrize("name", ["csv/b.csv", "corpus/train", "out.spacy.gz"])
def test_output_of_another_kind(corpus, name):
    """The output was probably forgotten, so that the last input is in its place."""
    before = (corpus / "csv/b.csv").read_bytes()
    args = [str(corpus / path) for path in ("csv/a.csv", name)]
    result = CliRunner().invoke(app, ["mtl", "convert", *args])
    assert result.exit_code == 1 and "M115" in result.output
    assert (corpus / "csv/b.csv").read_bytes() == before
    assert not (corpus / "corpus").exists()


@pytest.mark.parametrize(
    ("output", "args", "part"),
    [("csv/a.csv/out.spacy", [], "a.csv"), ("out.spacy", ["--lang", "zz"], "zz")],
)
def test_command_prints_what_others_raise(corpus, output, args, part):
    args = [str(corpus / "csv"), str(corpus / output), *args]
    result = CliRunner().invoke(app, ["mtl", "convert", *args])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "Cannot convert" in result.output and part in result.output


def test_categories_that_are_not_known(corpus):
    """Unknown categories stay missing. Categories that are not named get 0."""
    (corpus / "csv/c.jsonl").write_text(
        '{"text": "a", "cats": {"x": 1, "y": 0, "z": null}}\n{"text": "b", "cats": {"z": 0.5}}\n'
    )
    convert([corpus / "csv"], corpus / "out.spacy")
    assert [doc.cats for doc in load(corpus / "out.spacy")] == [
        {"x": 1.0, "y": 0.0, "z": 0.0},
        {"x": 0.0, "y": 1.0, "z": 0.0},
        {"x": 1.0, "y": 0.0},
        {"x": 0.0, "y": 0.0, "z": 0.5},
    ]


def test_command_prints_errors(corpus):
    args = [str(corpus / "ud"), str(corpus / "out.spacy"), "--tasks", "tags,deps"]
    result = CliRunner().invoke(app, ["mtl", "convert", *args])
    assert result.exit_code == 1
    assert "M113" in result.output
    assert "deps" in result.output


def test_command_is_registered_once():
    assert setup_cli() is mtl_cli
    assert [group.typer_instance for group in app.registered_groups].count(mtl_cli) == 1


def test_a_terminal_of_ascii(corpus):
    """Characters that the terminal cannot show are escaped, in labels, warnings and errors."""
    (corpus / "csv/ö.csv").write_text("text,label,ä\nhi,schön,1\n", encoding="utf8")
    script = "from spacy.cli._util import app; import spacy_mtl.cli; app()"
    env = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    args = [sys.executable, "-c", script, "mtl", "convert", str(corpus / "csv/ö.csv")]
    for output, code, part in [("ö.spacy", 0, "sch\\xf6n"), ("ö", 1, "M115")]:
        run = subprocess.run([*args, str(corpus / output)], env=env, capture_output=True)
        assert run.returncode == code, run.stderr
        assert part in run.stdout.decode("ascii")
        if code == 0:
            assert run.stderr.decode("ascii").startswith("Warning: [W110]")


def test_skip_errors(corpus):
    (corpus / "csv/b.csv").write_text("text,label\nhi,x\nyo\n", encoding="utf8")
    args = [str(corpus / "csv/b.csv"), str(corpus / "out.spacy")]
    result = CliRunner().invoke(app, ["mtl", "convert", *args])
    assert result.exit_code == 1 and "M103" in result.output
    with pytest.warns(UserWarning, match=r"W112.*line 3"):
        result = CliRunner().invoke(app, ["mtl", "convert", *args, "--skip-errors"])
    assert result.exit_code == 0, result.output
