"""Switch one option of ours at a time, and see what it is worth.

    python benchmarks/ablation.py gum --data CORPUS_DIR --contenders ours no-crf equal-weights

Settings, runs and options are those of accuracy.py. In parentheses stands what an option changes,
against "ours" with the same seeds.
"""

from typing import Any

from runs import Contender, compare

FOCAL = {"@misc": "spacy-mtl.UnitLoss.v1", "gamma": 2.0}
LISTENER = {"@architectures": "spacy-mtl.TaskListener.v1"}
CHANGES: dict[str, dict[str, Any]] = {
    "ours": {},
    "no-lexical": {"components.tagger.model.tok2vec": LISTENER},
    "no-crf": {"components.ner.model.crf": False},
    "ner-dropout-0.1": {"components.ner.model.dropout": 0.1},
    "equal-weights": {"components.transformer.balancer.weights": {}},
    "layer-decay-0.9": {"training.optimizer.layer_decay": 0.9},
    "average-0.999": {"training.optimizer.average": 0.999},
    "focal-2": {"components.textcat.loss": FOCAL},
    "smoothing-0.1": {
        "components.tagger.label_smoothing": 0.1,
        "components.textcat.label_smoothing": 0.1,
    },
    "attention-pooling": {"components.textcat.model.pooling": "attention"},
    "float32": {"components.transformer.model.precision": "float32"},
}
CONTENDERS = {name: Contender(changes) for name, changes in CHANGES.items()}

if __name__ == "__main__":
    compare(__doc__, CONTENDERS, "metrics/ablation.jsonl", against="ours")
