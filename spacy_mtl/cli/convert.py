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


@command("convert", "Cannot convert")
def convert_cli(
    inputs: Annotated[list[Path], Argument(help="Files, or folders of files")],
    output: Annotated[Path, Argument(help="The .spacy file to write", dir_okay=False)],
    format: Annotated[
        str, Option("--format", "-f", help="The format; auto: by the names of the files")
    ] = AUTO,
    words: Annotated[
        int,
        Option("--words", "-w", min=0, help="Cut docs at sentences to this length; 0: do not cut"),
    ] = 120,
    tags: Annotated[str, Option("--tags", help="conllu: column of the tags, xpos, upos")] = "xpos",
    category: Annotated[
        str | None,
        Option(
            "--category",
            "-c",
            help="conllu: comment with the category, by default meta::genre; newdoc for the "
            "prefix of the document id. csv, tsv: column of the label, by default label",
        ),
    ] = None,
    text: Annotated[str, Option("--text", help="csv, tsv: column of the text")] = "text",
    separator: Annotated[
        str, Option("--separator", help="csv, tsv: separator of several labels in a cell")
    ] = "",
    split: Annotated[str, Option("--split", "-s", help="clinc: key of the split")] = "train",
    lang: Annotated[
        str, Option("--lang", "-l", help="Language whose tokenizer splits raw text")
    ] = "en",
    tasks: Annotated[
        str | None,
        Option(
            "--tasks",
            "-t",
            help="Annotations to keep, such as tags,ents; the others become missing. "
            "By default all are kept",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        Option("--option", "-o", help="Option of a format of another package, as NAME=VALUE"),
    ] = None,
) -> None:
    """
    Convert corpora to a .spacy file for training, and count their labels.

    Reads the formats conllu (CoNLL-U), slots (slot filling folders with seq.in, seq.out and label),
    jsonl (JSON Lines), csv, tsv and clinc (CLINC150 JSON), and the formats of other packages. An
    annotation that a corpus does not have stays missing.
    """
    others: Settings = dict(item.partition("=")[::2] for item in option or ())
    settings: Settings = {
        "format": format,
        "words": words,
        "lang": lang,
        "tasks": None if tasks is None else [task.strip() for task in tasks.split(",")],
        "tags": tags,
        "category": category,
        "text": text,
        "separator": separator,
        "split": split,
    }
    for name in sorted(others.keys() & settings.keys()):
        raise ValueError(Errors.M113.format(option="--option", value=name, choices=[f"--{name}"]))
    counts = convert(inputs, output, **settings, **others)
    print_counts(counts)
    msg.good(f"{counts.docs} docs with {counts.words} words: {output}")


def convert(
    inputs: Sequence[Path],
    output: Path,
    *,
    format: str = AUTO,
    words: int = 120,
    lang: str = "en",
    tasks: Iterable[str] | None = None,
    **options: str | None,
) -> Counts:
    """Convert corpora to one `.spacy` file.

    inputs (Sequence[Path]): Files, or folders of files of the format.
    output (Path): The file to write.
    format (str): The name of a format, or "auto" to guess it from the files.
    words (int): The most words in a chunk of a doc; 0 leaves docs whole.
    lang (str): The language whose tokenizer splits raw text.
    tasks (Optional[Iterable[str]]): The names of the annotation layers to keep, such as "tags",
        "ents" and "cats"; None for all. Sentences are always kept, and "pos" along with "tags".
    **options (Optional[str]): Other options of the readers, None for their defaults.
    RETURNS (Counts): The counts of the file: of "tags", "ents", "cats", the other layers in
        `tasks`, and without `tasks` the other layers that a doc has.
    RAISES (ValueError): M115 if the output is no `.spacy` file, M113 for an unknown task, M112 if
        there are no docs; others if the input cannot be read.
    """
    if output.suffix != ".spacy":
        raise ValueError(Errors.M115.format(path=output))
    layers = get_layers()
    named = None if tasks is None else set(tasks)
    for task in sorted((named or set()) - layers.keys()):
        raise ValueError(Errors.M113.format(value=task, option="task", choices=list(layers)))
    docs = read_docs(inputs, blank(lang).vocab, format=format, lang=lang, **options)
    chunks = [chunk for doc in docs for chunk in cut_doc(doc, words)]
    if not chunks:
        raise ValueError(Errors.M112.format(paths=", ".join(map(str, inputs)), format=format))
    if named is not None:
        strip_others(chunks, named)
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as new:
        DocBin(docs=chunks).to_disk(new)
    if named is None:
        present = [name for name in layers if any(map(layers[name].is_annotated, chunks))]
        named = set(present).difference(SECONDARY)
    counted = dict.fromkeys([*COMMON, *sorted(named)])
    return count_docs(chunks, {name: layers[name] for name in counted})


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
