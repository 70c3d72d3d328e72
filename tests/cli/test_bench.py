from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import spacy
import srsly
import torch
from conftest import TEXTS, make_examples, make_gold, make_stock_nlp
from spacy.cli._util import app
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from torch.nn.modules.module import register_module_forward_pre_hook
from typer.testing import CliRunner

import spacy_mtl.cli.bench
from spacy_mtl.cli.bench import bench, get_padding, time_components
from spacy_mtl.encoder.runtime.cpu import runtime as cpu_runtime
from spacy_mtl.encoder.runtime.cpu.capability import get_choice
from spacy_mtl.loading import read_docs


@pytest.fixture
def docs() -> list[Doc]:
    """RETURNS: Labelled texts of several lengths, including an empty one."""
    vocab = spacy.blank("en").vocab
    golds = [make_gold(vocab, i % 4) for i in range(6)]
    return [
        *golds,
        Doc(vocab),
        Doc(vocab, words=TEXTS[0].split() * 40),
        Doc(vocab, words=["soup", "."], spaces=[False, False]),
    ]


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the number of torch's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def count_words(docs: Iterable[Doc]) -> int:
    return sum(map(len, docs))


def predict(doc: Doc) -> tuple[Any, ...]:
    ents = [(ent.text, ent.label_) for ent in doc.ents]
    return doc.text, [token.tag_ for token in doc], ents, doc.cats


def strip(docs: Iterable[Doc], nlp: Language) -> list[Doc]:
    return [
        Doc(nlp.vocab, words=[t.text for t in doc], spaces=[bool(t.whitespace_) for t in doc])
        for doc in docs
    ]


def measure_padding(nlp: Language, docs: list[Doc], **options: Any) -> float:
    """RETURNS: The share of padding in the encoder's input without packing."""
    tokenizer = nlp.get_pipe("transformer").model.tokenizer  # type: ignore[attr-defined]
    n_padding = n_all = 0

    def count(module: Any, args: Any) -> None:
        nonlocal n_padding, n_all
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == len(tokenizer):
            n_padding += int((args[0] == tokenizer.pad_token_id).sum())
            n_all += args[0].numel()

    hook = register_module_forward_pre_hook(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_runtime, "can_pack", lambda module: False)
        list(nlp.pipe(strip(docs, nlp), **options))
    hook.remove()
    return n_padding / n_all


def run(*args: object) -> Any:
    return CliRunner().invoke(app, ["mtl", "bench", *map(str, args)])


def test_exact_times(monkeypatch):
    """With a fake clock: the time a component works, without waiting and without warm-up."""
    now = [0.0]
    passes = iter([9.0, 4.0, 4.0, 1.0, 1.0, 2.0, 2.0])  # warm-up, then twice each repeat
    monkeypatch.setattr(spacy_mtl.cli.bench, "perf_counter", lambda: now[0])

    class Lazy:
        """Works a second for each doc, or more in a slow pass."""

        def pipe(self, stream: Iterable[Doc], batch_size: int) -> Iterator[Doc]:
            factor = next(passes)
            for doc in stream:
                now[0] += factor
                yield doc

    class Eager:
        """Takes all docs before it works a second for each word."""

        def pipe(self, stream: Iterable[Doc], batch_size: int) -> Iterator[Doc]:
            docs = list(stream)
            now[0] += count_words(docs)
            yield from docs

    def single(doc: Doc) -> Doc:
        assert not any(token.tag_ for token in doc)
        now[0] += 0.5
        return doc

    for name, component in {"lazy": Lazy(), "eager": Eager(), "single": single}.items():
        Language.component(f"bench_{name}", func=component)
    nlp = spacy.blank("en")
    for name in ("lazy", "eager", "single"):
        nlp.add_pipe(f"bench_{name}", name=name)
    docs = [make_gold(nlp.vocab, i) for i in (0, 3)]
    result = bench(nlp, docs, repeats=3, batch_size=1)
    assert (result.docs, result.words, result.repeats, result.batch_size) == (2, 15, 3, 1)
    # A pass takes 2, 4 or 8 s, then 15 s, then 1 s.
    speeds = (result.slowest, result.words_per_second, result.fastest)
    assert speeds == (15 / 24, 15 / 20, 15 / 18)
    assert {name: speed.words_per_second for name, speed in result.components.items()} == {
        "lazy": 15 / 4,
        "eager": 15 / 15,
        "single": 15 / 1,
    }
    assert [speed.share for speed in result.components.values()] == [4 / 20, 15 / 20, 1 / 20]
    assert next(passes, None) is None


def test_figures_are_consistent(make_nlp, docs):
    nlp = make_nlp()
    result = bench(nlp, docs, repeats=2)
    assert list(result.components) == ["transformer", "tagger", "ner", "textcat"]
    speeds = result.components.values()
    assert sum(speed.share for speed in speeds) == pytest.approx(1)
    # The more of the time, the fewer words per second.
    products = [speed.share * speed.words_per_second for speed in speeds]
    assert products == pytest.approx([products[0]] * 4)
    assert 0 < result.slowest <= result.words_per_second <= result.fastest
    assert (result.docs, result.words, result.batch_size) == (9, count_words(docs), 1000)
    assert 0 < result.components["transformer"].padding < 1
    assert [speed.padding for speed in speeds][1:] == [None] * 3
    assert result.peak_mb > 50 and result.peak_gpu_mb is None
    assert result.threads == torch.get_num_threads()
    used = [name for name, is_used in asdict(get_choice()).items() if is_used]
    assert result.runtimes == {"transformer": ["cpu", *used]}
    assert result.versions["spacy-mtl"] == spacy_mtl.__version__
    assert torch.__version__.startswith(result.versions["torch"])  # and then says its build


@pytest.mark.parametrize("batch_size", [1, 2, 1000])
@pytest.mark.parametrize("max_batch_items", [64, 4096])
def test_padding_is_what_the_encoder_sees(make_nlp, docs, batch_size, max_batch_items):
    nlp = make_nlp("tagger")
    nlp.get_pipe("transformer").model.attrs["max_batch_items"] = max_batch_items
    expected = measure_padding(nlp, docs, batch_size=batch_size)
    assert 0 < expected < 1
    assert get_padding(nlp, "transformer", strip(docs, nlp), batch_size) == expected


def test_padding_of_windows_from_a_component_before(make_nlp, docs):
    """Spans are sentences, which docs have only after `sentencizer`."""
    spans = {"@span_getters": "spacy-transformers.sent_spans.v1"}
    nlp = make_nlp("tagger", model={"get_spans": spans}, initialize=False)
    nlp.add_pipe("sentencizer", first=True)
    nlp.initialize(lambda: make_examples(nlp))
    result = bench(nlp, docs, repeats=1)
    assert result.components["transformer"].padding == measure_padding(nlp, docs)


def test_predictions_are_left_alone(make_nlp, docs):
    nlp = make_nlp()
    pipeline = list(nlp.pipeline)
    expected = [predict(doc) for doc in nlp.pipe(strip(docs, nlp), batch_size=2)]
    labels = [predict(doc) for doc in docs]
    timed = strip(docs, nlp)
    time_components(nlp, timed, batch_size=2)
    assert [predict(doc) for doc in timed] == expected
    bench(nlp, docs, repeats=1)
    assert [predict(doc) for doc in docs] == labels
    assert nlp.pipeline == pipeline
    assert [predict(doc) for doc in nlp.pipe(strip(docs, nlp))] == expected


def test_stock_pipeline(encoder, docs):
    result = bench(make_stock_nlp(encoder), docs, repeats=1)
    assert list(result.components) == ["transformer", "tagger", "ner", "textcat"]
    assert all(speed.padding is None for speed in result.components.values())
    assert all(speed.words_per_second > 0 for speed in result.components.values())


def test_stock_heads_and_a_disabled_one(encoder, docs):
    nlp = make_stock_nlp(encoder, factory="mtl_transformer")
    with nlp.select_pipes(disable="ner"):
        result = bench(nlp, docs, repeats=1)
    assert list(result.components) == ["transformer", "tagger", "textcat"]
    assert result.components["transformer"].padding > 0


def test_docs_are_let_go(make_nlp, docs):
    """A stream keeps no references to docs or their features."""
    alive = most = 0

    class Counted:
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def count(doc: Doc) -> Doc:
        nonlocal alive, most
        doc.user_data["counted"] = Counted()
        alive += 1
        most = max(most, alive)
        return doc

    Language.component("bench_count", func=count)
    nlp = spacy.blank("en")
    nlp.add_pipe("bench_count")
    bench(nlp, docs, repeats=1)
    assert alive == 0 and most <= 2


def test_docs_without_words(make_nlp):
    nlp = make_nlp()
    result = bench(nlp, [Doc(nlp.vocab), Doc(nlp.vocab)], repeats=1)
    assert (result.docs, result.words, result.words_per_second) == (2, 0, 0.0)
    assert result.components["transformer"].padding == 0.0
    assert sum(speed.share for speed in result.components.values()) == pytest.approx(1)


@pytest.fixture
def paths(make_nlp: Callable[..., Language], docs: list[Doc], tmp_path: Path) -> tuple[Path, Path]:
    """RETURNS: The folders of a pipeline and of two .spacy files."""
    make_nlp().to_disk(tmp_path / "model")
    (tmp_path / "data").mkdir()
    for name, part in {"a": docs[:5], "b": docs[5:]}.items():
        DocBin(docs=part).to_disk(tmp_path / "data" / f"{name}.spacy")
    (tmp_path / "data" / "README.md").write_text("not a corpus")
    return tmp_path / "model", tmp_path / "data"


def test_command(paths, docs, tmp_path, threads):
    output = tmp_path / "deep" / "er" / "bench.json"
    result = run(*paths, "--repeats", 2, "--batch-size", 3, "--threads", 1, "--output", output)
    assert result.exit_code == 0, result.output
    data = srsly.read_json(output)
    assert (data["docs"], data["words"]) == (9, count_words(docs))
    assert (data["repeats"], data["batch_size"], data["threads"]) == (2, 3, 1)
    lines = [line.split() for line in result.output.splitlines()]
    for name, speed in data["components"].items():
        padding = f"{speed['padding']:.1%}" if name == "transformer" else "-"
        assert [
            name,
            f"{speed['share']:.1%}",
            f"{speed['words_per_second']:,.0f}",
            padding,
        ] in lines
    slowest, fastest = f"{data['slowest']:,.0f}", f"{data['fastest']:,.0f}"
    speed = f"{data['words_per_second']:,.0f}"
    assert ["Words/s", speed, f"({slowest}", "to", fastest, "in", "2", "passes)"] in lines
    assert ["Peak", "memory", f"{data['peak_mb']:,.0f}", "MB"] in lines
    assert ["Data", "9", "docs,", f"{data['words']}", "words,", "batch_size", "3"] in lines
    assert ["Threads", "1"] in lines
    assert f"spacy-mtl {spacy_mtl.__version__}, torch {version('torch')}" in result.output


def test_json_round_trip(make_nlp, docs, tmp_path):
    result = bench(make_nlp(), docs, repeats=1)
    srsly.write_json(tmp_path / "bench.json", asdict(result))
    data = srsly.read_json(tmp_path / "bench.json")
    for key, value in asdict(result).items():
        if key != "components":
            assert data[key] == (pytest.approx(value) if isinstance(value, float) else value)
    for name, speed in asdict(result)["components"].items():
        assert data["components"][name] == pytest.approx(speed)


def test_limit(paths, docs, tmp_path):
    result = run(*paths, "--repeats", 1, "--limit", 6)
    assert result.exit_code == 0, result.output
    assert f"6 docs, {count_words(docs[:6])} words" in result.output
    vocab = spacy.blank("en").vocab
    assert [len(doc) for doc in read_docs(paths[1] / "b.spacy", vocab)] == [
        len(doc) for doc in docs[5:]
    ]


def test_pipeline_without_components(paths, tmp_path):
    spacy.blank("en").to_disk(tmp_path / "blank")
    result = run(tmp_path / "blank", paths[1], "--repeats", 1)
    assert result.exit_code == 0, result.output
    assert "9 docs" in result.output


@pytest.mark.parametrize(
    ("name", "code", "part"),
    [
        ("none.spacy", "M205", "none.spacy"),
        ("README.md", "M205", "README.md"),
        ("empty", "M206", "0 docs"),
        ("no_docs.spacy", "M206", "0 docs"),
        ("no_words.spacy", "M206", "3 docs"),
    ],
)
def test_bad_data(paths, name, code, part):
    model, folder = paths
    (folder / "empty").mkdir()
    vocab = spacy.blank("en").vocab
    DocBin().to_disk(folder / "no_docs.spacy")
    DocBin(docs=[Doc(vocab) for _ in range(3)]).to_disk(folder / "no_words.spacy")
    with pytest.raises(ValueError, match=code) as error:
        read_docs(folder / name, vocab)
    assert part in str(error.value)
    result = run(model, folder / name)
    assert result.exit_code == 1
    assert code in result.output


def test_bad_pipeline(paths, tmp_path):
    model, data = paths
    (model / "transformer" / "model").write_bytes(b"cut off")
    output = tmp_path / "bench.json"
    for name, part in {"no_such_pipeline": "no_such_pipeline", str(model): "M007"}.items():
        result = run(name, data, "--output", output)
        assert result.exit_code == 1
        assert "M204" in result.output and part in result.output
    assert not output.exists()
