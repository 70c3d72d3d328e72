"""Findings: the results of checks."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Finding:
    """A problem.

    message (str): The message, which begins with its code.
    is_failure (bool): Whether training is pointless until the problem is solved.
    """

    message: str
    is_failure: bool = False


def has_failure(findings: Iterable[Finding]) -> bool:
    """RETURNS (bool): Whether one of the findings is a failure."""
    return any(finding.is_failure for finding in findings)
