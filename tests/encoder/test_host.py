"""Settings of the host application change nothing."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import TEXTS, make_examples
from spacy.language import Language

TEXT = " ".join(TEXTS)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        assert torch.get_default_dtype() == dtype
        torch.set_default_dtype(torch.float32)


SETTINGS: dict[str, Callable[[], Any]] = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "numpy raises": lambda: numpy.errstate(all="raise"),
}


@pytest.fixture(scope="module")
def use(make_nlp: Callable[..., Language]) -> Callable[..., tuple[dict[str, float], bytes]]:
    """A function that makes, trains, saves, loads and uses a pipeline: all in a context, or each
    other step.
    """

    def run(setting: Callable[[], Any], inside: tuple[bool, bool, bool]) -> Any:
        def maybe(is_inside: bool) -> Any:
            return setting() if is_inside else ExitStack()

        with maybe(inside[0]):
            nlp = make_nlp()
            cats = nlp(TEXT).cats
        with maybe(inside[1]):
            nlp.update(make_examples(nlp), sgd=nlp.create_optimizer())
            nlp.evaluate(make_examples(nlp))
        with maybe(inside[2]):
            loaded = spacy.util.load_model_from_config(nlp.config).from_bytes(nlp.to_bytes())
            cats = loaded(TEXT).cats
        loaded.update(make_examples(loaded), sgd=loaded.create_optimizer())
        return {**cats, **{f"{k} 2": v for k, v in loaded(TEXT).cats.items()}}

    return run


@pytest.fixture(scope="module")
def expected(use: Callable) -> dict[str, float]:
    return use(ExitStack, (False, False, False))


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_change_nothing(setting: str, expected: dict[str, float], use: Callable) -> None:
    for inside in ((True, True, True), (True, False, True), (False, True, False)):
        found = use(SETTINGS[setting], inside)
        assert found == pytest.approx(expected, abs=1e-6)


class Faster(torch.nn.Module):
    """Stands for an encoder of another library, such as ONNX Runtime."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.config, self.run = module.config, [module]

    def forward(self, **inputs: Any) -> Any:
        output = self.run[0](**inputs)
        output.last_hidden_state = output.last_hidden_state + 1
        return output


def test_a_replaced_encoder_predicts(make_nlp: Callable[..., Language]) -> None:
    """At either name; it cannot be trained or saved."""
    nlp: Any = make_nlp("tagger")
    pipe = nlp.get_pipe("transformer")
    shim, docs = pipe.model.layers[0].shims[0], [nlp.make_doc(TEXT)]
    original, before = shim._model, pipe.predict(docs).data
    for place, name in ((shim, "_model"), (shim.loaded, "transformer")):
        setattr(place, name, Faster(original))
        assert pipe.model.transformer is shim._model is shim.loaded.transformer
        numpy.testing.assert_allclose(pipe.predict(docs).data, before + 1, atol=1e-5)
    for refused in (lambda: nlp.update(make_examples(nlp)), nlp.to_bytes):
        with pytest.raises(ValueError, match=r"M019.* by a Faster without parameters"):
            refused()
    shim._model = original
    numpy.testing.assert_array_equal(pipe.predict(docs).data, before)
    nlp.update(make_examples(nlp))
