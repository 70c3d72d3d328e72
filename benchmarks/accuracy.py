"""Train stock spaCy and spacy-mtl on the same batches and compare their scores.

    python benchmarks/accuracy.py gum --data CORPUS_DIR --seeds 0 1 2 --updates 950

CORPUS_DIR contains {name}_{train,dev,test}.spacy, written by `python -m spacy mtl convert`. The
contenders are "stock"; "ours", with the weights of the config; "tags", with the weights 2 : 3 :
0.1; "intents", with a higher weight for the categories and with label attention; "even", with all
weights 1; and "single", one model per task with the same number of updates.

With `--grid 1e-4 2e-4 3e-4` each contender gets the learning rate with the best mean dev score for
the first seed (for stock its only rate, for ours that of the encoder). Each run is a process, so
that its memory can be measured. The results file keeps all results, and a second call makes only
the missing runs. Other arguments override the config, as for `spacy train`.
"""

from runs import SCORES, SINGLE, Contender, compare

WEIGHTS = "components.transformer.balancer.weights"
WEIGHTED = {
    "tags": Contender({WEIGHTS: {"tagger": 2.0, "ner": 3.0, "textcat": 0.1}}),
    "intents": Contender(
        {
            WEIGHTS: {"tagger": 1.0, "ner": 1.0, "textcat": 2.0},
            "components.textcat.model.pooling": "label_attention",
            Contender().rate: 1e-4,
        }
    ),
    "even": Contender({WEIGHTS: dict.fromkeys(SCORES, 1.0)}),
}
STOCK = Contender(config="stock.cfg", rate="training.optimizer.learn_rate.initial_rate")
CONTENDERS = {"stock": STOCK, "ours": Contender(), **WEIGHTED, **SINGLE}

if __name__ == "__main__":
    compare(__doc__, CONTENDERS, "metrics/accuracy.jsonl")
