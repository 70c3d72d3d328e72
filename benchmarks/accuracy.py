"""Train stock spaCy and spacy-mtl on the same batches and compare what they score.

    python benchmarks/accuracy.py gum --data CORPUS_DIR --seeds 0 1 2 --updates 950

CORPUS_DIR holds {name}_{train,dev,test}.spacy, as `python -m spacy mtl convert` writes them.
"tags" is ours with the weights 2 : 3 : 0.1, "intents" with more for the categories and label
attention, "even" with all weights 1; "single" trains each task alone, for as many updates. With
`--grid 1e-4 2e-4 3e-4` each contender has the learning rate (of stock its one, of ours the
encoder's) whose mean of the dev scores is the highest with the first seed. Each run is a process
of its own, so that memory can be told apart; what is done is kept in the results file, and a second
call does only the rest. Other arguments override the config, as for `spacy train`.
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
