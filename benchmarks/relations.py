"""Find relations on CrossRE with gold and with found entities, on one encoder or on two.

    python benchmarks/relations.py --data CROSSRE --out FOLDER --seeds 0 1 2 --updates 300

CROSSRE has the files {ai,literature,news,politics}-{train,dev,test}.json. Half of the dev docs are
added to the training data, which are few; the other half sets the threshold. "shared" is one model
for entities and relations, "separate" two models with the same data and updates. "frequent" is the
most frequent relation of each pair of entity types, if the share of related pairs is above a
threshold that is set by the same dev data. Scores are means and standard deviations over the seeds.
"""

import argparse
import json
import subprocess
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.vocab import Vocab

from spacy_mtl.annotations.relations import Relation, get_relations, set_relations
from spacy_mtl.cli.init_config import make_config
from spacy_mtl.corpora.formats import read_docs
from spacy_mtl.heads.relation.scorer import score_relations
from spacy_mtl.training.thresholds import find_thresholds

DOMAINS = ("ai", "literature", "news", "politics")
TASKS = {"shared": ["ner", "relation"], "ner": ["ner"], "relation": ["relation"]}
VOCAB = spacy.blank("en").vocab


def read(data: Path, domains: Iterable[str], part: str) -> list[Doc]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(read_docs([data / f"{domain}-{part}.json" for domain in domains], Vocab()))


def write_corpora(data: Path, out: Path) -> None:
    dev = read(data, DOMAINS, "dev")
    parts = {"train": read(data, DOMAINS, "train") + dev[::2], "dev": dev[1::2]}
    parts |= {f"test_{domain}": read(data, [domain], "test") for domain in DOMAINS}
    for name, docs in parts.items():
        DocBin(docs=docs, store_user_data=True).to_disk(out / f"{name}.spacy")


def load(out: Path, name: str) -> list[Doc]:
    return list(DocBin().from_disk(out / f"{name}.spacy").get_docs(VOCAB))


def train(out: Path, name: str, seed: int, updates: int, size: int) -> Path:
    """RETURNS (Path): The folder of a trained pipeline, which may be there already."""
    folder = out / f"{name}-{seed}-{updates}"
    if not (folder / "model-last").exists():
        config = make_config(TASKS[name])
        config.to_disk(out / f"{name}.cfg")
        settings: dict[str, object] = {
            **{"paths.train": out / "train.spacy", "paths.dev": out / "dev.spacy"},
            **{"system.seed": seed, "training.max_steps": updates},
            **{"training.eval_frequency": updates, "training.batcher.size": size},
            "training.optimizer.learn_rate.warmup_steps": updates // 10,
            "training.optimizer.encoder_learn_rate.warmup_steps": updates // 10,
        }
        options = [str(item) for key, value in settings.items() for item in (f"--{key}", value)]
        command = [sys.executable, "-m", "spacy", "mtl", "train", str(out / f"{name}.cfg")]
        subprocess.run([*command, "-o", str(folder), *options], check=True, capture_output=True)
    return folder / "model-last"


def copy_entities(sources: list[Doc], nlp: Language) -> list[Doc]:
    """RETURNS (List[Doc]): Docs of the same words with the same entities."""
    docs = []
    for source in sources:
        doc = Doc(nlp.vocab, words=[token.text for token in source])
        doc.ents = [Span(doc, ent.start, ent.end, ent.label_) for ent in source.ents]
        docs.append(doc)
    return docs


def relate(nlp: Language, golds: list[Doc], ents: list[Doc]) -> list[Example]:
    """RETURNS (List[Example]): The gold docs with the relations between given entities."""
    with nlp.select_pipes(disable=[name for name in nlp.pipe_names if name == "ner"]):
        found = list(nlp.pipe(copy_entities(ents, nlp)))
    return [Example(doc, gold) for doc, gold in zip(found, golds, strict=True)]


def set_threshold(nlp: Language, dev: list[Doc]) -> None:
    examples = [Example(doc, gold) for doc, gold in zip(copy_entities(dev, nlp), dev, strict=True)]
    with nlp.select_pipes(disable=[name for name in nlp.pipe_names if name == "ner"]):
        pipe: Any = nlp.get_pipe("relation")
        pipe.cfg["threshold"] = find_thresholds(nlp, examples, "relation").threshold[1]


def make_frequent(train_docs: list[Doc]) -> Callable[[list[Doc], float], list[Example]]:
    """RETURNS (Callable): A function that relates gold entities by the most frequent relation of
    their types.
    """
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for doc in train_docs:
        labels = {relation[:2]: relation.label for relation in get_relations(doc) or ()}
        for a, b in pair(doc):
            counts[a.label_, b.label_][labels.get(((a.start, a.end), (b.start, b.end)), "")] += 1

    def predict(golds: list[Doc], least: float) -> list[Example]:
        examples = []
        for gold in golds:
            doc, found = Doc(VOCAB, words=[token.text for token in gold]), []
            for a, b in pair(gold):
                own = counts[a.label_, b.label_]
                label = max((name for name in own if name), key=own.__getitem__, default="")
                if label and 1 - own[""] / own.total() >= least:
                    found.append(Relation((a.start, a.end), (b.start, b.end), label))
            set_relations(doc, found)
            examples.append(Example(doc, gold))
        return examples

    return predict


def pair(doc: Doc) -> list[tuple[Span, Span]]:
    return [(a, b) for a in doc.ents for b in doc.ents if a.start != b.start]


def get_f(examples: list[Example]) -> tuple[float, float]:
    scores = score_relations(examples)
    return 100 * scores["rel_micro_f"], 100 * scores["rel_macro_f"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--size", type=int, default=500, help="wordpieces per update")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_corpora(args.data, args.out)
    dev, golds = load(args.out, "dev"), {d: load(args.out, f"test_{d}") for d in DOMAINS}
    predict = make_frequent(load(args.out, "train"))
    best = max((i / 50 for i in range(1, 50)), key=lambda least: get_f(predict(dev, least)))
    rows: dict[str, list[tuple[float, ...]]] = {
        "frequent, gold entities": [sum((get_f(predict(g, best)) for g in golds.values()), ())]
    }
    for seed in args.seeds:
        paths = {name: train(args.out, name, seed, args.updates, args.size) for name in TASKS}
        pipelines = {name: spacy.load(path) for name, path in paths.items()}
        for name in ("shared", "relation"):
            set_threshold(pipelines[name], dev)
        found: dict[str, tuple[float, ...]] = defaultdict(tuple)
        for own in golds.values():
            for row, finder, reader in (
                ("shared", pipelines["shared"], pipelines["shared"]),
                ("separate", pipelines["ner"], pipelines["relation"]),
            ):
                words = [Doc(finder.vocab, words=[token.text for token in gold]) for gold in own]
                with finder.select_pipes(enable=["transformer", "ner"]):
                    ents = list(finder.pipe(words))
                found[f"{row}, gold entities"] += get_f(relate(reader, own, own))
                found[f"{row}, found entities"] += get_f(relate(reader, own, ents))
        for row, values in found.items():
            rows.setdefault(row, []).append(values)
            print(json.dumps({"row": row, "seed": seed, "scores": values}), flush=True)
    print("| relations of | " + " | ".join(f"{d}, micro F | macro F" for d in DOMAINS) + " |")
    print("|---" * (1 + 2 * len(DOMAINS)) + "|")
    for row, runs in rows.items():
        cells = [
            f"{mean(own):.1f}" + (f" ± {stdev(own):.1f}" if len(own) > 1 else "")
            for own in zip(*runs, strict=True)
        ]
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
