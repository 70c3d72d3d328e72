"""Install the wheel of a pipeline in a clean environment and run it without a network.

    python -m spacy_mtl.smoke_test PIPELINE.whl

The new environment contains only the wheel, and the wheel of spacy-mtl if it is in the same folder,
where `python -m spacy mtl package` writes it. All other requirements are imported from the
environment that runs this script.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

QUESTION = """
import socket, sys

def refuse(*args, **kwargs):
    raise OSError("the smoke test allows no network")

socket.socket.connect = refuse

import spacy
import spacy_mtl
from spacy import displacy
from spacy_mtl.annotations import find_layers, get_layers

nlp = spacy.load(sys.argv[1])
texts = ["Maria Keller flew to Lisbon on Friday to see the new film by Paulo Branco.", ""]
for doc in nlp.pipe(texts):
    for name, layer in get_layers().items():
        if layer.is_annotated(doc):
            print(f"{name:7}", layer.get_answer(doc))
doc = nlp(texts[0])
missing = [n for n in nlp.pipe_names if not all(x.is_annotated(doc) for x in find_layers(nlp, n))]
assert not missing, missing
assert "<mark" in displacy.render(doc, style="ent", jupyter=False) or not doc.ents
print("loaded from", nlp.path, "by", spacy_mtl.__file__)
"""


def main(wheel: Path) -> None:
    """Install a wheel in a new environment and load its pipeline there.

    wheel (Path): The wheel of a pipeline.
    RAISES (CalledProcessError): If the wheel cannot be installed, or the pipeline cannot be used.
    """
    package = wheel.name.split("-")[0]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder)
        python = Path(folder) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        (site,) = Path(folder).rglob("site-packages")
        lent = sysconfig.get_path("purelib")
        (site / "lent.pth").write_text(f"import site; site.addsitedir({lent!r})\n")
        wheels = [str(wheel), *map(str, wheel.parent.glob("spacy_mtl-*.whl"))]
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
        pip += ["--quiet", "--no-index", "--no-deps", *wheels]
        offline = {**os.environ, "HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        subprocess.run(pip, check=True, env=offline)
        # away from the project, so that nothing of it is found by chance
        subprocess.run([python, "-c", QUESTION, package], check=True, env=offline, cwd=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
