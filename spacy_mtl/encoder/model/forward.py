"""Runs the encoder over a batch of docs and pools its output to tokens."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from spacy.tokens import Doc
from thinc.api import torch2xp

from ...errors import Warnings
from ...types import Floats1d
from ..host import isolated
from ..layer_mix import get_numbers
from ..runtime.base import Forward, Part
from ..runtime.cpu.threads import run_parallel
from ..token_matrix import TokenMatrix
from .backward import EncoderPass
from .batches import Batch, get_batches, group_calls, halve, plan_call, share, to_device
from .weights import get_dtype
from .wordpieces import Wordpieces, share_pieces

if TYPE_CHECKING:
    from .transformer import SharedTransformer


def forward(
    model: "SharedTransformer", docs: Sequence[Doc], is_train: bool
) -> tuple[TokenMatrix, EncoderPass]:
    """Encode docs, and pool wordpieces to tokens."""
    model.limit_threads()
    n_threads = model.runtime.count_threads(model.transformer, is_train=is_train)
    work = Encoding(model, docs, n_threads, is_train=is_train)
    run_parallel(work.jobs)
    return work.finish()


class Encoding:
    """The forward pass over a batch of docs, as work for several threads.

    model (SharedTransformer): The encoder.
    docs (Sequence[Doc]): The docs.
    n_threads (int): The number of jobs.
    is_train (bool): Whether to keep what the backward pass needs.
    pieces (Optional[Wordpieces]): The docs' wordpieces, if they are known already.
    """

    @isolated
    def __init__(
        self,
        model: "SharedTransformer",
        docs: Sequence[Doc],
        n_threads: int,
        *,
        is_train: bool = False,
        pieces: Wordpieces | None = None,
    ) -> None:
        self.model, self.is_train, self.device = model, is_train, model.device
        self.version = model.lock.version  # of the weights, before the first call reads them
        if is_train:
            model.shim.add_adapters()
        self.module, self.runtime = model.transformer, model.runtime
        last = self.module.config.num_hidden_layers
        asked = get_numbers(model.attrs["layers"], last)
        self.layers = asked and tuple(sorted({*asked, last}))
        self.lengths = [len(doc) for doc in docs]
        self.pieces = model.get_wordpieces(docs) if pieces is None else pieces
        self.dtype = get_dtype(model.attrs["precision"], self.device)
        width = model.get_dim("nO") * max(1, len(self.layers))
        dtype = torch.float32 if is_train else self.dtype
        self.hidden = torch.empty(len(self.pieces.ids), width, dtype=dtype, device=self.device)
        packs = self.runtime.can_pack(self.module)
        budget = model.attrs["max_batch_items"] if packs else 0
        batches = get_batches(model, self.pieces, n_threads, packs=packs and is_train)
        self.calls = [group_calls(own, budget) for own in share(batches, n_threads)]
        self.parts = [Part([], []) for _ in self.calls]
        # Each thread has its own random numbers, so that no result depends on their order.
        self.seeds = [int(torch.randint(2**62, ())) if is_train else 0 for _ in self.calls]

    @property
    def jobs(self) -> list[Callable[[], None]]:
        """RETURNS (List[Callable[[], None]]): The calls of each thread."""
        # Not an attribute: bound methods would be a cycle, freed only by Python's collector.
        shares = zip(self.calls, self.parts, self.seeds, strict=True)
        return [partial(self._encode, *own) for own in shares]

    @isolated
    def _encode(self, calls: list[list[Batch]], part: Part, seed: int) -> None:
        """Run some calls of the encoder, and write the last hidden states of their wordpieces, or
        those of K layers side by side, to `self.hidden`.
        """
        with nullcontext() if self.is_train else self.model.lock.reading():
            with torch.inference_mode(not self.is_train), torch.set_grad_enabled(self.is_train):
                if self.is_train:
                    self.module.train()
                    ids = [*self.pieces.ids, *self.model.frame_ids]
                    running = self.runtime.training(self.module, self.dtype, ids, seed)
                else:
                    module = self.model.shim.get_prediction_module(self.dtype)
                    running = self.runtime.predicting(module, self.dtype)
                with running as run:
                    while calls:
                        calls += self._call(run, calls.pop(), part)

    def _call(self, run: Forward, batches: list[Batch], part: Part) -> list[list[Batch]]:
        """RETURNS (List[List[Batch]]): Smaller calls to make instead, if memory ran out."""
        plan = plan_call(self.model, self.pieces, batches)
        if self.layers:
            plan.inputs["output_hidden_states"] = True
        try:
            states = join_states(run(plan), self.layers).flatten(0, 1)
        except RuntimeError as err:
            halves = halve(batches)
            if not halves or not is_out_of_memory(err):
                raise
            n, length = sum(len(batch) for batch, _ in batches), batches[-1][1]
            warnings.warn(Warnings.W003.format(n=n, length=length))
            return halves
        found = states.index_select(0, plan.places).to(self.hidden.dtype)
        self.hidden.index_copy_(0, plan.rows, found.detach())
        if self.is_train:
            part.rows.append(plan.rows)
            part.states.append(found)
        return []

    @isolated
    def finish(self) -> tuple[TokenMatrix, EncoderPass]:
        """RETURNS (Tuple[TokenMatrix, EncoderPass]): The token matrix and its backward pass."""
        is_train = self.is_train
        with torch.inference_mode(not is_train), torch.set_grad_enabled(is_train):
            pooled = pool(self.hidden.requires_grad_(is_train), self.pieces).float()
            shares = self._pool_shares() if self.model.attrs["shares"] else None
        data: Any = torch2xp(pooled.detach())
        encoder = ref(self.model)
        matrix = TokenMatrix(data, self.lengths, self.layers, encoder, self.version, shares)
        return matrix, EncoderPass(pooled, self.hidden, self.parts, self.module, self.runtime)

    def _pool_shares(self) -> Any:
        pieces, weights = share_pieces(self.pieces, self.lengths)
        return torch2xp(pool(self.hidden.detach().float(), pieces, weights))


def join_states(output: Any, layers: Sequence[int]) -> torch.Tensor:
    """RETURNS (torch.Tensor): The last hidden state, or those of K layers, B x L x K * H."""
    last: torch.Tensor = output.last_hidden_state
    if not layers:
        return last
    below = [output.hidden_states[number] for number in layers[:-1]]
    return torch.cat([*below, last], dim=-1)


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def pool(hidden: torch.Tensor, pieces: Wordpieces, weights: Floats1d | None = None) -> torch.Tensor:
    """RETURNS (torch.Tensor): The mean over each token's wordpieces, N x H. With a weight for each
    match of a token and a wordpiece, their weighted sum.
    """
    return torch.nn.functional.embedding_bag(
        to_device(pieces.pieces, hidden.device),
        hidden,
        to_device(pieces.starts, hidden.device),
        mode="mean" if weights is None else "sum",
        per_sample_weights=None if weights is None else to_device(weights, hidden.device),
    )
