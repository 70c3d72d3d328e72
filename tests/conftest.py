"""Tiny encoders of several families, made on the spot, and a few labelled texts."""

import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported

import catalogue
import numpy
import pytest
import spacy
import torch
from hypothesis import settings
from spacy.cli._util import app
from spacy.lang.en import English
from spacy.lang.tokenizer_exceptions import BASE_EXCEPTIONS
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.util import fix_random_seed, registry
from thinc.api import glorot_uniform_init
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast
from typer.testing import CliRunner

from spacy_mtl.annotations.documents import Texts, write_numbers
from spacy_mtl.annotations.relations import Relation, set_relations
from spacy_mtl.annotations.spans import copy_span
from spacy_mtl.cli.init_config import get_heads
from spacy_mtl.encoder.model import transformer as encoder_model
from spacy_mtl.encoder.model.backward import EncoderPass
from spacy_mtl.encoder.runtime.base import Part
from spacy_mtl.encoder.runtime.cpu import attention, kernels, linear
from spacy_mtl.encoder.runtime.cpu import runtime as cpu_runtime
from spacy_mtl.encoder.runtime.cpu.capability import KernelChoice, get_cpu, use_choice
from spacy_mtl.encoder.runtime.eager import EagerRuntime
from spacy_mtl.pairs import SEPARATOR
from spacy_mtl.validation.cv import Processes
from spacy_mtl.validation.outcome import evaluate

settings.register_profile("busy", deadline=None)  # test machines are often under load
settings.load_profile("busy")
# The tests run in one process per core, so each process, and each one it starts, has one thread.
# Tests of several threads use the fixture `two_threads`.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# A pipeline with the 1,300 tokenizer exceptions of English takes twice as long to make and load.
English.Defaults.tokenizer_exceptions = BASE_EXCEPTIONS


def find_heads() -> list[str]:
    """RETURNS (List[str]): The heads of the package, those with a score, as "ner" for "mtl_ner"."""
    nlp = spacy.blank("en")
    heads = get_heads(nlp)
    return [name for name in heads if nlp.get_factory_meta(heads[name]).default_score_weights]


class CachedEntryPoints:
    """Finds the entry points of a group once. spaCy asks for them hundreds of times per pipeline,
    and each time the original goes through those of all installed packages.
    """

    select = staticmethod(cache(catalogue.AVAILABLE_ENTRY_POINTS.select))


catalogue.AVAILABLE_ENTRY_POINTS = CachedEntryPoints()
HEADS = find_heads()

WIDTH = 32
TEXTS = [
    "Maria Keller flew to Lisbon on Friday .",
    "The new camera from Orion Labs takes sharp pictures .",
    "We ate soup in Porto and liked it .",
    "Paul runs every morning before work .",
]
TAGS = [
    ["NNP", "NNP", "VBD", "IN", "NNP", "IN", "NNP", "."],
    ["DT", "JJ", "NN", "IN", "NNP", "NNP", "VBZ", "JJ", "NNS", "."],
    ["PRP", "VBD", "NN", "IN", "NNP", "CC", "VBD", "PRP", "."],
    ["NNP", "VBZ", "DT", "NN", "IN", "NN", "."],
]
ENTS = [
    [(0, 2, "PERSON"), (4, 5, "PLACE"), (6, 7, "DATE")],
    [(4, 6, "ORG")],
    [(4, 5, "PLACE")],
    [(0, 1, "PERSON")],
]
CATS = ["travel", "technology", "food", "sport"]
POS = [
    ["PROPN", "PROPN", "VERB", "ADP", "PROPN", "ADP", "PROPN", "PUNCT"],
    ["DET", "ADJ", "NOUN", "ADP", "PROPN", "PROPN", "VERB", "ADJ", "NOUN", "PUNCT"],
    ["PRON", "VERB", "NOUN", "ADP", "PROPN", "CCONJ", "VERB", "PRON", "PUNCT"],
    ["PROPN", "VERB", "DET", "NOUN", "ADP", "NOUN", "PUNCT"],
]
MORPHS = [
    ["Number=Sing", "Number=Sing", "Tense=Past", "", "Number=Sing", "", "Number=Sing", ""],
    ["", "", "Number=Sing", "", "Number=Sing", "Number=Plur", "Tense=Pres", "", "Number=Plur", ""],
    ["Number=Plur|Person=1", "Tense=Past", "Number=Sing", "", "Number=Sing", "", "", "", ""],
    ["Number=Sing", "Tense=Pres", "", "Number=Sing", "", "Number=Sing", ""],
]
LEMMAS = [
    ["Maria", "Keller", "fly", "to", "Lisbon", "on", "Friday", "."],
    ["the", "new", "camera", "from", "Orion", "Labs", "take", "sharp", "picture", "."],
    ["we", "eat", "soup", "in", "Porto", "and", "like", "it", "."],
    ["Paul", "run", "every", "morning", "before", "work", "."],
]
# The third text has two sentences.
TREES: list[tuple[list[int], str]] = [
    ([2, 0, 2, 4, 2, 6, 2, 2], "nsubj flat ROOT case obl case obl punct"),
    ([2, 2, 6, 5, 5, 2, 6, 8, 6, 6], "det amod nsubj case compound nmod ROOT amod obj punct"),
    ([1, 1, 1, 4, 1, 6, 6, 6, 6], "nsubj ROOT obj case obl cc ROOT obj punct"),
    ([1, 1, 3, 1, 5, 1, 1], "nsubj ROOT det obl case obl punct"),
]
SPANS = [
    [(0, 1, "NAME"), (0, 2, "PERSON"), (4, 5, "PLACE")],
    [(0, 6, "THING"), (4, 6, "ORG"), (7, 9, "THING")],
    [(2, 5, "THING"), (4, 5, "PLACE")],
    [(0, 1, "NAME"), (0, 1, "PERSON")],
]
# The spans of relations, and the relations as their numbers and labels.
ARGUMENTS = [
    [(0, 2, "PERSON"), (4, 5, "PLACE"), (6, 7, "DATE")],
    [(0, 3, "THING"), (4, 6, "ORG")],
    [(0, 1, "PERSON"), (2, 3, "THING"), (4, 5, "PLACE")],
    [(0, 1, "PERSON"), (2, 4, "DATE")],
]
RELATIONS = [
    [(0, 1, "visits"), (0, 2, "is there on")],
    [(1, 0, "makes")],
    [(0, 1, "eats"), (0, 2, "visits")],
    [],
]
QUESTIONS = [3, 4, 2, 4]  # the token after the separator, which takes the place of a word
NUMBERS = [{"length": 8.0, "mood": 1.0}, {"length": 10.0}, {"mood": -2.0}, {"length": 7.0}]
# Normal forms of the texts, with words that are copied and words that are not.
FORMS = ["fly(who=Maria Keller, to=Lisbon)", "test(camera)", "eat(soup)", "run(who=Paul)"]
SPECIAL = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>"],
    "albert": ["<pad>", "<unk>", "[CLS]", "[SEP]"],
}
# Settings of heads for a few texts.
SMALL: dict[str, dict[str, Any]] = {
    "mtl_lemmatizer": {"min_tree_freq": 1},
    "mtl_relation": {"spans_key": "arguments"},
    "mtl_seq2seq": {"model": {"width": 32}, "vocab_size": 270, "max_length": 40},
}
TASKS = ("tagger", "ner", "textcat")
PLAIN_SUM = {"@misc": "spacy-mtl.StaticWeights.v1"}
# Each family's kind of tokenizer, and what its config calls the usual sizes.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "electra": ("bert", {"embedding_size": WIDTH}),
    "distilbert": ("bert", {"dim": WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 2 * WIDTH}),
    "mpnet": ("roberta", {"max_position_embeddings": 514}),
    "roberta": ("roberta", {"max_position_embeddings": 514}),
    "xlm-roberta": ("roberta", {"max_position_embeddings": 514}),
    "deberta": ("roberta", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "albert": ("albert", {"embedding_size": 16}),
    "modernbert": (
        "roberta",
        {
            **{"local_attention": 16, "global_attn_every_n_layers": 2},
            **{"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2},
        },
    ),
}


def build_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    special = SPECIAL[kind]
    pad, unk = (special[1], special[3]) if kind == "roberta" else special[:2]
    cls, sep = (special[0], special[2]) if kind == "roberta" else special[2:]
    trainer: Any
    if kind == "bert":
        tokenizer = Tokenizer(models.WordPiece(unk_token=unk))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=250, special_tokens=special)
    elif kind == "roberta":
        tokenizer = Tokenizer(models.BPE(unk_token=unk))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=160, special_tokens=special, unk_token=unk, show_progress=False
        )
    trainer.show_progress = False
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} {sep} $B {sep}"
        if kind == "roberta"
        else f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (cls, sep)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token=unk,
        cls_token=cls,
        sep_token=sep,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


def build_encoder(family: str, folder: Path, dropout: float = 0.0) -> Path:
    """Save a tiny encoder of a family with random weights."""
    kind, extra = FAMILIES[family]
    tokenizer = build_tokenizer(kind)
    sizes = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 2 * WIDTH,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "dropout": dropout,
        "attention_dropout": dropout,
    }
    if family == "distilbert":
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
            del sizes[key]
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**sizes, **extra})
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_spacy(*args: str) -> str:
    """Run a command of `python -m spacy` in this process, which has imported torch already.

    RETURNS (str): The output.
    """
    registry.cli.get_all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = CliRunner().invoke(app, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


class Trainings:
    """Has cross-validation train in the process of the test, which has imported torch already. It
    never trains and tests at the same time.

    names (List[str]): The training runs so far, such as "1-2/multi".
    most (Optional[int]): The number of training runs after which Ctrl-C interrupts all others.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.most: int | None = None
        lock = Lock()

        def train(_: Processes, command: Sequence[str], log: Path) -> int:
            with lock:
                if self.most == len(self.names):
                    raise KeyboardInterrupt
                self.names.append("/".join(log.parts[-3:-1]))
                result = CliRunner().invoke(app, [*command[3:]])
                log.write_text(result.output, encoding="utf8")
                return result.exit_code

        def test(*args: Any) -> Any:
            with lock:
                return evaluate(*args)

        monkeypatch.setattr(Processes, "run", train)
        monkeypatch.setattr("spacy_mtl.validation.cv.evaluate", test)


def watch_encoder(monkeypatch: pytest.MonkeyPatch) -> list[Doc]:
    """Record encoded docs, once per pass.

    RETURNS (List[Doc]): The record. Grows with each pass of an encoder.
    """
    seen: list[Doc] = []
    get_wordpieces = encoder_model.get_wordpieces

    def watched(docs: list[Doc], *args: Any) -> Any:
        seen.extend(docs)
        return get_wordpieces(docs, *args)

    monkeypatch.setattr(encoder_model, "get_wordpieces", watched)
    return seen


def make_pass(features: torch.Tensor, module: torch.nn.Module) -> EncoderPass:
    """Make the pass of an encoder with one wordpiece per token: the given features."""
    hidden = features.detach().requires_grad_()
    part = Part([torch.arange(len(features))], [features])
    return EncoderPass(hidden * 1, hidden, [part], module, EagerRuntime("cpu"))


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a tiny BERT without dropout."""
    return str(build_encoder("bert", tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="session", params=FAMILIES)
def any_encoder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a tiny encoder, for each family."""
    return str(build_encoder(request.param, tmp_path_factory.mktemp(request.param)))


def make_gold(vocab: Any, i: int, tasks: Collection[str] = TASKS) -> Doc:
    """Make the i-th labelled text with the labels of some tasks, named as the heads for them."""
    heads, deps = TREES[i]
    words = TEXTS[i].split()
    if "qa" in tasks:
        words[QUESTIONS[i] - 1] = SEPARATOR
    doc = Doc(
        vocab,
        words=words,
        tags=TAGS[i] if "tagger" in tasks else None,
        pos=POS[i] if "morphologizer" in tasks else None,
        morphs=MORPHS[i] if "morphologizer" in tasks else None,
        lemmas=LEMMAS[i] if "lemmatizer" in tasks else None,
        heads=heads if "parser" in tasks else None,
        deps=deps.split() if "parser" in tasks else None,
    )
    if "senter" in tasks and "parser" not in tasks:
        for token in doc:
            token.is_sent_start = token.i == 0 or (token.i == 5 and i == 2)
    if "ner" in tasks:
        doc.set_ents([Span(doc, *ent) for ent in ENTS[i]])
    if "spancat" in tasks:
        doc.spans["sc"] = [Span(doc, *span) for span in SPANS[i]]
    if {"textcat", "textcat_multilabel", "paircat"} & {*tasks}:
        doc.cats = {cat: float(cat == CATS[i]) for cat in CATS}
    if "relation" in tasks:
        doc.spans["arguments"] = [Span(doc, *span) for span in ARGUMENTS[i]]
        spans = [span[:2] for span in ARGUMENTS[i]]
        set_relations(doc, [Relation(spans[a], spans[b], label) for a, b, label in RELATIONS[i]])
    if "qa" in tasks:
        start = QUESTIONS[i]
        doc.spans["answers"] = [Span(doc, start, start + 2, "ANSWER")] if i else []
    if "regression" in tasks:
        write_numbers(doc, NUMBERS[i].items())
    if "seq2seq" in tasks:
        Texts("generated").write(doc, {"generated": FORMS[i]})
    return doc


def make_predicted(gold: Doc) -> Doc:
    """Make a doc without annotation, except the spans that relations are found between."""
    doc = Doc(gold.vocab, words=[token.text for token in gold])
    if "arguments" in gold.spans:
        doc.spans["arguments"] = [copy_span(span, doc, 0) for span in gold.spans["arguments"]]
    return doc


def make_examples(nlp: Language, *tasks: str) -> list[Example]:
    """Make all labelled texts with the labels of the given tasks. Default: tags, entities,
    categories, and the labels of the pipeline's other heads.
    """
    own = [nlp.get_pipe_config(name)["factory"] for name in nlp.pipe_names]
    named = tasks or (*TASKS, *(factory.removeprefix("mtl_") for factory in own))
    golds = [make_gold(nlp.vocab, i, named) for i in range(4)]
    return [Example(make_predicted(gold), gold) for gold in golds]


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Have torch use two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """Initialize output layers at random. Zeros would hide gradients."""
    monkeypatch.setattr("spacy_mtl.heads.layers.zero_init", glorot_uniform_init)


@pytest.fixture(scope="session")
def make_nlp(encoder: str) -> Callable[..., Language]:
    """Return a function that makes an initialized pipeline.

    pipes (str): The heads in order, "name" for the factory `mtl_name` or "name=factory". The
        encoder `transformer` is added before them.
    balancer (Dict[str, Any]): Default: the plain sum, which is not the factory's default.
    """

    def make(
        *pipes: str,
        name: str = encoder,
        balancer: dict[str, Any] = PLAIN_SUM,
        model: dict[str, Any] | None = None,
        config: dict[str, dict[str, Any]] | None = None,
        initialize: bool = True,
    ) -> Language:
        fix_random_seed(0)
        nlp = spacy.blank("en")
        encoder_config = {"model": {"name": name, **(model or {})}, "balancer": balancer}
        nlp.add_pipe("mtl_transformer", name="transformer", config=encoder_config)
        for pipe in pipes or ("tagger", "ner", "textcat"):
            pipe_name, _, factory = pipe.partition("=")
            nlp.add_pipe(
                factory or f"mtl_{pipe_name}",
                name=pipe_name,
                config=SMALL.get(factory or f"mtl_{pipe_name}", {})
                | (config or {}).get(pipe_name, {}),
            )
        if initialize:
            nlp.initialize(lambda: make_examples(nlp))
        return nlp

    return make


STOCK_LISTENER = {
    "@architectures": "spacy-transformers.TransformerListener.v1",
    "grad_factor": 1.0,
    "pooling": {"@layers": "reduce_mean.v1"},
    "upstream": "*",
}
STOCK_MODELS: dict[str, dict[str, Any]] = {
    "tagger": {"@architectures": "spacy.Tagger.v2", "tok2vec": STOCK_LISTENER},
    "ner": {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "ner",
        "extra_state_tokens": False,
        "hidden_width": 16,
        "maxout_pieces": 2,
        "use_upper": False,
        "tok2vec": STOCK_LISTENER,
    },
    "textcat": {
        "@architectures": "spacy.TextCatCNN.v2",
        "exclusive_classes": True,
        "tok2vec": STOCK_LISTENER,
    },
}


def make_stock_nlp(
    encoder: str, *pipes: str, factory: str = "transformer", initialize: bool = True
) -> Language:
    """Make a pipeline of stock heads over `transformer`, or over `mtl_transformer` with the plain
    sum as its balancer.
    """
    fix_random_seed(0)
    nlp = spacy.blank("en")
    get_spans = {
        "@span_getters": "spacy-transformers.strided_spans.v1",
        "window": 128,
        "stride": 96,
    }
    config: dict[str, Any] = {"model": {"name": encoder, "get_spans": get_spans}}
    if factory == "mtl_transformer":
        config["balancer"] = PLAIN_SUM
    nlp.add_pipe(factory, name="transformer", config=config)
    for pipe in pipes or ("tagger", "ner", "textcat"):
        nlp.add_pipe(pipe, config={"model": STOCK_MODELS[pipe]})
    if initialize:
        nlp.initialize(lambda: make_examples(nlp))
    return nlp


def encoder_module(nlp: Language) -> torch.nn.Module:
    return nlp.get_pipe("transformer").model.transformer  # type: ignore[attr-defined]


def encoder_gradient(nlp: Language) -> numpy.ndarray:
    """Return all gradients of the encoder in one array. A missing gradient gives zeros."""
    return numpy.concatenate(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).numpy().ravel().copy()
            for p in encoder_module(nlp).parameters()
        ]
    )


def encoder_weights(nlp: Language) -> bytes:
    """Return the bytes of the encoder's weights."""
    return b"".join(p.detach().numpy().tobytes() for p in encoder_module(nlp).parameters())


def linear_unpacked(x, weight, bias, then="none"):
    """Compute the result of kernels.linear_packed with weights that are not packed."""
    y = torch.nn.functional.linear(x, weight, bias)
    return torch.nn.functional.gelu(y) if then == "gelu" else y


def normal(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_dnn_rounds() -> bool:
    """Tell whether oneDNN rounds products of float32 to bfloat16 when it may.

    True, too, if this torch has no such setting.
    """
    if not get_cpu().has_precision:
        return True
    x, settings = normal(64, 64), linear.get_settings()
    before, settings.fp32_precision = settings.fp32_precision, "bf16"
    try:
        return bool((x @ x - (x.double() @ x.double())).abs().max() > 1e-3)
    finally:
        settings.fp32_precision = before


def can_pack() -> bool:
    """Tell whether this build of torch has packed linear layers."""
    with torch.inference_mode():
        try:
            x, weight = normal(8, 16), normal(4, 16)
            linear.linear_packed(x, linear.pack(weight, len(x)), None)
        except (AttributeError, RuntimeError):
            return False
    return True


@pytest.fixture
def choose_kernels() -> Iterator[Callable[..., None]]:
    """Return a function that switches the named kernels on and all others off."""

    def choose(*names: str) -> None:
        use_choice(KernelChoice(**{f.name: f.name in names for f in fields(KernelChoice)}))

    yield choose
    use_choice(None)


@pytest.fixture
def forced(choose_kernels: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch all kernels on, whether or not they are faster on this machine.

    torch's plain functions replace kernels that this machine or this build of torch lacks.
    """
    choose_kernels("packed_float32", "onednn_products")
    if one_dnn_rounds():
        for module in (attention, cpu_runtime):
            monkeypatch.setattr(module, "float32_products", nullcontext())
    if not can_pack():
        monkeypatch.setattr(kernels, "pack", lambda weight, n_rows: weight.detach().clone())
        monkeypatch.setattr(kernels, "linear_packed", linear_unpacked)
