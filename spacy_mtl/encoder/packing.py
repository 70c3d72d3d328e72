"""Batches of several lengths laid behind each other, for one forward pass of encoders in which
wordpieces meet in attention only. Small passes are dear: each reads all weights, and in training
its gradient is added to that of all.
"""

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from transformers import PreTrainedModel

from ..types import Ints1d, Ints2d
from .attention import FORBIDDEN, Block

# Those with absolute positions, attention by torch's function, and nothing else between wordpieces.
FAMILIES = {"albert", "bert", "camembert", "roberta", "xlm-roberta"}
STEP = 32  # wordpieces; a CPU's library compiles code for each number of rows, and keeps it

Batch = tuple[Ints1d, int]  # indices of sequences, and the length to pad them to


def can_pack(module: Any) -> bool:
    """RETURNS (bool): Whether an encoder reads sequences for themselves, if its attention does."""
    config = module.config
    return (
        isinstance(module, PreTrainedModel)
        and config.model_type in FAMILIES
        and config._attn_implementation == "sdpa"
        and config.position_embedding_type == "absolute"
        and not (config.output_attentions or config.is_decoder or module.is_gradient_checkpointing)
    )


def get_first_position(module: Any) -> int:
    """RETURNS (int): From where on an encoder counts positions: RoBERTa and its kin from the
    padding id on.
    """
    embeddings = getattr(module, "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return 0 if padding is None else padding + 1


def make_passes(batches: Sequence[Batch], budget: int) -> list[list[Batch]]:
    """RETURNS (List[List[Batch]]): Batches that are read together, as many as fit the budget of
    wordpieces.
    """
    passes: list[list[Batch]] = []
    left = 0
    for batch, length in batches:
        size = len(batch) * length
        if size > left:
            passes.append([])
            left = budget
        passes[-1].append((batch, length))
        left -= size
    return passes


def pack(
    padded: Sequence[tuple[Ints2d, Ints2d]], first_position: int
) -> tuple[dict[str, torch.Tensor], list[Block]]:
    """Lay padded batches behind each other.

    padded: The vocabulary ids of each batch, and 1 where there is no padding; both B x L.
    first_position (int): Of each sequence. As for Hugging Face the id before it is that of the
        padding, which has its own number for a position, in a text too.
    RETURNS (Tuple[Dict[str, torch.Tensor], List[Block]]): What to call the encoder with, 1 x T, and
        which of the T wordpieces belong together.
    """
    rows, positions, blocks = [], [], []
    # Something that is no padding stands at the end, or Hugging Face would warn of it.
    n_tail = STEP - sum(ids.size for ids, _ in padded) % STEP
    tail = numpy.full((n_tail, 1), padded[0][0][0, 0])
    for ids, mask in [*padded, (tail, numpy.ones_like(tail))]:
        n, length = ids.shape
        n_padded = length - mask.sum(axis=1).min()
        hidden = torch.from_numpy(mask[:, length - n_padded :] == 0).view(n, 1, 1, -1)
        added = torch.zeros(hidden.shape).masked_fill_(hidden, FORBIDDEN)
        blocks.append(Block(n, length, added if n_padded else None))
        rows.append(ids.ravel())
        is_counted = ids != first_position - 1 if first_position else numpy.ones_like(ids)
        counts = numpy.cumsum(is_counted, axis=1) * is_counted
        positions.append(counts.ravel() + first_position - 1)
    ids = torch.from_numpy(numpy.concatenate(rows))[None]
    inputs = {
        "input_ids": ids,
        "token_type_ids": torch.zeros_like(ids),
        "position_ids": torch.from_numpy(numpy.concatenate(positions))[None],
    }
    return inputs, blocks
