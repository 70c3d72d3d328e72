"""The pipe `mtl_transformer`: encodes docs for all heads and trains on what comes back."""

import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any
from weakref import WeakSet

from spacy.errors import Errors as SpacyErrors
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from spacy.vocab import Vocab
from spacy_transformers import Transformer
from spacy_transformers.annotation_setters import null_annotation_setter
from spacy_transformers.layers import TransformerListener, TransformerModel
from thinc.api import Model, NumpyOps, Optimizer, get_array_module, set_dropout_rate

from ..arguments import check
from ..concurrency import WeightsLock
from ..corpora.scope import Selective
from ..errors import Errors, Warnings
from ..products import dot
from ..storage import SavedPipe, parse_json
from .ahead import WORKERS, run_ahead
from .host import isolated
from .hub import Balancer, GradientHub, OpenPass, TaskBatch, rename_keys
from .layers import get_numbers
from .matrix import TokenMatrix, TokenRows, get_rows, set_rows
from .model import SharedTransformer, split
from .tok2vec import Replacement

BUFFER = 12288  # tokens encoded together: enough to group by length, few for the memory
GPU_BUFFER = 32768  # the same on a GPU, where larger batches are faster
STREAK = 20  # broken batches of a task in a row that stop the training
BALANCER = "balancer.json"  # the file of its state
COUNTS = ("updates", "skipped")
MEANS = ("loss", "weight", "grad_norm")


class SharedEncoder(SavedPipe, Transformer):
    """Encodes docs once for every head that listens, and sends their gradients back in one
    backward.

    In training each head's gradient is kept in a slot of its own. The slots become one gradient,
    by the balancer, when the training pass is closed: in `finish_update`, at the next `update`, and
    before the weights are read if an optimizer waits to change them. So neither the order of the
    heads nor one that stays silent loses any of it. A pass belongs to the thread that has opened
    it. Other threads may predict and save meanwhile: they read the weights of one moment.

    vocab (Vocab): The shared vocabulary.
    model (Model[List[Doc], TokenMatrix]): The encoder. spacy-transformers' model is taken over,
        with its weights.
    balancer (Balancer): Makes one gradient of the tasks'.
    set_extra_annotations (Callable): Called with the docs and their TokenMatrix after they have
        been encoded.
    name (str): The component's name.
    max_batch_items (int): Wordpieces per forward pass, padding included.
    """

    model: Any  # Model[List[Doc], TokenMatrix], where the parent class has another output

    def __init__(
        self,
        vocab: Vocab,
        model: Model[list[Doc], TokenMatrix],
        balancer: Balancer,
        set_extra_annotations: Callable = null_annotation_setter,
        *,
        name: str = "transformer",
        max_batch_items: int = 4096,
    ) -> None:
        if isinstance(model, TransformerModel) and not isinstance(model, SharedTransformer):
            model = SharedTransformer.from_stock(model)
        if not isinstance(model, SharedTransformer):
            raise ValueError(Errors.M006.format(name=name, model=type(model).__name__))
        check(name, "balancer", balancer, Balancer)
        super().__init__(  # type: ignore[arg-type]
            vocab, model, set_extra_annotations, name=name, max_batch_items=max_batch_items
        )
        self.model.attrs["max_batch_items"] = max_batch_items
        replacement = Replacement()
        self.model.attrs["replace_listener"] = replacement.replace_model
        self.model.attrs["replace_listener_cfg"] = replacement.replace_config
        self.balancer, self._balancer_at_first = balancer, deepcopy(balancer.to_dict())
        self.diagnostics = Diagnostics()
        self.heads, self.known = Linked(), Linked()  # all of spacy-mtl, and all listeners
        self._open = OpenPass()
        self._balancing = WeightsLock()  # of the balancer's state
        self._named: dict[str, Linked] = {}  # listeners by the names of the balancer's state
        self._has_gradient = False
        self._sourced: list[Any] = []

    def add_listener(self, listener: Any, component_name: str) -> None:
        """Link a listener. Usually internal.

        RAISES (ValueError): M073 if it asks for layers that the encoder lacks.
        """
        super().add_listener(listener, component_name)
        own = self.listener_map[component_name]
        for other in [known for known in self.known if known.task == component_name]:
            if other not in own:  # of a component that has been replaced
                self.known.discard(other)
        listener.task = component_name
        if is_ours(listener):
            listener.sample = {}
        self.known.add(listener)
        self._ask_for_layers()

    def remove_listener(self, listener: TransformerListener, component_name: str) -> bool:
        """Unlink a listener. Usually internal.

        RETURNS (bool): Whether it was linked.
        """
        self.known.discard(listener)
        if component_name in self.listener_map:
            # `nlp.replace_listeners` walks over the list from which it takes them off.
            self.listener_map[component_name] = list(self.listener_map[component_name])
        return super().remove_listener(listener, component_name)

    def _ask_for_layers(self) -> None:
        """Tell the encoder which layers are read, if any listener reads more than the last."""
        asked: set[int] = set()
        for listener in self.listeners:
            layers = listener.attrs.get("layers")
            if layers is not None and self.model.attrs["has_transformer"]:
                last = self.model.transformer.config.num_hidden_layers
                numbers = get_numbers(layers, last)
                listener.attrs["layers"] = list(numbers)
                asked.update(numbers)
        self.model.attrs["layers"] = sorted(asked) or None

    def find_listeners(self, component: Any) -> None:
        """Link the listeners of a component, ours and spacy-transformers'.

        component (Pipe): The component.
        RAISES (ValueError): M070 if it has been trained with an encoder of another width.
        """
        super().find_listeners(component)
        if isinstance(component, SharedEncoder):
            component.heads = self.heads  # the heads of a pipeline know each other
        if isinstance(component, Selective):
            for head in [head for head in self.heads if head.name == component.name]:
                self.heads.discard(head)  # it has been replaced
            self.heads.add(component)
            component.peers = self.heads
        if getattr(component, "name", None) in self.listener_map:
            if isinstance(component, Selective):
                component.lock = self.model.lock
            self._check_width(component.name)
            for node in component.model.walk():
                if node.name == "trfs2arrays" and node.layers[0].name != "reduce_mean":
                    warnings.warn(
                        Warnings.W001.format(name=component.name, pooling=node.layers[0].name)
                    )

    def _link_sourced(self) -> None:
        # spaCy disables sourced components while it initializes the others, and then forgets them.
        for component in self._sourced:
            self.find_listeners(component)

    def _follow_names(self) -> None:
        """Move the balancer's state and the statistics to the present names of the tasks, and drop
        those of heads that have left. A new head under an old name begins anew.
        """
        self._link_sourced()
        named = self._get_names()
        if self._named == named:
            return
        names = {
            old: task
            for task, listeners in named.items()
            for old, known in self._named.items()
            if not known.isdisjoint(listeners)
        }
        self.balancer.rename(names)
        self.diagnostics.rename(names)
        self._remember_names()

    def _remember_names(self) -> None:
        self._named = self._get_names()

    def _get_names(self) -> dict[str, "Linked"]:
        """RETURNS (Dict[str, Linked]): The listeners of each task, also of disabled components."""
        named: dict[str, Linked] = {}
        for listener in self.known:
            named.setdefault(listener.task, Linked()).add(listener)
        return named

    def _check_width(self, task: str) -> None:
        width = self.model.maybe_get_dim("nO")
        for listener in self.listener_map[task]:
            found = listener.maybe_get_dim("nO")
            if width and found and found != width:
                raise ValueError(
                    Errors.M070.format(task=task, found=found, encoder=self.name, expected=width)
                )

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
    ) -> None:
        """Load the pretrained encoder and link the heads that stand behind it.

        get_examples (Callable): Not used, there is nothing to learn before training.
        nlp (Optional[Language]): The current pipeline.
        RAISES (ValueError): M001 to M004, M067, M068 or M072 if the encoder cannot be made, M020
            if the balancer names a task that no component has, M070 if a sourced head has another
            width.
        """
        super().initialize(get_examples, nlp=nlp)
        if nlp is not None:
            self._sourced = [pipe for name, pipe in nlp.components if name in nlp.disabled]
        self._link_sourced()
        self.balancer.check(self.listening_components)
        self.balancer.from_dict(deepcopy(self._balancer_at_first))
        self._remember_names()

    def check_initialized(self) -> None:
        """RAISES (ValueError): spaCy's E109 if there are no weights yet."""
        if not self.model.attrs["has_transformer"]:
            raise ValueError(SpacyErrors.E109.format(name=self.name))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Encode a stream of docs.

        stream (Iterable[Doc]): The docs.
        batch_size (int): How many to encode together, if they are short: no more are taken once
            they have 12,288 tokens, on a GPU 32,768, so that long docs need no more memory. With at
            least 4,096 tokens threads encode the next batch ahead, on a CPU the next two. Docs that
            were encoded before an update are encoded again.
        YIELDS (Doc): The docs in order.
        """
        error_handler = self.get_error_handler()
        self.check_initialized()
        self.model.limit_threads()
        workers = WORKERS if isinstance(self.model.ops, NumpyOps) else 1

        def split_group(group: tuple[list[Doc], list[Doc]], n_threads: int) -> Any:
            self._ask_for_layers()
            return split(self.model, group[1], n_threads)

        groups = self._group(buffer(stream, batch_size, self.buffer_size))
        for (docs, todo), get in run_ahead(split_group, groups, workers, is_large):
            try:
                matrix, _ = get()
                if todo:
                    self.set_annotations(todo, self.predict(todo) if matrix.is_stale else matrix)
                yield from docs
            except Exception as err:
                error_handler(self.name, self, docs, err)

    @property
    def buffer_size(self) -> int:
        """RETURNS (int): After how many tokens no more docs are encoded together."""
        return BUFFER if isinstance(self.model.ops, NumpyOps) else GPU_BUFFER

    def _group(self, batches: Iterable[list[Doc]]) -> Iterator[tuple[list[Doc], list[Doc]]]:
        """YIELDS (Tuple[List[Doc], List[Doc]]): The next docs, and those of them to be encoded:
        while a training pass waits for its gradient, its docs have their rows.
        """
        for docs in batches:
            todo = [doc for doc in docs if not is_live(doc)]
            if todo:
                self._finish_waiting()
            yield docs, todo

    def predict(self, docs: Iterable[Doc]) -> TokenMatrix:  # type: ignore[override]
        """Encode a batch of docs, without modifying them.

        docs (Iterable[Doc]): The docs.
        RETURNS (TokenMatrix): One row per token.
        """
        self.check_initialized()
        self._finish_waiting()
        self._ask_for_layers()
        with self.model.lock.reading():
            return self.model.predict(list(docs))

    def set_annotations(  # type: ignore[override]
        self, docs: Iterable[Doc], predictions: TokenMatrix
    ) -> None:
        """Leave each doc's rows in `doc._.trf_data`, until the last listener has read them.

        With a stock listener behind it they stay, as in spacy-transformers.

        docs (Iterable[Doc]): The docs.
        predictions (TokenMatrix): What `predict` returned for them.
        """
        docs = list(docs)
        known = list(self.known)
        is_lean = known and all(map(is_ours, known))
        readers = {listener.id for listener in known} if is_lean else None
        set_rows(docs, predictions, readers=readers)
        self.set_extra_annotations(docs, predictions)

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Encode a batch for training and open a slot for every listener's gradient.

        examples (Iterable[Example]): Only the predicted docs are used.
        drop (float): The dropout rate of thinc layers. The encoder's own is in its config.
        sgd (Optional[Optimizer]): Updates the encoder as soon as all heads have spoken.
        losses (Optional[Dict[str, float]]): Gets, under this component's name, the weighted sum
            of the tasks' losses.
        RETURNS (Dict[str, float]): The losses.
        """
        validate_examples(examples, "SharedEncoder.update")
        self.flush()
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        docs = [eg.predicted for eg in examples]
        if not any(len(doc) for doc in docs):
            return losses
        self.check_initialized()
        self._follow_names()
        self.balancer.check(self.listening_components)
        self._ask_for_layers()
        set_dropout_rate(self.model, drop)
        matrix, backprop = self.model.begin_update(docs)
        tasks = {listener.id: listener.task for listener in self.known}
        awaited = {listener.id for listener in self.listeners}
        hub = GradientHub(matrix, backprop, tasks, awaited, losses)
        rows = set_rows(docs, matrix, hub)
        stock = [listener for listener in self.listeners if not is_ours(listener)]
        batch_id = TransformerListener.get_batch_id(docs) if stock else None
        for listener in stock:
            listener.receive(batch_id, rows, stock_callback(hub, listener, rows))
        self._open.hub = hub
        if sgd:
            self._update_when_complete(hub, sgd)
        return losses

    @isolated
    def flush(self) -> None:
        """Close this thread's training pass: run the encoder's backward for the heads that have
        spoken since `update`.
        """
        hub, self._open.hub = self._open.hub, None
        if hub is None:
            return
        hub.is_open = False
        for listener in self.listeners:
            if not is_ours(listener):  # a silent one would keep the pass alive
                listener.receive(None, None, None)
        if not hub.slots:
            return
        total, before = hub.losses, hub.losses_before
        losses = {task: float(total.get(task, 0.0) - before.get(task, 0.0)) for task in hub.slots}
        batch = self.diagnostics.skip_broken(TaskBatch(losses, hub.slots, hub.backprop.pull))
        for task in hub.slots.keys() - batch.losses.keys():
            total[task] = before.get(task, 0.0)
        if batch.names:
            with self._balancing.writing():
                gradient, weights = self.balancer.combine(batch)
            if any(weights.values()):  # a gradient of zeros would move weights by their momentum
                hub.backprop(gradient)
            self._has_gradient = True
            total[self.name] += sum(weights[task] * batch.losses[task] for task in weights)
            self.diagnostics.add(batch, weights)
        if hub.sgd is not None:
            self._finish_update(hub.sgd)

    def _finish_waiting(self) -> None:
        """Close this thread's pass if an optimizer waits for it: what reads the weights afterwards
        is to see the update. Without an optimizer the heads may still speak.
        """
        if self._open.hub is not None and self._open.hub.sgd is not None:
            self.flush()

    @isolated
    def finish_update(self, sgd: Optimizer) -> None:
        """Update the encoder's weights with all gradients that have arrived.

        sgd (Optimizer): The optimizer.
        """
        hub = self._open.hub
        if hub is not None and not hub.slots:
            # `nlp.update(..., sgd=sgd)` comes here before the heads have run.
            self._update_when_complete(hub, sgd)
            if not self._has_gradient:  # of batches before, with accumulate_gradient
                return
        else:
            self.flush()
        self._finish_update(sgd)

    def _finish_update(self, sgd: Optimizer) -> None:
        self.model.finish_update(sgd)
        if self._has_gradient:
            self._has_gradient = False
            with self._balancing.writing():
                self.balancer.step()

    def _update_when_complete(self, hub: GradientHub, sgd: Optimizer) -> None:
        hub.sgd = sgd
        # Stock heads report their loss only afterwards, whatever they listen through.
        if {*self.listening_components} <= {head.name for head in self.heads}:
            hub.on_complete = self.flush

    def _get_balancer_state(self) -> bytes:
        with self._balancing.reading():
            return json.dumps(self.balancer.to_dict()).encode()

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.flush()  # a waiting pass cannot be copied or pickled
        return super().__reduce_ex__(protocol)

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        self._finish_waiting()
        self._follow_names()
        return super().to_bytes(exclude=exclude)

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        self._finish_waiting()
        self._follow_names()
        super().to_disk(path, exclude=exclude)

    def _get_writers(self) -> dict[str, Callable[[], bytes]]:
        return super()._get_writers() | {BALANCER: self._get_balancer_state}

    def _get_readers(self) -> dict[str, Any]:
        parse = partial(parse_json, entry="balancer")
        return super()._get_readers() | {BALANCER: (parse, self._load_balancer)}

    def _load_balancer(self, state: dict[str, Any]) -> None:
        self.balancer.from_dict(state)
        self._remember_names()
        if self._named:
            self.balancer.rename({task: task for task in self._named})


class Linked(WeakSet):
    """What has been linked to an encoder, as long as it exists. spaCy's own map lacks what is
    disabled while it links the others.
    """

    def __reduce__(self) -> Any:
        return Linked, (list(self),)


class Diagnostics:
    """Sums over training batches of what the tasks did, until the logger asks for the means."""

    def __init__(self) -> None:
        self.sums: dict[str, dict[str, float]] = {}
        self.streaks: dict[str, int] = {}  # batches in a row in which a task was broken
        self.warned: set[str] = set()
        self.cosines: dict[str, list[float]] = {}  # by pair of tasks

    def skip_broken(self, batch: TaskBatch) -> TaskBatch:
        """Leave out the tasks whose loss or gradient is NaN or infinite, and count them.

        RETURNS (TaskBatch): The other tasks.
        RAISES (ValueError): M026 for a task's 20th broken batch in a row.
        """
        broken = []
        for task, loss in batch.losses.items():
            norm = batch.norms[task]
            if math.isfinite(loss) and math.isfinite(norm):
                self.streaks[task] = 0
                continue
            broken.append(task)
            self._get_sums(task)["skipped"] += 1
            self.streaks[task] = self.streaks.get(task, 0) + 1
            if self.streaks[task] >= STREAK:
                raise ValueError(Errors.M026.format(task=task, loss=loss, norm=norm, n=STREAK))
            if task not in self.warned:
                self.warned.add(task)
                warnings.warn(Warnings.W002.format(task=task, loss=loss, norm=norm, n=STREAK))
        if not broken:
            return batch
        return batch.select([task for task in batch.names if task not in broken])

    def add(self, batch: TaskBatch, weights: dict[str, float]) -> None:
        for task in batch.names:
            total = self._get_sums(task)
            total["updates"] += 1
            total["loss"] += batch.losses[task]
            total["weight"] += weights[task]
            total["grad_norm"] += batch.norms[task]
        for pair, cosine in get_cosines(batch).items():
            self.cosines.setdefault(pair, []).append(cosine)

    def rename(self, names: Mapping[str, str]) -> None:
        """Carry the sums over to new names of tasks, and drop those of all others.

        names (Mapping[str, str]): The new name of each task.
        """
        self.sums, self.streaks = rename_keys(self.sums, names), rename_keys(self.streaks, names)
        self.warned = {names[task] for task in self.warned if task in names}
        self.cosines = {
            "|".join(sorted([names[a], names[b]])): self.cosines[pair]
            for a, b in combinations(sorted(names), 2)
            if (pair := f"{a}|{b}") in self.cosines
        }

    def take(self) -> dict[str, dict[str, float]]:
        """RETURNS (Dict[str, Dict[str, float]]): For each task that has spoken since the last
        call: the number of batches, the number of those left out because the task was broken in
        them, and the means over the former of loss, weight and gradient norm.
        """
        sums, self.sums = self.sums, {}
        return {
            task: {
                key: value if key in COUNTS else value / (total["updates"] or math.nan)
                for key, value in total.items()
            }
            for task, total in sums.items()
        }

    def take_cosines(self) -> dict[str, float]:
        """RETURNS (Dict[str, float]): For each pair of tasks that has spoken together since the
        last call, under "a|b", the mean of `get_cosines`.
        """
        found, self.cosines = self.cosines, {}
        return {pair: sum(values) / len(values) for pair, values in found.items()}

    def _get_sums(self, task: str) -> dict[str, float]:
        return self.sums.setdefault(task, dict.fromkeys((*COUNTS, *MEANS), 0.0))


def get_cosines(batch: TaskBatch) -> dict[str, float]:
    """Compare what each two tasks want of the token matrix: 1 is the same, -1 the opposite.

    RETURNS (Dict[str, float]): The cosine of their gradients, under "a|b" with a before b in the
        alphabet. A task without any gradient is in no pair.
    """
    active = sorted(task for task in batch.names if batch.norms[task])
    pairs = list(combinations(active, 2))
    if not pairs:
        return {}
    xp = get_array_module(batch.gradients[active[0]])
    # All at once from a GPU.
    products = xp.stack([dot(batch.gradients[a], batch.gradients[b]) for a, b in pairs])
    return {
        f"{a}|{b}": max(-1.0, min(1.0, product / (batch.norms[a] * batch.norms[b])))
        for (a, b), product in zip(pairs, products.tolist(), strict=True)
    }


def buffer(stream: Iterable[Doc], n_docs: int, n_tokens: int) -> Iterator[list[Doc]]:
    """YIELDS (List[Doc]): Docs until there are so many, or so many tokens."""
    docs, total = [], 0
    for doc in stream:
        docs.append(doc)
        total += len(doc)
        if len(docs) == n_docs or total >= n_tokens:
            yield docs
            docs, total = [], 0
    if docs:
        yield docs


def is_large(group: tuple[list[Doc], list[Doc]]) -> bool:
    """RETURNS (bool): Whether docs to be encoded are worth a thread."""
    return 3 * sum(map(len, group[1])) >= BUFFER


def is_ours(listener: TransformerListener) -> bool:
    """RETURNS (bool): Whether it reads rows of the token matrix from the docs."""
    return getattr(listener, "reads_rows", False)


def is_live(doc: Doc) -> bool:
    rows = get_rows(doc)
    return rows is not None and rows.is_live


def stock_callback(
    hub: GradientHub, listener: TransformerListener, rows: list[TokenRows]
) -> Callable[[list[Any]], list[Any]]:
    """RETURNS (Callable): What a spacy-transformers listener calls with its gradients."""
    filled = [row for row in rows if row.end > row.start]

    def backprop(d_outputs: list[Any]) -> list[Any]:
        hub.receive(listener.id, filled, [d.model_output.last_hidden_state[0] for d in d_outputs])
        return []

    return backprop
