"""Every config in configs/ resolves and trains."""

from pathlib import Path
from typing import Any

import pytest
import spacy
from conftest import make_gold
from spacy.cli._util import app
from spacy.cli.init_config import fill_config
from spacy.tokens import DocBin
from spacy.training import Example
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import load_config, registry
from spacy.vocab import Vocab
from thinc.api import Config
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.cfg"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.spacy"
    DocBin(docs=[make_gold(Vocab(), i) for i in range(4)], store_user_data=True).to_disk(file)
    return file


def load(path: Path, encoder: str, corpus: Path, **overrides: Any) -> Config:
    plain = load_config(path)
    paths = {
        f"paths.{key}": str(corpus) for key in plain["paths"] if key.endswith(("train", "dev"))
    }
    settings = {
        "paths.encoder": encoder,
        "training.max_steps": 2,
        "training.eval_frequency": 2,
        "system.gpu_allocator": None,
    }
    return load_config(path, overrides={**paths, **settings, **overrides})


def test_there_are_the_promised_configs() -> None:
    assert {path.stem for path in CONFIGS} == {
        "mtl_cpu",
        "mtl_gpu",
        "mtl_separate_corpora",
        "single_task",
        "stock",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_filled_and_trains(
    path: Path, encoder: str, corpus: Path, tmp_path: Path
) -> None:
    config = load(path, encoder, corpus)
    if path.stem == "mtl_separate_corpora":
        write_labels(path, encoder, corpus, tmp_path / "labels")
        config = load(path, encoder, corpus, **{"paths.labels": str(tmp_path / "labels")})
    nlp = init_nlp(config)
    # the file names all settings, and spaCy drops none
    for section in ("components", "corpora"):
        assert config[section].keys() == nlp.config[section].keys() or path.stem == "single_task"
    train(nlp, tmp_path)
    assert (tmp_path / "model-last" / "config.cfg").exists()


def write_labels(path: Path, encoder: str, corpus: Path, folder: Path) -> None:
    """Run `spacy init labels` with the settings in the config's comment."""
    import srsly

    overrides = {
        "training.max_epochs": 0,
        "corpora.train.epochs": 1,
        "corpora.train.sampling": "proportional",
        "paths.labels": str(folder),
    }
    nlp = init_nlp(load(path, encoder, corpus, **overrides))
    folder.mkdir()
    for name in ("tagger", "ner", "textcat"):
        srsly.write_json(folder / f"{name}.json", nlp.get_pipe(name).label_data)


def test_separate_corpora_keep_their_labels_apart(
    encoder: str, corpus: Path, tmp_path: Path
) -> None:
    config = load(ROOT / "configs" / "mtl_separate_corpora.cfg", encoder, corpus)
    nlp = init_nlp(config)
    reader = registry.resolve(nlp.config.interpolate()["corpora"])["dev"]
    golds = [eg.reference for eg in reader(nlp)]
    assert len(golds) == 12
    kinds = [(g.has_annotation("TAG"), g.has_annotation("ENT_IOB"), bool(g.cats)) for g in golds]
    assert {sum(kind) for kind in kinds} == {1} and len(set(kinds)) == 3


TOTAL_STEPS = [
    f"training.optimizer.{rate}.total_steps" for rate in ("learn_rate", "encoder_learn_rate")
]


def test_a_trained_pipeline_learns_on_in_python(encoder: str, corpus: Path, tmp_path: Path) -> None:
    """The README's workaround: spaCy creates the optimizer from a config with variables."""
    train(init_nlp(load(ROOT / "configs" / "mtl_cpu.cfg", encoder, corpus)), tmp_path)
    nlp = spacy.load(tmp_path / "model-last")
    nlp.config = nlp.config.interpolate()
    optimizer = nlp.resume_training()
    examples = [Example(nlp.make_doc(gold.text), gold) for gold in (make_gold(nlp.vocab, 0),)]
    losses = nlp.update(examples, sgd=optimizer, losses={})
    assert all(losses[name] > 0 for name in ("transformer", "tagger", "ner", "textcat"))


@pytest.mark.parametrize("head", ["transformer", "tagger", "ner", "textcat"])
def test_debug_model_of_spacy(encoder: str, corpus: Path, head: str, tmp_path: Path) -> None:
    overrides = {"paths.train": corpus, "paths.dev": corpus, "paths.encoder": encoder}
    overrides |= dict.fromkeys(TOTAL_STEPS, 950)
    options = [str(part) for key, value in overrides.items() for part in (f"--{key}", value)]
    config = tmp_path / "filled.cfg"
    fill_config(config, ROOT / "configs" / "mtl_cpu.cfg")
    result = CliRunner().invoke(app, ["debug", "model", str(config), head, *options])
    assert "Successfully ended analysis" in result.output, result.exception
