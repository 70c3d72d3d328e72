"""Checks of a config before training: its corpora, its tasks, its encoder, and one batch."""

from .examination import Examination
from .finding import Finding

__all__ = ["Examination", "Finding"]
