"""Runs training processes on the same batches and compares their scores.

Shared by accuracy.py, balancing.py, ablation.py and ud.py.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
# The scores of each task, the main one first.
SCORES = {
    "tagger": ["tag_acc"],
    "ner": ["ents_f"],
    "textcat": ["cats_score"],
    "morphologizer": ["pos_acc", "morph_acc"],
    "lemmatizer": ["lemma_acc"],
    "senter": ["sents_f"],
    "parser": ["dep_las", "dep_uas"],
}
TASKS = ["tagger", "ner", "textcat"]
UD_TASKS = ["tagger", "morphologizer", "lemmatizer", "senter", "parser"]
# The corpora of each setting, with the tasks that they have labels for.
SETTINGS = {
    "gum": {"gum": TASKS},
    "ewt": {"ewt": TASKS},
    "snips": {"snips": ["ner", "textcat"]},
    "separate": {"ewt": ["tagger"], "gum": ["ner"], "clinc": ["textcat"]},
    "gum-ud": {"gum": UD_TASKS},
    "ewt-ud": {"ewt": UD_TASKS},
}
SINGLE = "single"  # the row of the models for one task
# The settings of corpora.train that say how often each corpus is drawn.
SAMPLING = ("sampling", "temperature", "unit")


class Contender(NamedTuple):
    """A variant of the training run.

    changes (Dict[str, Any]): Changes to the config, by the path of the setting.
    task (str): The only task to train. If empty, all tasks are trained together.
    config (str): The file name of the config.
    rate (str): The path of the learning rate that --grid tries.
    """

    changes: dict[str, Any] = {}
    task: str = ""
    config: str = "mtl_cpu.cfg"
    rate: str = "training.optimizer.encoder_learn_rate.initial_rate"


def weigh_tasks(tagger: float, ner: float, textcat: float) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The change of the config to fixed weights of the losses."""
    weights = {"tagger": tagger, "ner": ner, "textcat": textcat}
    return {
        "components.transformer.balancer": {
            "@misc": "spacy-mtl.StaticWeights.v1",
            "weights": weights,
        }
    }


def make_single(tasks: Iterable[str], config: str) -> dict[str, Contender]:
    """RETURNS (Dict[str, Contender]): One model per task. The table has one row for all of them."""
    return {f"{SINGLE}-{task}": Contender(task=task, config=config) for task in tasks}


def compare(
    description: str | None, contenders: dict[str, Contender], results: str, against: str = ""
) -> None:
    """Run a benchmark script: train each contender with each seed, and print the table.

    description (str): The docstring of the script.
    contenders (Dict[str, Contender]): The contenders by name.
    results (str): The default path of the results file.
    against (str): The contender that the others are compared with.
    """
    rows = list(dict.fromkeys(map(get_row, contenders)))
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--contenders", nargs="+", choices=rows, default=rows)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=950)
    parser.add_argument("--grid", nargs="+", type=float, default=[], metavar="RATE")
    parser.add_argument(
        "--limit", type=int, default=0, help="docs per training corpus, saved next to it; 0: all"
    )
    parser.add_argument("--evaluate", type=int, default=0, help="docs per dev and test corpus")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gpu-id", type=int, default=-1)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--results", type=Path, default=Path(results))
    parser.add_argument("--one-dnn", action="store_true", help="stock's float32 products by oneDNN")
    parser.add_argument("--save", type=Path, help="folder for the trained pipelines")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args, overrides = parser.parse_known_args()
    if args.job:
        return append(args.results, run(args, contenders[args.job["contender"]], args.job))
    tasks = [*chain(*get_corpora(args.setting).values())]
    names = [
        name
        for name, contender in contenders.items()
        if get_row(name) in args.contenders and contender.task in ("", *tasks)
    ]

    def do(name: str, seed: int, rate: float | None) -> dict:
        """RETURNS (dict): The result of a run, from the results file if it is there."""
        job = {
            "setting": args.setting,
            "contender": name,
            "seed": seed,
            "updates": args.updates,
            "rate": rate,
            "limit": args.limit,
            "evaluate": args.evaluate,
            "encoder": args.encoder,
            "overrides": overrides,
        }
        if not find(args.results, job):
            command = [sys.executable, *sys.argv, "--job", json.dumps(job)]
            subprocess.run(command, check=True)
        return find(args.results, job)[0]

    def do_all(jobs: Iterable[tuple[str, int, float | None]]) -> list[dict]:
        with ThreadPoolExecutor(args.jobs) as pool:
            return list(pool.map(lambda job: do(*job), jobs))

    # Each contender gets the rate with the best dev score for the first seed.
    tried = do_all((name, args.seeds[0], rate) for name in names for rate in args.grid)
    rates = {r["contender"]: r["rate"] for r in sorted(tried, key=get_dev_mean)}
    found = do_all((name, seed, rates.get(name)) for seed in args.seeds for name in names)
    print(table(found, tasks, against))


def run(args: argparse.Namespace, contender: Contender, job: dict[str, Any]) -> dict:
    """RETURNS (dict): The job with the contender's scores, time and memory."""
    import torch
    from spacy.cli._util import setup_gpu
    from spacy.training import Corpus
    from spacy.training.initialize import init_nlp
    from spacy.training.loop import train
    from spacy.util import registry

    setup_gpu(args.gpu_id, silent=False)
    torch.set_num_threads(args.threads)
    if args.one_dnn:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
    nlp = init_nlp(make_config(args.data, contender, job), use_gpu=args.gpu_id)
    # The labels are collected now. From here on all contenders read the same endless stream.
    nlp.config["training"]["max_epochs"] = -1
    nlp.config["corpora"]["train"] |= {"epochs": 0, **get_sampling(job["setting"])}
    parts = [job[key] for key in ("setting", "contender", "seed", "rate") if job[key] is not None]
    out = args.save / "-".join(map(str, parts)) if args.save else None
    if out:
        out.mkdir(parents=True, exist_ok=True)
    # Only the first update evaluates, and the clock leaves it out.
    nlp.config["training"]["eval_frequency"] = job["updates"] + 1
    T = nlp.config.interpolate()["training"]
    T = registry.resolve({"batcher": T["batcher"], "optimizer": T["optimizer"]})
    clock, optimizer = Clock(T["batcher"], contender.task), T["optimizer"]
    registry.batchers.register("benchmark.clock.v1", func=lambda: clock)
    registry.optimizers.register("benchmark.optimizer.v1", func=lambda: optimizer)  # type: ignore
    nlp.config["training"]["batcher"] = {"@batchers": "benchmark.clock.v1"}
    nlp.config["training"]["optimizer"] = {"@optimizers": "benchmark.optimizer.v1"}
    nlp, _ = train(nlp, out, use_gpu=args.gpu_id)
    seconds = clock.times[-1] - clock.times[1]
    scores: dict[str, float] = {}
    with nlp.use_params(optimizer.averages):
        for part in ("dev", "test"):
            for name, tasks in get_corpora(job["setting"], contender.task).items():
                path = args.data / f"{name}_{part}"
                path = cut(path, job["evaluate"]) if job["evaluate"] else path
                found = nlp.evaluate(list(Corpus(path.with_suffix(".spacy"))(nlp)))
                keys = chain(*(SCORES[task] for task in tasks))
                scores |= {f"{part}_{key}": found[key] for key in keys}
    return {
        **job,
        "seconds": round(seconds, 1),
        "words_per_second": round(sum(clock.words[1:-1]) / seconds, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "threads": args.threads,
        "one_dnn": args.one_dnn,
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name() if args.gpu_id >= 0 else platform.machine(),
        **scores,
    }


def make_config(folder: Path, contender: Contender, job: dict[str, Any]) -> Any:
    """RETURNS (Config): The contender's config for a job. It reads its corpora once, for labels."""
    from spacy.cli._util import parse_config_overrides
    from spacy.util import load_config, set_dot_to_object

    from spacy_mtl.pretrained import embedded_minilm

    encoder = job["encoder"]
    config = load_config(
        ROOT / "configs" / contender.config,
        overrides={
            "paths.encoder": str(embedded_minilm()) if encoder == "minilm" else encoder,
            "system.seed": job["seed"],
            "training.max_steps": job["updates"],
            "training.max_epochs": 0,
            **parse_config_overrides(list(job["overrides"])),
        },
    )
    rate = {contender.rate: job["rate"]} if job["rate"] else {}
    for path, value in {**contender.changes, **rate}.items():
        set_dot_to_object(config, path, value)
    corpora = get_corpora(job["setting"], contender.task)
    tasks = [*chain(*corpora.values())]
    keep_tasks(config, tasks)
    config["training"]["score_weights"] = {SCORES[task][0]: 1 / len(tasks) for task in tasks}
    mixed = {name: corpora.get(name, []) for name in SETTINGS[job["setting"]]}
    config["corpora"]["train"] = train_corpus(folder, mixed, job["seed"], job["limit"])
    config["corpora"]["dev"] = {**read_corpus(folder / f"{next(iter(corpora))}_dev"), "limit": 8}
    return config


def get_sampling(setting: str) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): How the config for separate corpora samples them; nothing for other
    settings.
    """
    from spacy.util import load_config

    if len(SETTINGS[setting]) == 1:
        return {}
    train = load_config(ROOT / "configs" / "mtl_separate_corpora.cfg")["corpora"]["train"]
    return {key: train[key] for key in SAMPLING if key in train}


class Clock:
    """A batcher that records the start time and the words of each batch. For a single task it
    leaves out the docs for other tasks: the task then has as many updates and words of its own as
    beside them.

    batcher (Callable): The batcher of the config.
    task (str): The single task; empty for all tasks.
    """

    def __init__(self, batcher: Any, task: str = "") -> None:
        self.batcher, self.task = batcher, task
        self.times: list[float] = []
        self.words: list[int] = []

    def __call__(self, items: Any) -> Any:
        from spacy_mtl.corpora.scope import is_for

        for batch in self.batcher(items):
            if self.task:
                # A batch without docs for the task is an update without an effect.
                batch = [eg for eg in batch if is_for(eg.reference, self.task)] or batch
            self.times.append(time.perf_counter())
            self.words.append(sum(len(eg.predicted) for eg in batch))
            yield batch


def keep_tasks(config: dict[str, Any], tasks: list[str]) -> None:
    """Remove the heads of all other tasks. A single task gets the weight 1. A task may have no head
    of its own: stock spaCy's parser finds the sentences.
    """
    config["nlp"]["pipeline"] = ["transformer", *(n for n in tasks if n in config["components"])]
    config["components"] = {n: config["components"][n] for n in config["nlp"]["pipeline"]}
    balancer = config["components"]["transformer"].get("balancer", {})
    if "weights" in balancer:
        weights = balancer["weights"].items()
        balancer["weights"] = {t: w for t, w in weights if t in tasks and len(tasks) > 1}


def train_corpus(
    folder: Path, tasks: dict[str, list[str]], seed: int, limit: int
) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): A reader of several corpora, each with the labels of its tasks."""
    paths = {name: folder / f"{name}_train" for name in tasks}
    mixed: dict[str, Any] = {
        "@readers": "spacy-mtl.MixedCorpus.v1",
        "seed": seed,
        "corpora": {n: read_corpus(cut(p, limit) if limit else p) for n, p in paths.items()},
    }
    return mixed | {"tasks": tasks} if len(tasks) > 1 else mixed


def read_corpus(path: Path) -> dict[str, Any]:
    return {"@readers": "spacy.Corpus.v1", "path": f"{path}.spacy", "gold_preproc": False}


def cut(path: Path, limit: int) -> Path:
    """RETURNS (Path): A corpus with `limit` docs, evenly sampled from another, saved next to it."""
    from spacy import blank
    from spacy.tokens import DocBin

    small = path.with_name(f"{path.name}_{limit}")
    file, whole = small.with_suffix(".spacy"), path.with_suffix(".spacy")
    if not file.exists() or file.stat().st_mtime < whole.stat().st_mtime:
        docs = list(DocBin().from_disk(whole).get_docs(blank("en").vocab))
        n = min(limit, len(docs))
        part = [docs[i * len(docs) // n] for i in range(n)]
        DocBin(docs=part, store_user_data=True).to_disk(file)
    return small


def get_corpora(setting: str, task: str = "") -> dict[str, list[str]]:
    """RETURNS (Dict[str, List[str]]): The tasks of each corpus, or one task and its corpora."""
    kept = {n: [t for t in tasks if task in ("", t)] for n, tasks in SETTINGS[setting].items()}
    return {name: tasks for name, tasks in kept.items() if tasks}


def get_row(name: str) -> str:
    """RETURNS (str): The row of a contender in the table."""
    return SINGLE if name.startswith(f"{SINGLE}-") else name


def get_dev_mean(result: dict) -> float:
    return mean(value for key, value in result.items() if key.startswith("dev_"))


def find(path: Path, job: dict[str, Any]) -> list[dict]:
    """RETURNS (List[dict]): The results of a job in the results file."""
    lines = path.read_text().splitlines() if path.exists() else []
    results = map(json.loads, lines)
    return [r for r in results if all(r.get(key) == value for key, value in job.items())]


def append(path: Path, result: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def table(results: list[dict], tasks: list[str], against: str = "") -> str:
    """RETURNS (str): A Markdown table of means and standard deviations over the seeds, in points.
    In parentheses is the mean difference to the contender `against` with the same seeds.
    """
    keys = [*chain(*(SCORES[task] for task in tasks))]
    scores = [f"{part}_{key}" for part in ("dev", "test") for key in keys]
    scores.append("test_mean")
    costs = ["minutes", "words_per_second", "peak_gb"]
    groups: dict[str, dict[int, list[dict]]] = {}
    for result in results:
        seeds = groups.setdefault(get_row(result["contender"]), {})
        seeds.setdefault(result["seed"], []).append(result)
    rows = {name: {s: join(runs) for s, runs in by.items()} for name, by in groups.items()}
    lines = [f"| contender | rate | seeds | {' | '.join(scores + costs)} |"]
    lines.append("|---" * (len(scores + costs) + 3) + "|")
    for name, row in rows.items():
        other = rows.get(against, {}) if name != against else {}
        pairs = [(row[seed], other[seed]) for seed in row if seed in other]
        cells = [
            cell([r[key] for r in row.values()], [mine[key] - their[key] for mine, their in pairs])
            for key in scores
        ]
        cells += [cell([r[key] for r in row.values()]) for key in costs]
        rate = next(iter(row.values()))["rate"]
        lines.append(f"| {name} | {rate} | {len(row)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def join(runs: list[dict]) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The scores and costs of one run, or of one run per task."""
    scores = {k: 100 * v for r in runs for k, v in r.items() if k.startswith(("dev_", "test_"))}
    return {
        **scores,
        "test_mean": mean(value for key, value in scores.items() if key.startswith("test_")),
        "rate": ", ".join(f"{r['rate']:g}" for r in runs if r["rate"]) or "config's",
        "minutes": sum(r["seconds"] for r in runs) / 60,
        "words_per_second": 1 / sum(1 / r["words_per_second"] for r in runs),
        "peak_gb": max(r["peak_gb"] for r in runs),
    }


def cell(values: list[float], differences: Sequence[float] = ()) -> str:
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    difference = f" ({mean(differences):+.1f})" if differences else ""
    return f"{mean(values):.1f}{spread}{difference}"
