"""Arguments of registered functions: what is out of range is refused, what is not works."""

import io
import math
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, distribution
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy
import pytest
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import Model

from spacy_mtl.arguments import Range, check
from spacy_mtl.encoder.lexical import build_lexical_embed_v1
from spacy_mtl.encoder.training_pass import TaskBatch
from spacy_mtl.heads.loss_weighting import LossWeighting

ENTRY_POINTS = [
    entry
    for entry in distribution("spacy-mtl").entry_points
    if entry.group.startswith(("spacy_", "thinc_")) and entry.group != "spacy_cli"
    if not entry.group.startswith("spacy_mtl_")
]
WRONG = [-1, 0, math.nan, math.inf, 1e30, "wrong", []]
NLP = spacy.blank("en")
TEXT = "Maria flew to Porto ."


def embed() -> Model:
    return build_lexical_embed_v1(4, ["NORM"], [8])


def build(name: str) -> Any:
    """What another function makes of its defaults, for arguments that must be given."""
    (entry,) = [e for e in ENTRY_POINTS if e.name == name]
    return entry.load()(**get_required(name))


def get_required(name: str) -> dict[str, Any]:
    """Arguments for what has no default."""
    heads = {"mtl_tagger": "Tagger", "mtl_ner": "Ner", "mtl_textcat": "TextCat"}
    heads |= {"mtl_textcat_multilabel": "TextCat", "mtl_morphologizer": "Tagger"}
    heads |= {"mtl_senter": "Tagger", "mtl_lemmatizer": "Tagger"}
    heads |= {"mtl_parser": "Parser", "mtl_spancat": "SpanCat"}
    heads |= {"mtl_relation": "Relation", "mtl_regression": "TextCat"}
    heads |= {"mtl_paircat": "PairCat", "mtl_qa": "Tagger"}
    heads |= {"mtl_seq2seq": "Seq2Seq"}
    if name in heads:
        defaults = Language.get_factory_meta(name).default_config
        settings = {k: v for k, v in defaults.items() if k not in ("model", "scorer")}
        model = build(f"spacy-mtl.{heads[name]}Head.v1")
        if name == "mtl_ner":
            model.attrs["crf"] = False
        fixed = {"nlp": NLP, "name": "head", "model": model, "scorer": None}
        return {**settings, **fixed}
    if name == "mtl_transformer":
        return {
            "nlp": NLP,
            "name": "transformer",
            "model": build("spacy-mtl.SharedTransformer.v1"),
            "balancer": build("spacy-mtl.StaticWeights.v1"),
            "set_extra_annotations": print,
            "max_batch_items": 100,
        }
    if name == "mtl_vectors":
        model = build("spacy-mtl.TokenVectors.v1")
        settings = {"pooling": "tokens", "normalize": False, "dtype": "float32"}
        return {"nlp": NLP, "name": "vectors", "model": model, **settings}
    required: dict[str, Callable[[], dict[str, Any]]] = {
        "spacy-mtl.SharedTransformer.v1": lambda: {"name": "encoder", "get_spans": list},
        "spacy-mtl.Tok2VecTransformer.v1": lambda: {"name": "encoder", "get_spans": list},
        "spacy-mtl.ConcatTok2Vec.v1": lambda: {"layers": {"a": embed()}},
        "spacy-mtl.LexicalEmbed.v1": lambda: {"width": 4, "attrs": ["NORM"], "rows": [8]},
        "spacy-mtl.Adapter.v1": lambda: {"tok2vec": embed(), "width": 4},
        "spacy-mtl.PrivateLayers.v1": lambda: {"tok2vec": embed()},
        "spacy-mtl.TaggerHead.v1": lambda: {"tok2vec": embed()},
        "spacy-mtl.NerHead.v1": lambda: {"tok2vec": embed()},
        "spacy-mtl.ParserHead.v1": lambda: {"tok2vec": embed()},
        "spacy-mtl.PairCatHead.v1": lambda: {"tok2vec": embed()},
        "spacy-mtl.RelationHead.v1": lambda: {"tok2vec": embed()},
        "spacy-mtl.Seq2SeqHead.v1": lambda: {"tok2vec": embed()},
        "spacy-mtl.SpanCatHead.v1": lambda: {"tok2vec": embed()},
        "spacy-mtl.TextCatHead.v1": lambda: {"tok2vec": embed()},
        "spacy-mtl.TokenVectors.v1": lambda: {"tok2vec": embed()},
        "spacy-mtl.sentence_spans.v1": lambda: {"window": 10},
        "spacy-mtl.EarlyStopping.v1": lambda: {
            "balancer": build("spacy-mtl.StaticWeights.v1"),
            "patience": {"ner": 1},
        },
        "spacy-mtl.batch_by_wordpieces.v1": lambda: {"size": 3},
        "spacy-mtl.MixedCorpus.v1": lambda: {
            "corpora": dict.fromkeys("ab", lambda nlp: make_examples())
        },
    }
    return required.get(name, dict)()


def make_examples() -> list[Example]:
    words = TEXT.split()
    tags, ents = list("NVPN."), ["B-X", "O", "O", "O", "O"]
    annotation: dict[str, Any] = {"heads": [0, 0, 0, 3, 3], "deps": ["R", "x", "x", "R", "x"]}
    annotation |= {"tags": tags, "ents": ents, "lemmas": words}
    golds = [Doc(NLP.vocab, words=words, **annotation) for _ in range(2)]
    for gold in golds:
        gold.spans["sc"] = [Span(gold, 0, 2, "X")]
    for doc, cats in zip(golds, [{"x": 1.0, "y": 0.0}, {"x": 0.0, "y": 1.0}], strict=True):
        doc.cats = cats
    return [Example(Doc(NLP.vocab, words=words), gold) for gold in golds]


def use(entry: Any, found: Any) -> Iterator[Any]:
    """Do a little with what a function made. Yields numbers."""
    kind = entry.group.partition("_")[2]
    if hasattr(found, "combine"):
        for _ in range(3):
            rows = {"ner": [[1.0, 2.0]], "tagger": [[-1.0, 1.0]], "other": [[0.0, 0.0]]}
            gradients = {task: numpy.array(row, dtype="f") for task, row in rows.items()}
            losses = {"ner": 0.5, "tagger": 2.0, "other": 0.0}
            batch = TaskBatch(losses, gradients, lambda g, _: torch.from_numpy(g).flatten())
            total, weights = found.combine(batch)
            found.step()
            yield from [*total.ravel(), *weights.values()]
    elif kind == "optimizers":
        module = torch.nn.Linear(2, 2)
        weights, shim = numpy.ones((2, 2), dtype="f"), 5
        for scale in (0, 1):
            for p in module.parameters():
                p.grad = scale * torch.ones_like(p)
            found.step_module(shim, module)
            gradient = numpy.full((2, 2), scale, dtype="f")
            weights, _ = found((1, "W"), weights, gradient)
            found.step_schedules()
            yield from [*weights.ravel(), *module.weight.ravel().tolist()]
    elif entry.name.startswith("mtl_") and hasattr(found, "update"):
        if entry.name != "mtl_transformer":
            yield from train(found)
    elif isinstance(found, LossWeighting):
        yield from train(build_head(build("spacy-mtl.TaggerHead.v1"), loss=found))
    elif entry.name.startswith("spacy-mtl.TaggerHead"):
        yield from train(build_head(found))
    elif isinstance(found, Model) and found.name not in (
        "transformer",
        "task-transformer-listener",
        "parser_head",
        "spancat_head",
        "relation_head",
        "seq2seq_head",
    ):
        examples = make_examples()
        docs = [eg.predicted for eg in examples]
        if found.has_ref("output_layer") and not found.get_ref("output_layer").has_dim("nO"):
            found.get_ref("output_layer").set_dim("nO", 3)
        found.initialize(X=docs)
        output = found.predict(docs)
        yield from numpy.concatenate([numpy.ravel(part) for part in output])
    elif kind == "batchers":
        assert sum(map(len, found([eg.predicted for eg in make_examples()]))) in (0, 2)
    elif kind == "readers":
        assert len(list(islice(found(NLP), 9)))
    elif kind == "span_getters":
        assert found([NLP.make_doc(TEXT)])
    elif kind == "loggers":
        found(NLP, io.StringIO(), io.StringIO())


def build_head(model: Model, loss: Any = None) -> Any:
    (entry,) = [e for e in ENTRY_POINTS if e.name == "mtl_tagger"]
    return entry.load()(**{**get_required("mtl_tagger"), "model": model, "loss": loss})


def train(head: Any) -> Iterator[float]:
    examples = make_examples()
    for eg in examples:
        for label in ("N", "V", "P", ".", "X", "x", "y"):
            head.vocab.strings.add(label)
        assert eg
    head.initialize(lambda: examples, nlp=NLP)
    optimizer = NLP.create_optimizer()
    for _ in range(2):
        yield from head.update(examples, sgd=optimizer).values()
    for node in head.model.walk():
        for name in node.param_names:
            yield from node.get_param(name).ravel()


def is_coded(error: Exception) -> bool:
    return "[M" in str(error) or "[E" in str(error)  # ours or spaCy's


def find_offences(entry: EntryPoint, name: str, value: Any) -> Iterator[tuple[Any, ...]]:
    """Whatever is neither an error with a code nor finite."""
    try:
        found = entry.load()(**{**get_required(entry.name), name: value})
        if not all(map(math.isfinite, use(entry, found))):
            yield entry.name, name, value, "not finite"
    except Exception as error:
        if not is_coded(error):
            yield entry.name, name, value, repr(error)


@pytest.mark.filterwarnings(r"ignore:\[W004\]")
def test_wrong_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each argument gets each wrong value: an error with a code, or numbers that are finite."""
    monkeypatch.chdir(tmp_path)
    offences: list[Any] = []
    for entry in ENTRY_POINTS:
        for name, annotation in get_type_hints(entry.load(), include_extras=True).items():
            values: list[Any] = list(WRONG)
            values += [{"ner": value} for value in WRONG if "dict[" in str(annotation)]
            values += [[value] for value in WRONG if "list[" in str(annotation)]
            for value in values if name not in ("nlp", "name", "return") else ():
                offences += find_offences(entry, name, value)
    assert offences == []


def find_ranges(annotation: Any) -> list[Range]:
    if get_origin(annotation) is Annotated:
        base, *ranges = get_args(annotation)
        return ranges if base is float else []
    return [found for part in get_args(annotation) for found in find_ranges(part)]


@pytest.mark.filterwarnings(r"ignore:\[W004\]")
def test_extreme_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number has a range, and works at the bounds."""
    offences: list[Any] = []
    for entry in ENTRY_POINTS:
        for name, annotation in get_type_hints(entry.load(), include_extras=True).items():
            if annotation in (int, float):
                offences.append((entry.name, name, "no range"))
            for bounds in find_ranges(annotation):
                least = math.nextafter(bounds.least, 1) if bounds.above else bounds.least
                most = math.nextafter(bounds.most, 0) if bounds.below else bounds.most
                for value in (least, most):
                    nested = {"N": value} if "dict[" in str(annotation) else value
                    offences += find_offences(entry, name, nested)
    assert offences == []


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"max_batch_items": 0},
            r"mtl_transformer: max_batch_items = 0\. Give a whole number >= 1",
        ),
        (
            {"balancer": {"@misc": "spacy-mtl.GradNorm.v1", "alpha": -1.0}},
            r"spacy-mtl\.GradNorm\.v1: alpha = -1\.0\. Give a number >= 0 and <= 10",
        ),
        (
            {"balancer": {"@misc": "spacy-mtl.StaticWeights.v1", "weights": {"a b": -2}}},
            r"weights\['a b'\] = -2",
        ),
    ],
)
def test_wrong_arguments_in_a_config(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"\[M058\] .*{message}"):
        spacy.blank("en").add_pipe("mtl_transformer", config=settings)


def test_a_later_rate_of_a_schedule() -> None:
    (entry,) = [e for e in ENTRY_POINTS if e.name == "spacy-mtl.AdamW.v1"]
    optimizer = entry.load()(learn_rate=[0.1, 0.2, math.inf])
    optimizer.step_schedules()
    assert optimizer.learn_rate == 0.2
    with pytest.raises(ValueError, match=r"\[M058\] spacy-mtl\.AdamW\.v1: learn_rate = inf"):
        optimizer.step_schedules()


@pytest.mark.parametrize(
    "annotation, right, wrong, allowed",
    [
        (
            Annotated[int, Range(1, 5)],
            [1, 5, numpy.int64(2)],
            [0, 6, 2.0, True, "2"],
            ">= 1 and <= 5",
        ),
        (Annotated[float, Range(0, 1, above=True)], [1, 0.5], [0, -0.0, math.nan, None], "> 0"),
        (Annotated[float, Range()] | None, [None, 2], ["", math.inf], "a number .* or null"),
        (Literal["a", "b"], ["a"], ["c", 0, []], "one of 'a', 'b'"),
        (list[str], [[], ["a"]], ["a", [1]], "a list of strings"),
        (dict[str, Annotated[int, Range(1)]], [{}, {"a": 1}], [{"a": 0}, {1: 1}, []], ""),
        (Model, [Model("a", print)], [1, None], "a Model"),
        (Callable[[int], int], [abs], [1], "a function"),
    ],
)
def test_check(annotation: Any, right: list[Any], wrong: list[Any], allowed: str) -> None:
    for value in right:
        check("f", "x", value, annotation)
    for value in wrong:
        with pytest.raises(ValueError, match=rf"\[M058\] f: x.* = .*\. Give .*{allowed}"):
            check("f", "x", value, annotation)
