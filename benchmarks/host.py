"""Measure the speed of everything except the encoder's forward pass, the limit on fast devices.

    python benchmarks/host.py PIPELINE --data CORPUS_DIR

PIPELINE is a trained pipeline of configs/mtl_cpu.cfg. Its encoder computes each batch once, before
timing starts. During timing the forward pass returns the stored states at once, so only wordpieces,
batches, pooling, heads, decoding and annotation are measured. The part `heads` uses the real
encoder and compares 8 heads with 1. CORPUS_DIR contains gum_{train,test}.spacy.

Prints medians over rounds in which all contenders take turns. Words per CPU second count the time
of all threads. Use this figure if other programs run on the machine.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from spacy import Language
from spacy.tokens import Doc
from spacy.training.initialize import init_nlp
from spacy.util import registry
from speed import HEADS, Texts, load_ours, read, training_config

Run = Callable[[], int]  # RETURNS the number of words
# The heads of each contender: the first three, then others of the same kinds.
MIXES = {
    "1 head": ["tagger"],
    "8 taggers": ["tagger"] * 8,
    "8 heads": ["tagger"] * 4 + ["ner"] * 3 + ["textcat"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    args.device, args.encoder = "cpu", None
    for part in args.parts:
        for row in PARTS[part](args):
            print(" | ".join(row), flush=True)


# The parts of the table. Each yields rows.


def host(args: argparse.Namespace) -> Iterable[tuple[str, ...]]:
    texts = read(args.data / "gum_test.spacy", 1)
    nlp = load_ours(args, "float32")
    replay_forward(nlp.get_pipe("transformer").model.transformer)
    contenders = {
        "docs": lambda: pipe(nlp, make_docs(nlp, texts)),
        "texts, with spaCy's tokenizer": lambda: pipe(nlp, [get_text(*text) for text in texts]),
        "docs, without heads": lambda: pipe(nlp, make_docs(nlp, texts), disable=HEADS),
    }
    yield "host, three heads", "words/s", "words/CPU s"
    for name, (speed, cpu_speed) in take_turns(contenders, args.repeats).items():
        yield name, f"{speed:,.0f}", f"{cpu_speed:,.0f}"


def heads(args: argparse.Namespace) -> Iterable[tuple[str, ...]]:
    texts = read(args.data / "gum_test.spacy", 1)[:100]
    predictions = {name: predict(load_mix(args, mix), texts) for name, mix in MIXES.items()}
    trainings = {name: train(args, mix) for name, mix in MIXES.items()}
    for what, contenders in (("prediction", predictions), ("training", trainings)):
        found = take_turns(contenders, args.repeats)
        yield what, "words/s", "words/CPU s", "times the time of 1 head", "times its CPU time"
        for name, speeds in found.items():
            ratios = [one / own for one, own in zip(found["1 head"], speeds, strict=True)]
            figures = [f"{speed:,.0f}" for speed in speeds]
            yield name, *figures, *(f"{ratio:.2f}" for ratio in ratios)


PARTS = {"host": host, "heads": heads}


def take_turns(
    contenders: dict[str, Callable[[], tuple[int, float, float]]], repeats: int
) -> dict[str, tuple[float, float]]:
    """RETURNS (Dict[str, Tuple[float, float]]): Median words per second, and per CPU second."""
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for i in range(repeats + 1):
        for name, run in contenders.items():
            n_words, seconds, cpu_seconds = run()
            if i:  # the first round warms up
                speeds[name].append((n_words / seconds, n_words / cpu_seconds))
    return {
        name: (median(s for s, _ in found), median(c for _, c in found))
        for name, found in speeds.items()
    }


def clock(run: Run) -> tuple[int, float, float]:
    """RETURNS (Tuple[int, float, float]): Words, seconds and CPU seconds of a run."""
    start, cpu_start = time.perf_counter(), time.process_time()
    n_words = run()
    return n_words, time.perf_counter() - start, time.process_time() - cpu_start


def pipe(nlp: Language, items: list[Any], disable: Iterable[str] = ()) -> tuple[int, float, float]:
    return clock(lambda: sum(map(len, nlp.pipe(items, disable=list(disable)))))


def make_docs(nlp: Language, texts: Texts) -> list[Doc]:
    return [Doc(nlp.vocab, words=words, spaces=spaces) for words, spaces in texts]


def get_text(words: list[str], spaces: list[bool]) -> str:
    return "".join(word + " " * space for word, space in zip(words, spaces, strict=True))


def replay_forward(module: Any) -> None:
    """Have modules of this class compute each input once and return the same output afterwards."""
    outputs: dict[bytes, Any] = {}
    forward = type(module).forward

    def replay(self: Any, input_ids: torch.Tensor, **inputs: Any) -> Any:
        key = input_ids.numpy().tobytes()
        if key not in outputs:
            outputs[key] = forward(self, input_ids=input_ids, **inputs)
        return outputs[key]

    type(module).forward = replay


def load_mix(args: argparse.Namespace, mix: list[str]) -> Language:
    """RETURNS (Language): The pipeline with these of its heads; one that is named twice is there
    twice.
    """
    nlp = load_ours(args, "auto", only=mix)
    for name, head in zip(get_names(mix), mix, strict=True):
        if name not in nlp.pipe_names:
            source = load_ours(args, "auto", only=[head])  # another each time: a pipe is not copied
            nlp.add_pipe(head, name=name, source=source)
    nlp._link_components()
    return nlp


def predict(nlp: Language, texts: Texts) -> Callable[[], tuple[int, float, float]]:
    return lambda: pipe(nlp, make_docs(nlp, texts))


def train(args: argparse.Namespace, mix: list[str]) -> Callable[[], tuple[int, float, float]]:
    """RETURNS (Callable): Makes an update with each of some batches, which are always the same."""
    config = training_config(args, "mtl_cpu.cfg")
    names = get_names(mix)
    config["components"]["transformer"]["balancer"]["weights"] = {}
    known = dict(config["components"])
    config["components"] = {"transformer": known["transformer"]}
    config["components"] |= {name: known[head] for name, head in zip(names, mix, strict=True)}
    config["nlp"]["pipeline"] = ["transformer", *names]
    nlp = init_nlp(config)
    settings = registry.resolve(nlp.config.interpolate()["training"])
    corpora = registry.resolve(nlp.config.interpolate()["corpora"])
    batches = list(islice(settings["batcher"](corpora["train"](nlp)), 3))

    def run() -> int:
        for batch in batches:
            nlp.update(batch, drop=0.1, sgd=False)
            for _name, component in nlp.pipeline:
                component.finish_update(settings["optimizer"])
            settings["optimizer"].step_schedules()
        return sum(len(example) for batch in batches for example in batch)

    return lambda: clock(run)


def get_names(mix: list[str]) -> list[str]:
    """RETURNS (List[str]): A name for each head: the first of a kind has its kind's."""
    return [head if head not in mix[:i] else f"{head}_{i}" for i, head in enumerate(mix)]


if __name__ == "__main__":
    main()
