"""The optional dependencies: the extras of `setup.cfg`, read from the installed metadata."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NAME = "spacy-mtl"


def get_extras() -> list[str]:
    """RETURNS (List[str]): The names of the extras of spacy-mtl."""
    return distribution(NAME).metadata.get_all("Provides-Extra") or []


def get_requirements(name: str, extra: str = "") -> Iterator[Requirement]:
    """Read the requirements of an installed package for this Python and platform.

    name (str): The package.
    extra (str): One of its extras, or "" for the requirements of the package without extras.
    YIELDS (Requirement): The requirements that the extra adds, without their markers. An extra that
        names other extras of its package gives their requirements.
    """
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        marker, requirement.marker = requirement.marker, None
        is_added = marker is not None and not marker.evaluate({"extra": ""})
        if bool(extra) != is_added or (marker and not marker.evaluate({"extra": extra})):
            continue
        if canonicalize_name(requirement.name) == canonicalize_name(name):
            for other in sorted(requirement.extras):
                yield from get_requirements(name, other)
        else:
            yield requirement


def find_missing(extra: str) -> list[str]:
    """RETURNS (List[str]): The requirements of an extra of spacy-mtl that are not installed, or
    are installed in another version.
    """
    return [str(needed) for needed in get_requirements(NAME, extra) if not is_installed(needed)]


def is_installed(requirement: Requirement) -> bool:
    """RETURNS (bool): Whether a package is installed in a version that is required, with the
    packages of the extras that are required.
    """
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return False
    more = (r for extra in requirement.extras for r in get_requirements(requirement.name, extra))
    return requirement.specifier.contains(found, prereleases=True) and all(map(is_installed, more))


def get_install_line(extra: str) -> str:
    """Return the command that installs an extra. It names the packages, since `spacy-mtl[...]`
    needs spacy-mtl itself on a package index.

    extra (str): The extra.
    RETURNS (str): The command, such as `pip install "peft<1,>=0.21"`.
    """
    packages = (f'"{requirement}"' for requirement in get_requirements(NAME, extra))
    return " ".join(["pip install", *packages])
