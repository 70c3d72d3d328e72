"""Measure the words per second of EDS-NLP with a CRF for entities, in its own environment.

    pip install torch "edsnlp[ml]==0.23.0"
    python benchmarks/peer.py ENCODER_DIR CORPUS.spacy --merge 1 --threads 2

ENCODER_DIR is a Hugging Face folder with the encoder's weights of the pipeline to compare with. The
head has the labels of the corpus. It is not trained, which does not change its speed.
"""

import argparse
import time

import edsnlp
import edsnlp.pipes as eds
import torch
from spacy.tokens import Doc, DocBin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoder")
    parser.add_argument("corpus")
    parser.add_argument("--merge", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-words", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    nlp = edsnlp.blank("eds")
    nlp.add_pipe(
        eds.ner_crf(
            mode="joint",
            target_span_getter="ents",
            embedding=eds.transformer(model=args.encoder, window=128, stride=96),
        ),
        name="ner",
    )
    golds = list(DocBin().from_disk(args.corpus).get_docs(nlp.vocab))
    nlp.post_init(golds)
    groups = [golds[i : i + args.merge] for i in range(0, len(golds), args.merge)]
    for repeat in range(args.repeats + 1):
        docs = [
            Doc(
                nlp.vocab,
                words=[t.text for doc in group for t in doc],
                spaces=[bool(t.whitespace_) for doc in group for t in doc],
            )
            for group in groups
        ]
        start = time.perf_counter()
        stream = edsnlp.data.from_iterable(docs).map_pipeline(
            nlp, batch_size=f"{args.batch_words} words"
        )
        n_words = sum(len(doc) for doc in stream)
        if repeat:  # the first run warms up
            print(n_words / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
