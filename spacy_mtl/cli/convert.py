"""`spacy mtl convert`: source formats to the binary format of spaCy."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from spacy import blank
from spacy.tokens import Doc, DocBin
from typer import Argument, Option
from wasabi import msg

from ..corpora.chunks import cut_doc
from ..corpora.counts import ATTRIBUTES, TASKS, Counts, count_docs
from ..corpora.formats import AUTO, FORMATS, read_docs
from ..errors import Errors
from ..files import replacing
from . import command


@command("convert", "Cannot convert")
def convert_cli(
    inputs: Annotated[list[Path], Argument(help="Files, or folders of files")],
    output: Annotated[Path, Argument(help="The .spacy file to write", dir_okay=False)],
    format: Annotated[str, Option("--format", "-f", help=f"{AUTO}, {', '.join(FORMATS)}")] = AUTO,
    words: Annotated[
        int, Option("--words", "-w", min=0, help="Cut docs at sentences, so long; 0: do not cut")
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
        str, Option("--separator", help="csv, tsv: what stands between two labels of a text")
    ] = "",
    split: Annotated[str, Option("--split", "-s", help="clinc: key of the split")] = "train",
    lang: Annotated[
        str, Option("--lang", "-l", help="Language whose tokenizer splits raw text")
    ] = "en",
    tasks: Annotated[
        str, Option("--tasks", "-t", help="Annotations to keep; the others become missing")
    ] = ",".join(TASKS),
) -> None:
    """
    Convert corpora to a .spacy file for training, and count what it holds.

    Reads CoNLL-U, slot filling folders (seq.in, seq.out, label), JSON Lines, CSV, TSV and
    CLINC150 JSON. An annotation that a corpus does not have stays missing.
    """
    counts = convert(
        inputs,
        output,
        format=format,
        words=words,
        lang=lang,
        tasks=[task.strip() for task in tasks.split(",")],
        tags=tags,
        category=category,
        text=text,
        separator=separator,
        split=split,
    )
    print_counts(counts)
    msg.good(f"{counts.docs} docs with {counts.words} words: {output}")


def convert(
    inputs: Sequence[Path],
    output: Path,
    *,
    format: str = AUTO,
    words: int = 120,
    lang: str = "en",
    tasks: Iterable[str] = tuple(TASKS),
    **options: str | None,
) -> Counts:
    """Convert corpora to one `.spacy` file.

    inputs (Sequence[Path]): Files, or folders of files of the format.
    output (Path): The file to write.
    format (str): A name in `spacy_mtl.corpora.formats.FORMATS`, or "auto".
    words (int): The most words in a chunk of a doc; 0 leaves docs whole.
    lang (str): The language whose tokenizer splits raw text.
    tasks (Iterable[str]): What to keep of "tags" (with the coarse `pos`), "ents" and "cats".
    **options (Optional[str]): Other options of the readers, `None` for their default.
    RETURNS (Counts): What the file holds.
    RAISES (ValueError): If the input cannot be read or is empty, the output is no `.spacy` file, or
        a task is unknown.
    """
    if output.suffix != ".spacy":
        raise ValueError(Errors.M115.format(path=output))
    dropped = TASKS.keys() - set(tasks)
    for task in set(tasks) - TASKS.keys():
        raise ValueError(Errors.M113.format(value=task, option="task", choices=list(TASKS)))
    docs = read_docs(inputs, blank(lang).vocab, format=format, lang=lang, **options)
    chunks = [chunk for doc in docs for chunk in cut_doc(doc, words)]
    if not chunks:
        raise ValueError(Errors.M112.format(paths=", ".join(map(str, inputs)), format=format))
    for chunk in chunks:
        _drop_annotations(chunk, dropped)
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as new:
        DocBin(docs=chunks).to_disk(new)
    return count_docs(chunks)


def print_counts(counts: Counts, top: int = 10) -> None:
    """Print the counts as a table, then the most frequent labels of each task.

    counts (Counts): The counts.
    top (int): How many labels to print.
    """
    rows = [
        (task, f"{units} {ATTRIBUTES[TASKS[task]].unit}", len(labels), missing)
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


def _drop_annotations(doc: Doc, tasks: Iterable[str]) -> None:
    for task in tasks:
        if task == "tags":
            for token in doc:
                token.tag_ = token.pos_ = ""
        elif task == "ents":
            doc.set_ents([], default="missing")
        else:
            doc.cats = {}
