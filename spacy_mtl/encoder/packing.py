"""Batches of several lengths laid behind each other, for one forward pass of encoders in which
wordpieces meet in attention only. In training small passes are dear: the gradient of each is added
to that of all weights.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..types import Ints1d, Ints2d
from .kernels import FORBIDDEN

# Those with absolute positions, attention by torch's function, and nothing else between wordpieces.
FAMILIES = {"albert", "bert", "camembert", "roberta", "xlm-roberta"}
STEP = 32  # wordpieces; a CPU's library compiles code for each number of rows, and keeps it

Batch = tuple[Ints1d, int]  # indices of sequences, and the length to pad them to


class Block(NamedTuple):
    """Sequences of one length in a packed pass.

    n (int): How many, B.
    length (int): Wordpieces of each, padding included, L.
    mask (Optional[torch.Tensor]): What to add to their attention scores, B x 1 x 1 x L.
    """

    n: int
    length: int
    mask: torch.Tensor | None


class AttendWithin(TorchFunctionMode):
    """While active in a thread, each sequence of a packed pass attends to itself.

    blocks (Sequence[Block]): What stands behind each other, T wordpieces in all.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = blocks
        self.sizes = [block.n * block.length for block in blocks]

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            return self.attend(*args, **kwargs or {})
        return func(*args, **kwargs or {})

    def attend(
        self, query: Any, key: Any, value: Any, attn_mask: None = None, **options: Any
    ) -> Any:
        """RETURNS (torch.Tensor): As of torch's function, 1 x H x T x D."""
        assert attn_mask is None, "the pass as a whole has no mask"
        parts = zip(*(x[0].split(self.sizes, dim=1) for x in (query, key, value)), strict=True)
        found = []
        for block, part in zip(self.blocks, parts, strict=True):
            q, k, v = (x.unflatten(1, (block.n, block.length)).transpose(0, 1) for x in part)
            y = functional.scaled_dot_product_attention(q, k, v, block.mask, **options)
            found.append(y.transpose(1, 2).flatten(0, 1))
        return torch.cat(found).transpose(0, 1)[None]


def can_pack(module: Any) -> bool:
    """RETURNS (bool): Whether an encoder reads sequences for themselves, if its attention does."""
    config = module.config
    return (
        config.model_type in FAMILIES
        and config._attn_implementation == "sdpa"
        and config.position_embedding_type == "absolute"
        and not (config.output_attentions or config.is_decoder)
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
    first_position (int): Of each sequence.
    RETURNS (Tuple[Dict[str, torch.Tensor], List[Block]]): What to call the encoder with, 1 x T, and
        which of the T wordpieces belong together.
    """
    rows, positions, blocks = [], [], []
    # Something that is no padding stands at the end, or Hugging Face would warn of it.
    n_tail = STEP - sum(ids.size for ids, _ in padded) % STEP
    tail = numpy.full((n_tail, 1), padded[0][0][0, 0])
    for ids, mask in [*padded, (tail, numpy.ones_like(tail))]:
        n, length = ids.shape
        hidden = torch.from_numpy(mask == 0).view(n, 1, 1, length)
        added = torch.zeros(hidden.shape).masked_fill_(hidden, FORBIDDEN)
        blocks.append(Block(n, length, None if mask.all() else added))
        rows.append(ids.ravel())
        positions.append(numpy.tile(numpy.arange(length), n) + first_position)
    ids = torch.from_numpy(numpy.concatenate(rows))[None]
    inputs = {
        "input_ids": ids,
        "token_type_ids": torch.zeros_like(ids),
        "position_ids": torch.from_numpy(numpy.concatenate(positions))[None],
    }
    return inputs, blocks
