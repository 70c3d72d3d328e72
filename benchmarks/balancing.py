"""Compare ways of balancing the tasks with each other and with training each task alone.

    python benchmarks/balancing.py gum --data CORPUS_DIR --seeds 0 1 2 --updates 950 --limit 2000

CORPUS_DIR is that of accuracy.py, whose settings and runs these are: same config, same batches,
another balancer. "weights" is the config as it is, "plain" the sum of the losses, "single-NAME" the
config with one head only, for as many updates. Each run is a process of its own; what is done is
kept in the results file, and a second call does only the rest. Other arguments override the config,
as for `spacy train`.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import mean

from accuracy import CONFIGS, SCORES, append, cell, read, run

BALANCERS = {
    "plain": "StaticWeights",
    "uncertainty": "UncertaintyWeights",
    "dwa": "DynamicWeightAverage",
    "gradnorm": "GradNorm",
    "pcgrad": "PCGrad",
    "cagrad": "CAGrad",
    "upgrad": "UPGrad",
    "mgda": "MGDA",
}
SINGLE = {f"single-{task}": task for task in ("tagger", "ner", "textcat")}
SAME = ("setting", "contender", "seed", "updates", "limit")  # of runs that need not be done again


def main() -> None:
    contenders = ["weights", *BALANCERS, *SINGLE]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", choices=CONFIGS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--contenders", nargs="+", choices=contenders, default=contenders)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=950)
    parser.add_argument("--limit", type=int, default=0, help="docs of each corpus; 0: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--results", type=Path, default=Path("metrics/balancing.jsonl"))
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args, overrides = parser.parse_known_args()
    args.one_dnn, args.save = False, None
    if args.run:
        contender, seed = args.run.split(":")
        result = run(
            args, "ours", int(seed), overrides, lambda config: edit(config, contender, args)
        )
        return append(args.results, result | {"contender": contender, "limit": args.limit})
    done = {tuple(r[key] for key in SAME) for r in read(args.results)}
    for seed in args.seeds:
        for contender in args.contenders:
            if (args.setting, contender, seed, args.updates, args.limit) not in done:
                command = [sys.executable, *sys.argv, "--run", f"{contender}:{seed}"]
                subprocess.run(command, check=True)
    wanted = (args.setting, args.updates, args.limit)
    results = read(args.results)
    print(table([r for r in results if (r["setting"], r["updates"], r["limit"]) == wanted]))


def edit(config: dict, contender: str, args: argparse.Namespace) -> None:
    """Make the config that of a contender, on a part of the corpora."""
    mixed = config["corpora"]["train"]
    if contender in BALANCERS:
        balancer = {"@misc": f"spacy-mtl.{BALANCERS[contender]}.v1"}
        config["components"]["transformer"]["balancer"] = balancer
    if contender in SINGLE:
        task = SINGLE[contender]
        config["nlp"]["pipeline"] = ["transformer", task]
        config["components"] = {n: config["components"][n] for n in ("transformer", task)}
        config["components"]["transformer"]["balancer"]["weights"] = {}
        if "tasks" in mixed:
            mixed["tasks"] = {
                name: tasks for name, tasks in mixed["tasks"].items() if task in tasks
            }
            mixed["corpora"] = {name: mixed["corpora"][name] for name in mixed["tasks"]}
    for reader in mixed["corpora"].values():
        if args.limit:
            reader["path"] = cut(Path(reader["path"]), args.limit)


def cut(path: Path, limit: int) -> str:
    """RETURNS (str): A file with so many docs of a corpus, from all over it."""
    from spacy import blank
    from spacy.tokens import DocBin

    small = path.with_name(f"{path.stem}_{limit}.spacy")
    if not small.exists():
        docs = list(DocBin().from_disk(path).get_docs(blank("en").vocab))
        n = min(limit, len(docs))
        DocBin(docs=[docs[i * len(docs) // n] for i in range(n)], store_user_data=True).to_disk(
            small
        )
    return str(small)


def table(results: list[dict]) -> str:
    """RETURNS (str): Markdown: mean and, over several seeds, standard deviation in points. The
    single tasks are one row.
    """
    keys = [f"{part}_{key}" for part in ("dev", "test") for key in SCORES]
    lines = [
        "| balancer | seeds | " + " | ".join(keys) + " | test mean | words/s |",
        "|---" * (len(keys) + 4) + "|",
    ]
    names = {r["contender"]: r["contender"].partition("-")[0] for r in results}
    for name in dict.fromkeys(names.values()):
        runs = [r for r in results if names[r["contender"]] == name]
        seeds = sorted({r["seed"] for r in runs})
        # by seed, of all its runs: one, or one for each task
        scores = [
            {k: 100 * r[k] for r in runs if r["seed"] == s for k in keys if k in r} for s in seeds
        ]
        cells = [cell([s[key] for s in scores if key in s] or [float("nan")]) for key in keys]
        means = [mean(s[key] for key in keys[len(SCORES) :]) for s in scores if len(s) == len(keys)]
        cells += [cell(means or [float("nan")]), cell([r["words_per_second"] for r in runs])]
        lines.append(f"| {name} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
