"""The component `mtl_transformer`: encodes docs for all heads, and learns from their gradients."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex

from spacy.errors import Errors as SpacyErrors
from spacy.language import Language
from spacy.pipeline.trainable_pipe import TrainablePipe
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from spacy.vocab import Vocab
from thinc.api import Model, NumpyOps, Optimizer, set_dropout_rate

from ..arguments import check
from ..card import write_card
from ..concurrency import WeightsLock
from ..errors import Errors
from ..storage import SavedPipe, parse_json
from ..types import Settings
from . import stock
from .diagnostics import Diagnostics
from .host import isolated
from .linking import ListenedTo, ListenerSet
from .listener import TaskListener
from .model.forward import Encoding
from .model.transformer import SharedTransformer
from .runtime.cpu.threads import WORKERS, prefetch
from .stock_names import null_annotation_setter
from .tok2vec import Replacement
from .token_matrix import TokenMatrix, get_rows, set_rows
from .training_pass import Balancer, OpenPass, TrainingPass

BUFFER = 12288  # tokens encoded together: enough to group by length, and little memory
GPU_BUFFER = 32768  # tokens encoded together on a GPU, where larger batches are faster
BALANCER = "balancer.json"  # the file of the balancer's state


class SharedEncoder(ListenedTo, SavedPipe, TrainablePipe):  # type: ignore[misc]
    """Encodes docs once for all heads that listen, and runs one backward for their gradients.

    `update` opens a training pass. Its backward runs when the pass is closed, which happens before
    the weights are used again: by the next `update` or `finish_update`, and, if an optimizer waits,
    by a prediction, by saving, or as soon as all heads have sent their gradients. So neither the
    order of heads nor a head without labels loses a gradient.

    A pass belongs to the thread that opened it. Other threads may predict and save meanwhile: they
    read the weights of one moment.

    vocab (Vocab): The shared vocabulary.
    model (Model[List[Doc], TokenMatrix]): The encoder. A model of spacy-transformers is converted,
        with its weights.
    balancer (Balancer): Combines the tasks' gradients.
    set_extra_annotations (Callable): Called with the docs and their TokenMatrix after encoding.
    name (str): The component's name.
    max_batch_items (int): Wordpieces per forward pass, padding included.
    """

    model: SharedTransformer

    def __init__(
        self,
        vocab: Vocab,
        model: Model[list[Doc], Any],
        balancer: Balancer,
        set_extra_annotations: Callable[..., None] = null_annotation_setter,
        *,
        name: str = "transformer",
        max_batch_items: int = 4096,
    ) -> None:
        if stock.is_stock_model(model):
            model = SharedTransformer.from_stock(model)
        if not isinstance(model, SharedTransformer):
            raise ValueError(Errors.M006.format(name=name, model=type(model).__name__))
        check(name, "balancer", balancer, Balancer)
        ListenedTo.__init__(self)
        stock.install_extension()
        self.vocab, self.model, self.name = vocab, model, name
        self.set_extra_annotations = set_extra_annotations
        self.cfg = {"max_batch_items": max_batch_items}
        self.model.attrs["max_batch_items"] = max_batch_items
        replacement = Replacement()
        self.model.attrs["replace_listener"] = replacement.replace_model
        self.model.attrs["replace_listener_cfg"] = replacement.replace_config
        self.balancer, self._initial_state = balancer, deepcopy(balancer.state_dict())
        self.diagnostics = Diagnostics()
        self._open = OpenPass()
        self._balancing = WeightsLock()  # of the balancer's state
        self._named: Mapping[str, ListenerSet[Any]] = {}  # listeners by the names in that state
        self._has_gradient = False

    def initialize(
        self, get_examples: Callable[[], Iterable[Example]], *, nlp: Language | None = None
    ) -> None:
        """Load the pretrained encoder and link the heads after it.

        get_examples (Callable): Not used: the encoder has no labels.
        nlp (Optional[Language]): The current pipeline.
        RAISES (ValueError): M001 to M004, M067, M068 or M072 if the encoder cannot be made, M020
            if the balancer names a task that no component has, M070 if a sourced head has another
            width.
        """
        self.model.initialize()
        if nlp is not None:
            fill_in_optimizer(nlp)
            names = nlp.pipe_names
            for name in names[names.index(self.name) :] if self.name in names else ():
                self.find_listeners(nlp.get_pipe(name))
            self.sourced = [pipe for name, pipe in nlp.components if name in nlp.disabled]
        self.link_sourced()
        self.balancer.check(self.tasks)
        self.balancer.load_state_dict(deepcopy(self._initial_state))
        self._named = self.get_names()

    def check_initialized(self) -> None:
        """RAISES (ValueError): spaCy's E109 if there are no weights yet."""
        if not self.model.attrs["has_transformer"]:
            raise ValueError(SpacyErrors.E109.format(name=self.name))

    # Predictions

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Encode a stream of docs.

        stream (Iterable[Doc]): The docs.
        batch_size (int): Docs encoded together at most. A batch ends earlier at 12,288 tokens, on a
            GPU 32,768, so that long docs need no more memory. Batches of at least 4,096 tokens are
            prefetched by threads: two on a CPU, one on a GPU. Docs encoded before an update are
            encoded again.
        YIELDS (Doc): The docs in order.
        """
        error_handler = self.get_error_handler()
        self.check_initialized()
        self.model.limit_threads()
        workers = WORKERS if isinstance(self.model.ops, NumpyOps) else 1
        groups = self._group(buffer(stream, batch_size, self.buffer_size))
        for (docs, todo), get in prefetch(self._encode, groups, workers, is_large):
            try:
                matrix, _ = get()
                if todo:
                    self.set_annotations(todo, self.predict(todo) if matrix.is_stale else matrix)
                yield from docs
            except Exception as err:
                error_handler(self.name, self, docs, err)

    @property
    def buffer_size(self) -> int:
        """RETURNS (int): The number of tokens from which on a batch is full."""
        return BUFFER if isinstance(self.model.ops, NumpyOps) else GPU_BUFFER

    def _group(self, batches: Iterable[list[Doc]]) -> Iterator[tuple[list[Doc], list[Doc]]]:
        """YIELDS (Tuple[List[Doc], List[Doc]]): The next docs, and those of them to encode: all but
        the docs of an open training pass.
        """
        for docs in batches:
            todo = [doc for doc in docs if not is_live(doc)]
            if todo:
                self._finish_update_if_pending()
            yield docs, todo

    def _encode(self, group: tuple[list[Doc], list[Doc]], n_threads: int) -> Encoding:
        self.ask_for_layers()
        return Encoding(self.model, group[1], n_threads)

    def predict(self, docs: Iterable[Doc]) -> TokenMatrix:
        """Encode a batch of docs, without modifying them.

        docs (Iterable[Doc]): The docs.
        RETURNS (TokenMatrix): One row per token.
        """
        self.check_initialized()
        self.ask_for_layers()
        with self._reading_weights():
            return self.model.predict(list(docs))

    def set_annotations(self, docs: Iterable[Doc], predictions: TokenMatrix) -> None:
        """Store each doc's rows in `doc._.trf_data`, until the last listener has read them. With a
        stock listener in the pipeline they stay, as in spacy-transformers.

        docs (Iterable[Doc]): The docs.
        predictions (TokenMatrix): The output of `predict` for these docs.
        """
        docs = list(docs)
        listeners = list(self.all_listeners)
        releases = listeners and all(isinstance(own, TaskListener) for own in listeners)
        readers = {listener.id for listener in listeners} if releases else None
        set_rows(docs, predictions, readers=readers)
        self.set_extra_annotations(docs, predictions)

    # Training

    @isolated
    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Encode a batch and open a training pass, to which the listeners send their gradients.

        examples (Iterable[Example]): Only the predicted docs are used.
        drop (float): The dropout rate of thinc layers. The encoder's own is in its config.
        sgd (Optional[Optimizer]): Updates the encoder when the pass is closed.
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
        self.balancer.check(self.tasks)
        self.ask_for_layers()
        set_dropout_rate(self.model, drop)
        output: Any = self.model.begin_update(docs)  # thinc's type hides the backward's
        matrix, backward = output
        tasks = {listener.id: listener.task for listener in self.all_listeners}
        awaited = {own.id for task in self.tasks for own in self.listener_map[task]}
        opened = TrainingPass(matrix, backward, tasks, awaited, losses)
        rows = set_rows(docs, matrix, opened)
        stock.send_rows(self.listeners, docs, rows, opened)
        self._open.current = opened
        if sgd:
            self._update_when_complete(opened, sgd)
        return losses

    @isolated
    def flush(self) -> None:
        """Close this thread's training pass, if there is one: combine the gradients, run the
        encoder's backward, and update the weights if an optimizer waits.
        """
        opened, self._open.current = self._open.current, None
        if opened is None:
            return
        stock.clear(self.listeners)
        with self._balancing.writing():
            result = opened.close(self.balancer)
        if result is None:
            return
        self.diagnostics.add(result)
        if result.batch.names:
            self._has_gradient = True
            opened.totals.totals[self.name] += result.loss
        if opened.optimizer is not None:
            self._finish_update(opened.optimizer)

    @isolated
    def finish_update(self, sgd: Optimizer) -> None:
        """Update the encoder's weights by all gradients that have arrived. If no head has sent any
        yet, as in `nlp.update(sgd=...)`, the update waits until the pass is closed.

        sgd (Optimizer): The optimizer.
        """
        opened = self._open.current
        if opened is not None and not opened.gradients:
            self._update_when_complete(opened, sgd)
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

    def _update_when_complete(self, opened: TrainingPass, sgd: Optimizer) -> None:
        opened.optimizer = sgd
        # Stock heads add to the losses only after they have sent their gradient.
        if {*self.tasks} <= {head.name for head in self.heads}:
            opened.on_complete = self.flush

    def _finish_update_if_pending(self) -> None:
        """Close the training pass if an optimizer waits for it. Without an optimizer the weights
        stay, so heads may still send gradients.
        """
        if self._open.current is not None and self._open.current.optimizer is not None:
            self.flush()

    @contextmanager
    def _reading_weights(self) -> Iterator[None]:
        self._finish_update_if_pending()
        with self.model.lock.reading():
            yield

    def get_loss(self, examples: object, scores: object) -> None:
        """Return nothing: the encoder has no loss of its own."""

    def _follow_names(self) -> None:
        """Move the balancer's state and the diagnostics to the current names of the tasks, and drop
        those of heads that were removed. A new head under an old name starts from scratch.
        """
        self.link_sourced()
        named = self.get_names()
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
        self._named = named

    # State and serialization

    def state_dict(self) -> Settings:
        """RETURNS (Dict[str, Any]): The state of the balancer and the diagnostics."""
        with self._balancing.reading():
            balancer = deepcopy(self.balancer.state_dict())
        return {"balancer": balancer, "diagnostics": self.diagnostics.state_dict()}

    def load_state_dict(self, state: Settings) -> None:
        """Replace the state by one that `state_dict` returned.

        RAISES (ValueError): M049 if a value is of another type.
        """
        self.balancer.load_state_dict(state["balancer"])
        self.diagnostics.load_state_dict(state["diagnostics"])

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        self.flush()  # an open pass cannot be copied or pickled
        return super().__reduce_ex__(protocol)

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """RETURNS (bytes): The component, with weights and the balancer's state."""
        self._finish_update_if_pending()
        self._follow_names()
        return super().to_bytes(exclude=exclude)

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Save the component, with weights and the balancer's state. In the folder of a pipeline,
        write the model card too.
        """
        self._finish_update_if_pending()
        self._follow_names()
        super().to_disk(path, exclude=exclude)
        write_card(Path(path), self.model.n_parameters)

    def _get_writers(self) -> dict[str, Callable[[], bytes]]:
        return super()._get_writers() | {BALANCER: self._pack_balancer}

    def _pack_balancer(self) -> bytes:
        with self._balancing.reading():
            return json.dumps(self.balancer.state_dict()).encode()

    def _get_readers(self) -> dict[str, Any]:
        parse = partial(parse_json, entry="balancer")
        return super()._get_readers() | {BALANCER: (parse, self._load_balancer)}

    def _load_balancer(self, state: Settings) -> None:
        self.balancer.load_state_dict(state)
        self._named = self.get_names()
        if self._named:
            self.balancer.rename({task: task for task in self._named})


def fill_in_optimizer(nlp: Language) -> None:
    """Fill in the variables of `[training.optimizer]`, such as ${training.max_steps}. spaCy makes
    optimizers for Python code from this section alone, where the variables have no value.
    """
    filled = nlp.config.interpolate()
    nlp.config["training"]["optimizer"] = filled["training"]["optimizer"]


def buffer(stream: Iterable[Doc], n_docs: int, n_tokens: int) -> Iterator[list[Doc]]:
    """YIELDS (List[Doc]): Batches of docs. A batch ends at a number of docs or of tokens."""
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
    """RETURNS (bool): Whether the docs to encode are worth a thread."""
    return 3 * sum(map(len, group[1])) >= BUFFER


def is_live(doc: Doc) -> bool:
    """RETURNS (bool): Whether a doc was encoded in a training pass that is still open."""
    rows = get_rows(doc)
    return rows is not None and rows.is_live
