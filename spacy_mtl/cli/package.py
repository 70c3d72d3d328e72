"""`spacy mtl package`: a pipeline's wheel with all that another machine needs."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option
from wasabi import msg

from .app import command
from .options import CodePath


@command("package", "Cannot package")
def package_cli(
    pipeline: Annotated[
        Path, Argument(help="Folder of the pipeline", exists=True, file_okay=False)
    ],
    output: Annotated[Path, Argument(help="Folder for the wheels", file_okay=False)],
    name: Annotated[
        str | None, Option("--name", "-n", help="Name of the package, without the language")
    ] = None,
    version: Annotated[str | None, Option("--version", "-v", help="Version of the package")] = None,
    code_path: CodePath = None,
) -> None:
    """
    Build wheels of a pipeline for other machines.

    The other machines need no checkout of spacy-mtl. Writes the pipeline's wheel (by `spacy
    package`), the wheel of spacy-mtl, and a requirements.txt with the exact versions of all
    packages that the pipeline needs to predict, as installed here. `pip install -r
    OUTPUT/requirements.txt` installs them. For a machine without a network, first run `pip download
    -r OUTPUT/requirements.txt -d OUTPUT` on the same kind of machine.

    Example: python -m spacy mtl package training/model-best dist --name news
    """
    from ..wheels import build_bundle

    for path in build_bundle(pipeline, output, name=name, version=version, code_path=code_path):
        msg.good(str(path))
    lock = output / "requirements.txt"
    # printed as they are: wasabi would break long lines
    print(f"Install:                   pip install -r {lock}")
    print(f"Fetch for offline use:     pip download -r {lock} -d {output}")
    print(f"Install without a network: pip install --no-index --find-links {output} -r {lock}")
