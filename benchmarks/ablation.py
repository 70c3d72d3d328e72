"""Change one option of spacy-mtl at a time and measure its effect.

    python benchmarks/ablation.py gum --data CORPUS_DIR --contenders ours no-crf focal-2

Settings, runs and options are those of accuracy.py. The table shows the difference to "ours"
with the same seeds in parentheses.
"""

from typing import Any

from runs import Contender, compare

LISTENER = {"@architectures": "spacy-mtl.TaskListener.v1"}


def weigh_units(**settings: Any) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): A loss that weights tokens and docs, but not for the CRF."""
    loss = {"@misc": "spacy-mtl.UnitLoss.v1", **settings}
    return {"components.tagger.loss": loss, "components.textcat.loss": loss}


def set_listener(**settings: Any) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The layers between the encoder and the head for entities."""
    return {"components.ner.model.tok2vec": settings}


PRIVATE = {"@architectures": "spacy-mtl.PrivateLayers.v1", "tok2vec": LISTENER}
ADAPTER = {"@architectures": "spacy-mtl.Adapter.v1", "tok2vec": LISTENER, "width": 64}
CHANGES: dict[str, dict[str, Any]] = {
    "ours": {},
    "no-lexical": {"components.tagger.model.tok2vec": LISTENER},
    "no-crf": {"components.ner.model.crf": False},
    "layer-decay-0.9": {"training.optimizer.layer_decay": 0.9},
    "average-0.99": {"training.optimizer.average": 0.99},
    "focal-2": weigh_units(gamma=2.0),
    "hardest-70": weigh_units(keep=0.7),
    "only-wrong": weigh_units(only_wrong=True),
    "smoothing-0.1": {
        "components.tagger.label_smoothing": 0.1,
        "components.textcat.label_smoothing": 0.1,
    },
    "attention": {"components.textcat.model.pooling": "attention"},
    "label-attention": {"components.textcat.model.pooling": "label_attention"},
    "all-layers": set_listener(**LISTENER, layers="all"),
    "tagger-all-layers": {"components.tagger.model.tok2vec.layers.context.layers": "all"},
    "private-layer": set_listener(**PRIVATE),
    "adapter": set_listener(**ADAPTER),
}
CONTENDERS = {name: Contender(changes) for name, changes in CHANGES.items()}

if __name__ == "__main__":
    compare(__doc__, CONTENDERS, "metrics/ablation.jsonl", against="ours")
