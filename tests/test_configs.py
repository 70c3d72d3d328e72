"""Every config in configs/ resolves and trains."""

from pathlib import Path
from typing import Any

import pytest
from conftest import make_gold
from spacy.tokens import DocBin
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import load_config, registry
from spacy.vocab import Vocab
from thinc.api import Config

from spacy_mtl.search.space import fill, read_space

ROOT = Path(__file__).parents[1]
ALL = ("tagger", "morphologizer", "lemmatizer", "parser", "ner", "textcat")
SPACE = ROOT / "configs" / "space.cfg"  # of a search
CONFIGS = sorted({*(ROOT / "configs").glob("*.cfg")} - {SPACE})


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.spacy"
    DocBin(docs=[make_gold(Vocab(), i, ALL) for i in range(4)], store_user_data=True).to_disk(file)
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
        "mtl_ud",
        "mtl_all",
        "single_task",
        "stock",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_filled_and_trains(
    path: Path, encoder: str, corpus: Path, tmp_path: Path
) -> None:
    config = load(path, encoder, corpus)
    nlp = init_nlp(config)
    # the file names all settings, and spaCy drops none
    for section in ("components", "corpora"):
        assert config[section].keys() == nlp.config[section].keys() or path.stem == "single_task"
    train(nlp, tmp_path)
    assert (tmp_path / "model-last" / "config.cfg").exists()


def test_the_space_fits_its_config() -> None:
    config = fill(load_config(ROOT / "configs" / "mtl_cpu.cfg", interpolate=False)).config
    own = read_space(SPACE, config).find_own(config)
    # the search starts from the config
    assert own.keys() == {"head_rate", "encoder_rate", "dropout", "pooling", "balancer"}


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
