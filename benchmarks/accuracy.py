"""Train stock spaCy and spacy-mtl on the same batches and compare their scores.

    python benchmarks/accuracy.py gum --data CORPUS_DIR --seeds 0 1 2 --updates 950

CORPUS_DIR contains {name}_{train,dev,test}.spacy, written by `python -m spacy mtl convert`. The
contenders are "stock"; "ours", the config; with fixed weights of tags, entities and categories
"tuned", 1 : 3 : 0.2, the best on GUM's dev part, "tags", 2 : 3 : 0.1, "even", 1 : 1 : 1, and
"intents", 1 : 1 : 2 with label attention; and "single", one model per task with the same updates.

With `--grid 1e-4 2e-4 3e-4` each contender gets the learning rate with the best mean dev score for
the first seed (for stock its only rate, for ours that of the encoder). Each run is a process, so
that its memory can be measured. The results file keeps all results, and a second call makes only
the missing runs. Other arguments override the config, as for `spacy train`.
"""

from runs import TASKS, Contender, compare, make_single, weigh_tasks

WEIGHTED = {
    "tuned": Contender(weigh_tasks(1.0, 3.0, 0.2)),
    "tags": Contender(weigh_tasks(2.0, 3.0, 0.1)),
    "even": Contender(weigh_tasks(1.0, 1.0, 1.0)),
    "intents": Contender(
        {
            **weigh_tasks(1.0, 1.0, 2.0),
            "components.textcat.model.pooling": "label_attention",
            Contender().rate: 1e-4,
        }
    ),
}
STOCK = Contender(config="stock.cfg", rate="training.optimizer.learn_rate.initial_rate")
CONTENDERS = {
    "stock": STOCK,
    "ours": Contender(),
    **WEIGHTED,
    **make_single(TASKS, Contender().config),
}

if __name__ == "__main__":
    compare(__doc__, CONTENDERS, "metrics/accuracy.jsonl")
