"""One trial: `spacy mtl train` in a process of its own, which ends when the search ends."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thinc.api import Config

from ..errors import Errors
from ..files import locking

CONFIG, LOG, OUTPUT = "config.cfg", "log.jsonl", "output.txt"
TAIL = 15  # lines of the output that say why a trial failed
WAIT = 60.0  # seconds until a process that still writes to the folder must have ended


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a trial.

    step (int): The update after which it was.
    score (float): The score of the pipeline, by the score weights.
    scores (Dict[str, Optional[float]]): All logged scores by key, 0 to 1.
    """

    step: int
    score: float
    scores: dict[str, float | None]


class TrialProcess:
    """A process that trains. It continues from the checkpoint in its folder, if there is one.

    folder (Path): The folder for the pipelines, the log and the output.
    config (Config): The config. Gets a logger that writes to the folder.
    arguments (Sequence[str]): More arguments of `spacy mtl train`.
    env (Mapping[str, str]): Environment variables besides the current ones.
    """

    def __init__(
        self, folder: Path, config: Config, arguments: Sequence[str], env: dict[str, str]
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        config = config.copy()
        config["training"]["logger"] = {
            "@loggers": "spacy-mtl.ProgressLogger.v1",
            "progress_bar": None,
            "output_file": str(folder / LOG),
        }
        config.to_disk(folder / CONFIG, interpolate=False)
        with (folder / OUTPUT).open("ab") as output:
            self.process = subprocess.Popen(
                [*get_command(folder), *arguments],
                stdin=subprocess.PIPE,  # closed by the system however this process ends
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf8"} | env,
                start_new_session=True,  # Ctrl-C is for the search
            )

    def get_exit_code(self) -> int | None:
        """RETURNS (Optional[int]): The exit code; None while the process runs."""
        return self.process.poll()

    def read_evaluations(self) -> list[Evaluation]:
        """RETURNS (List[Evaluation]): The evaluations so far, in order."""
        path = self.folder / LOG
        text = path.read_text(encoding="utf8") if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return [
            Evaluation(line["step"], line["score"], line["scores"])
            for line in lines
            if line["score"] is not None
        ]

    def stop(self) -> None:
        """End the process if it has not ended yet, and release what belongs to it."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()

    def describe_failure(self) -> str:
        """RETURNS (str): How the process ended, and the last lines of its output."""
        code = self.process.returncode
        ending = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
        if code == -9:
            ending += ", which is how a system without free memory ends a process"
        lines = (self.folder / OUTPUT).read_text(encoding="utf8", errors="replace").splitlines()
        return "\n".join([ending, *[line for line in lines if line.strip()][-TAIL:]])


def get_command(folder: Path) -> list[str]:
    """RETURNS (List[str]): The command that trains in a folder."""
    return [sys.executable, "-m", __name__, str(folder)]


def main(folder: Path, arguments: Sequence[str]) -> None:
    """Run `spacy mtl train` in a folder with a config, and end with the parent process.

    folder (Path): The folder.
    arguments (Sequence[str]): More arguments of the command.
    RAISES (ValueError): M274 if another process writes to the folder.
    """
    from spacy.cli._util import setup_cli

    threading.Thread(target=exit_with_parent, daemon=True).start()
    command = ["mtl", "train", str(folder / CONFIG), "-o", str(folder), "--resume"]
    sys.argv = ["spacy", *command, *arguments]
    with locking(folder, WAIT) as is_free:
        if not is_free:
            raise ValueError(Errors.M274.format(path=folder))
        setup_cli()


def exit_with_parent() -> None:
    """End this process at once when standard input ends, which the parent process holds."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
