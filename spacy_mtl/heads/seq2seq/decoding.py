"""Losses of given texts, and the search for likely ones."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy
import torch
from thinc.api import torch2xp, xp2torch
from torch import Tensor

from ...encoder.model.wordpieces import PADDING_SHARE, batch_by_length
from ...encoder.runtime.cpu.threads import limit_threads
from ...types import Ints1d
from .decoder import END, Decoder, KeysValues, Source, load_decoder, mix, score_targets
from .model import Factors, Sizes

BUDGET = 16384  # tokens and units per batch of the decoder, padding included
SEARCH_PADDING = 0.5  # share of padding in a search, whose steps cost more than source tokens


class Text(NamedTuple):
    """A text that the decoder wrote.

    units (List[int]): The units, without the end.
    log_p (float): The log-likelihood in nats, with that of the end.
    is_complete (bool): Whether the end was reached.
    """

    units: list[int]
    log_p: float
    is_complete: bool


def find_loss(
    factors: Factors,
    sizes: Sizes,
    copies: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int] | None],
    label_smoothing: float = 0.0,
) -> tuple[float, Factors, int]:
    """Compute the mean negative log-likelihood of the units of given texts, each after the right
    units before it.

    factors (Factors): The output of the model.
    sizes (Sizes): The sizes of the decoder.
    copies (Sequence[Sequence[int]]): For each doc the unit of each copy, 2 x T.
    targets (Sequence[Optional[Sequence[int]]]): For each doc the units of its text, with the end;
        None if it has none.
    label_smoothing (float): Share of each target that is spread evenly over the pieces.
    RETURNS (Tuple[float, Factors, int]): The mean in nats, its gradient, and the number of units.
    """
    limit_threads()
    rows, decoder = load(factors, sizes)
    rows.requires_grad_()
    parameters = dict(decoder.named_parameters())
    given = [i for i, units in enumerate(targets) if units]
    n = sum(len(units or ()) for units in targets)
    total = rows.new_zeros(())
    with torch.enable_grad():
        costs = [len(copies[i]) // 2 + len(targets[i] or ()) for i in given]
        for docs, source in make_sources(decoder, rows, copies, given, costs):
            gold = pad([targets[i] or () for i in docs], rows.device)
            units = torch.nn.functional.pad(gold[:, :-1].clamp(min=END), (1, 0), value=END)
            log_p, _ = decoder(
                units[:, None], source, decoder.project(source), dropout=factors.dropout
            )
            is_unit = gold >= 0
            right = score_targets(log_p, source.copies, gold)[is_unit].sum()
            even = log_p[0].mean(-1)[is_unit].sum() if label_smoothing else 0.0
            total = total - (1 - label_smoothing) * right - label_smoothing * even
    if not n:
        return 0.0, to_gradient(torch.zeros_like(rows), {}), 0
    loss = total / n
    d_rows, *d_weights = torch.autograd.grad(loss, [rows, *parameters.values()])
    gradients = dict(zip(parameters, d_weights, strict=True))
    return float(loss.detach()), to_gradient(d_rows, gradients), n


def load(factors: Factors, sizes: Sizes) -> tuple[Tensor, Decoder]:
    """RETURNS (Tuple[Tensor, Decoder]): The rows and the decoder, in the memory of the factors."""
    rows: Any = factors.rows
    weights = {name: xp2torch(array) for name, array in factors.weights.items()}
    return xp2torch(rows), load_decoder(weights, *sizes)


def to_gradient(d_rows: Tensor, d_weights: Mapping[str, Tensor]) -> Factors:
    rows: Any = torch2xp(d_rows)
    return Factors(rows, {name: torch2xp(gradient) for name, gradient in d_weights.items()})


def write_texts(
    factors: Factors,
    sizes: Sizes,
    copies: Sequence[Sequence[int]],
    beam_width: int,
    max_length: int,
) -> list[Text]:
    """Find likely texts.

    factors, sizes, copies: As for `find_loss`.
    beam_width (int): The number of texts that are continued at a time; 1 for the best unit at each
        step.
    max_length (int): The largest number of units, with the end.
    RETURNS (List[Text]): The text of each doc; empty for a doc without tokens.
    """
    limit_threads()
    rows, decoder = load(factors, sizes)
    found = [Text([], 0.0, True) for _ in copies]
    filled = [i for i, units in enumerate(copies) if units]
    with torch.inference_mode():
        tokens = [len(copies[i]) // 2 for i in filled]
        for docs, source in make_sources(decoder, rows, copies, filled, tokens, SEARCH_PADDING):
            for i, text in zip(docs, search(decoder, source, beam_width, max_length), strict=True):
                found[i] = text
    return found


def make_sources(
    decoder: Decoder,
    rows: Tensor,
    copies: Sequence[Sequence[int]],
    docs: Sequence[int],
    costs: Sequence[int],
    padding_share: float = PADDING_SHARE,
) -> Iterator[tuple[list[int], Source]]:
    """Group docs of similar length.

    decoder (Decoder): The decoder.
    rows (Tensor): The rows of all docs, N x D.
    copies (Sequence[Sequence[int]]): The copies of all docs.
    docs (Sequence[int]): The numbers of the docs to read.
    costs (Sequence[int]): The length of each of these docs: its tokens, and its units if they are
        known.
    padding_share (float): The largest share of padding in a group.
    YIELDS (Tuple[List[int], Source]): The numbers of the docs of a group, and their sources.
    """
    lengths: Ints1d = numpy.array([len(units) // 2 for units in copies], dtype="i")
    firsts, sizes = numpy.cumsum(lengths) - lengths, numpy.array(costs, dtype="i")
    limit = max(costs, default=1)
    for group, _ in batch_by_length(
        sizes, BUDGET, limit, few_shapes=False, padding_share=padding_share
    ):
        chosen = [docs[i] for i in group.tolist()]
        place = numpy.arange(lengths[chosen].max())
        mask = place < lengths[chosen][:, None]
        index = numpy.where(mask, firsts[chosen][:, None] + place, 0)
        halves: list[list[Sequence[int]]] = [
            [copies[i][: len(copies[i]) // 2] for i in chosen],
            [copies[i][len(copies[i]) // 2 :] for i in chosen],
        ]
        units = torch.cat([pad(half, rows.device) for half in halves], dim=1)
        read, is_token = (torch.from_numpy(array).to(rows.device) for array in (index, mask))
        yield chosen, decoder.read(rows[read], is_token, units)


def pad(lists: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """RETURNS (Tensor): Numbers >= 0 in rows as long as the longest, filled up with -1."""
    table = numpy.full((len(lists), max(map(len, lists))), -1, dtype="int64")
    for row, numbers in zip(table, lists, strict=True):
        row[: len(numbers)] = numbers
    return torch.from_numpy(table).to(device)


def search(decoder: Decoder, source: Source, beam_width: int, max_length: int) -> list[Text]:
    """Find likely texts by beam search. Texts are compared by their log-likelihood per unit. The
    search for a doc ends when its best text is complete.

    decoder (Decoder): The decoder.
    source (Source): The sources of B docs.
    beam_width (int): The number of texts that are continued at a time, K.
    max_length (int): The largest number of units, with the end.
    RETURNS (List[Text]): The best text of each doc.
    """
    n_docs, device = len(source.mask), source.rows.device
    n_units = max(decoder.n_pieces, int(source.copies.max()) + 1)
    projected, past = decoder.project(source), list[KeysValues]()
    docs = torch.arange(n_docs, device=device)
    units = torch.full((n_docs, beam_width, 1), END, device=device)
    sums = torch.full((n_docs, beam_width), -torch.inf, device=device)
    sums[:, 0] = 0  # all texts of a doc start equal, so only the first one is continued
    lengths = torch.zeros_like(sums)
    is_done = torch.zeros_like(sums, dtype=torch.bool)
    found = [Text([], 0.0, False) for _ in range(n_docs)]
    for step in range(max_length):
        log_p, past = decoder(units[..., -1:], source, projected, past or None, step)
        scores = mix(log_p, source.copies, n_units)
        scores[is_done] = -torch.inf
        scores[..., END].masked_fill_(is_done, 0.0)  # a complete text stays as it is
        lengths = lengths + ~is_done
        totals = (sums[..., None] + scores).flatten(1)
        means = totals / lengths.repeat_interleave(n_units, dim=1)
        _, best = means.topk(beam_width, dim=1)
        parents = best // n_units
        sums = totals.gather(1, best)
        lengths, is_done = lengths.gather(1, parents), is_done.gather(1, parents)
        new = (best % n_units)[..., None]
        units = torch.cat([units.gather(1, parents[..., None].expand_as(units)), new], dim=2)
        is_done = is_done | (new[..., 0] == END)
        ends = is_done[:, 0] if step < max_length - 1 else torch.ones_like(is_done[:, 0])
        for i in ends.nonzero()[:, 0].tolist():
            text = units[i, 0, 1:].tolist()
            text = text[: text.index(END)] if END in text else text
            found[int(docs[i])] = Text(text, float(sums[i, 0]), bool(is_done[i, 0]))
        if ends.all():
            break
        kept = (~ends).nonzero()[:, 0]
        rows = (kept[:, None] * beam_width + parents[kept]).flatten()
        past = [(keys[rows], values[rows]) for keys, values in past]
        if len(kept) < len(ends):
            docs, units, sums, lengths, is_done = (
                array[kept] for array in (docs, units, sums, lengths, is_done)
            )
            source = Source(*(part[kept] for part in source))
            projected = [(keys[kept], values[kept]) for keys, values in projected]
    return found
