"""Cuts wordpieces into padded batches, and batches into calls of the encoder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy
import torch

from ...types import Bools2d, Ints1d, Ints2d
from ..runtime.base import Block, Plan
from ..runtime.cpu.packing import pack
from .wordpieces import Wordpieces, batch_by_length, concat

if TYPE_CHECKING:
    from .transformer import SharedTransformer

BATCHES_PER_THREAD = 2  # at least, so that threads finish at about the same time
# Wordpieces that the device computes in the fixed time of a call: on a GPU, of its kernel launches.
SLACK = {"cpu": 32, "cuda": 4096}

Batch: TypeAlias = tuple[Ints1d, int]  # indices of sequences, and the length to pad them to


class Padded(NamedTuple):
    """A padded batch, B x L.

    ids (Ints2d): Vocabulary ids.
    mask (Ints2d): 1 where there is no padding.
    is_text (Bools2d): Where there is a wordpiece of the text.
    segments (Ints2d): The segment of each wordpiece.
    """

    ids: Ints2d
    mask: Ints2d
    is_text: Bools2d
    segments: Ints2d


def get_batches(
    model: "SharedTransformer", pieces: Wordpieces, n_threads: int = 1, *, packs: bool = False
) -> list[Batch]:
    """Group sequences by length.

    n_threads (int): Threads that share the batches. For several threads batches are smaller.
    packs (bool): Whether batches are packed into calls, so that small ones cost nothing: then
        there is hardly any padding.
    RETURNS (List[Batch]): The batches. Lengths include special tokens.
    """
    n_special = sum(map(len, model.special_ids))
    lengths, limit = pieces.lengths + n_special, model.max_length + n_special
    budget, device = model.attrs["max_batch_items"], model.device.type
    if n_threads > 1:
        budget = min(budget, int(lengths.sum()) // (BATCHES_PER_THREAD * n_threads))
    if packs:
        return list(batch_by_length(lengths, budget, limit, padding_share=0))
    slack = SLACK.get(device, SLACK["cuda"])
    return list(batch_by_length(lengths, budget, limit, slack, few_shapes=device == "cpu"))


def share(batches: Sequence[Batch], n: int) -> list[list[Batch]]:
    """RETURNS (List[List[Batch]]): The batches of each of n threads. From the largest batch down,
    each goes to the thread with the least wordpieces.
    """
    shares: list[list[Batch]] = [[] for _ in range(n)]
    sizes = [0] * n
    for batch, length in sorted(batches, key=lambda batch: -len(batch[0]) * batch[1]):
        least = sizes.index(min(sizes))
        shares[least].append((batch, length))
        sizes[least] += len(batch) * length
    return shares


def group_calls(batches: Sequence[Batch], budget: int) -> list[list[Batch]]:
    """Group batches into calls.

    budget (int): Wordpieces per call, padding included; 0 for one batch per call.
    RETURNS (List[List[Batch]]): The batches of each call.
    """
    calls: list[list[Batch]] = []
    left = 0
    for batch, length in batches:
        size = len(batch) * length
        if size > left:
            calls.append([])
            left = budget
        calls[-1].append((batch, length))
        left -= size
    return calls


def halve(batches: Sequence[Batch]) -> list[list[Batch]]:
    """RETURNS (List[List[Batch]]): Two calls in place of one; none if it has a single sequence."""
    half = len(batches) // 2
    if half:
        return [[*batches[:half]], [*batches[half:]]]
    [(batch, length)] = batches
    half = len(batch) // 2
    return [[(batch[:half], length)], [(batch[half:], length)]] if half else []


def plan_call(model: "SharedTransformer", pieces: Wordpieces, batches: Sequence[Batch]) -> Plan:
    """RETURNS (Plan): One call of the encoder for all batches, packed if there are several."""
    device = model.device
    rows = [
        concat([numpy.arange(*pieces.bounds[s : s + 2]) for s in batch]) for batch, _ in batches
    ]
    padded = [
        pad(model, pieces, batch, own, length)
        for (batch, length), own in zip(batches, rows, strict=True)
    ]
    blocks: Sequence[Block] = ()
    if len(batches) > 1:
        parts = [(ids, mask, segments) for ids, mask, _, segments in padded]
        inputs, blocks = pack(parts, get_first_position(model.transformer))
    else:
        inputs = get_inputs(model, padded[0])
    places = numpy.flatnonzero(concat([batch.is_text.ravel() for batch in padded]))
    return Plan(inputs, to_device(concat(rows), device), to_device(places, device), blocks)


def get_inputs(model: "SharedTransformer", padded: Padded) -> dict[str, torch.Tensor | bool]:
    """RETURNS (Dict[str, torch.Tensor]): The arguments of the encoder for one batch."""
    ids, mask, is_text, segments = padded
    inputs: dict[str, torch.Tensor | bool] = {"input_ids": to_device(ids, model.device)}
    if not mask.all():
        inputs["attention_mask"] = to_device(mask, model.device)
    types = model.special_types
    if any(types):
        segments[(mask == 1) & ~is_text] = types * len(ids)
    if segments.any():
        inputs["token_type_ids"] = to_device(segments, model.device)
    return inputs


def pad(
    model: "SharedTransformer", pieces: Wordpieces, batch: Ints1d, rows: Ints1d, length: int
) -> Padded:
    """Pad sequences to one length, with special tokens around each.

    batch (Ints1d): The indices of the sequences, B.
    rows (Ints1d): The positions of their wordpieces in `pieces.ids`.
    length (int): The length, L.
    """
    before, after = model.special_ids
    lengths = pieces.lengths[batch][:, None]
    position = numpy.arange(length) - len(before)
    mask = position < lengths + len(after)
    is_text = (position >= 0) & (position < lengths)
    ids: Ints2d = numpy.full(mask.shape, model.tokenizer.pad_token_id or 0)
    ids[:, : len(before)] = before
    ids[is_text] = pieces.ids[rows]
    ids[mask & (position >= lengths)] = after * len(batch)
    segments = numpy.zeros_like(ids)
    if pieces.segments is not None:
        segments[is_text] = pieces.segments[rows]
        # Special tokens at the end belong to the second text.
        segments[:] = numpy.maximum.accumulate(segments, axis=1) * mask
    return Padded(ids, mask.astype("int64"), is_text, segments)


def get_first_position(module: torch.nn.Module) -> int:
    """RETURNS (int): The position of the first wordpiece. RoBERTa and its relatives count from the
    padding's id on.
    """
    try:
        table = module.get_submodule("embeddings.position_embeddings")
    except AttributeError:  # another architecture
        return 0
    padding = table.padding_idx if isinstance(table, torch.nn.Embedding) else None
    return 0 if padding is None else padding + 1


def to_device(array: Any, device: torch.device) -> torch.Tensor:
    """RETURNS (torch.Tensor): The array on a device. Pinned memory lets the copy run meanwhile."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
