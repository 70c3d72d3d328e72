"""Spaces: which values of a config a search varies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FixedTrial
from spacy.util import load_config
from thinc.api import Config

from spacy_mtl.search.space import Space, fill, read_space

CONFIGS = Path(__file__).parents[2] / "configs"
FLOAT = {"type": '"float"', "path": '"training.dropout"', "low": "0.0", "high": "0.5"}
CHOICE = {
    "type": '"categorical"',
    "path": '"components.textcat.model.pooling"',
    "choices": '["mean", "max"]',
}
BALANCER = "components.transformer.balancer"


@pytest.fixture(scope="module")
def config() -> Config:
    """Return a filled config."""
    return fill(load_config(CONFIGS / "mtl_cpu.cfg", interpolate=False)).config


@pytest.fixture
def read(config: Config, tmp_path: Path) -> Callable[..., Space]:
    """Return a function that reads a space from its sections."""

    def read(text: str = "", /, **sections: dict[str, str]) -> Space:
        for name, settings in sections.items():
            lines = [f"{key} = {value}" for key, value in settings.items()]
            text += "\n".join([f"[{name}]", *lines, ""])
        path = tmp_path / "space.cfg"
        path.write_text(text)
        return read_space(path, config)

    return read


def test_values_of_a_trial(read: Callable, config: Config) -> None:
    size = FLOAT | {"type": '"int"', "path": '"training.batcher.size"', "low": "10", "high": "99"}
    weights = CHOICE | {"path": '"training.score_weights.ents_p"', "choices": "[0.0, 0.5, null]"}
    space = read(rate=FLOAT, size=size, pooling=CHOICE, weight=weights)
    params = {"rate": 0.25, "size": 20, "pooling": "max", "weight": "null"}
    changed = space.suggest(FixedTrial(params), config)
    assert changed["training"]["dropout"] == 0.25
    assert changed["training"]["batcher"]["size"] == 20
    assert changed["components"]["textcat"]["model"]["pooling"] == "max"
    assert changed["training"]["score_weights"]["ents_p"] is None
    assert changed == space.apply(params, config)
    assert config["training"]["dropout"] == 0.1
    assert changed["training"]["batcher"]["tokenizer"] == "${paths.encoder}"
    # 2000 is not in the range of sizes
    assert space.find_own(config) == {"rate": 0.1, "pooling": "mean", "weight": "0.0"}


def test_values_inside_of_a_section_that_is_drawn(config: Config) -> None:
    """They are drawn only together with the section that has them."""
    space = read_space(CONFIGS / "space.cfg", config)
    values = {"head_rate": 0.01, "encoder_rate": 0.0001, "dropout": 0.0, "pooling": "mean"}
    trial = FixedTrial({**values, "balancer": "learned"})
    balancer = space.suggest(trial, config)["components"]["transformer"]["balancer"]
    assert balancer == {"@misc": "spacy-mtl.UncertaintyWeights.v1", "learn_rate": 0.1}
    trial = FixedTrial({**values, "balancer": "fixed", "ner_weight": 3.0, "textcat_weight": 0.2})
    balancer = space.suggest(trial, config)["components"]["transformer"]["balancer"]
    assert balancer["weights"] == {"tagger": 1.0, "ner": 3.0, "textcat": 0.2}
    # the drawn values do not change the space
    assert space.find_own(config)["balancer"] == "learned"
    assert "ner_weight" not in space.find_own(config)


def test_defaults_of_sections_are_filled_in(read: Callable) -> None:
    block = f"""[b]
type = "block"
path = "{BALANCER}"
[b.choices]
[b.choices.learned]
@misc = "spacy-mtl.UncertaintyWeights.v1"
[b.choices.random]
@misc = "spacy-mtl.RandomWeights.v1"
"""
    (dimension,) = read(block).dimensions
    assert "learn_rate" in dimension.choices["learned"]  # type: ignore[operator,union-attr]


@pytest.mark.parametrize("text", ["", "[dropout", "a = 1\n"])
def test_no_space(read: Callable, text: str) -> None:
    with pytest.raises(ValueError, match=r"M262.*space\.cfg is no space"):
        read(text)


def test_unknown_paths(read: Callable) -> None:
    with pytest.raises(ValueError, match=r"M263.*\[x\].*'training\.dropuot'.*training\.dropout"):
        read(x=FLOAT | {"path": '"training.dropuot"'})
    with pytest.raises(
        ValueError, match=r"M263.*'learn_rate\.initial_rate'.*optimizer\.learn_rate"
    ):
        read(x=FLOAT | {"path": '"learn_rate.initial_rate"'})
    with pytest.raises(ValueError, match=r"M263.*Similar paths: nothing"):
        read(x=FLOAT | {"path": '"zzz"'})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"type": '"double"'}, "type = 'double' is not"),
    ({"low": None}, "'low' is missing"),
    ({"step": "1"}, "type = 'float' has no 'step'"),
    ({"path": "3"}, "path = 3 is not a string"),
    ({"low": "0.5"}, "low = 0.5 is not below high = 0.5"),
    ({"low": '"a"'}, "low = 'a' is not of type 'float'"),
    ({"low": "true"}, "low = True is not of type 'float'"),
    ({"log": "true"}, "low = 0.0 has no logarithm"),
    ({"log": "1"}, "log = 1 is not true or false"),
    ({"type": '"int"'}, "low = 0.0 is not of type 'int'"),
    (CHOICE | {"choices": '["mean"]'}, "not two or more different ones"),
    (CHOICE | {"choices": '["mean", "mean"]'}, "not two or more different ones"),
    (CHOICE | {"choices": '"mean"'}, "is not a list"),
    (CHOICE | {"type": '"block"'}, r"are not sections in \[x.choices\]"),
    (
        {
            "type": '"block"',
            "path": f'"{BALANCER}"',
            "choices": '{"a": {"@misc": "spacy-mtl.No.v1"}, "b": {}}',
        },
        "choice 'a'",
    ),
]


@pytest.mark.parametrize(("changes", "problem"), WRONG)
def test_wrong_dimensions(read: Callable, changes: dict[str, Any], problem: str) -> None:
    settings = FLOAT | changes
    if "choices" in changes:
        settings = {k: v for k, v in settings.items() if k not in ("low", "high")}
    with pytest.raises(ValueError, match=rf"M264.*\[x\]: .*{problem}"):
        read(x={key: value for key, value in settings.items() if value is not None})


def test_two_dimensions_with_one_path(read: Callable) -> None:
    with pytest.raises(ValueError, match=r"M264.*two dimensions have the path 'training.dropout'"):
        read(x=FLOAT, y=FLOAT)
