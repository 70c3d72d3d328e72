"""What all heads share: how they learn from a batch, and the layers under their scores."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import reduce
from operator import and_
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy
from spacy.errors import Errors as SpacyErrors
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example, validate_examples, validate_get_examples
from thinc.api import (
    Dropout,
    Linear,
    Model,
    Optimizer,
    Ragged,
    chain,
    list2array,
    set_dropout_rate,
    zero_init,
)

from ..concurrency import WeightsLock
from ..corpora.scope import Selective, is_for
from ..encoder.host import isolated
from ..errors import Errors
from ..products import use_one_core
from ..storage import SavedPipe
from ..types import Bools2d, Floats1d, Floats2d
from .losses import Focus, cross_entropy, softmax
from .unit_loss import UnitLoss

# What a training finds out, beside weights and labels. It is always saved, or what is loaded over
# another head's would be mixed with it.
FOUND = {"temperature": 1.0, "class_weights": {}, "loss_steps": 0}
# Where the docs' `user_data` has the answers of each of several heads of one kind.
ANSWERS = "mtl_answers"


class Head(Selective, SavedPipe):
    """Mixed into a trainable pipe. A head says which examples hold labels for it and what a batch
    costs; the rest of the update is the same for all.

    A head without labels in a batch is silent: it changes nothing, not even by its momentum.

    One thread may train while others predict and save: these hold `lock` while they read weights,
    and updates hold it alone. A head that is linked to an encoder has the encoder's.

    loss (Optional[UnitLoss]): Which units count how much in its loss; all alike if not given.
    """

    CFG = {
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
    labels: Any  # the label names, a property of the other parents
    reads_tokens = True  # each for itself
    predict: Callable
    set_annotations: Callable
    get_error_handler: Callable
    is_frozen = False  # set in training, when its task has stopped
    watch: Callable[[list[Doc], Any], None] | None = None  # is told the scores of predictions
    _has_gradient = False
    _is_initialized = False  # not loaded with labels that were found elsewhere

    def __init__(self, *args: Any, loss: UnitLoss | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lock = WeightsLock()
        self.unit_loss = loss
        self.cfg |= FOUND

    def has_labels(self, doc: Doc) -> bool:
        """RETURNS (bool): Whether a gold doc may hold labels for this head."""
        return is_for(doc, self.name) and self.is_annotated(doc)

    def is_annotated(self, doc: Doc) -> bool:
        """RETURNS (bool): Whether a gold doc may hold labels for heads of this kind."""
        raise NotImplementedError

    def get_gold_labels(self, doc: Doc) -> set[str]:
        """RETURNS (Set[str]): The labels for heads of this kind in a gold doc."""
        raise NotImplementedError

    def get_allowed(self, examples: Sequence[Example]) -> Bools2d:
        """RETURNS (Bools2d): Which labels the annotation allows for each unit, on the CPU."""
        raise NotImplementedError

    def get_classes(self) -> list[str]:
        """RETURNS (List[str]): For each output of the model, under which name it has a weight."""
        return list(self.labels)

    def find_labels(self, docs: Iterable[Doc]) -> list[str]:
        """RETURNS (List[str]): The labels for heads of this kind in gold docs."""
        return sorted({label for doc in docs for label in self.get_gold_labels(doc)})

    def get_answer(self, doc: Doc, prediction: Any) -> Any:
        """RETURNS: A prediction for a doc as JSON can hold it."""
        raise NotImplementedError

    def set_answer(self, doc: Doc, answer: Any) -> None:
        """Replace the annotation of a doc by what `get_answer` returned."""
        raise NotImplementedError

    def remove_labels(self, doc: Doc, labels: set[str]) -> None:
        """Remove the labels of other heads of this kind from a gold doc."""
        raise NotImplementedError

    @property
    def siblings(self) -> list[Any]:
        """RETURNS (List[Head]): The other heads of this kind in the pipeline, by name."""
        kind = type(self).get_gold_labels
        others = [head for head in self.peers if type(head).get_gold_labels is kind]
        return sorted((h for h in others if h.name != self.name), key=lambda head: head.name)

    def keep_answers(self, docs: Iterable[Doc], predictions: Iterable[Any]) -> None:
        """Keep the predictions on their docs, by the name of this head, if it has siblings: they
        write to the same attributes.

        docs (Iterable[Doc]): The docs.
        predictions (Iterable[Any]): What `predict` returned for them.
        """
        if self.siblings:
            for doc, prediction in zip(docs, predictions, strict=True):
                answers = doc.user_data.setdefault(ANSWERS, {})
                answers[self.name] = self.get_answer(doc, prediction)

    def isolate(self, example: Example) -> Example | None:
        """Take an example as if this head were the only one of its kind.

        example (Example): An example with its prediction.
        RETURNS (Optional[Example]): The example with the answers and labels of this head alone,
            None if it is not for this head.
        """
        if not is_for(example.reference, self.name):
            return None
        answers = example.predicted.user_data.get(ANSWERS, {})
        siblings = self.siblings
        if not siblings or self.name not in answers:
            return example
        predicted, reference = example.predicted.copy(), example.reference.copy()
        self.set_answer(predicted, answers[self.name])
        others = {label for head in siblings for label in head.labels}
        self.remove_labels(reference, others.difference(self.labels))
        return Example(predicted, reference)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score the examples that are for this head.

        One of several heads of a kind is scored by its own answers: NAME_ents_f is the score of
        NAME. The scores under spaCy's keys, such as ents_f, are the means over the heads.

        examples (Iterable[Example]): The examples with their predictions.
        RETURNS (Dict[str, Any]): The scores.
        """
        examples = list(examples)
        own = self.score_alone(examples, **kwargs)
        siblings = self.siblings
        if not siblings:
            return own
        found = {self.name: own}
        for head in siblings:
            if any(head.name in eg.predicted.user_data.get(ANSWERS, ()) for eg in examples):
                found[head.name] = head.score_alone(examples, **kwargs)
        scores = merge_scores([found[name] for name in sorted(found)])
        return scores | {f"{self.name}_{key}": value for key, value in own.items()}

    def score_alone(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """RETURNS (Dict[str, Any]): The scores of this head under spaCy's keys, None if no example
        is for it.
        """
        isolated = [own for eg in examples if (own := self.isolate(eg)) is not None]
        scores: dict[str, Any] = super().score(isolated, **kwargs)  # type: ignore[misc]
        if isolated:
            return scores
        return {key: value if isinstance(value, str) else None for key, value in scores.items()}

    def balance_classes(self, examples: Iterable[Example]) -> dict[str, float]:
        """RETURNS (Dict[str, float]): Weights by which all classes that occur weigh the same."""
        classes, counts = self.get_classes(), Counter[str]()
        for example in examples:
            allowed = self.get_allowed([example])
            found = allowed[allowed.sum(axis=1) == 1].argmax(axis=1)
            counts.update(classes[i] for i in found)
        return {label: counts.total() / (len(counts) * n) for label, n in counts.items()}

    def choose_labels(
        self, get_examples: Callable[[], Iterable[Example]], labels: Iterable[str] | None
    ) -> list[str]:
        """RETURNS (List[str]): The labels that are given, or those of the examples that are for
        this head.
        """
        validate_get_examples(get_examples, f"{type(self).__name__}.initialize")
        if labels is not None:
            return list(labels)
        docs = (eg.reference for eg in get_examples())
        return self.find_labels(doc for doc in docs if is_for(doc, self.name))

    def get_sample(self) -> list[Example]:
        """RETURNS (List[Example]): What models find their sizes by: they depend on the labels and
        the encoder, not on the data.
        """
        doc = Doc(self.vocab, words=["a"])
        return [Example(doc, doc)]

    @isolated
    def set_class_weights(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        """Find the weights of the classes and keep them where they are saved, in place of all that
        a training before has found.

        get_examples (Callable): Returns a representative sample of examples.
        RAISES (ValueError): M038 for a weight of a class that the head does not have.
        """
        self._is_initialized, self.is_frozen = True, False
        if self.temperature != 1:
            self.set_temperature(1.0)  # which moves a threshold too
        self.cfg |= FOUND
        if self.unit_loss is None:
            return
        weights = self.unit_loss.class_weights
        if weights == "balanced":
            weights = self.balance_classes(get_examples())
        else:
            self.unit_loss.check_classes(self.name, self.get_classes())
        self.cfg["class_weights"] = weights

    def _load_model(self, msg: dict[str, Any]) -> None:
        super()._load_model(msg)
        if self.model.get_ref("output_layer").has_dim("nO"):
            check_outputs(self.name, self.model, self.get_classes())

    def get_focus(self) -> Focus | None:
        """RETURNS (Optional[Focus]): Which units count how much in the next loss."""
        if self.unit_loss is None:
            return None
        given = self.cfg["class_weights"]
        weights = [given.get(label, 1.0) for label in self.get_classes()]
        return self.unit_loss.get_focus(self.cfg["loss_steps"], weights, self.model.ops)

    def get_mean_loss(self, examples: Sequence[Example], scores: Any) -> tuple[float, Any, int]:
        """RETURNS (Tuple[float, Any, int]): The mean loss per labelled unit in nats, its gradient
        for the scores, and the number of labelled units.
        """
        raise NotImplementedError

    @property
    def temperature(self) -> float:
        """RETURNS (float): What scores are divided by before they become probabilities. It changes
        no decision, and losses know nothing of it.
        """
        return self.cfg["temperature"]

    def set_temperature(self, value: float) -> None:
        self.cfg["temperature"] = value

    def skip_empty(self, docs: Iterable[Doc]) -> bool:
        """Let docs go of the encoder's rows if none of them has tokens: no model reads these rows.

        docs (Iterable[Doc]): A batch of docs.
        RETURNS (bool): Whether none of the docs has tokens.
        """
        from ..encoder.matrix import release  # torch waits, as below

        if any(map(len, docs)):
            return False
        for node in self.model.walk():
            release(docs, node.id)
        return True

    def get_scores(self, docs: list[Doc]) -> Any:
        """RETURNS: What the model says of a batch of docs, to make predictions of.
        RAISES (ValueError): spaCy's E109 before `initialize`.
        """
        from ..encoder.matrix import renew_rows  # torch waits, as below

        self.check_initialized()
        self.check_tokens(docs)
        with self.lock.reading():
            renew_rows(docs)
            scores = self.model.predict(docs)
        if self.watch is not None:
            self.watch(docs, scores)
        return scores

    def check_initialized(self) -> None:
        """RAISES (ValueError): spaCy's E109 if the model has no weights yet."""
        output = self.model.get_ref("output_layer")
        if any(output.has_param(name) is None for name in output.param_names):
            raise ValueError(SpacyErrors.E109.format(name=self.name))

    def check_tokens(self, docs: Iterable[Doc]) -> None:
        """RAISES (ValueError): M078 if tokens have been merged or split since a doc was encoded."""
        from ..encoder.matrix import get_rows  # torch waits, as below

        for doc in docs if self.reads_tokens else ():
            rows = get_rows(doc)
            n_rows = len(doc) if rows is None else rows.end - rows.start
            if n_rows != len(doc):
                text, n = doc.text[:40], len(doc)
                raise ValueError(Errors.M078.format(text=text, n_rows=n_rows, n=n, name=self.name))

    def make_nll(
        self, examples: Sequence[Example], scores: Any
    ) -> Callable[[float], tuple[float, float, int]]:
        """Prepare the likelihood of the gold labels, without what smooths or weights the loss.

        examples, scores: As in `get_confidences`.
        RETURNS (Callable): For a temperature the mean negative log-likelihood per labelled unit in
            nats, its slope over 1 / temperature, and the number of labelled units.
        """
        allowed = self.get_allowed(examples)

        def nll(temperature: float) -> tuple[float, float, int]:
            loss, d_scores, n = cross_entropy(scores / temperature, allowed)
            return loss, float(numpy.vdot(d_scores, scores)), n

        return nll

    def get_confidences(
        self, examples: Sequence[Example], scores: Any, temperature: float
    ) -> tuple[Floats1d, Any]:
        """Find how sure the head is where the gold label is known, and whether it is right.

        examples (Sequence[Example]): The batch.
        scores: What the model returned for it, on the CPU.
        temperature (float): What to divide them by.
        RETURNS (Tuple[Floats1d, Bools1d]): The probability of each unit's best label, and whether
            that is the gold.
        """
        allowed = self.get_allowed(examples)
        known = (allowed.sum(axis=1) == 1) & (allowed.shape[1] > 1)
        p, allowed = softmax(scores[known] / temperature), allowed[known]
        best = p.argmax(axis=1)[:, None]
        return p.max(axis=1), numpy.take_along_axis(allowed, best, axis=1)[:, 0]

    @isolated
    def get_loss(self, examples: Iterable[Example], scores: Any) -> tuple[float, Any]:
        """Find the loss and its gradient for a batch of docs and their scores.

        examples (Iterable[Example]): The batch.
        scores: What the model returned for it.
        RETURNS (Tuple[float, Any]): The mean loss per labelled unit in nats, and its gradient.
        """
        return self.get_mean_loss(list(examples), scores)[:2]

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream of docs, as many together as the encoder has encoded together.

        stream (Iterable[Doc]): The docs.
        batch_size (int): Docs at a time, at most.
        YIELDS (Doc): The docs in order.
        """
        from ..encoder.matrix import group_by_matrix  # spaCy imports every head: torch waits

        error_handler = self.get_error_handler()
        for docs in group_by_matrix(stream, batch_size):
            try:
                self.set_annotations(docs, self.predict(docs))
                yield from docs
            except Exception as err:
                error_handler(self.name, self, docs, err)

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

        examples (Iterable[Example]): The batch. Examples without labels for this head cost nothing.
        drop (float): The dropout rate, unless the model has its own.
        sgd (Optional[Optimizer]): The optimizer, to update this head's own weights at once.
        losses (Optional[Dict[str, float]]): Gets the mean loss per labelled unit, in nats, added
            under the component's name.
        RETURNS (Dict[str, float]): The losses.
        RAISES (ValueError): M071 if the head was loaded, and the examples have labels that no head
            of its kind knows; M078 if tokens have been merged or split since a doc was encoded;
            spaCy's E109 before `initialize`.
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
            self._check_labels(examples)
        # Entity recognizers may have no labels.
        can_learn = self.labels and any(self.has_labels(eg.reference) for eg in examples)
        if not (can_learn or self._must_answer):
            return losses
        self.check_tokens(docs)
        own_drop = self.model.attrs.get("dropout")
        set_dropout_rate(self.model, drop if own_drop is None else own_drop)
        scores, backprop = self.model.begin_update(docs)
        loss, d_scores, n = self.get_mean_loss(examples, scores)
        if n or self._must_answer:
            losses[self.name] += loss  # before the gradient leaves: a balancer may want it
            self._has_gradient = self._has_gradient or n > 0
            with numpy.errstate(invalid="ignore", over="ignore"):  # W002 tells of what is broken
                backprop(d_scores)
        if sgd:
            self.finish_update(sgd)
        return losses

    @isolated
    def finish_update(self, sgd: Optimizer) -> None:
        """Update this head's weights, if it has learnt something since the last time.

        sgd (Optimizer): The optimizer.
        """
        if self._has_gradient:
            self._has_gradient = False
            with self.lock.writing():
                if not drop_broken_gradients(self.model):
                    if hasattr(sgd, "clip_model"):
                        sgd.clip_model(self.model)
                    self.model.finish_update(sgd)
            if self.unit_loss is not None:
                self.cfg["loss_steps"] += 1

    def use_params(self, params: dict[Any, Any]) -> Iterator[None]:
        """Put other weights in the place of the head's for a while.

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

    def rehearse(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, float]:
        """Not supported: the losses are returned as they are."""
        return kwargs.get("losses") or {}

    def _check_labels(self, examples: Iterable[Example]) -> None:
        if not self.peers:  # which other heads there are is not known
            return
        unknown: set[str] = set()
        for doc in [eg.reference for eg in examples if self.has_labels(eg.reference)]:
            # Docs do not say which of the heads that they are for a label is for.
            heads = [self, *(head for head in self.siblings if is_for(doc, head.name))]
            unknown |= self.get_gold_labels(doc).difference(*(head.labels for head in heads))
        if unknown:
            known = list(self.labels)[:10]
            raise ValueError(
                Errors.M071.format(name=self.name, unknown=sorted(unknown), known=known)
            )

    @property
    def _must_answer(self) -> bool:
        # A stock encoder loses the others' gradients if its last listener stays silent.
        return any(
            hasattr(node, "upstream_name") and not getattr(node, "reads_rows", False)
            for node in self.model.walk()
        )


def show_as(factory: str, stock: str) -> None:
    """Give a factory the name that spaCy's own commands look for. Without it `spacy debug data`
    leaves our heads out, and `spacy evaluate --displacy-path` draws no entities. Configs keep the
    factory's own name.
    """
    Language.get_factory_meta(factory).factory = stock


def drop_broken_gradients(model: Model) -> bool:
    """RETURNS (bool): Whether a gradient was NaN or infinite. Then all are set to zero, or the
    weights would be lost; the encoder counts such steps and stops when they go on.
    """
    xp: Any = model.ops.xp
    gradients = [
        node.get_grad(name)
        for node in model.walk()
        for name in node.grad_names
        if node.has_grad(name)
    ]
    modules = [shim._model for node in model.walk() for shim in node.shims]
    tensors = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    is_broken = not all(xp.isfinite(gradient).all() for gradient in gradients)
    # One answer from a GPU, not one for each.
    is_broken |= not reduce(and_, (tensor.isfinite().all() for tensor in tensors), True)
    if is_broken:
        for gradient in gradients:
            gradient.fill(0)
        for module in modules:
            module.zero_grad(set_to_none=True)
    return is_broken


def merge_scores(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the scores of several heads of one kind.

    scores (Sequence[Mapping[str, Any]]): The scores of each head, with None for what is not known.
    RETURNS (Dict[str, Any]): The means of numbers, all entries of dicts, and all texts.
    """
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for own in scores for key in own):
        values = [own[key] for own in scores if own.get(key) is not None]
        if not values:
            merged[key] = None
        elif isinstance(values[0], Mapping):
            merged[key] = {label: value for own in values for label, value in own.items()}
        elif isinstance(values[0], str):
            merged[key] = ", ".join(dict.fromkeys(values))
        else:
            merged[key] = fmean(values)
    return merged


def check_outputs(name: str, model: Model, labels: Sequence[str]) -> None:
    """RAISES (ValueError): M035 unless the model has one output for each label."""
    n_outputs = model.get_ref("output_layer").get_dim("nO")
    if n_outputs != len(labels):
        raise ValueError(
            Errors.M035.format(name=name, nO=n_outputs, n=len(labels), labels=list(labels)[:10])
        )


def score_tokens(
    tok2vec: Model[list[Doc], list[Floats2d]], dropout: float | None, nO: int | None
) -> Model[list[Doc], Floats2d]:
    """RETURNS (Model[List[Doc], Floats2d]): One score per label for every token, N x nO."""
    output = linear(nO)
    return with_options(chain(tok2vec, list2array(), Dropout(), output), output, tok2vec, dropout)


def linear(nO: int | None) -> Model[Floats2d, Floats2d]:
    """RETURNS (Model[Floats2d, Floats2d]): The scores, which are all 0 at first."""
    return Linear(nO=nO, init_W=zero_init)


def with_options(model: Model, output: Model, tok2vec: Model, dropout: float | None) -> Model:
    """Leave on the model what the components look for, and have it compute on one core."""
    use_one_core(model)
    model.set_ref("tok2vec", tok2vec)
    model.set_ref("output_layer", output)
    model.attrs["dropout"] = dropout
    return model


def skip_empty(pooling: Model[Ragged, Floats2d]) -> Model[Ragged, Floats2d]:
    """RETURNS (Model[Ragged, Floats2d]): The pooling, with a row of zeros for an empty doc."""
    return Model("skip_empty", _skip_empty_forward, layers=[pooling], init=_skip_empty_init)


def _skip_empty_init(model: Model, X: Ragged | None = None, Y: Any = None) -> None:
    model.layers[0].initialize(X=X, Y=Y)


def _skip_empty_forward(
    model: Model[Ragged, Floats2d], docs: Ragged, is_train: bool
) -> tuple[Floats2d, Callable[[Floats2d], Ragged]]:
    xp: Any = model.ops.xp
    filled = xp.flatnonzero(docs.lengths)
    pooled, backprop_pooling = model.layers[0](Ragged(docs.data, docs.lengths[filled]), is_train)
    output = model.ops.alloc2f(len(docs.lengths), pooled.shape[1])
    output[filled] = pooled

    def backprop(d_output: Floats2d) -> Ragged:
        return Ragged(backprop_pooling(d_output[filled]).data, docs.lengths)

    return output, backprop
