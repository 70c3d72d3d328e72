"""Named entity recognition: tags for tokens, scores of transitions, exact decoding."""

from .tagging import get_chain, get_spans, get_tags

__all__ = ["get_chain", "get_spans", "get_tags"]
