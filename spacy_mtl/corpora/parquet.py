"""Reads Parquet files, such as data sets of Hugging Face."""

import json
from collections.abc import Iterator
from pathlib import Path

from spacy.tokens import Doc
from spacy.vocab import Vocab

from ..errors import Errors
from ..extras import get_install_line
from .label_names import find_names
from .omissions import Omissions
from .records import HINT, read_records

METADATA = b"huggingface"  # key of the names of labels, among others


def read_parquet(
    path: Path,
    vocab: Vocab,
    *,
    lang: str = "en",
    text: str = "",
    category: str = "",
    names: str = "",
    spans: str = "",
    skip_errors: bool = False,
) -> Iterator[Doc]:
    """Read one record per row. A data set of Hugging Face has the names of its labels in the file.

    path (Path): The file.
    vocab (Vocab): The vocab of the docs.
    **options: As in `read_records`.
    skip_errors (bool): Whether entities that do not fit the text are left out.
    YIELDS (Doc): The docs.
    RAISES (ValueError): M101 if the file does not exist, M157 if pyarrow is missing, M156 if the
        file is no Parquet file; as `read_records`.
    """
    if not path.is_file():
        raise ValueError(Errors.M101.format(path=path))
    try:
        import pyarrow
        from pyarrow.parquet import read_table
    except ImportError as error:
        install = get_install_line("parquet")
        raise ValueError(
            Errors.M157.format(path=path, package="pyarrow", install=install)
        ) from error
    try:
        table = read_table(path)
    except pyarrow.ArrowException as error:
        raise ValueError(Errors.M156.format(path=path, error=error)) from error
    own_names = find_names(json.loads((table.schema.metadata or {}).get(METADATA, "{}")))
    with Omissions(path, skip_errors, HINT, "record") as omissions:
        yield from read_records(
            omissions,
            enumerate(table.to_pylist(), 1),
            vocab,
            lang=lang,
            text=text,
            category=category,
            names=names,
            spans=spans,
            own_names=own_names,
        )
