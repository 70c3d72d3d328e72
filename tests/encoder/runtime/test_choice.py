"""The runtime is what the config says."""

import re
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import spacy
import torch
from conftest import TEXTS, build_encoder, encoder_module, encoder_weights, make_examples
from spacy.language import Language
from torch.overrides import _get_current_function_mode_stack

from spacy_mtl.encoder.runtime.choice import CPU, get_runtime


@pytest.mark.parametrize(
    "runtime,device,expected",
    [
        ("auto", "cpu", True),
        ("auto", "cuda", False),
        ("cpu", "cpu", True),
        ("eager", "cpu", False),
        ("eager", "cuda", False),
    ],
)
def test_runtimes(runtime: Any, device: str, expected: bool) -> None:
    assert (get_runtime(runtime, torch.device(device)) is CPU) is expected


@pytest.mark.parametrize(
    "runtime,device,known",
    [("fast", "cpu", ["auto", "eager", "cpu"]), ("cpu", "cuda", ["auto", "eager"])],
)
def test_unknown_runtimes(runtime: Any, device: str, known: list[str]) -> None:
    message = rf"M018.* on {device} has no runtime '{runtime}'.*{re.escape(str(known))}"
    with pytest.raises(ValueError, match=message):
        get_runtime(runtime, torch.device(device))


@pytest.mark.parametrize("runtime", ["eager", "cpu"])
def test_eager_calls_torch_itself(make_nlp: Callable[..., Language], runtime: str) -> None:
    nlp, modes, packed = make_nlp("tagger", model={"runtime": runtime}), [], []

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        modes.append(bool(_get_current_function_mode_stack()))
        packed.append("position_ids" in kwargs)

    encoder_module(nlp).register_forward_pre_hook(watch, with_kwargs=True)
    nlp.update(make_examples(nlp) * 4)
    list(nlp.pipe([" ".join(TEXTS * 4), TEXTS[0], "x", TEXTS[1]]))
    assert set(modes) == {runtime == "cpu"}
    assert any(packed) is (runtime == "cpu")


def test_eager_trains_the_same_weights_again(
    make_nlp: Callable[..., Language], tmp_path: Any
) -> None:
    """With torch's own dropout, from whose generator no two threads may draw at once."""
    name, weights = str(build_encoder("bert", tmp_path, dropout=0.2)), []
    for _ in range(2):
        nlp = make_nlp(name=name, model={"runtime": "eager"})
        sgd = nlp.create_optimizer()
        for _ in range(2):
            nlp.update(make_examples(nlp) * 4, sgd=sgd)
        weights.append(encoder_weights(nlp))
    assert weights[0] == weights[1]


def test_both_runtimes_compute_the_same(make_nlp: Callable[..., Language]) -> None:
    found = {}
    for runtime in ("eager", "cpu"):
        nlp = make_nlp("tagger", model={"runtime": runtime})
        docs = [eg.predicted for eg in make_examples(nlp)]
        found[runtime] = nlp.get_pipe("transformer").predict(docs).data
    numpy.testing.assert_allclose(found["cpu"], found["eager"], atol=1e-5)


def test_the_runtime_is_kept(make_nlp: Callable[..., Language]) -> None:
    """In copies, and by an encoder that takes the place of a listener; a config without it is one
    of an older version.
    """
    nlp = make_nlp("tagger", model={"runtime": "eager"})
    assert nlp.get_pipe("transformer").model.copy().attrs["runtime"] == "eager"
    config = nlp.config.copy()
    del config["components"]["transformer"]["model"]["runtime"]
    old = spacy.util.load_model_from_config(config).from_bytes(nlp.to_bytes())
    assert old.get_pipe("transformer").model.attrs["runtime"] == "auto"
    nlp.replace_listeners("transformer", "tagger", ["model.tok2vec"])
    assert nlp.config["components"]["tagger"]["model"]["tok2vec"]["runtime"] == "eager"
    encoder = nlp.get_pipe("tagger").model.get_ref("tok2vec").layers[0]
    assert encoder.attrs["runtime"] == "eager"
