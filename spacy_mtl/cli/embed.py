"""`spacy mtl embed`: the vectors of many texts, as one array in a file."""

import codecs
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from numpy.lib import format as npy
from spacy.language import Language
from spacy.tokens import Doc
from tqdm import tqdm
from typer import Argument, Option
from wasabi import msg

from ..contracts import find_encoders
from ..corpora.json_files import parse_json
from ..corpora.text_io import UTF8, clean, make_error
from ..errors import Errors, Warnings, quote
from ..files import replacing
from ..heads.vectors import Vectorizer
from ..loading import load_pipeline, stream_docs
from ..types import Floats1d
from .app import command
from .options import CodePath, GpuId, Pipeline, prepare

Unit = Literal["docs", "sents"]
JSON_LINES = (".jsonl", ".ndjson")


@command("embed", "Cannot embed")
def embed_cli(
    pipeline: Pipeline,
    data: Annotated[
        Path,
        Argument(help=".txt file with a text per line, .jsonl file, or .spacy files"),
    ],
    output: Annotated[Path, Argument(help=".npy file to write", dir_okay=False)],
    unit: Annotated[Unit, Option("--unit", "-u", help="What has a row")] = "docs",
    text_key: Annotated[str, Option("--text-key", "-k", help="Key of the text in JSON")] = "text",
    batch_size: Annotated[
        int | None, Option(min=1, help="Docs in a batch; by default as in the pipeline's config")
    ] = None,
    code_path: CodePath = None,
    gpu_id: GpuId = -1,
) -> None:
    """
    Write the vectors of texts to a file.

    The pipeline must have the component mtl_vectors. The file is a numpy array with a row for each
    text, in their order. A blank line of a .txt file has a row of zeros. With --unit sents each
    sentence has a row, and a .jsonl file beside the array says where it is.

    Example: python -m spacy mtl embed training/model-best a.jsonl a.npy
    """
    if output.suffix != ".npy":
        raise ValueError(Errors.M174.format(path=output))
    prepare(code_path, gpu_id)
    nlp = load_pipeline(pipeline)
    vectors = find_vectors(nlp)
    texts = read_texts(data, nlp, text_key)
    disabled = find_unused(nlp, vectors.name) if unit == "docs" else []
    docs = nlp.pipe(texts, batch_size=batch_size, disable=disabled)
    output.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        array = ArrayFile(stack.enter_context(writing(output)))
        places = None
        if unit == "sents":
            places = stack.enter_context(writing(output.with_name(f"{output.name}.jsonl")))
        bar = tqdm(docs, unit=" docs", disable=None, leave=False)
        if not write_vectors(bar, vectors, array, places):
            raise ValueError(Errors.M176.format(path=data))
    msg.good(f"Saved {array.n_rows:,} vectors of {array.width} numbers: {output}")


def find_vectors(nlp: Language) -> Vectorizer:
    """RETURNS (Vectorizer): The last component of its kind.
    RAISES (ValueError): M175 if there is none.
    """
    pipes: list[tuple[str, object]] = [*nlp.pipeline]
    found = [pipe for _, pipe in pipes if isinstance(pipe, Vectorizer)]
    if not found:
        raise ValueError(Errors.M175.format(names=quote(nlp.pipe_names)))
    return found[-1]


def find_unused(nlp: Language, name: str) -> list[str]:
    """RETURNS (List[str]): The components that the vectors of docs do not depend on: those after
    the last encoder, except the component of this name.
    """
    names, encoders = nlp.pipe_names, find_encoders(nlp)
    place = names.index(name)
    last = max((i for i in range(place) if names[i] in encoders), default=place - 1)
    return [*names[last + 1 : place], *names[place + 1 :]]


# Reading


def read_texts(path: Path, nlp: Language, text_key: str) -> Iterable[str | Doc]:
    """Read texts one by one.

    path (Path): A .txt file with a text per line, a .jsonl file, a .spacy file, or a folder of
        .spacy files.
    nlp (Language): The pipeline.
    text_key (str): The key of the text in JSON.
    RETURNS (Iterable[Union[str, Doc]]): Texts; for .spacy files docs with their tokens.
    RAISES (ValueError): M101 if there is no such file, M177 for another kind of file; while it is
        read, M109, M110, M114, M178 or M205 for content that is wrong.
    """
    if not path.exists():
        raise ValueError(Errors.M101.format(path=path))
    if path.is_dir() or path.suffix == ".spacy":
        return stream_docs(path, nlp.vocab)
    if path.suffix in JSON_LINES:
        return read_json_texts(path, text_key)
    if path.suffix == ".txt":
        return (line for _, line in stream_lines(path))
    raise ValueError(Errors.M177.format(path=path))


def stream_lines(path: Path) -> Iterator[tuple[int, str]]:
    """YIELDS (Tuple[int, str]): The number, from 1, and the text of each line of a file.
    RAISES (ValueError): M178 for a line that is not UTF-8.
    """
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            data = data.removeprefix(codecs.BOM_UTF8) if number == 1 else data
            try:
                yield number, data.decode(UTF8).rstrip("\r\n")
            except UnicodeDecodeError as error:
                byte = data[error.start]
                raise ValueError(Errors.M178.format(path=path, line=number, byte=byte)) from error


def read_json_texts(path: Path, key: str) -> Iterator[str]:
    """YIELDS (str): The text of each line of a JSON Lines file. Blank lines have none.
    RAISES (ValueError): M109 for a line that is not JSON, M110 if it lacks the key, M114 if it is
        no object or the text is no string.
    """
    for number, line in stream_lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        record = parse_json(path, line, number)
        if not isinstance(record, dict):
            raise make_error(where, "the line", record, f"an object with the key {key!r}")
        if key not in record:
            fix = "Name the key of the text by --text-key"
            raise ValueError(
                Errors.M110.format(where=where, column=key, found=quote(record), fix=fix)
            )
        text = record[key]
        if not isinstance(text, str):
            raise make_error(where, repr(key), text, "a string")
        yield clean(text)


# Writing


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """YIELDS (BinaryIO): A new file, which replaces the old one when it is complete."""
    with replacing(path) as new, new.open("wb") as file:
        yield file


class ArrayFile:
    """Writes a .npy file whose number of rows is not known in advance.

    file (BinaryIO): The file, open for writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.n_rows = file, 0
        self.header: dict[str, object] = {}
        self.width = 0

    def append(self, row: Floats1d) -> None:
        """Write a row, H. All rows have the same width and type as the first one."""
        if not self.header:
            self.width = len(row)
            self.header = {"descr": npy.dtype_to_descr(row.dtype), "fortran_order": False}
            self.finish()
        self.file.write(row.tobytes())
        self.n_rows += 1

    def finish(self) -> None:
        """Write the header. Numpy pads it, so that its length does not depend on the number of
        rows.
        """
        self.file.seek(0)
        npy.write_array_header_1_0(self.file, {**self.header, "shape": (self.n_rows, self.width)})


def write_vectors(
    docs: Iterable[Doc], vectors: Vectorizer, array: ArrayFile, places: BinaryIO | None
) -> int:
    """Write the vectors of docs, or of their sentences.

    docs (Iterable[Doc]): The docs, with their vectors.
    vectors (Vectorizer): The component that made the vectors.
    array (ArrayFile): Receives a row for each doc or sentence.
    places (Optional[BinaryIO]): The file for the places of sentences; None for vectors of docs.
    RETURNS (int): The number of words.
    RAISES (ValueError): spaCy's E030 for sentences of docs without sentence boundaries.
    """
    n_words = n_empty = 0
    for number, doc in enumerate(docs):
        n_words += len(doc)
        if places is None:
            n_empty += not len(doc)
            array.append(vectors.get_vector(doc))
            continue
        for sent in doc.sents:
            array.append(vectors.get_vector(sent))
            place = {"doc": number, "start": sent.start_char, "end": sent.end_char}
            line = json.dumps({**place, "text": sent.text}, ensure_ascii=False)
            places.write(f"{line}\n".encode())
    if n_words:
        array.finish()
    if n_words and n_empty:
        warnings.warn(Warnings.W127.format(n=n_empty))
    return n_words
