"""The examples of docs/deploying.md: a service, its container, token vectors, exports."""

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy
import pytest
import spacy
from conftest import TEXTS, make_examples
from spacy.language import Language
from thinc.api import Config
from transformers import AutoModel

PAGE = (Path(__file__).parents[1] / "docs" / "deploying.md").read_text(encoding="utf8")


def get_file(name: str) -> str:
    """Return the content of a file of the page."""
    (text,) = re.findall(rf"^`{name}`:\n\n```\w+\n(.*?)^```$", PAGE, re.M | re.S)
    return text


def get_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def pipeline(make_nlp: Callable[..., Language], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a pipeline that has learned the texts."""
    nlp = make_nlp()
    sgd = nlp.resume_training()
    sgd.learn_rate = 0.01
    for _ in range(20):
        nlp.update(make_examples(nlp), sgd=sgd)
    folder = tmp_path_factory.mktemp("deploying") / "pipeline"
    nlp.to_disk(folder)
    return folder


@pytest.fixture
def service(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the namespace of app.py."""
    monkeypatch.setenv("PIPELINE", str(pipeline))
    module = ModuleType("app")
    monkeypatch.setitem(sys.modules, "app", module)  # pydantic looks up annotations there
    exec(compile(get_file("app.py"), "app.py", "exec"), vars(module))
    return vars(module)


def post(app: Any, *contents: Any) -> list[httpx.Response]:
    """Send requests at the same time. FastAPI answers each one in a thread."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            requests = (client.post("/annotate", json=content) for content in contents)
            return await asyncio.gather(*requests)

    return asyncio.run(send())


def test_concurrent_requests(service: dict[str, Any], pipeline: Path) -> None:
    """All answers equal those of the pipeline, and the vocabulary does not grow."""
    nlp = spacy.load(pipeline)
    expected = {
        text: {
            "tags": [token.tag_ for token in doc],
            "entities": [
                {"start": e.start_char, "end": e.end_char, "label": e.label_, "text": e.text}
                for e in doc.ents
            ],
            "categories": pytest.approx(doc.cats, abs=1e-5),
        }
        for text in TEXTS
        for doc in [nlp(text)]
    }
    assert any(answer["entities"] for answer in expected.values())
    vocab = service["nlp"].vocab
    size = len(vocab.strings), len([*vocab])  # `len(vocab)` counts lexemes that were freed
    lists = [[TEXTS[(i + k) % 4] for k in range(i % 4)] for i in range(24)]
    contents = [{"texts": [*texts, f"unseen{i}a unseen{i}b"]} for i, texts in enumerate(lists)]
    for response, texts in zip(post(service["app"], *contents), lists, strict=True):
        assert response.status_code == 200, response.text
        *answers, last = response.json()
        assert answers == [expected[text] for text in texts]
        assert len(last["tags"]) == 2
    assert (len(vocab.strings), len([*vocab])) == size


def test_invalid_requests(service: dict[str, Any]) -> None:
    contents = ({}, {"texts": "a"}, {"texts": ["a"] * 101}, {"texts": ["a" * 100_001]})
    *refused, empty = post(service["app"], *contents, {"texts": []})
    assert [response.status_code for response in refused] == [422] * 4 and empty.json() == []


def test_the_container_runs_the_service() -> None:
    lines = get_file("Dockerfile").replace("\\\n", " ").splitlines()
    (install,) = [line.split() for line in lines if line.startswith("RUN")]
    assert install[1:3] == ["pip", "install"] and "dist/requirements.txt" in install
    assert {"fastapi", "uvicorn"} <= set(install)
    assert any(line.startswith("COPY app.py") for line in lines)
    assert 'CMD ["uvicorn", "app:app"' in "\n".join(lines)


def test_the_other_snippets(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(get_blocks("python")).replace('"en_news"', repr(str(pipeline)))
    monkeypatch.setenv("PIPELINE", str(pipeline))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code.replace(get_file("app.py"), ""), "deploying.md", "exec"), namespace)
    nlp = namespace["nlp"]
    (setter,) = get_blocks("ini")
    config = Config().from_str(f"[components]\n[components.transformer]\n{setter}")
    found = config["components"]["transformer"]["set_extra_annotations"]
    assert found == namespace["setter"] and namespace["doc"].tensor.size
    assert namespace["rows"] == [[e.text for e in nlp(t).ents] for t in namespace["texts"]]
    batch = namespace["Annotate"](pipeline)({"text": numpy.array(TEXTS, dtype=object)})
    expected = [[[ent.text, ent.label_] for ent in nlp(text).ents] for text in TEXTS]
    assert batch["entities"] == expected
    again = AutoModel.from_pretrained(tmp_path / "encoder")
    weights = namespace["model"].transformer.state_dict()
    assert {key: value.tolist() for key, value in again.state_dict().items()} == {
        key: value.tolist() for key, value in weights.items()
    }
