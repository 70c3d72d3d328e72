"""Packs batches of several lengths into one call of the encoder.

Small calls are expensive: each reads all weights, and in training each adds a gradient of all
weights. Packing suits encoders in which wordpieces meet in attention only.
"""

from collections.abc import Sequence

import numpy
import torch

from ....compat import PreTrainedModel, get_setting, is_checkpointing
from ....types import Ints2d
from ..base import Block

# Encoders with absolute positions, torch's attention, and nothing else between wordpieces.
FAMILIES = {"albert", "bert", "camembert", "roberta", "xlm-roberta"}
ROWS_STEP = 32  # wordpieces; oneDNN compiles code for each number of rows, and caches it
MASKED = -1e30  # an attention score so low that its exponential is 0


def can_pack(module: torch.nn.Module) -> bool:
    """RETURNS (bool): Whether an encoder computes each sequence on its own if attention does."""
    if not isinstance(module, PreTrainedModel) or module.config.model_type not in FAMILIES:
        return False
    config = module.config
    return (
        config._attn_implementation == "sdpa"
        and get_setting(config, "position_embedding_type", "absolute") == "absolute"
        and not (config.output_attentions or get_setting(config, "is_decoder", False))
        and not is_checkpointing(module)
    )


def pack(
    batches: Sequence[tuple[Ints2d, Ints2d, Ints2d]], first_position: int
) -> tuple[dict[str, torch.Tensor | bool], list[Block]]:
    """Concatenate padded batches into one sequence.

    batches: For each batch the vocabulary ids, 1 where there is no padding, and the segments; all
        B x L.
    first_position (int): The position of each sequence's first wordpiece. As in Hugging Face's
        RoBERTa the id before it is the padding's, which has its own position everywhere.
    RETURNS (Tuple[Dict[str, torch.Tensor], List[Block]]): The arguments of the encoder, 1 x T, and
        the groups of the T wordpieces.
    """
    rows, types, positions, blocks = [], [], [], []
    # The sequence ends with an ordinary wordpiece: Hugging Face warns of padding without a mask.
    n_tail = ROWS_STEP - sum(ids.size for ids, *_ in batches) % ROWS_STEP
    tail = numpy.full((n_tail, 1), batches[0][0][0, 0])
    for ids, mask, segments in [*batches, (tail, numpy.ones_like(tail), numpy.zeros_like(tail))]:
        n, length = ids.shape
        n_padded = int(length - mask.sum(axis=1).min())
        is_padding = torch.from_numpy(mask[:, length - n_padded :] == 0).view(n, 1, 1, -1)
        added = torch.zeros(is_padding.shape).masked_fill_(is_padding, MASKED)
        blocks.append(Block(n, length, added if n_padded else None))
        rows.append(ids.ravel())
        types.append(segments.ravel())
        is_counted = ids != first_position - 1 if first_position else numpy.ones_like(ids)
        counts = numpy.cumsum(is_counted, axis=1) * is_counted
        positions.append(counts.ravel() + first_position - 1)
    packed = torch.from_numpy(numpy.concatenate(rows))[None]
    inputs: dict[str, torch.Tensor | bool] = {
        "input_ids": packed,
        "token_type_ids": torch.from_numpy(numpy.concatenate(types))[None],
        "position_ids": torch.from_numpy(numpy.concatenate(positions))[None],
    }
    return inputs, blocks
