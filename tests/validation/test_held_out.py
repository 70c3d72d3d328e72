from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import make_examples
from spacy.tokens import DocBin

from spacy_mtl.training.calibration import calibrate, calibrate_by
from spacy_mtl.training.thresholds import find_thresholds, find_thresholds_by
from spacy_mtl.validation.held_out import read_held_out
from spacy_mtl.validation.names import RESULT, SETTINGS

NAME = "textcat_multilabel"


@pytest.fixture
def nlp(make_nlp: Any) -> Any:
    nlp = make_nlp("tagger", NAME)
    random = numpy.random.default_rng(1)
    for name in ("tagger", NAME):
        output = nlp.get_pipe(name).model.get_ref("output_layer")
        output.set_param("W", random.normal(size=output.get_param("W").shape).astype("f"))
    return nlp


@pytest.fixture
def folder(nlp: Any, tmp_path: Path) -> Path:
    """RETURNS (Path): A cross-validation of two folds with the same pipeline."""
    (tmp_path / SETTINGS).write_text("{}")
    golds = [eg.reference for eg in make_examples(nlp)]
    for i in range(2):
        fold = tmp_path / "folds" / f"1-{i + 1}"
        (fold / "multi").mkdir(parents=True)
        nlp.to_disk(fold / "multi" / "model-best")
        (fold / "multi" / RESULT).write_text("{}")
        DocBin(docs=golds[i::2]).to_disk(fold / "test.spacy")
    return tmp_path


def test_calibration_by_folds(nlp: Any, folder: Path) -> None:
    """If all folds have the same pipeline, the result is that of all data at once."""
    by_folds = calibrate_by(read_held_out(folder, nlp), nlp)
    temperatures = {name: nlp.get_pipe(name).temperature for name in by_folds}
    for name in by_folds:
        nlp.get_pipe(name).set_temperature(1.0)
    at_once = calibrate(nlp, make_examples(nlp))
    assert by_folds.keys() == at_once.keys() == {"tagger", NAME}
    for name, one in at_once.items():
        assert temperatures[name] == pytest.approx(one.temperature[1], rel=1e-3)
        assert by_folds[name].units == one.units
        assert by_folds[name].nll == pytest.approx(one.nll, rel=1e-4)


def test_threshold_by_folds(nlp: Any, folder: Path) -> None:
    by_folds = find_thresholds_by(read_held_out(folder, nlp), nlp, NAME)
    at_once = find_thresholds(nlp, make_examples(nlp), NAME)
    assert by_folds.threshold == pytest.approx(at_once.threshold, abs=1e-4)
    assert by_folds.score == pytest.approx(at_once.score)


def test_plain_data(nlp: Any, folder: Path) -> None:
    ((found, examples),) = read_held_out(folder / "folds" / "1-1" / "test.spacy", nlp)
    assert found is nlp and len(examples) == 2


def test_errors(nlp: Any, make_nlp: Any, folder: Path, tmp_path: Path) -> None:
    other = make_nlp("ner")
    with pytest.raises(ValueError, match=r"M287.* have no 'ner'"):
        next(read_held_out(folder, other))
    for path in folder.glob(f"folds/*/*/{RESULT}"):
        path.unlink()
    with pytest.raises(ValueError, match=r"M283"):
        next(read_held_out(folder, nlp))
