"""A transformer decoder that writes pieces of a vocabulary, or copies tokens of the source."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from thinc.api import torch2xp
from torch import Tensor, nn

from .model import Weights

END = 0  # the number of the end of a text, which also is the input before the first unit
NEVER = -1e9  # a logarithm whose exponential is 0, and whose gradient is finite
KeysValues: TypeAlias = tuple[Tensor, Tensor]


class Source(NamedTuple):
    """The sources of B docs with at most T tokens.

    rows (Tensor): The token vectors, B x T x D.
    mask (Tensor): Whether there is a token, B x T.
    copies (Tensor): The number of the unit that each copy writes, B x 2 T: first those without a
        space before the token. -1 where there is no token.
    """

    rows: Tensor
    mask: Tensor
    copies: Tensor


class Attention(nn.Module):
    """Attention with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """RETURNS (Tensor): Vectors by head: B x heads x L x D / heads, from B x L x D."""
        by_head: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return by_head

    def project(self, x: Tensor) -> KeysValues:
        """RETURNS (Tuple[Tensor, Tensor]): Keys and values by head."""
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self.split(keys), self.split(values)

    def forward(
        self, x: Tensor, known: KeysValues, mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        found = F.scaled_dot_product_attention(
            self.split(self.query(x)), *known, attn_mask=mask, is_causal=is_causal
        )
        result: Tensor = self.output(found.transpose(1, 2).flatten(2))
        return result


class Layer(nn.Module):
    """Attention to the text so far, attention to the source, and a feed-forward layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(width, heads)
        self.source_norm, self.source_attention = nn.LayerNorm(width), Attention(width, heads)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden, self.output = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self,
        x: Tensor,
        past: KeysValues | None,
        source: KeysValues,
        mask: Tensor,
        dropout: float,
    ) -> tuple[Tensor, KeysValues]:
        """Compute the layer for L units of K texts per doc.

        x (Tensor): The vectors of the units, B K x L x D.
        past (Optional[Tuple[Tensor, Tensor]]): The keys and values of the units before. With them L
            has to be 1.
        source (Tuple[Tensor, Tensor]): The keys and values of the source tokens.
        mask (Tensor): Where there are source tokens, B x T.
        dropout (float): The dropout rate.
        RETURNS (Tuple[Tensor, Tuple[Tensor, Tensor]]): The new vectors, B K x L x D, and the keys
            and values of all units so far.
        """
        normed = self.self_norm(x)
        known = self.self_attention.project(normed)
        if past is not None:
            known = torch.cat([past[0], known[0]], 2), torch.cat([past[1], known[1]], 2)
        own = self.self_attention(normed, known, is_causal=past is None)
        x = x + F.dropout(own, dropout)
        by_doc = self.source_norm(x).reshape(len(mask), -1, x.shape[-1])
        read = self.source_attention(by_doc, source, mask[:, None, None]).view(x.shape)
        x = x + F.dropout(read, dropout)
        hidden = F.dropout(F.gelu(self.hidden(self.hidden_norm(x))), dropout)
        return x + F.dropout(self.output(hidden), dropout), known


class Decoder(nn.Module):
    """Computes the probability of each unit of a text, given the units before and the source.

    n_pieces (int): The size of the vocabulary, V. Units from there on are copies.
    width, depth, heads (int): The sizes.
    """

    def __init__(self, n_pieces: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.n_pieces, self.width = n_pieces, width
        self.embedding = nn.Parameter(torch.empty(n_pieces, width))  # of inputs and of outputs
        self.b = nn.Parameter(torch.empty(n_pieces))  # the name in all output layers
        self.source_norm = nn.LayerNorm(width)
        self.copied = nn.Linear(width, 2 * width)  # the input after a copy without, with a space
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        # Without it, the tied embedding starts by predicting the piece that it has read.
        self.output = nn.Linear(width, width)
        self.pointer = nn.Linear(width, 2 * width)  # the queries for copies without, with a space
        self.gate = nn.Linear(width, 1)

    def reset(self) -> None:
        """Draw the embedding. The output layers of attention and of feed-forward layers start at
        0.
        """
        nn.init.normal_(self.embedding, std=self.width**-0.5)
        nn.init.zeros_(self.b)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            for output in (layer.self_attention.output, layer.source_attention.output):
                nn.init.zeros_(output.weight)
                nn.init.zeros_(output.bias)
            nn.init.zeros_(layer.output.weight)
            nn.init.zeros_(layer.output.bias)

    # Inputs

    def read(self, rows: Tensor, mask: Tensor, copies: Tensor) -> Source:
        """RETURNS (Source): Rows of docs with their layer norm and positions."""
        positions = get_positions(torch.arange(rows.shape[1], device=rows.device), self.width)
        return Source(self.source_norm(rows) + positions, mask, copies)

    def project(self, source: Source) -> list[KeysValues]:
        """RETURNS (List[Tuple[Tensor, Tensor]]): Each layer's keys and values of the source."""
        return [layer.source_attention.project(source.rows) for layer in self.layers]  # type: ignore

    def embed(self, units: Tensor, start: int, source: Source) -> Tensor:
        """Embed units: the sum of the piece, the first token of which the unit is a copy, and the
        position.

        units (Tensor): The numbers of K L units per doc, B x K x L.
        start (int): The position of the first of the L units in its text.
        source (Source): The sources.
        RETURNS (Tensor): The vectors, B x K x L x D.
        """
        is_piece = (units < self.n_pieces).unsqueeze(-1)
        pieces = F.embedding(units.clamp(max=self.n_pieces - 1), self.embedding)
        is_copy, place = (units.unsqueeze(-1) == source.copies[:, None, None]).max(-1)
        n, length = source.rows.shape[:2]
        docs = torch.arange(n, device=units.device)[:, None, None]
        with_space = self.copied(source.rows).unflatten(-1, (2, -1))
        copies = with_space[docs, place % length, place // length]
        positions = torch.arange(start, start + units.shape[-1], device=units.device)
        vectors: Tensor = math.sqrt(self.width) * is_piece * pieces
        vectors = vectors + is_copy.unsqueeze(-1) * copies
        return vectors + get_positions(positions, self.width)

    # Outputs

    def forward(
        self,
        units: Tensor,
        source: Source,
        projected: Sequence[KeysValues],
        past: Sequence[KeysValues] | None = None,
        start: int = 0,
        dropout: float = 0.0,
    ) -> tuple[tuple[Tensor, Tensor], list[KeysValues]]:
        """Compute the log-probabilities of the unit after each of L units of K texts per doc.

        units (Tensor): The units, B x K x L; END is the input before the first one.
        source (Source): The sources.
        projected (Sequence[Tuple[Tensor, Tensor]]): The result of `project` for them.
        past (Optional[Sequence[Tuple[Tensor, Tensor]]]): Each layer's keys and values of earlier
            units.
        start (int): The number of earlier units.
        dropout (float): The dropout rate.
        RETURNS (Tuple[Tuple[Tensor, Tensor], List[Tuple[Tensor, Tensor]]]): The log-probabilities
            of pieces, B x K L x V, and of copies, B x K L x 2 T, and the keys and values for the
            next units. The probabilities of both sum up to 1.
        """
        vectors = self.embed(units, start, source).flatten(0, 1)
        x = F.dropout(vectors, dropout)
        known = []
        for i, layer in enumerate(self.layers):
            x, own = layer(x, past and past[i], projected[i], source.mask, dropout)
            known.append(own)
        x = self.norm(x).reshape(len(source.mask), -1, self.width)
        pieces = F.linear(self.output(x), self.embedding, self.b).log_softmax(-1)
        queries = self.pointer(x).unflatten(-1, (2, -1)) / math.sqrt(self.width)
        scores = torch.einsum("bqsd,btd->bqst", queries, source.rows)
        scores = scores.masked_fill(~source.mask[:, None, None], NEVER)
        copies = scores.flatten(2).log_softmax(-1)
        gate = self.gate(x)
        return (pieces + F.logsigmoid(gate), copies + F.logsigmoid(-gate)), known


def make_weights(n_pieces: int, width: int, depth: int, heads: int) -> Weights:
    """RETURNS (Dict[str, FloatsXd]): The initial weights of a decoder, by name."""
    decoder = Decoder(n_pieces, width, depth, heads)
    decoder.reset()
    return {name: torch2xp(weight.detach()) for name, weight in decoder.named_parameters()}


def load_decoder(weights: dict[str, Tensor], depth: int, heads: int) -> Decoder:
    """RETURNS (Decoder): A decoder with these weights, which are not copied."""
    n_pieces, width = weights["embedding"].shape
    with torch.device("meta"):
        decoder = Decoder(n_pieces, width, depth, heads)
    decoder.load_state_dict(weights, assign=True)
    return decoder


def get_positions(positions: Tensor, width: int) -> Tensor:
    """RETURNS (Tensor): The sinusoidal vectors of positions, L x D: Vaswani et al. (2017), section
    3.5.
    """
    n = (width + 1) // 2
    rates = torch.exp(torch.arange(n, device=positions.device) * (-math.log(10000) / n))
    angles = positions[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def mix(log_p: tuple[Tensor, Tensor], copies: Tensor, n_units: int) -> Tensor:
    """Add the probabilities of copies to those of the same units.

    log_p (Tuple[Tensor, Tensor]): The log-probabilities of pieces, B x Q x V, and of copies, B x Q
        x 2 T.
    copies (Tensor): The unit that each copy writes, B x 2 T; -1 for none.
    n_units (int): The number of units of the batch, U.
    RETURNS (Tensor): The log-probabilities of units, B x Q x U.
    """
    pieces, pointers = (part.exp() for part in log_p)
    total = F.pad(pieces, (0, n_units - pieces.shape[-1]))
    places = copies.clamp(min=0)[:, None].expand_as(pointers)
    return total.scatter_add(-1, places, pointers).log()


def score_targets(log_p: tuple[Tensor, Tensor], copies: Tensor, targets: Tensor) -> Tensor:
    """Compute the log-probabilities of given units: those of the piece and of all copies.

    log_p, copies: As for `mix`.
    targets (Tensor): A unit for each row, B x Q; -1 for none, whose result has no meaning.
    RETURNS (Tensor): The log-probabilities, B x Q.
    """
    pieces, pointers = log_p
    n_pieces = pieces.shape[-1]
    chosen = pieces.gather(-1, targets.clamp(0, n_pieces - 1).unsqueeze(-1)).squeeze(-1)
    generated = chosen.masked_fill(targets >= n_pieces, NEVER)
    is_copy = targets.unsqueeze(-1) == copies[:, None]
    copied = pointers.masked_fill(~is_copy, NEVER).logsumexp(-1)
    return torch.logaddexp(generated, copied)
