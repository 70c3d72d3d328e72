"""Measure the time of an update with each balancer.

    python benchmarks/overhead.py --data CORPUS_DIR

Trains the three heads of configs/mtl_cpu.cfg on batches of GUM. The balancers take turns batch by
batch in one process. Prints medians, and their difference to fixed weights in percent.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from runs import ROOT
from spacy.training import Corpus
from spacy.training.initialize import init_nlp
from spacy.util import load_config, registry

FIXED = "StaticWeights"
BALANCERS: dict[str, dict[str, Any]] = {
    FIXED: {},
    "UncertaintyWeights": {},
    "GradNorm": {},
    **{
        f"{method}, {level}": {"level": level}
        for level in ("features", "last_layer", "params")
        for method in ("PCGrad", "CAGrad", "UPGrad", "MGDA")
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    path = str(args.data / "gum_dev.spacy")
    paths = {"paths.train": path, "paths.dev": path}
    nlp = init_nlp(load_config(ROOT / "configs" / "mtl_cpu.cfg", overrides=paths))
    training = registry.resolve(nlp.config.interpolate()["training"])
    batches = list(training["batcher"](Corpus(path)(nlp)))
    encoder: Any = nlp.get_pipe("transformer")
    times: dict[str, list[float]] = {name: [] for name in BALANCERS}
    for i in range(args.repeats + 1):
        for name, settings in BALANCERS.items():
            block = {"@misc": f"spacy-mtl.{name.split(',')[0]}.v1", **settings}
            encoder.balancer = registry.resolve({"balancer": block})["balancer"]
            start = time.perf_counter()
            nlp.update(batches[i % len(batches)], sgd=training["optimizer"], drop=0.1)
            encoder.flush()
            training["optimizer"].step_schedules()
            if i:  # the first update compiles
                times[name].append(time.perf_counter() - start)
    for name, found in times.items():
        # Ratios are taken per batch, because batches have different sizes.
        share = median(a / b for a, b in zip(found, times[FIXED], strict=True))
        print(f"| {name} | {1000 * median(found):.0f} ms | {100 * share - 100:+.1f} % |")


if __name__ == "__main__":
    main()
