"""`spacy mtl convert`: convert corpora to the binary format of spaCy."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from spacy import blank
from spacy.tokens import Doc, DocBin
from typer import Argument, Option
from wasabi import msg

from ..annotations import get_layers
from ..corpora.chunks import cut_doc
from ..corpora.counts import Counts, count_docs
from ..corpora.formats import AUTO, read_docs
from ..errors import Errors
from ..files import replacing
from ..types import Settings
from .app import command

COMMON = ("tags", "ents", "cats")  # counted even if no doc has them
SECONDARY = ("pos", "sents")  # counted only if they are asked for
DEV_EVERY = 10  # docs, of which one is dev data


@command("convert", "Cannot convert")
def convert_cli(
    inputs: Annotated[list[Path], Argument(help="Files, or folders of files.")],
    output: Annotated[Path, Argument(help="The .spacy file to write.", dir_okay=False)],
    format: Annotated[
        str,
        Option(
            "--format",
            "-f",
            help="The format of all files. With auto, it is guessed from the name and the first "
            "lines of each file.",
        ),
    ] = AUTO,
    words: Annotated[
        int,
        Option(
            "--words",
            "-w",
            min=0,
            help="All formats: cut docs at sentences to this many words. 0 leaves them whole.",
        ),
    ] = 120,
    tasks: Annotated[
        str | None,
        Option(
            "--tasks",
            "-t",
            help="All formats: the annotations to keep, such as tags,ents. The others become "
            "missing. By default all are kept.",
        ),
    ] = None,
    lang: Annotated[
        str,
        Option("--lang", "-l", help="All formats: the language whose tokenizer splits raw text."),
    ] = "en",
    encoding: Annotated[
        str | None,
        Option(
            "--encoding",
            help="All text formats: the encoding, such as cp1252, latin-1 or utf-16. By default "
            "the byte order mark tells it, or else it is utf-8.",
        ),
    ] = None,
    skip_errors: Annotated[
        bool,
        Option(
            "--skip-errors",
            help="All formats: leave out wrong entities, rows and sentences, and count them.",
        ),
    ] = False,
    tags: Annotated[
        str | None,
        Option("--tags", help="conllu: the column of the tags, xpos or upos. By default xpos."),
    ] = None,
    misc: Annotated[
        str | None,
        Option(
            "--misc",
            help="conllu: the key of the entities in the last column. By default NER, name or "
            "Entity, whichever the file has.",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        Option(
            "--columns",
            help="columns: the role of each column, such as word,tag,-,ner. Roles are index, word, "
            "lemma, pos, tag, ner, cat, misc and - for a column that is not read. By default they "
            "are guessed.",
        ),
    ] = None,
    category: Annotated[
        str | None,
        Option(
            "--category",
            "-c",
            help="conllu, columns: the key of the comment with the category, by default "
            "meta::genre or intent. In conllu, newdoc stands for the prefix of the document id. "
            "csv, tsv: the column of the label, by default label, labels, category, intent or "
            "class; or the names of several columns of 0 and 1, such as toxic,threat. json, jsonl, "
            "parquet: the key of the label. label_studio: the name of the control.",
        ),
    ] = None,
    text: Annotated[
        str | None,
        Option(
            "--text",
            help="csv, tsv, json, jsonl, parquet, label_studio: the column or key of the text, by "
            "default text, sentence or utterance. csv, tsv: or the two columns of pairs of texts, "
            "such as premise,hypothesis.",
        ),
    ] = None,
    scores: Annotated[
        str | None,
        Option(
            "--scores",
            help="csv, tsv: the columns of numbers, such as rating,length, which become "
            "doc._.scores.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        Option(
            "--target",
            help="csv, tsv: the column of the texts to generate, which become doc._.generated.",
        ),
    ] = None,
    separator: Annotated[
        str | None, Option("--separator", help="csv, tsv: what separates the labels in a cell.")
    ] = None,
    delimiter: Annotated[
        str | None,
        Option(
            "--delimiter",
            help="csv, tsv: the character between columns, or the word tab. By default the header "
            "tells it.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        Option("--split", "-s", help="clinc: the key of the split. By default train."),
    ] = None,
    names: Annotated[
        str | None,
        Option(
            "--names",
            help="json, jsonl, parquet: the names of labels that are numbers, in order from 0, "
            "such as O,B-PER,I-PER, or a file with one name per line. For several keys: "
            "'ner_tags=O,B-PER;label=no,yes'.",
        ),
    ] = None,
    spans: Annotated[
        str | None,
        Option(
            "--spans",
            help="json, jsonl, parquet, label_studio, rasa, snips, brat: put entities, which may "
            "overlap then, into doc.spans under this key, such as sc. conllu: put all mentions of "
            "Entity= there, and keep the named ones in doc.ents.",
        ),
    ] = None,
    dev: Annotated[
        Path | None,
        Option(
            "--dev",
            help="All formats: a second .spacy file, which gets every tenth document.",
            dir_okay=False,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        Option("--option", "-o", help="Option of a format of another package, as NAME=VALUE."),
    ] = None,
) -> None:
    """
    Convert corpora to .spacy files, and count their labels.

    Example: python -m spacy mtl convert train.csv corpus/train.spacy --category intent

    An annotation that a corpus does not have stays missing. Warnings count what is left out.

    Formats: conllu (CoNLL-U), columns (CoNLL-2003, IOB files, CoNLL-U Plus, UNER, xSID), slots
    (slot filling folders with seq.in, seq.out and label), csv, tsv, fasttext, jsonl and json
    (JSON Lines and lists, also those of Prodigy and doccano), parquet, label_studio, rasa (YAML and
    JSON), squad, snips and clinc (JSON), spacy (.spacy), spacy_json (v2), brat (.ann and .txt), and
    the formats of other packages.
    """
    others: Settings = dict(item.partition("=")[::2] for item in option or ())
    settings: Settings = {
        "format": format,
        "words": words,
        "lang": lang,
        "tasks": None if tasks is None else [task.strip() for task in tasks.split(",")],
        "encoding": encoding,
        "skip_errors": skip_errors or None,
        "tags": tags,
        "misc": misc,
        "columns": columns,
        "category": category,
        "text": text,
        "scores": scores,
        "target": target,
        "separator": separator,
        "delimiter": delimiter,
        "split": split,
        "names": names,
        "spans": spans,
    }
    for name in sorted(others.keys() & settings.keys()):
        raise ValueError(Errors.M113.format(option="--option", value=name, choices=[f"--{name}"]))
    counts = convert(inputs, output, dev=dev, **settings, **others)
    print_counts(counts)
    msg.good(f"{counts.docs} docs with {counts.words} words: {output}")
    if dev:
        msg.good(f"Every tenth document: {dev}")


def convert(
    inputs: Sequence[Path],
    output: Path,
    *,
    dev: Path | None = None,
    format: str = AUTO,
    words: int = 120,
    lang: str = "en",
    tasks: Iterable[str] | None = None,
    **options: str | bool | None,
) -> Counts:
    """Convert corpora to one `.spacy` file, or to one for training and one for evaluation.

    inputs (Sequence[Path]): Files, or folders of files of the format.
    output (Path): The file to write.
    dev (Optional[Path]): A second file, which gets every tenth document. Documents are taken as a
        whole, before they are cut, so the same input is always split in the same way.
    format (str): The name of a format, or "auto" to guess it from the files.
    words (int): The most words in a chunk of a doc; 0 leaves docs whole.
    lang (str): The language whose tokenizer splits raw text.
    tasks (Optional[Iterable[str]]): The names of the annotation layers to keep, such as "tags",
        "ents" and "cats"; None for all. Sentences are always kept, and "pos" along with "tags".
    **options (Optional[Union[str, bool]]): Other options of the readers, None for their defaults.
    RETURNS (Counts): The counts of the file: of "tags", "ents", "cats", the other layers in
        `tasks`, and without `tasks` the other layers that a doc has.
    RAISES (ValueError): M115 if an output is no `.spacy` file, M258 if there are too few documents
        for `dev`, M113 for an unknown task, M112 if
        there are no docs; others if the input cannot be read.
    """
    for path in filter(None, (output, dev)):
        if path.suffix != ".spacy":
            raise ValueError(Errors.M115.format(path=path))
    layers = get_layers()
    named = None if tasks is None else set(tasks)
    for task in sorted((named or set()) - layers.keys()):
        raise ValueError(Errors.M113.format(value=task, option="task", choices=list(layers)))
    vocab = blank(lang).vocab
    docs = read_docs(inputs, vocab, format=format, output=output, lang=lang, **options)
    chunks, held_out = split_docs(docs, words, 0 if dev is None else DEV_EVERY)
    if not chunks:
        raise ValueError(Errors.M112.format(paths=", ".join(map(str, inputs)), format=format))
    if named is not None:
        strip_others([*chunks, *held_out], named)
    for path, part in [(output, chunks)] if dev is None else [(output, chunks), (dev, held_out)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            DocBin(docs=part, store_user_data=True).to_disk(new)
    if named is None:
        present = [name for name in layers if any(map(layers[name].is_annotated, chunks))]
        named = set(present).difference(SECONDARY)
    counted = dict.fromkeys([*COMMON, *sorted(named)])
    return count_docs(chunks, {name: layers[name] for name in counted})


def split_docs(docs: Iterable[Doc], words: int, every: int) -> tuple[list[Doc], list[Doc]]:
    """Cut docs into chunks, and hold out those of some docs.

    docs (Iterable[Doc]): The docs.
    words (int): The most words in a chunk; 0 leaves docs whole.
    every (int): How many docs have one that is held out; 0 to hold out none.
    RETURNS (Tuple[List[Doc], List[Doc]]): The chunks of the other docs and of the held out docs.
    RAISES (ValueError): M258 if there are too few docs to hold out one.
    """
    kept: list[Doc] = []
    held_out: list[Doc] = []
    n = 0
    for n, doc in enumerate(docs, start=1):
        (held_out if every and n % every == 0 else kept).extend(cut_doc(doc, words))
    if every and not held_out:
        raise ValueError(Errors.M258.format(n=n))
    return kept, held_out


def strip_others(docs: Iterable[Doc], kept: set[str]) -> None:
    """Make annotations missing.

    docs (Iterable[Doc]): The docs.
    kept (Set[str]): The names of the layers to keep, besides sentences, and "pos" with "tags".
    """
    kept = kept | {"sents"} | ({"pos"} if "tags" in kept else set())
    dropped = [layer for name, layer in get_layers().items() if name not in kept]
    for doc in docs:
        for layer in dropped:
            if layer.is_annotated(doc):
                layer.strip(doc)


def print_counts(counts: Counts, top: int = 10) -> None:
    """Print the counts as a table, then the most frequent labels of each task.

    counts (Counts): The counts of annotation layers, by their names.
    top (int): How many labels to print.
    """
    layers = get_layers()
    rows = [
        (task, f"{units} {layers[task].unit}", len(labels), missing)
        for task, (units, labels, missing) in counts.tasks.items()
    ]
    msg.table(
        rows,
        header=("Task", "Annotated", "Labels", "Docs without"),
        aligns=("l", "r", "r", "r"),
        divider=True,
    )
    for task, (_, labels, _) in counts.tasks.items():
        if labels:
            msg.text(
                f"{task}: " + ", ".join(f"{label!r} ({n})" for label, n in labels.most_common(top))
            )
