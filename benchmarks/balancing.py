"""Compare the balancers with each other and with training each task alone.

    python benchmarks/balancing.py gum --data CORPUS_DIR --seeds 0 1 2 --updates 950 --limit 2000

Settings, runs and options are those of accuracy.py, with the same config and batches. "tuned" are
fixed weights of tags, entities and categories, 1 : 3 : 0.2, the best on GUM's dev part. "plain" is
the sum of the losses. "single" is each task alone: on one corpus with as many updates and words as
all tasks together, on separate corpora with as many updates and words of its own as beside the
others.
"""

from runs import TASKS, Contender, compare, make_single, weigh_tasks

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
    "tuned": Contender(weigh_tasks(1.0, 3.0, 0.2)),
    **{
        name: Contender({"components.transformer.balancer": {"@misc": f"spacy-mtl.{method}.v1"}})
        for name, method in BALANCERS.items()
    },
    **make_single(TASKS, Contender().config),
}

if __name__ == "__main__":
    compare(__doc__, CONTENDERS, "metrics/balancing.jsonl", against="uncertainty")
