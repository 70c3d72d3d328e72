"""The base class of heads. A subclass says what its loss is and what its scores mean; the base
class trains, predicts, scores, saves and loads.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy
from spacy.errors import Errors as SpacyErrors
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example, validate_examples, validate_get_examples
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer, set_dropout_rate
from thinc.types import FloatsXd

from ..concurrency import WeightsLock
from ..contracts import Listener, ModuleOptimizer
from ..corpora.scope import is_for
from ..corpora.streams import read_whole
from ..encoder.host import isolated
from ..errors import Errors
from ..storage import SavedPipe, check_type
from ..types import Floats1d, Floats2d, Ints2d, Settings, get_ops
from ..weights import ModelWeights
from .loss_weighting import LossWeighting
from .losses import ExampleWeights
from .prior import get_log_shares
from .siblings import Prediction, ScoredHead

Scores = TypeVar("Scores")


class Head(SavedPipe, ScoredHead[Prediction], ABC, Generic[Scores, Prediction]):
    """A component that learns one kind of label over the shared encoder.

    A subclass sets `layer` and implements `loss`, `decode` and `annotate`. `Scores` is the type of
    the model's output, `Prediction` the type of a prediction for one doc. The model has the
    references "tok2vec" and "output_layer", which the functions of `heads.layers` set.

    A head without labels in a batch does nothing: its weights do not change, not even by momentum.

    One thread may train while others predict and save: they read the weights under `lock`, and
    updates write under it. A head that listens to an encoder uses the encoder's lock.

    vocab (Vocab): The shared vocabulary.
    model (Model[List[Doc], Scores]): Scores a batch of docs.
    name (str): The component's name.
    scorer (Optional[Callable]): The scoring method.
    loss (Optional[LossWeighting]): Weights of hard units and rare classes in the loss.
    **settings: Entries of `cfg`, which are saved.
    """

    model: Model[list[Doc], Scores]
    # The types of saved settings. Subclasses add theirs.
    CFG: Settings = {
        "labels": list[str],
        "label_smoothing": float,
        "temperature": float,
        "class_weights": dict[str, float],
        "loss_steps": int,
        "neg_prefix": str | None,
        "overwrite": bool,
        "positive_label": str | None,
        "spans_key": str | None,
        "threshold": float,
    }
    # State learned in training besides weights and labels, with its initial values. It is always
    # saved, so that loading replaces old values.
    LEARNED_STATE: ClassVar[Settings] = {"class_weights": {}, "loss_steps": 0}
    reads_tokens = True  # whether the scores have one row per token
    is_frozen = False  # set by early stopping: updates are skipped
    prediction_callback: Callable[[list[Doc], Scores], None] | None = None
    _has_gradient = False
    _is_initialized = False  # False for a loaded head, whose labels may not fit the new data

    def __init__(
        self,
        vocab: Vocab,
        model: Model[list[Doc], Scores],
        name: str,
        *,
        scorer: Callable[..., Settings] | None = None,
        loss: LossWeighting | None = None,
        **settings: object,
    ) -> None:
        self.vocab = vocab
        self.model = model
        self.name = name
        self.scorer = scorer
        self.lock = WeightsLock()
        self.loss_weighting = loss
        self.cfg = {"labels": [], **settings, **deepcopy(self.LEARNED_STATE)}
        self.counts: dict[str, list[int]] = {}

    # What a subclass implements

    @abstractmethod
    def loss(self, examples: Sequence[Example], scores: Scores) -> tuple[float, Scores, int]:
        """Compute the loss of a batch.

        examples (Sequence[Example]): The batch. Some examples may have no labels for this head.
        scores: The output of the model for the predicted docs.
        RETURNS (Tuple[float, Scores, int]): The mean loss per labelled unit (in nats if it is a
            likelihood), its gradient with respect to the scores, and the number of labelled units.
        """

    @abstractmethod
    def decode(self, docs: Sequence[Doc], scores: Scores) -> Sequence[Prediction]:
        """Turn scores into predictions.

        docs (Sequence[Doc]): The batch, with at least one token. They are not to be changed.
        scores: The output of the model for them.
        RETURNS (Sequence): One prediction per doc.
        """

    @abstractmethod
    def annotate(self, docs: Sequence[Doc], predictions: Sequence[Prediction]) -> None:
        """Write predictions to docs.

        docs (Sequence[Doc]): The docs.
        predictions (Sequence): One prediction per doc.
        """

    def decode_empty(self, docs: Sequence[Doc]) -> Sequence[Prediction]:
        """RETURNS (Sequence): One prediction per doc, for docs without tokens: empty lists."""
        return [[] for _ in docs]  # type: ignore[misc]

    def get_outputs(self) -> list[str]:
        """RETURNS (List[str]): The class of each output of the model: the labels by default."""
        return list(self.labels)

    def get_output_names(self) -> list[str]:
        """RETURNS (List[str]): The name of each output, all different: its class by default."""
        return self.get_outputs()

    def count_outputs(self, examples: Iterable[Example]) -> Ints2d | None:
        """Count the labelled units of each output, for the bias at the start of training and for
        balanced class weights.

        examples (Iterable[Example]): The training examples.
        RETURNS (Optional[Ints2d]): The units with each output, and without it, C x 2; None if the
            outputs are no classes.
        """
        return None

    def get_bias(self, counts: Floats2d) -> Floats1d:
        """Compute the scores that fit the labels best, of all that are the same for each unit. The
        bias of the output layer starts with them.

        counts (Floats2d): The units with each output, times the class weights, and without it,
            C x 2.
        RETURNS (Floats1d): The bias, C. Its softmax gives the share of each output by default.
        """
        return get_log_shares(counts)

    def check_labels(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        """Check the labels at initialization.

        get_examples (Callable): Returns a representative sample of examples.
        RAISES (ValueError): spaCy's E143 if there is no label.
        """
        if not self.labels:
            raise ValueError(SpacyErrors.E143.format(name=self.name))

    def balance_classes(self, examples: Iterable[Example]) -> dict[str, float]:
        """RETURNS (Dict[str, float]): Class weights under which all classes that occur have the
            same total.
        RAISES (ValueError): M039 if the head has no classes.
        """
        counts = self.count_outputs(examples)
        if counts is None:
            raise ValueError(Errors.M039.format(name=self.name))
        units = Counter[str]()
        for label, (n, _) in zip(self.get_outputs(), counts.tolist(), strict=True):
            units[label] += n
        found = {label: n for label, n in units.items() if n}
        return {label: units.total() / (len(found) * n) for label, n in found.items()}

    # Labels

    def has_labels(self, doc: Doc) -> bool:
        """RETURNS (bool): Whether a gold doc has labels for this head."""
        return is_for(doc, self.name) and self.layer.is_annotated(doc)

    def read_gold(self, example: Example) -> Any:
        """RETURNS: The gold annotation of the predicted tokens, as the layer's `read_gold` returns
        it; None if the example is not for this head.
        """
        return self.layer.read_gold(example) if is_for(example.reference, self.name) else None

    @property
    def labels(self) -> tuple[str, ...]:
        """RETURNS (Tuple[str]): The labels of the head."""
        return tuple(self.cfg["labels"])

    @property
    def label_data(self) -> Settings:
        """RETURNS (Dict[str, Any]): The labels, and for each output of the model the number of
        labelled units with and without it, as `init labels` writes and `initialize` reads them:
        {"labels": ["a", "b"], "counts": [["a", 3, 1], ["b", 1, 3]]}. A loaded head has no
        counts.
        """
        # A config loses keys such as ":" or "[a]", but no items of lists.
        counts = [[name, *pair] for name, pair in self.counts.items()]
        return {"labels": list(self.labels), "counts": counts}

    def add_label(self, label: str) -> int:
        """Add a label, before the model is initialized.

        label (str): The label.
        RETURNS (int): 0 if the head has the label already, otherwise 1.
        RAISES (ValueError): spaCy's E187 if the label is no string, M032 if the model is
            initialized.
        """
        if not isinstance(label, str):
            raise ValueError(SpacyErrors.E187)
        if label in self.labels:
            return 0
        if self.has_weights:
            raise ValueError(Errors.M032.format(name=self.name, label=label, labels=self.labels))
        self.cfg["labels"].append(label)
        self.vocab.strings.add(label)
        return 1

    def find_labels(self, get_examples: Callable[[], Iterable[Example]]) -> list[str]:
        """RETURNS (List[str]): The labels of the examples that are for this head."""
        docs = (eg.reference for eg in get_examples())
        return self.layer.find_labels(doc for doc in docs if is_for(doc, self.name))

    def get_gold_labels(self, doc: Doc) -> set[str]:
        """RETURNS (Set[str]): The labels of a gold doc that some head has to know."""
        return set(self.layer.find_labels([doc]))

    # Initialization and state

    @isolated
    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: dict[str, Any] | Sequence[str] | None = None,
    ) -> None:
        """Find the labels, set the sizes of the model, and start its bias at the frequencies of the
        labels.

        get_examples (Callable): Returns a representative sample of examples. If they are
            draws of a MixedCorpus, all its examples are read instead.
        nlp (Optional[Language]): The current pipeline.
        labels (Optional[Union[Dict[str, Any], Sequence[str]]]): The labels, or labels and counts,
            as written by `init labels`. By default both are collected from the examples.
        RAISES (ValueError): M032 or M035 if the labels do not fit the model, M038 if a class weight
            names another label, M049 or M170 for labels and counts of another form, spaCy's E143
            if there is no label.
        """
        validate_get_examples(get_examples, f"{type(self).__name__}.initialize")
        get_examples = read_whole(get_examples)
        counts: dict[str, list[int]] = {}
        if isinstance(labels, Mapping):
            entry = f"initialize.components.{self.name}.labels"
            rows = labels.get("counts", [])
            rows = check_type(rows, list[tuple[str, int, int]], f"{entry}.counts")
            counts = {name: [*pair] for name, *pair in rows}
            labels = check_type(labels.get("labels"), list[str], f"{entry}.labels")
        for label in self.find_labels(get_examples) if labels is None else labels:
            self.add_label(label)
        self.check_labels(get_examples)
        output = self.model.get_ref("output_layer")
        if not output.has_dim("nO"):
            output.set_dim("nO", len(self.get_outputs()))
        # Sizes depend on the labels and the encoder, not on the data.
        self.model.initialize(X=[Doc(self.vocab, words=["a"])])
        self.check_outputs()
        self.reset_state()
        self.set_class_weights(get_examples)
        self.counts = counts or self._count_by_name(get_examples())
        self._set_bias()

    def _count_by_name(self, examples: Iterable[Example]) -> dict[str, list[int]]:
        counts = self.count_outputs(examples)
        if counts is None:
            return {}
        return dict(zip(self.get_output_names(), counts.tolist(), strict=True))

    def _set_bias(self) -> None:
        output, names = self.model.get_ref("output_layer"), self.get_output_names()
        if not self.counts or "b" not in output.param_names:
            return
        if different := sorted(self.counts.keys() ^ set(names)):
            raise ValueError(Errors.M170.format(name=self.name, different=different))
        counts: Any = numpy.array([self.counts[name] for name in names], dtype="f")
        counts[:, 0] *= self._get_class_weights()
        output.set_param("b", get_ops(self.model).asarray1f(self.get_bias(counts)))

    def reset_state(self) -> None:
        """Reset the state learned in training to its initial values."""
        self._is_initialized, self.is_frozen = True, False
        self.cfg |= deepcopy(self.LEARNED_STATE)

    def set_class_weights(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        """Set the class weights of the config, or compute them if they are "balanced".

        get_examples (Callable): Returns a representative sample of examples.
        RAISES (ValueError): M038 for a weight of a class that the head does not have, M039 for
            balanced weights of a head without classes.
        """
        if self.loss_weighting is None:
            return
        weights = self.loss_weighting.class_weights
        if weights == "balanced":
            weights = self.balance_classes(get_examples())
        else:
            self.loss_weighting.check_classes(self.name, self.get_outputs())
        self.cfg["class_weights"] = weights

    def get_weights(self) -> ExampleWeights | None:
        """RETURNS (Optional[ExampleWeights]): The weights of units in the next loss, for the
        functions of `heads.losses`.
        """
        if self.loss_weighting is None:
            return None
        weights = self._get_class_weights()
        return self.loss_weighting.get_weights(self.cfg["loss_steps"], weights, self.model.ops)

    def _get_class_weights(self) -> list[float]:
        return [self.cfg["class_weights"].get(label, 1.0) for label in self.get_outputs()]

    def state_dict(self) -> Settings:
        """RETURNS (Dict[str, Any]): A copy of the state learned in training besides weights and
        labels, as JSON can hold it.
        """
        learned = {key: self.cfg[key] for key in self.LEARNED_STATE}
        return deepcopy({**learned, "is_frozen": self.is_frozen})

    def load_state_dict(self, state: Settings) -> None:
        """Replace the state learned in training. Missing entries get their initial values.

        state (Mapping[str, Any]): A result of `state_dict`.
        RAISES (ValueError): M049 if a value has the wrong type.
        """
        known = {key: state.get(key, self.LEARNED_STATE[key]) for key in self.LEARNED_STATE}
        for key, value in known.items():
            check_type(value, self.CFG[key], f"{self.name}.{key}")
        is_frozen = check_type(state.get("is_frozen", False), bool, f"{self.name}.is_frozen")
        self.cfg |= deepcopy(known)
        self.is_frozen = is_frozen

    # Prediction

    @property
    def has_weights(self) -> bool:
        """RETURNS (bool): Whether the model is initialized or loaded."""
        output = self.model.get_ref("output_layer")
        return all(output.has_param(name) for name in output.param_names)

    def check_initialized(self) -> None:
        """RAISES (ValueError): spaCy's E109 if the model has no weights yet."""
        if not self.has_weights:
            raise ValueError(SpacyErrors.E109.format(name=self.name))

    def check_outputs(self) -> None:
        """RAISES (ValueError): M035 unless the model has as many outputs as the head needs."""
        n_outputs, outputs = self.model.get_ref("output_layer").get_dim("nO"), self.get_outputs()
        if n_outputs != len(outputs):
            labels, n = list(self.labels)[:10], len(outputs)
            raise ValueError(Errors.M035.format(name=self.name, nO=n_outputs, n=n, labels=labels))

    def check_tokens(self, docs: Iterable[Doc]) -> None:
        """RAISES (ValueError): M078 if tokens have been merged or split since a doc was encoded."""
        from ..encoder.token_matrix import check_lengths  # imports torch

        if self.reads_tokens:
            check_lengths(docs, self.name)

    @isolated
    def predict(self, docs: Iterable[Doc]) -> Sequence[Prediction]:
        """Predict the labels of a batch of docs, without modifying them.

        docs (Iterable[Doc]): The docs.
        RETURNS (Sequence): One prediction per doc.
        RAISES (ValueError): spaCy's E109 before `initialize`; M078 if tokens have been merged or
            split since a doc was encoded.
        """
        docs = list(docs)
        if not any(map(len, docs)):
            self._release_rows(docs)
            return self.decode_empty(docs)
        return self.decode(docs, self._get_scores(docs))

    def _get_scores(self, docs: list[Doc]) -> Scores:
        from ..encoder.token_matrix import renew_rows  # imports torch

        self.check_initialized()
        self.check_tokens(docs)
        with self.lock.reading():
            renew_rows(docs)
            scores = self.model.predict(docs)
        if self.prediction_callback is not None:
            self.prediction_callback(docs, scores)
        return scores

    def _release_rows(self, docs: Iterable[Doc]) -> None:
        from ..encoder.token_matrix import release  # imports torch

        for node in self.model.walk():
            release(docs, node.id)

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream of docs, in batches of docs that were encoded together.

        stream (Iterable[Doc]): The docs.
        batch_size (int): The largest number of docs in a batch.
        YIELDS (Doc): The docs in order.
        """
        from ..encoder.token_matrix import group_by_matrix  # imports torch

        error_handler = self.get_error_handler()
        for docs in group_by_matrix(stream, batch_size):
            try:
                self.set_annotations(docs, self.predict(docs))
                yield from docs
            except Exception as err:
                error_handler(self.name, self, docs, err)

    # Training

    @isolated
    def get_loss(self, examples: Iterable[Example], scores: Scores) -> tuple[float, Scores]:
        """Compute the loss and its gradient for a batch of docs and their scores.

        examples (Iterable[Example]): The batch.
        scores: The output of the model for it.
        RETURNS (Tuple[float, Scores]): The mean loss per labelled unit, and its gradient.
        """
        return self.loss(list(examples), scores)[:2]

    @isolated
    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn from a batch of examples.

        examples (Iterable[Example]): The batch. Examples without labels for this head add nothing.
        drop (float): The dropout rate, unless the model has its own.
        sgd (Optional[Optimizer]): Updates this head's own weights at once.
        losses (Optional[Dict[str, float]]): The mean loss per labelled unit is added under the
            component's name.
        RETURNS (Dict[str, float]): The losses.
        RAISES (ValueError): M071 if the head was loaded, and no head of its kind has some label of
            the examples; M078 if tokens have been merged or split since a doc was encoded; spaCy's
            E109 before `initialize`.
        """
        examples = list(examples)
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        validate_examples(examples, f"{type(self).__name__}.update")
        docs = [eg.predicted for eg in examples]
        if self.is_frozen or not any(map(len, docs)):
            return losses
        self.check_initialized()
        if not self._is_initialized:
            self._check_known(examples)
        must_backprop = has_stock_listener(self.model)
        # A head may have no labels, such as one for entities.
        can_learn = self.labels and any(self.has_labels(eg.reference) for eg in examples)
        if not (can_learn or must_backprop):
            return losses
        self.check_tokens(docs)
        own_drop = self.model.attrs.get("dropout")
        set_dropout_rate(self.model, drop if own_drop is None else own_drop)
        scores, backprop = self.model.begin_update(docs)
        loss, d_scores, n = self.loss(examples, scores)
        if n or must_backprop:
            losses[self.name] += loss
            self._has_gradient = self._has_gradient or n > 0
            self._report_loss(docs, loss, n)
            with numpy.errstate(invalid="ignore", over="ignore"):  # the encoder warns by W002
                backprop(d_scores)
        if sgd:
            self.finish_update(sgd)
        return losses

    def _report_loss(self, docs: Sequence[Doc], loss: float, n_units: int) -> None:
        from ..encoder.listener import TaskListener  # imports torch
        from ..encoder.training_pass import report_loss

        if any(isinstance(node, TaskListener) for node in self.model.walk()):
            report_loss(docs, self.name, loss, n_units)

    def _check_known(self, examples: Iterable[Example]) -> None:
        if not self.all_heads:  # not linked to an encoder: the siblings are unknown
            return
        unknown: set[str] = set()
        for doc in [eg.reference for eg in examples if self.has_labels(eg.reference)]:
            # A label may belong to any of the heads that the doc is for.
            heads = [self, *(head for head in self.siblings if is_for(doc, head.name))]
            unknown |= self.get_gold_labels(doc).difference(*(head.labels for head in heads))
        if unknown:
            known, names = list(self.labels)[:10], sorted(unknown)
            raise ValueError(Errors.M071.format(name=self.name, unknown=names, known=known))

    @isolated
    def finish_update(self, sgd: Optimizer) -> None:
        """Update this head's weights, if it has a gradient.

        sgd (Optimizer): The optimizer.
        """
        if self._has_gradient:
            self._has_gradient = False
            with self.lock.writing():
                if not ModelWeights({self.name: self.model}).drop_broken_gradients():
                    if isinstance(sgd, ModuleOptimizer):
                        sgd.clip_model(self.model)
                    self.model.finish_update(sgd)
            if self.loss_weighting is not None:
                self.cfg["loss_steps"] += 1

    def rehearse(
        self,
        examples: Iterable[Example],
        *,
        losses: dict[str, float] | None = None,
        **options: object,
    ) -> dict[str, float]:
        """Return the losses unchanged. Rehearsal is not supported."""
        return losses or {}

    def use_params(self, params: dict[tuple[int, str], FloatsXd]) -> Iterator[None]:
        """Replace the weights of the head inside a context.

        params (dict): The weights by their keys, such as the averages of an optimizer.
        """
        with ExitStack() as stack:
            with self.lock.writing():
                stack.enter_context(self.model.use_params(params))
            try:
                yield
            finally:
                with self.lock.writing():
                    stack.close()

    # Saving and loading

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """Serialize the pipe to a bytestring.

        exclude (Iterable[str]): String names of serialization fields to exclude.
        RETURNS (bytes): The serialized object.
        """
        with self.lock.reading():
            return super().to_bytes(exclude=exclude)

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Serialize the pipe to a folder.

        path (str / Path): The folder.
        exclude (Iterable[str]): String names of serialization fields to exclude.
        """
        with self.lock.reading():
            super().to_disk(path, exclude=exclude)

    def _load_model(self, msg: Settings) -> None:
        super()._load_model(msg)
        if self.model.get_ref("output_layer").has_dim("nO"):
            self.check_outputs()


def show_as(factory: str, stock: str) -> None:
    """Set the factory name under which spaCy's own commands see the components of a factory.
    `spacy debug data` and `spacy evaluate --displacy-path` look for the names of stock factories.
    Configs keep the factory's own name.
    """
    Language.get_factory_meta(factory).factory = stock


def has_stock_listener(model: Model[Any, Any]) -> bool:
    """RETURNS (bool): Whether the model listens to a stock encoder. Such an encoder runs its
    backward when its last listener backpropagates, so the head must do so in every batch.
    """
    from ..encoder.listener import TaskListener  # imports torch

    nodes = [node for node in model.walk() if isinstance(node, Listener)]
    return not all(isinstance(node, TaskListener) for node in nodes)
