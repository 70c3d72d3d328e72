"""Join the documents of GUM into one file per split, as its splits.md lists them.

    python assets/join_gum.py DEP_FOLDER SPLITS_MD OUTPUT_FOLDER

The documents from Reddit are left out: their words are masked in the repository.
"""

import re
import sys
from pathlib import Path


def main(documents: Path, splits: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for section in re.split(r"^## ", splits.read_text(encoding="utf8"), flags=re.M)[1:]:
        split = section.split()[0]
        names = sorted(re.findall(r"^\s+\* (\S+)", section, flags=re.M))
        kept = [name for name in names if "_reddit_" not in name]
        texts = [(documents / f"{name}.conllu").read_text(encoding="utf8") for name in kept]
        (output / f"{split}.conllu").write_text("".join(texts), encoding="utf8")
        print(f"{split}: {len(kept)} documents")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
