"""The shared transformer: docs in, one row per token out, one backward for all of them."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ref

import numpy
import torch
from spacy.tokens import Doc, Span
from spacy_transformers.data_classes import HFObjects
from spacy_transformers.layers import TransformerModel
from thinc.api import Model, torch2xp
from transformers import PreTrainedModel

from ..arguments import checked
from ..concurrency import WeightsLock, limit_threads
from ..errors import Errors, Warnings
from ..pretrained import load_pretrained
from ..storage import load_model, pack_model, unpack_model
from ..types import Ints1d, Ints2d
from .ahead import WORKERS, run_at_once
from .attention import Block
from .host import isolated
from .kernels import KnownMask, TrainingKernels, gpu_attention
from .layers import get_numbers
from .levels import NOTHING, EncoderPass, Part
from .lora import LoRA
from .matrix import TokenMatrix
from .onednn import exact_products, float32_products
from .packing import Batch, can_pack, get_first_position, make_passes, pack
from .precision import Precision, get_dtype
from .runtime import Runtime, uses_kernels
from .serialization import check_settings
from .shim import EncoderShim
from .wordpieces import (
    Alignment,
    Wordpieces,
    batch_by_length,
    concat,
    get_backend,
    get_wordpieces,
)

EVEN = 2  # batches for each thread, at least
# Wordpieces that are read in the time which a batch takes, however small: on a GPU, until its
# kernels have been launched.
SLACK = {"cpu": 32, "cuda": 4096}
# A trained pipeline has those of its config, also if that has changed.
CONFIGURED = ("precision", "runtime", "max_batch_items")
# Settings whose output has no place in a token matrix.
REFUSED = ("output_attentions", "output_hidden_states")
UNSAID = "spacy-transformers"  # the alignment of saved weights that do not name one
SpanGetter = Callable[[Sequence[Doc]], Sequence[Sequence[Span]]]


class SharedTransformer(TransformerModel):
    """A Hugging Face encoder as a thinc model from docs to one TokenMatrix.

    It has the same nodes as spacy-transformers' TransformerModel, so that it can read a file of
    that. spacy-transformers cannot read a file of this: its weights are safetensors.
    """

    def __init__(
        self,
        name: str,
        get_spans: SpanGetter,
        tokenizer_config: dict[str, Any],
        transformer_config: dict[str, Any],
        precision: Precision,
        lora: LoRA | None = None,
        pretrained: bool = True,
        runtime: Runtime = "auto",
        alignment: Alignment = "auto",
    ) -> None:
        check_settings("tokenizer_config", tokenizer_config)
        check_settings("transformer_config", transformer_config)
        unloaded = HFObjects(None, None, None, dict(tokenizer_config), dict(transformer_config))
        get_dtype(precision, torch.device("cpu"))
        uses_kernels(runtime, torch.device("cpu"))
        Model.__init__(
            self,
            "transformer",
            forward,
            init=init,
            layers=[
                Model(
                    "hf-pytorch",
                    forward,
                    shims=[EncoderShim(unloaded, lora)],
                    dims={"nI": None, "nO": None},
                )
            ],
            dims={"nO": None},
            attrs={
                "name": str(name),
                "get_spans": get_spans,
                "precision": precision,
                "runtime": runtime,
                "pretrained": pretrained,
                "alignment": UNSAID if alignment == "auto" else alignment,
                "max_batch_items": 4096,
                "layers": None,  # of which listeners ask for more than the last
                "has_transformer": False,
                "set_transformer": set_transformer,
            },
        )
        self.configured_alignment = alignment

    @property
    def alignment(self) -> Alignment:
        """RETURNS (str): The alignment that the config names, or else the one of the weights."""
        configured = self.configured_alignment
        return self.attrs["alignment"] if configured == "auto" else configured

    @classmethod
    def from_stock(cls, model: TransformerModel) -> "SharedTransformer":
        """Take over the settings, and the weights if it has any, of a spacy-transformers model."""
        shim: Any = model.layers[0].shims[0]
        shared = cls(
            model.attrs["name"],
            model.attrs["get_spans"],
            model._init_tokenizer_config,
            model._init_transformer_config,
            "auto" if shim._mixed_precision else "float32",
            alignment="spacy-transformers",
        )
        if model.attrs["has_transformer"]:
            set_transformer(shared, shim._hfmodel)
        return shared

    @property
    def lock(self) -> WeightsLock:
        """RETURNS (WeightsLock): Held by predictions that read the weights, and by updates."""
        shim: Any = self.layers[0].shims[0]
        return shim.lock

    def limit_threads(self) -> None:
        """Compute on one thread in forked processes and in the workers of a pipeline."""
        shim: Any = self.layers[0].shims[0]
        limit_threads(shim.process)

    @property
    def device(self) -> torch.device:
        """RETURNS (torch.device): Where the encoder is; the CPU if it has no parameters."""
        module = self.transformer
        weights = module.parameters() if isinstance(module, torch.nn.Module) else iter(())
        return next((weight.device for weight in weights), torch.device("cpu"))

    @property
    def special_ids(self) -> tuple[list[int], list[int]]:
        """RETURNS (Tuple[List[int], List[int]]): What stands before and after a sequence."""
        return self._get_frame("ids")

    @property
    def special_types(self) -> list[int]:
        """RETURNS (List[int]): The segments of the same, where a text's is 0. XLNet's differ."""
        if "token_type_ids" not in self.tokenizer.model_input_names:
            return []
        before, after = self._get_frame("type_ids")
        return [*before, *after]

    def _get_frame(self, values: str) -> tuple[list[int], list[int]]:
        framed = get_backend(self.tokenizer).encode("a", add_special_tokens=True)
        (text,) = numpy.nonzero(numpy.array(framed.special_tokens_mask) == 0)
        found = getattr(framed, values)
        return found[: text[0]], found[text[-1] + 1 :]

    @property
    def frame_ids(self) -> list[int]:
        """RETURNS (List[int]): All ids that a pass may hold beside those of texts."""
        before, after = self.special_ids
        return [*before, *after, self.tokenizer.pad_token_id or 0]

    @property
    def max_length(self) -> int:
        """RETURNS (int): Wordpieces that fit into one sequence beside the special tokens."""
        config = self.transformer.config
        limit = min(self.tokenizer.model_max_length, 1 << 20)
        positions = getattr(config, "max_position_embeddings", None) or 0
        positions = positions if positions > 0 else limit  # XLNet's is -1: it has none
        positions -= get_first_position(self.transformer)
        return min(limit, positions) - sum(map(len, self.special_ids))

    def get_wordpieces(self, docs: Sequence[Doc]) -> Wordpieces:
        """RETURNS (Wordpieces): What the encoder reads of the docs."""
        spans = self.attrs["get_spans"](docs)
        return get_wordpieces(docs, spans, self.tokenizer, self.max_length, self.alignment)

    def copy(self) -> "SharedTransformer":
        """RETURNS (SharedTransformer): A model of its own with the same settings and weights, in
        which adapters are merged. It learns without any.
        """
        copied = SharedTransformer(
            self.attrs["name"],
            self.attrs["get_spans"],
            self._init_tokenizer_config,
            self._init_transformer_config,
            self.attrs["precision"],
            pretrained=self.attrs["pretrained"],
            runtime=self.attrs["runtime"],
            alignment=self.configured_alignment,
        )
        copied.attrs["max_batch_items"] = self.attrs["max_batch_items"]
        if self.attrs["has_transformer"]:
            copied.from_bytes(self.to_bytes())
        return copied

    def to_bytes(self) -> bytes:
        """RETURNS (bytes): The model, with checksums."""
        return pack_model(self)

    def from_bytes(self, bytes_data: bytes) -> "SharedTransformer":
        """RETURNS (SharedTransformer): This, with what `to_bytes` returned."""
        load_model(self, unpack_model(self, bytes_data))
        return self

    def from_disk(self, path: str | Path) -> "SharedTransformer":
        """RETURNS (SharedTransformer): This, with what `to_disk` has saved."""
        load_model(self, unpack_model(self, Path(path).read_bytes()))
        return self

    def from_dict(self, msg: dict[str, Any]) -> "SharedTransformer":
        """RETURNS (SharedTransformer): This, with what `to_dict` returned, but for the settings of
        CONFIGURED.
        """
        configured = {key: self.attrs[key] for key in CONFIGURED}
        if self.configured_alignment == "auto":
            self.attrs["alignment"] = UNSAID
        super().from_dict(msg)
        self.attrs.update(configured)
        return self


@checked("spacy-mtl.SharedTransformer.v1")
def build_shared_transformer_v1(
    name: str,
    get_spans: SpanGetter,
    tokenizer_config: dict[str, Any] = {},  # noqa: B006
    transformer_config: dict[str, Any] = {},  # noqa: B006
    precision: Precision = "float32",
    lora: LoRA | None = None,
    pretrained: bool = True,
    runtime: Runtime = "auto",
    alignment: Alignment = "auto",
) -> Model[list[Doc], TokenMatrix]:
    """Build the shared encoder.

    name (str): A Hugging Face model name, a local folder, or "minilm" (extra `minilm`).
    get_spans (Callable[[List[Doc]], List[List[Span]]]): The spans of each doc to read at once.
        Spans may overlap; a token's row is the mean over all spans that hold it.
    tokenizer_config (dict): Settings for the tokenizer.
    transformer_config (dict): Settings for the encoder, such as its dropout.
    precision (str): "float32", "bfloat16", or "auto" for bfloat16 where the device computes it
        natively.
    lora (Optional[LoRA]): `spacy-mtl.LoRA.v1`: train adapters instead of the encoder's weights.
        They are new whenever a training begins, and merged into the weights that are saved, so
        that predictions need no peft.
    pretrained (bool): Whether training begins with the weights of `name`, or with random ones in
        an encoder of the same architecture and with its tokenizer.
    runtime (str): "eager" computes what Hugging Face computes, by torch's own functions; "cpu" uses
        faster kernels, chosen by what the CPU can do; "auto" is "cpu" on a CPU, "eager" elsewhere.
    alignment (str): Which wordpieces belong to a token. "characters": all that share a character
        with it which is not white space; the first word of a span is read as inside its doc.
        "spacy-transformers": also those that touch the space after it, such as the next word's
        first piece if the tokenizer's offsets include the space; a span is read as a text of its
        own. "auto": what the saved weights were trained with, and "characters" for a new encoder.
        Weights from spacy-transformers and from spacy-mtl 0.1.0 have "spacy-transformers".
    RAISES (ValueError): M058 for an argument of another kind; M051 for settings by which
        transformers would run code; M001 to M004, M055 and M072 when it is initialized; M018 for a
        runtime that the device lacks; M067 and M068 when training begins.
    """
    return SharedTransformer(
        name,
        get_spans,
        tokenizer_config,
        transformer_config,
        precision,
        lora,
        pretrained,
        runtime,
        alignment,
    )


@isolated
def init(model: SharedTransformer, X: Any = None, Y: Any = None) -> None:
    shim: Any = model.layers[0].shims[0]
    if not model.attrs["has_transformer"]:
        if shim.lora and not model.attrs["pretrained"]:
            raise ValueError(Errors.M072)
        settings = [key for key in REFUSED if model._init_transformer_config.get(key)]
        if settings:
            raise ValueError(Errors.M055.format(settings=settings))
        loaded = load_pretrained(
            model.attrs["name"],
            model._init_tokenizer_config,
            model._init_transformer_config,
            pretrained=model.attrs["pretrained"],
        )
        set_transformer(model, loaded)
        if model.configured_alignment == "auto":
            model.attrs["alignment"] = "characters"
    shim.add_adapters()


def set_transformer(model: SharedTransformer, loaded: HFObjects) -> None:
    shim: Any = model.layers[0].shims[0]
    shim._hfmodel = HFObjects(
        loaded.tokenizer,
        loaded.transformer,
        loaded.vocab_file_contents,
        shim._hfmodel._init_tokenizer_config,
        shim._hfmodel._init_transformer_config,
    )
    model.attrs["has_transformer"] = True
    model.set_dim("nO", loaded.transformer.config.hidden_size)


def forward(
    model: SharedTransformer, docs: Sequence[Doc], is_train: bool
) -> tuple[TokenMatrix, EncoderPass]:
    """Encode all docs in as many forward passes as lengths ask for, and pool to tokens once."""
    model.limit_threads()
    module = model.transformer
    # Torch's own dropout takes random numbers that all threads share.
    shares = is_train and has_kernels(model) and not is_checkpointing(module)
    n_threads = min(WORKERS, torch.get_num_threads()) if shares else 1
    jobs, join = split(model, docs, n_threads, is_train)
    return join(run_at_once(jobs))


@isolated
def split(
    model: SharedTransformer, docs: Sequence[Doc], n_threads: int, is_train: bool = False
) -> tuple[Sequence[Callable[[], Part]], Callable[[list[Part]], tuple[TokenMatrix, EncoderPass]]]:
    """Prepare a pass over docs.

    RETURNS (Tuple[List[Callable], Callable]): For each thread what encodes its batches, and for all
        of them what makes the output of what these return.
    """
    shim: Any = model.layers[0].shims[0]
    version = model.lock.version
    if is_train:
        shim.add_adapters()
    last = model.transformer.config.num_hidden_layers
    asked = get_numbers(model.attrs["layers"], last)
    layers = asked and tuple(sorted({*asked, last}))
    pieces = model.get_wordpieces(docs)
    width = model.get_dim("nO") * max(1, len(layers))
    device = model.device
    dtype = torch.float32 if is_train else get_dtype(model.attrs["precision"], device)
    hidden = torch.empty(len(pieces.ids), width, dtype=dtype, device=device)
    packs = has_kernels(model) and can_pack(model.transformer)
    budget = model.attrs["max_batch_items"] if packs else 0
    jobs = []
    for batches in share(get_batches(model, pieces, n_threads, packs and is_train), n_threads):
        passes = make_passes(batches, budget)
        # Each thread has random numbers of its own, so that it does not matter which is faster.
        seed = int(torch.randint(2**62, ())) if is_train else None
        job = partial(encode, model, pieces, passes, layers, seed, hidden)
        jobs.append(job if is_train else partial(run_reading, model.lock, job))
    return jobs, partial(join, model, version, docs, pieces, layers, is_train, hidden)


def run_reading(lock: WeightsLock, job: Callable[[], Part]) -> Part:
    """RETURNS (Part): What the job returns, which has read the weights of one moment."""
    with lock.reading():
        return job()


@isolated
def join(
    model: SharedTransformer,
    version: int,
    docs: Sequence[Doc],
    pieces: Wordpieces,
    layers: tuple[int, ...],
    is_train: bool,
    hidden: torch.Tensor,
    parts: list[Part],
) -> tuple[TokenMatrix, EncoderPass]:
    """Pool the wordpieces of all batches to tokens.

    version (int): Of the weights before the first batch was read.
    """
    module = model.transformer
    with torch.inference_mode(not is_train), torch.set_grad_enabled(is_train):
        matrix = pool(hidden.requires_grad_(is_train), pieces).float()
    data: Any = torch2xp(matrix.detach())
    lengths = [len(doc) for doc in docs]
    rows = TokenMatrix(data, lengths, layers, ref(model), version)
    products = float32_products if has_kernels(model) else NOTHING
    return rows, EncoderPass(matrix, hidden, parts, module, products)


def is_checkpointing(module: Any) -> bool:
    return isinstance(module, PreTrainedModel) and module.is_gradient_checkpointing


def has_kernels(model: SharedTransformer) -> bool:
    """RETURNS (bool): Whether the encoder is computed by the kernels for a CPU."""
    return uses_kernels(model.attrs["runtime"], model.device)


@isolated
def encode(
    model: SharedTransformer,
    pieces: Wordpieces,
    passes: list[list[Batch]],
    layers: Sequence[int],
    seed: int | None,
    hidden: torch.Tensor,
) -> Part:
    """Read some of the batches.

    passes (List[List[Batch]]): Those of each forward pass.
    seed (Optional[int]): Of the dropout in training, None in a prediction.
    hidden (torch.Tensor): Gets the last hidden states of their wordpieces, W x H, or those of K
        layers beside each other, W x K * H.
    RETURNS (Part): In training for each pass which of the W wordpieces it holds, and their states.
    """
    shim: Any = model.layers[0].shims[0]
    module, device = model.transformer, model.device
    dtype = get_dtype(model.attrs["precision"], device)
    contexts: list[Any] = [torch.inference_mode(seed is None)]
    if seed is None:
        module = shim.for_prediction.get(shim.adapted or module, dtype)
        kernels: Any = copy(shim.for_prediction.kernels)
        for_cpu = [exact_products(), kernels]
    else:
        module.train()
        is_half, on_gpu = dtype != torch.float32, device.type != "cpu"
        autocast = torch.autocast(device.type, torch.bfloat16, is_half, cache_enabled=on_gpu)
        contexts += [torch.enable_grad(), autocast]
        kernels = TrainingKernels([*pieces.ids, *model.frame_ids], seed)
        # What is computed again for a checkpoint would do without the kernels.
        for_cpu = [float32_products, *([] if is_checkpointing(module) else [kernels])]
    if has_kernels(model):
        contexts += for_cpu
    elif device.type != "cpu":
        contexts.append(gpu_attention())
    options = {"output_hidden_states": True} if layers else {}
    part: Part = []
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        while passes:
            batches = passes.pop()
            inputs, blocks, here, content = lay_out(model, pieces, batches)
            kernels.blocks = blocks
            try:
                output = module(**inputs, **options)
                states = join_states(output, layers).flatten(0, 1)
            except RuntimeError as err:
                halves = halve(batches)
                if not halves or not is_out_of_memory(err):
                    raise
                n, length = sum(len(batch) for batch, _ in batches), batches[-1][1]
                warnings.warn(Warnings.W003.format(n=n, length=length))
                passes += halves
                continue
            found = states.index_select(0, content).to(hidden.dtype)
            hidden.index_copy_(0, here, found.detach())
            if seed is not None:
                part.append((here, found))
    return part


def lay_out(
    model: SharedTransformer, pieces: Wordpieces, batches: list[Batch]
) -> tuple[dict[str, torch.Tensor], list[Block], torch.Tensor, torch.Tensor]:
    """Prepare a forward pass.

    RETURNS (Tuple[Dict[str, torch.Tensor], List[Block], torch.Tensor, torch.Tensor]): What to call
        the encoder with; which parts of it attend to themselves, if there are several batches;
        which of the W wordpieces the pass holds; and where they stand in it.
    """
    device = model.device
    before, after = model.special_ids
    padding = model.tokenizer.pad_token_id or 0
    here, padded = [], []
    for batch, length in batches:
        here.append(concat([numpy.arange(*pieces.bounds[s : s + 2]) for s in batch]))
        padded.append(pad(pieces, batch, here[-1], length, before, after, padding))
    ids, mask, text = padded[0]
    blocks: list[Block] = []
    if len(batches) > 1:
        first = get_first_position(model.transformer)
        inputs, blocks = pack([(ids, mask) for ids, mask, _ in padded], first)
    else:
        inputs = {"input_ids": to_device(ids, device)}
        if not mask.all():
            inputs["attention_mask"] = to_mask(mask, device)
        if any(types := model.special_types):
            segments = numpy.zeros_like(ids)
            segments[(mask == 1) & ~text] = types * len(ids)
            inputs["token_type_ids"] = to_device(segments, device)
    content = numpy.flatnonzero(concat([content.ravel() for *_, content in padded]))
    return inputs, blocks, to_device(concat(here), device), to_device(content, device)


def halve(batches: list[Batch]) -> list[list[Batch]]:
    """RETURNS (List[List[Batch]]): Two passes in place of one, nothing if it has one sequence."""
    half = len(batches) // 2
    if half:
        return [batches[:half], batches[half:]]
    [(batch, length)] = batches
    half = len(batch) // 2
    return [[(batch[:half], length)], [(batch[half:], length)]] if half else []


def get_batches(
    model: SharedTransformer, pieces: Wordpieces, n_threads: int = 1, packs: bool = False
) -> list[Batch]:
    """RETURNS (List[Batch]): Sequences that are padded to one length, special tokens included. For
    several threads they are smaller, to come out even; to learn from packed, of nearly one length.
    """
    n_special = sum(map(len, model.special_ids))
    lengths, limit = pieces.lengths + n_special, model.max_length + n_special
    budget, device = model.attrs["max_batch_items"], model.device.type
    if n_threads > 1:
        budget = min(budget, int(lengths.sum()) // (EVEN * n_threads))
    if packs:
        return list(batch_by_length(lengths, budget, limit, padding_share=0))
    slack = SLACK.get(device, SLACK["cuda"])
    return list(batch_by_length(lengths, budget, limit, slack, few_shapes=device == "cpu"))


def share(batches: list[Batch], n: int) -> list[list[Batch]]:
    """RETURNS (List[List[Batch]]): The batches for each of n threads: from the largest
    on, each goes to the one that has the least to do.
    """
    shares: list[list[Batch]] = [[] for _ in range(n)]
    sizes = [0] * n
    for batch, length in sorted(batches, key=lambda batch: -len(batch[0]) * batch[1]):
        least = sizes.index(min(sizes))
        shares[least].append((batch, length))
        sizes[least] += len(batch) * length
    return shares


def join_states(output: Any, layers: Sequence[int]) -> torch.Tensor:
    """RETURNS (torch.Tensor): The last hidden state, or those of K layers, B x L x K * H."""
    if not layers:
        return output.last_hidden_state
    below = [output.hidden_states[number] for number in layers[:-1]]
    return torch.cat([*below, output.last_hidden_state], dim=-1)


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def pad(
    pieces: Wordpieces,
    batch: Ints1d,
    text: Ints1d,
    length: int,
    before: list[int],
    after: list[int],
    padding: int,
) -> tuple[Ints2d, Ints2d, Any]:
    """Lay sequences under each other, with special tokens round them and padding behind.

    text (Ints1d): Where their wordpieces stand in `pieces.ids`, one sequence after the other.
    length (int): Of the rows, L.
    RETURNS (Tuple[Ints2d, Ints2d, Bools2d]): Vocabulary ids, 1 where there is no padding, and
        True where there is a wordpiece of the text; all B x L.
    """
    lengths = pieces.lengths[batch][:, None]
    position = numpy.arange(length) - len(before)
    mask = position < lengths + len(after)
    content = (position >= 0) & (position < lengths)
    ids = numpy.full(mask.shape, padding)
    ids[:, : len(before)] = before
    ids[content] = pieces.ids[text]
    ids[mask & (position >= lengths)] = after * len(batch)
    return ids, mask.astype("int64"), content


def pool(hidden: torch.Tensor, pieces: Wordpieces) -> torch.Tensor:
    """RETURNS (torch.Tensor): The mean over each token's wordpieces, N x H."""
    return torch.nn.functional.embedding_bag(
        to_device(pieces.pieces, hidden.device),
        hidden,
        to_device(pieces.starts, hidden.device),
        mode="mean",
    )


def to_device(array: Any, device: torch.device) -> torch.Tensor:
    """RETURNS (torch.Tensor): An array on a device; by way of pinned memory, so nothing waits."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def to_mask(mask: Ints2d, device: torch.device) -> torch.Tensor:
    """RETURNS (torch.Tensor): A mask that masks something, on a device."""
    tensor = to_device(mask, device)
    return tensor if device.type == "cpu" else tensor.as_subclass(KnownMask)
