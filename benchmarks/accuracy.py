"""Train stock spaCy and spacy-mtl on the same batches and compare what they score.

    python benchmarks/accuracy.py gum --data CORPUS_DIR --seeds 0 1 2 --updates 950

CORPUS_DIR holds {name}_{train,dev,test}.spacy, as `python -m spacy mtl convert` writes them. Each
run is a process of its own, so that memory can be told apart; what is done is kept in the results
file, and a second call does only the rest.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parents[1]
SCORES = ("tag_acc", "ents_f", "cats_score")
CONFIGS = {
    "gum": {"stock": "stock.cfg", "ours": "mtl_cpu.cfg"},
    "separate": {"stock": "stock.cfg", "ours": "mtl_separate_corpora.cfg"},
}
# Which corpus holds the labels of which task when they are kept apart.
SEPARATE = {"ewt": "tagger", "gum": "ner", "clinc": "textcat"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("setting", choices=CONFIGS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--contenders", nargs="+", default=["stock", "ours"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=950)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--results", type=Path, default=Path("metrics/accuracy.jsonl"))
    parser.add_argument("--one-dnn", action="store_true", help="float32 products by oneDNN")
    parser.add_argument("--save", type=Path, help="folder for the trained pipelines")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args, overrides = parser.parse_known_args()
    if args.run:
        contender, seed = args.run.split(":")
        return append(args.results, run(args, contender, int(seed), overrides))
    done = {(r["setting"], r["contender"], r["seed"], r["updates"]) for r in read(args.results)}
    for seed in args.seeds:
        for contender in args.contenders:
            if (args.setting, contender, seed, args.updates) not in done:
                command = [sys.executable, *sys.argv, "--run", f"{contender}:{seed}"]
                subprocess.run(command, check=True)
    print(table([r for r in read(args.results) if r["setting"] == args.setting]))


def run(
    args: argparse.Namespace,
    contender: str,
    seed: int,
    overrides: list[str],
    edit: Callable[[dict], None] = lambda config: None,
) -> dict:
    """RETURNS (dict): What one contender, its config edited, scored, and what it took."""
    import torch
    from spacy.cli._util import parse_config_overrides
    from spacy.training import Corpus
    from spacy.training.initialize import init_nlp
    from spacy.training.loop import train
    from spacy.util import load_config, registry

    from spacy_mtl.pretrained import embedded_minilm

    given = list(overrides)  # which parsing empties
    torch.set_num_threads(args.threads)
    if args.one_dnn:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    encoder = str(embedded_minilm()) if args.encoder == "minilm" else args.encoder
    config = load_config(
        ROOT / "configs" / CONFIGS[args.setting][contender],
        overrides={
            "paths.encoder": encoder,
            "system.seed": seed,
            "training.max_steps": args.updates,
            "training.max_epochs": 0,
            **parse_config_overrides(overrides),
        },
    )
    config["corpora"]["train"] = train_corpus(args, seed)
    config["corpora"]["dev"] = {**corpus(args.data, "gum", "dev"), "limit": 8}
    edit(config)
    nlp = init_nlp(config)
    # The labels are known now: from here on both read the same endless stream.
    nlp.config["training"]["max_epochs"] = -1
    nlp.config["corpora"]["train"]["epochs"] = 0
    out = args.save and args.save / f"{args.setting}-{contender}-{seed}"
    if out:
        out.mkdir(parents=True, exist_ok=True)
    # Evaluated once, in the first update, which the clock leaves out.
    nlp.config["training"]["eval_frequency"] = args.updates + 1
    clock = Clock(registry.resolve({"b": nlp.config.interpolate()["training"]["batcher"]})["b"])
    registry.batchers.register("benchmark.clock.v1", func=lambda: clock)
    nlp.config["training"]["batcher"] = {"@batchers": "benchmark.clock.v1"}
    nlp, _ = train(nlp, out, use_gpu=-1)
    seconds = clock.times[-1] - clock.times[1]
    scores = {}
    for part in ("dev", "test"):
        for name, tasks in evaluated(args).items():
            found = nlp.evaluate(list(Corpus(args.data / f"{name}_{part}.spacy")(nlp)))
            scores |= {f"{part}_{key}": found[key] for key in tasks if found.get(key) is not None}
    return {
        "setting": args.setting,
        "contender": contender,
        "seed": seed,
        "updates": args.updates,
        "seconds": round(seconds, 1),
        "words_per_second": round(sum(clock.words[1:-1]) / seconds, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "threads": args.threads,
        "one_dnn": args.one_dnn,
        "overrides": given,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        **scores,
    }


class Clock:
    """A batcher that notes when each batch was asked for, and its words."""

    def __init__(self, batcher: Any) -> None:
        self.batcher = batcher
        self.times: list[float] = []
        self.words: list[int] = []

    def __call__(self, items: Any) -> Any:
        for batch in self.batcher(items):
            self.times.append(time.perf_counter())
            self.words.append(sum(len(eg.predicted) for eg in batch))
            yield batch


def evaluated(args: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """RETURNS (Dict[str, Tuple[str]]): The corpora to score on, and which scores of each count."""
    if args.setting == "gum":
        return {"gum": SCORES}
    keys = dict(zip(("tagger", "ner", "textcat"), SCORES, strict=True))
    return {name: (keys[task],) for name, task in SEPARATE.items()}


def train_corpus(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    names = ["gum"] if args.setting == "gum" else list(SEPARATE)
    mixed: dict[str, Any] = {
        "@readers": "spacy-mtl.MixedCorpus.v1",
        "seed": seed,
        "corpora": {name: corpus(args.data, name, "train") for name in names},
    }
    if args.setting == "separate":
        mixed["tasks"] = {name: [task] for name, task in SEPARATE.items()}
    return mixed


def corpus(folder: Path, name: str, part: str) -> dict[str, Any]:
    path = str(folder / f"{name}_{part}.spacy")
    return {"@readers": "spacy.Corpus.v1", "path": path, "gold_preproc": False}


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open()] if path.exists() else []


def append(path: Path, result: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def table(results: list[dict]) -> str:
    """RETURNS (str): Markdown: mean and, over several seeds, standard deviation in points."""
    keys = [f"{part}_{key}" for part in ("dev", "test") for key in SCORES]
    lines = [
        "| contender | updates | seeds | " + " | ".join(keys) + " | words/s | peak GB |",
        "|---" * (len(keys) + 5) + "|",
    ]
    for contender, updates in dict.fromkeys((r["contender"], r["updates"]) for r in results):
        runs = [r for r in results if (r["contender"], r["updates"]) == (contender, updates)]
        cells = [cell([100 * r[key] for r in runs]) for key in keys]
        cells += [cell([r["words_per_second"] for r in runs]), cell([r["peak_gb"] for r in runs])]
        lines.append(f"| {contender} | {updates} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
