"""Compare the balancers with each other and with training each task alone.

    python benchmarks/balancing.py gum --data CORPUS_DIR --seeds 0 1 2 --updates 950 --limit 2000

Settings, runs and options are those of accuracy.py, with the same config and batches. "weights" is
the balancer of the config, "plain" the sum of the losses, "single" each task alone.
"""

from runs import SINGLE, Contender, compare

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
CONTENDERS = {
    "weights": Contender(),
    **{
        name: Contender({"components.transformer.balancer": {"@misc": f"spacy-mtl.{method}.v1"}})
        for name, method in BALANCERS.items()
    },
    **SINGLE,
}

if __name__ == "__main__":
    compare(__doc__, CONTENDERS, "metrics/balancing.jsonl", against="weights")
