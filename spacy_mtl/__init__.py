"""Multi-task learning for spaCy: one shared transformer, any number of heads."""

__version__ = "0.1.0"
