"""Train the annotations of Universal Dependencies with stock spaCy and spacy-mtl on equal batches.

    python benchmarks/ud.py ewt-ud --data CORPUS_DIR --updates 300 --training.batcher.size 1000
    python benchmarks/ud.py speed --data CORPUS_DIR --save PIPELINES

The contenders are "stock", spaCy's heads over spaCy's transformer, where the parser finds the
sentences; "stock-shared", the same heads over `mtl_transformer`; "ours", configs/mtl_ud.cfg; and
"single", each of our heads alone. Options and runs are those of accuracy.py. With `--save
PIPELINES` the pipelines are kept. `speed` then measures how many words of the test part each of
them annotates per second, taking turns.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from runs import UD_TASKS, Contender, compare, make_single

LISTENER = {
    "@architectures": "spacy-transformers.TransformerListener.v1",
    "grad_factor": 1.0,
    "pooling": {"@layers": "reduce_mean.v1"},
}
TAGGER = {"@architectures": "spacy.Tagger.v2", "tok2vec": LISTENER}
PARSER = {
    "@architectures": "spacy.TransitionBasedParser.v2",
    "state_type": "parser",
    "extra_state_tokens": False,
    "hidden_width": 128,
    "maxout_pieces": 3,
    "use_upper": False,
    "tok2vec": LISTENER,
}
STOCK = {
    "components.tagger": {"factory": "tagger", "model": TAGGER},
    "components.morphologizer": {"factory": "morphologizer", "model": TAGGER},
    "components.lemmatizer": {"factory": "trainable_lemmatizer", "model": TAGGER},
    "components.parser": {"factory": "parser", "model": PARSER},
}
SHARED = {
    "factory": "mtl_transformer",
    "max_batch_items": 4096,
    "model": {"@architectures": "spacy-mtl.SharedTransformer.v1", "name": "${paths.encoder}"},
    # stock heads report sums of losses, which no balancer can compare
    "balancer": {"@misc": "spacy-mtl.StaticWeights.v1"},
}
RATE = "training.optimizer.learn_rate.initial_rate"
CONTENDERS = {
    "stock": Contender(STOCK, config="stock.cfg", rate=RATE),
    "stock-shared": Contender(
        {**STOCK, "components.transformer": SHARED}, config="stock.cfg", rate=RATE
    ),
    "ours": Contender(config="mtl_ud.cfg"),
    **make_single(UD_TASKS, "mtl_ud.cfg"),
}


def measure_speed(data: Path, folder: Path, rounds: int) -> None:
    """Print the words per second of saved pipelines, which take turns.

    data (Path): The folder of the corpora.
    folder (Path): The folder of the pipelines, named SETTING-CONTENDER-SEED by `--save`.
    rounds (int): How often each annotates the test part, after one round that does not count.
    """
    import spacy
    import torch
    from spacy.tokens import DocBin

    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*-ud-*/model-last")):
        corpus, _, name = path.parent.name.partition("-ud-")
        found.setdefault(corpus, {}).setdefault(name.rpartition("-")[0], spacy.load(path))
    for corpus, pipelines in found.items():
        vocab = spacy.blank("en").vocab
        golds = list(DocBin().from_disk(data / f"{corpus}_test.spacy").get_docs(vocab))
        times: dict[str, list[float]] = {name: [] for name in pipelines}
        for _ in range(rounds + 1):
            for name, nlp in pipelines.items():
                docs = [spacy.tokens.Doc(nlp.vocab, words=[t.text for t in gold]) for gold in golds]
                start = time.perf_counter()
                for _ in nlp.pipe(docs):
                    pass
                times[name].append(time.perf_counter() - start)
        n_words = sum(map(len, golds))
        for name, seconds in times.items():
            print(f"{corpus:5} {name:22} {n_words / median(seconds[1:]):8.0f} words/s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["speed"]:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("speed")
        parser.add_argument("--data", type=Path, required=True)
        parser.add_argument("--save", type=Path, required=True)
        parser.add_argument("--rounds", type=int, default=5)
        args = parser.parse_args()
        measure_speed(args.data, args.save, args.rounds)
    else:
        compare(__doc__, CONTENDERS, "metrics/ud.jsonl", against="stock")
