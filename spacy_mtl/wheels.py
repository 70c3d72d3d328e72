"""Builds what another machine needs to run a pipeline: the wheels and a lock file."""

import base64
import hashlib
import platform
import shutil
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from tempfile import TemporaryDirectory

import srsly
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from spacy.cli.package import package

from . import __version__
from .errors import Errors
from .extras import NAME, find_missing, get_install_line, get_requirements
from .files import replacing

LOCK = "requirements.txt"
HEADER = "# Made by `python -m spacy mtl package`"
WHEEL = "Wheel-Version: 1.0\nGenerator: spacy-mtl\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# Starts of the names of metadata that belong to the package. Installers add files of their own.
METADATA = ("METADATA", "entry_points.txt", "top_level.txt", "licenses/")


def build_bundle(
    pipeline: Path,
    folder: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    code_path: Path | None = None,
) -> list[Path]:
    """Build the wheel of a pipeline, the wheel of spacy-mtl, and a requirements.txt with the exact
    installed version of each package that the pipeline needs.

    pipeline (Path): The folder of the pipeline.
    folder (Path): The folder to write to, made if it is not there.
    name, version (Optional[str]): The name and version of the pipeline's package. By default those
        of its meta.json.
    code_path (Optional[Path]): A Python file with registered functions, included in the wheel.
    RETURNS (List[Path]): The two wheels and the requirements.txt.
    RAISES (ValueError): M270 if the package `build` is missing, M271 or M272 if the environment
        cannot be copied, M273 if `folder` has another requirements.txt.
    """
    lock = folder / LOCK
    if lock.exists() and not lock.read_text(encoding="utf8").startswith(HEADER):
        raise ValueError(Errors.M273.format(path=lock))
    if missing := find_missing("package"):
        install = get_install_line("package")
        raise ValueError(Errors.M270.format(missing=", ".join(missing), install=install))
    folder.mkdir(parents=True, exist_ok=True)
    own = build_own_wheel(folder)
    with TemporaryDirectory() as temporary:
        work = Path(temporary)
        package(
            pipeline,
            work,
            name=name,
            version=version,
            code_paths=[code_path] if code_path else [],
            create_sdist=False,
            create_wheel=True,
            require_parent=True,
        )
        (built,) = work.glob("*/dist/*.whl")
        (made,) = work.glob("*/meta.json")
        meta = srsly.read_json(made)
        with replacing(folder / built.name) as new:
            shutil.copyfile(built, new)
    title = f"{meta['lang']}_{meta['name'].removeprefix(meta['lang'] + '_')}"
    pins = pin(title, meta["requirements"])
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    lines = [f"{HEADER} on {machine}", "--find-links .", f"{title}=={meta['version']}", *pins]
    with replacing(lock) as new:
        new.write_text("".join(f"{line}\n" for line in lines), encoding="utf8")
    return [folder / built.name, own, lock]


def build_own_wheel(folder: Path) -> Path:
    """Build the wheel of spacy-mtl from the installed package. Needs neither a checkout nor a
    package index, and works for editable installations too.

    folder (Path): The folder to write to.
    RETURNS (Path): The wheel.
    RAISES (ValueError): M271 if the package was not installed by pip, or is of another version than
        its metadata.
    """
    root = Path(__file__).parent
    installed = find_installed()
    stem = f"{root.name}-{installed.version}"
    content = {
        f"{root.name}/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not {"__pycache__", ".DS_Store"} & set(path.parts)
    }
    for file in installed.files or ():
        name = file.as_posix().removeprefix(f"{stem}.dist-info/")
        if name.startswith(METADATA):
            content[f"{stem}.dist-info/{name}"] = file.read_binary()
    content[f"{stem}.dist-info/WHEEL"] = WHEEL.encode()
    record = f"{stem}.dist-info/RECORD"
    lines = [*map(get_record, content, content.values()), f"{record},,"]
    content[record] = "".join(f"{line}\n" for line in lines).encode()
    path = folder / f"{stem}-py3-none-any.whl"
    with replacing(path) as new, zipfile.ZipFile(new, "w") as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name)  # dated 1980: the same files give the same wheel
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def find_installed() -> Distribution:
    """RETURNS (Distribution): The metadata that pip has installed for spacy-mtl. A checkout may
    have an egg-info folder too, which lacks files.
    RAISES (ValueError): M271 if there is none, or for another version.
    """
    for found in distributions(name=NAME):
        if found.read_text("WHEEL") and found.version == __version__:
            return found
    raise ValueError(Errors.M271.format(version=__version__, path=Path(__file__).parent))


def get_record(name: str, data: bytes) -> str:
    """RETURNS (str): The line of a file in a wheel's RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}"


def pin(package: str, requirements: Iterable[str]) -> list[str]:
    """Pin the packages that a package needs, and those that they need, to the installed versions.

    package (str): The package.
    requirements (Iterable[str]): Its requirements.
    RETURNS (List[str]): A line `name==version` for each package. It has no local version, such as
        the `+cpu` of torch, because package indexes differ in these.
    RAISES (ValueError): M272 if a package is missing or has a version that is not allowed.
    """
    pins: dict[str, str] = {}
    todo = [(package, Requirement(line)) for line in requirements]
    seen: set[tuple[str, str]] = set()
    while todo:
        parent, needed = todo.pop()
        found = get_version(parent, needed)
        name = canonicalize_name(needed.name)
        pins[name] = f"{name}=={found.public}"
        for extra in {"", *needed.extras} - {extra for n, extra in seen if n == name}:
            seen.add((name, extra))
            todo += [(name, more) for more in get_requirements(name, extra)]
    return [pins[name] for name in sorted(pins)]


def get_version(parent: str, needed: Requirement) -> Version:
    """RETURNS (Version): The installed version of a package.
    RAISES (ValueError): M272 if it is missing or is not allowed.
    """
    try:
        found = Version(distribution(needed.name).version)
        if needed.specifier.contains(found, prereleases=True):
            return found
        state = f"version {found} is installed"
    except PackageNotFoundError:
        state = "it is not installed"
    raise ValueError(Errors.M272.format(package=parent, needed=needed, state=state))
