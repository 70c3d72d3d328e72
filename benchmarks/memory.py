"""Stream docs through a pipeline and measure the growth of its memory.

    python benchmarks/memory.py PIPELINE CORPUS.spacy --docs 10000

Prints words per second, and the peak memory of the process after a tenth of the docs and after all
docs.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import spacy
from spacy.tokens import Doc, DocBin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--docs", type=int, default=10000)
    args = parser.parse_args()
    nlp = spacy.load(args.pipeline)
    golds = list(DocBin().from_disk(args.corpus).get_docs(nlp.vocab))

    def fresh_docs() -> Iterator[Doc]:
        for gold in islice(cycle(golds), args.docs):
            words, spaces = [t.text for t in gold], [bool(t.whitespace_) for t in gold]
            yield Doc(nlp.vocab, words=words, spaces=spaces)

    start, words, first = time.perf_counter(), 0, 0.0
    for i, doc in enumerate(nlp.pipe(fresh_docs()), start=1):
        words += len(doc)
        if i == args.docs // 10:
            first = peak_mb()
            print(f"{i:,} docs: peak {first:,.0f} MB", flush=True)
    last = peak_mb()
    print(f"{args.docs:,} docs: peak {last:,.0f} MB, {last / first:.3f} times as much")
    print(f"{words / (time.perf_counter() - start):,.0f} words/s")


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
