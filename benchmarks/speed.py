"""Compare the speed of spacy-mtl with stock spacy-transformers and with the encoder alone.

    python benchmarks/speed.py PIPELINE --data CORPUS_DIR

PIPELINE is a trained pipeline of configs/mtl_cpu.cfg (or mtl_gpu.cfg with --device cuda). Every
contender is a process with the encoder's weights from PIPELINE. The contenders take turns, so that
other jobs on the machine affect all of them. Prints the table and writes it as Markdown and JSON.
CORPUS_DIR contains {gum,ewt}_test.spacy and gum_train.spacy.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from importlib.metadata import version
from itertools import chain, cycle, islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
HEADS = ("tagger", "ner", "textcat")
# As installed; and with the float32 products sent to oneDNN, as ours sends them, or in float16.
STOCK: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {"stock": {}, "stock, oneDNN": {"one_dnn": True}},
    "cuda": {"stock": {}, "stock, mixed precision": {"mixed_precision": True}},
}
SHAPES = {"120": ("120-word docs", 1), "1000": ("1,000-word docs", 9)}
Texts = list[tuple[list[str], list[bool]]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--corpora", nargs="+", default=["gum", "ewt"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--encoder", help="that of PIPELINE; default: the embedded MiniLM")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--peer", help="python of an environment with edsnlp: see peer.py")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--output", type=Path, default=Path("metrics/speed"))
    args = parser.parse_args()
    rows = []
    for part in args.parts:
        for row in PARTS[part](args):
            rows.append(row)
            print(" | ".join(map(str, row.values())), flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.with_suffix(".json").write_text(
        json.dumps({"machine": machine(args), "rows": rows})
    )
    text = f"{machine(args)}\n\n| what | figure | against | ratio |\n|---|---|---|---|\n"
    text += "".join(f"| {' | '.join(map(str, row.values()))} |\n" for row in rows)
    args.output.with_suffix(".md").write_text(text)


# The parts of the table. Each yields rows.


def prediction(args: argparse.Namespace) -> Iterable[dict]:
    for corpus in args.corpora:
        for shape, merge in map(SHAPES.get, args.shapes):
            texts = read(args.data / f"{corpus}_test.spacy", merge)
            where = f"{corpus.upper()}, {shape}"
            with Contenders(args, texts) as contenders:
                best: list[str] = []
                for stock, settings in STOCK[args.device].items():
                    for size in (32, 128, 512):
                        contenders.add(f"{stock} {size}", load_stock, batch_size=size, **settings)
                    speed = contenders.run(1)
                    best.append(max(set(speed) - set(best), key=lambda name: speed[name]))
                    for name in set(speed) - set(best):
                        contenders.drop(name)
                contenders.add("float32", load_ours, precision="float32")
                contenders.add("auto", load_ours, precision="auto")
                contenders.add("bare float32", load_bare, precision="float32")
                contenders.add("bare auto", load_bare, precision="auto")
                speed = contenders.run(args.repeats)
                peak = contenders.peaks()
            for precision in ("float32", "auto"):
                what = f"prediction, {precision}: {where}"
                for other in (*best, f"bare {precision}"):
                    yield row(f"{what}, words/s", speed[precision], other, speed[other])
                for other in best:
                    yield row(f"{what}, peak MB", peak[precision], other, peak[other])


def heads(args: argparse.Namespace) -> Iterable[dict]:
    texts = read(args.data / "gum_test.spacy", 1)
    with Contenders(args, texts) as contenders:
        contenders.add("all", load_ours, precision="auto")
        for head in HEADS:
            contenders.add(head, load_ours, precision="auto", only=[head])
        contenders.add("8 heads", load_ours, precision="auto", n_heads=8)
        speed = contenders.run(args.repeats)
    single = 1 / sum(1 / speed[head] for head in HEADS)
    yield row("three heads, words/s", speed["all"], "three pipelines", single)
    yield row("8 heads, words/s", speed["8 heads"], "1 head (tagger)", speed["tagger"])


def peer(args: argparse.Namespace) -> Iterable[dict]:
    if args.peer is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        model = load_ours(args, "auto").get_pipe("transformer").model
        model.transformer.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        for shape, merge in map(SHAPES.get, args.shapes):
            corpus = args.data / "gum_test.spacy"
            command = [args.peer, str(ROOT / "benchmarks" / "peer.py"), folder, str(corpus)]
            command += ["--merge", str(merge), "--threads", str(args.threads)]
            theirs = []
            with Contenders(args, read(corpus, merge)) as contenders:
                contenders.add("auto", load_ours, precision="auto")
                ours = []
                for _ in range(args.repeats):
                    ours.append(contenders.run(1)["auto"])
                    found = subprocess.run(command, check=True, capture_output=True, text=True)
                    theirs.append(float(found.stdout.split()[-1]))
            yield row(f"three heads, {shape}, words/s", median(ours), "EDS-NLP", median(theirs))


def training(args: argparse.Namespace) -> Iterable[dict]:
    for shape, merge in map(SHAPES.get, args.shapes):
        with Contenders(args, []) as contenders:
            for stock, settings in STOCK[args.device].items():
                contenders.add(stock, load_training, config="stock.cfg", merge=merge, **settings)
            for precision in ("float32", "auto"):
                settings = {"config": "mtl_cpu.cfg", "precision": precision, "merge": merge}
                contenders.add(precision, load_training, **settings)
            speed = contenders.run(args.repeats)
            peak = contenders.peaks()
        for name in ("float32", "auto"):
            for stock in STOCK[args.device]:
                what = f"training, {name}: {shape}"
                yield row(f"{what}, words/s", speed[name], stock, speed[stock])
                yield row(f"{what}, peak MB", peak[name], stock, peak[stock])
    with Contenders(args, []) as contenders:
        contenders.add("1 head", load_training, config="mtl_cpu.cfg", only=["tagger"])
        contenders.add("8 heads", load_training, config="mtl_cpu.cfg", n_heads=8)
        speed = contenders.run(args.repeats)
    yield row("training, 8 heads: words/s", speed["8 heads"], "1 head", speed["1 head"])


def lengths(args: argparse.Namespace) -> Iterable[dict]:
    texts = read(args.data / "gum_train.spacy", 1)
    words, spaces = (list(chain.from_iterable(text[i] for text in texts)) for i in (0, 1))
    speed, peak = {}, {}
    for length in (100, 1000, 10000, 100000):
        cut = [(words[i : i + length], spaces[i : i + length]) for i in range(0, 100000, length)]
        with Contenders(args, cut) as contenders:
            contenders.add("auto", load_ours, precision="auto")
            speed[length] = contenders.run(args.repeats)["auto"]
            peak[length] = contenders.peaks()["auto"]
    for length in (100, 1000, 10000, 100000):
        yield row(f"docs of {length:,} words, words/s", speed[length], "docs of 100", speed[100])
        yield row(f"docs of {length:,} words, peak MB", peak[length], "docs of 100", peak[100])


def startup(args: argparse.Namespace) -> Iterable[dict]:
    with tempfile.TemporaryDirectory() as folder:
        load_stock(args, 128).to_disk(folder)
        commands = {
            "import spacy": IMPORT.format(hidden="-"),
            "import spacy, without ours": IMPORT.format(hidden="spacy_mtl."),
            "spacy.load": f"import spacy; spacy.load({str(args.pipeline)!r})",
            "spacy.load, stock": f"import spacy; spacy.load({folder!r})",
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(args.repeats):
            for name, code in commands.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
                times[name].append(time.perf_counter() - start)
    mine, bare, load, stock = (round(median(t), 3) for t in times.values())
    yield row("import spacy, seconds", mine, "without the entry points of spacy-mtl", bare)
    yield row("spacy.load, seconds", load, "stock", stock)


# Hides the entry points of a package from spaCy. With "-" nothing is hidden, at the same cost.
IMPORT = """
import importlib.metadata as m
found = m.Distribution.entry_points.fget
m.Distribution.entry_points = property(
    lambda self: m.EntryPoints(e for e in found(self) if not e.value.startswith("{hidden}"))
)
import spacy
"""


def scores(args: argparse.Namespace) -> Iterable[dict]:
    """Measure the score difference of bfloat16, and the feature difference to stock."""
    from spacy.training import Corpus

    found = {}
    for precision in ("float32", "auto"):
        nlp = load_ours(args, precision)
        found[precision] = nlp.evaluate(list(Corpus(args.data / "gum_test.spacy")(nlp)))
    for key in ("tag_acc", "ents_f", "cats_score"):
        mine, theirs = (round(100 * found[p][key], 2) for p in ("auto", "float32"))
        yield {"what": key, "figure": mine, "against": f"float32: {theirs}", "ratio": ""}
    yield {
        "what": "largest difference of float32 features",
        "figure": f"{feature_difference(args):.1e}",
        "against": "stock, 128/96 spans",
        "ratio": "",
    }


PARTS = {
    "prediction": prediction,
    "heads": heads,
    "peer": peer,
    "training": training,
    "lengths": lengths,
    "startup": startup,
    "scores": scores,
}


class Contenders:
    """Processes that take turns."""

    def __init__(self, args: argparse.Namespace, texts: Texts) -> None:
        self.args, self.texts = args, texts
        self.pools: dict[str, ProcessPoolExecutor] = {}
        self.starting: list[Future] = []

    def __enter__(self) -> "Contenders":
        return self

    def __exit__(self, *_: Any) -> None:
        for name in list(self.pools):
            self.drop(name)

    @property
    def names(self) -> list[str]:
        return list(self.pools)

    def add(self, name: str, load: Any, **settings: Any) -> None:
        pool = ProcessPoolExecutor(1, get_context("spawn"))
        self.pools[name] = pool
        self.starting.append(pool.submit(begin, load, self.args, self.texts, settings))
        if self.args.device == "cpu":  # warm up one after the other
            self.wait()

    def wait(self) -> None:
        while self.starting:
            self.starting.pop().result()

    def drop(self, name: str) -> None:
        self.pools.pop(name).shutdown()

    def run(self, repeats: int) -> dict[str, float]:
        """RETURNS (Dict[str, float]): The median of each contender's words per second."""
        self.wait()
        speeds: dict[str, list[float]] = {name: [] for name in self.pools}
        for _ in range(repeats):
            for name, pool in self.pools.items():
                speeds[name].append(pool.submit(go).result())
        return {name: median(found) for name, found in speeds.items()}

    def peaks(self) -> dict[str, float]:
        return {name: pool.submit(peak_mb).result() for name, pool in self.pools.items()}


# Functions that run in a contender's process.

STATE: dict[str, Any] = {}


def begin(load: Any, args: argparse.Namespace, texts: Texts, settings: dict[str, Any]) -> None:
    STATE["run"] = load(args, **settings)
    STATE["texts"] = texts
    go()  # the first run warms up


def go() -> float:
    import spacy

    run, texts = STATE["run"], STATE["texts"]
    if not isinstance(run, spacy.Language):
        return run(texts)
    docs = [spacy.tokens.Doc(run.vocab, words=words, spaces=spaces) for words, spaces in texts]
    n_words = sum(map(len, docs))
    start = time.perf_counter()
    for _ in run.pipe(docs):
        pass
    return n_words / (time.perf_counter() - start)


def peak_mb() -> float:
    """RETURNS (float): The peak memory of the process, or on a GPU that of its tensors."""
    import torch

    if torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / 1e6)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


def prepare(args: argparse.Namespace, one_dnn: bool = False) -> Any:
    import spacy
    import torch
    from thinc.api import set_gpu_allocator

    torch.set_num_threads(args.threads)
    if one_dnn:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
    if args.device == "cuda":
        spacy.require_gpu()
        set_gpu_allocator("pytorch")
    return spacy


def load_ours(
    args: argparse.Namespace,
    precision: str,
    only: Iterable[str] = HEADS,
    n_heads: int = 0,
) -> Any:
    nlp = prepare(args).load(args.pipeline, exclude=[h for h in HEADS if h not in only])
    nlp.get_pipe("transformer").model.attrs["precision"] = precision
    for i, head in zip(range(n_heads - len(HEADS)), cycle(HEADS), strict=False):
        source = prepare(args).load(args.pipeline)  # a new one each time: pipes are not copied
        nlp.add_pipe(head, name=f"{head}_{i}", source=source)
    nlp._link_components()
    return nlp


def load_stock(
    args: argparse.Namespace,
    batch_size: int,
    one_dnn: bool = False,
    mixed_precision: bool = False,
) -> Any:
    """RETURNS (Language): Stock spaCy's components with the same encoder weights."""
    spacy = prepare(args, one_dnn)
    from spacy.training.initialize import init_nlp

    hf = spacy.load(args.pipeline).get_pipe("transformer").model.transformer
    nlp = init_nlp(training_config(args, "stock.cfg", mixed_precision))
    nlp.get_pipe("transformer").model.transformer.load_state_dict(hf.state_dict())
    nlp.batch_size = batch_size
    return nlp


def load_bare(args: argparse.Namespace, precision: Any) -> Any:
    """RETURNS (Callable): Runs the encoder alone, from text to hidden states, without docs."""
    import torch

    from spacy_mtl.encoder.model.forward import Encoding
    from spacy_mtl.encoder.model.wordpieces import Wordpieces, cut, offsets, tokenize
    from spacy_mtl.encoder.runtime.cpu.threads import WORKERS, run_parallel

    model = load_ours(args, precision).get_pipe("transformer").model
    none, n_threads = offsets([]), WORKERS if args.device == "cpu" else 1

    def run(texts: Texts) -> float:
        start = time.perf_counter()
        strings = ["".join(w + " " * s for w, s in zip(*text, strict=True)) for text in texts]
        lengths, ids, _, _ = tokenize(model.tokenizer, strings)
        pieces = Wordpieces(ids, cut(lengths, 200), none, none)
        run_parallel(Encoding(model, [], n_threads, pieces=pieces).jobs)
        if args.device == "cuda":
            torch.cuda.synchronize()
        return sum(len(words) for words, _ in texts) / (time.perf_counter() - start)

    return run


def load_training(
    args: argparse.Namespace,
    config: str,
    precision: str = "auto",
    only: Iterable[str] = HEADS,
    n_heads: int = 0,
    merge: int = 1,
    one_dnn: bool = False,
    mixed_precision: bool = False,
) -> Any:
    """RETURNS (Callable): Makes six updates like `spacy train` and returns words/s."""
    prepare(args, one_dnn)
    from spacy.training.initialize import init_nlp
    from spacy.util import registry

    loaded = training_config(args, config, mixed_precision)
    if config != "stock.cfg":
        loaded["components"]["transformer"]["model"]["precision"] = precision
        loaded["components"]["transformer"]["balancer"]["weights"] = {}
    loaded["nlp"]["pipeline"] = ["transformer", *only]
    for head in set(HEADS) - set(only):
        del loaded["components"][head]
    for i, head in zip(range(n_heads - len(HEADS)), cycle(HEADS), strict=False):
        loaded["components"][f"{head}_{i}"] = loaded["components"][head]
        loaded["nlp"]["pipeline"].append(f"{head}_{i}")
    nlp = init_nlp(loaded)
    T = registry.resolve(nlp.config.interpolate()["training"])
    C = registry.resolve(nlp.config.interpolate()["corpora"])
    examples = list(islice(C["train"](nlp), 300))
    docs = [join(examples[i : i + merge]) for i in range(0, len(examples), merge)]
    batches = T["batcher"](cycle(docs))

    def run(_: Texts) -> float:
        six = list(islice(batches, 6))
        start = time.perf_counter()
        for batch in six:
            nlp.update(batch, drop=0.1, sgd=False)
            for _name, pipe in nlp.pipeline:
                pipe.finish_update(T["optimizer"])
            T["optimizer"].step_schedules()
        return sum(len(eg) for batch in six for eg in batch) / (time.perf_counter() - start)

    # Warm up: the first updates wait for memory and compiled code.
    for _ in range(3):
        run([])
    return run


def join(examples: list[Any]) -> Any:
    """RETURNS (Example): One example from all of them, with the categories of the first."""
    from spacy.tokens import Doc
    from spacy.training import Example

    reference = Doc.from_docs([eg.reference for eg in examples])
    reference.cats = examples[0].reference.cats
    words, spaces = ([getattr(t, name) for t in reference] for name in ("text", "whitespace_"))
    return Example(Doc(reference.vocab, words=words, spaces=list(map(bool, spaces))), reference)


def training_config(args: argparse.Namespace, name: str, mixed_precision: bool = False) -> Any:
    from spacy.util import load_config

    from spacy_mtl.pretrained import embedded_minilm

    config = load_config(
        ROOT / "configs" / name,
        overrides={
            "paths.encoder": args.encoder or str(embedded_minilm()),
            "paths.train": str(args.data / "gum_train.spacy"),
            "paths.dev": str(args.data / "gum_test.spacy"),
            "training.batcher.size": {"cpu": 2000, "cuda": 8000}[args.device],
        },
    )
    if mixed_precision:
        config["components"]["transformer"]["model"]["mixed_precision"] = True
    return config


def feature_difference(args: argparse.Namespace) -> float:
    import numpy
    from spacy.tokens import Doc
    from spacy_transformers.layers.trfs2arrays import trfs2arrays
    from thinc.api import reduce_mean

    stock = load_stock(args, 128)
    ours = load_ours(args, "float32").get_pipe("transformer").model
    theirs = stock.get_pipe("transformer").model
    ours.attrs["get_spans"] = theirs.attrs["get_spans"]
    texts = read(args.data / "gum_test.spacy", 9)[:5]
    docs = [Doc(stock.vocab, words=words, spaces=spaces) for words, spaces in texts]
    rows = trfs2arrays(reduce_mean(), 1.0).predict(theirs.predict(docs).doc_data)
    return float(numpy.abs(ours.predict(docs).data - numpy.concatenate(rows)).max())


def read(path: Path, merge: int) -> Texts:
    """RETURNS (List[Tuple[List[str], List[bool]]]): Words and spaces of `merge` docs each."""
    import spacy
    from spacy.tokens import DocBin

    docs = list(DocBin().from_disk(path).get_docs(spacy.blank("en").vocab))
    texts = []
    for i in range(0, len(docs), merge):
        tokens = [token for doc in docs[i : i + merge] for token in doc]
        texts.append(([t.text for t in tokens], [bool(t.whitespace_) for t in tokens]))
    return texts


def row(what: str, figure: float, against: str, other: float) -> dict:
    return {
        "what": what,
        "figure": f"{figure:,.0f}" if figure > 100 else figure,
        "against": f"{against}: " + (f"{other:,.0f}" if other > 100 else str(other)),
        "ratio": f"{figure / other:.2f}",
    }


def machine(args: argparse.Namespace) -> str:
    import spacy
    import torch
    import transformers

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(": ")[1] for line in lines if "model name" in line), "")
    device = torch.cuda.get_device_name() if args.device == "cuda" else cpu
    return (
        f"{device}, {args.threads} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}, spaCy {spacy.__version__}, spacy-transformers "
        f"{version('spacy-transformers')}, transformers {transformers.__version__}"
    )


if __name__ == "__main__":
    main()
