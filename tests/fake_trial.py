"""Stands in for the training process of a trial: `python fake_trial.py FOLDER`.

The last of its three evaluations has the score `1 - training.dropout`. The value `components.mode`
of the config says how it ends: it "works", "crashes", is "killed", or "hangs" after the second
evaluation unless it finds a checkpoint.
"""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path


def main(folder: Path) -> None:
    text = (folder / "config.cfg").read_text()
    mode = re.search(r'^mode = "(.*)"$', text, re.M)
    dropout = re.search(r"^dropout = (.*)$", text[text.index("[training]") :], re.M)
    assert dropout
    score = 1 - float(dropout[1])
    checkpoint = folder / "checkpoint"
    with (folder / "starts.txt").open("a") as file:
        file.write("resumed\n" if checkpoint.exists() else "new\n")
    is_resumed = checkpoint.exists()
    (folder / "log.jsonl").write_text("")
    for step in (0, 2, 4):
        line = {"step": step, "score": score * step / 4, "scores": {"a": score, "b": step / 4}}
        with (folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        checkpoint.write_text("")
        if step and mode and mode[1] == "hangs" and not is_resumed:
            print("hanging", flush=True)
            time.sleep(100)
    for name in ("model-best", "model-last"):
        (folder / name).mkdir(exist_ok=True)
    if mode and mode[1] == "crashes":
        sys.exit("RuntimeError: this trial crashes")
    if mode and mode[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
