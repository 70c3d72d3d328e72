"""`spacy mtl tune`: search for the best values of a config."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from spacy.cli._util import parse_config_overrides, show_validation_error
from spacy.language import Language
from thinc.api import Config
from typer import Argument, Context, Exit, Option
from wasabi import msg

from ..errors import Errors, quote
from ..extras import get_install_line
from .app import command
from .options import CodePath, ConfigPath, GpuId, prepare, read_config

if TYPE_CHECKING:
    from ..search.page import Results

STOPPED = 130  # exit code of a command that Ctrl-C ended


@command("tune", "Cannot search", overrides=True)
def tune_cli(
    ctx: Context,
    config_path: ConfigPath,
    space_path: Annotated[
        Path, Argument(help="Config file of the values to vary", exists=True, dir_okay=False)
    ],
    output: Annotated[
        Path, Option("--output", "-o", help="Folder for the study and the results", file_okay=False)
    ],
    trials: Annotated[
        int, Option("--trials", "-n", min=1, help="Number of trials in the study")
    ] = 20,
    workers: Annotated[
        int, Option("--workers", "-w", min=1, help="Trials that run at the same time")
    ] = 1,
    timeout: Annotated[
        float | None, Option("--timeout", "-t", min=0, help="Seconds after which to stop")
    ] = None,
    pareto: Annotated[
        bool, Option("--pareto", help="Maximize the score of each task, without pruning")
    ] = False,
    metric: Annotated[
        str | None,
        Option("--metric", "-m", help="Tasks or scores to maximize, separated by commas"),
    ] = None,
    test: Annotated[
        Path | None,
        Option("--test", help=".spacy file, or folder of them, to score the chosen pipelines on"),
    ] = None,
    storage: Annotated[
        str | None, Option("--storage", help="URL of a database that several machines share")
    ] = None,
    seed: Annotated[int, Option("--seed", "-s", min=0, help="Seed of the search")] = 0,
    code_path: CodePath = None,
    gpu_id: GpuId = -1,
) -> None:
    """
    Search for the best values of a config.

    Each trial is a run of `mtl train` in its own process, with values drawn from the space. The
    first trial has the values of the config itself. A trial that crashes is lost alone. Trials that
    are worse than the median of the others at an evaluation are stopped, unless --pareto is given.

    The score is that of the score weights, or the mean of --metric. Writes best.cfg, a table
    trials.csv and a page index.html with the history, the effect of each value and the Pareto
    front. Keeps the pipelines of the best trials in the folder `trials`.

    The same command continues a search that was stopped by Ctrl-C, --timeout or a crash. Workers on
    other machines give the same --storage and an output folder of the same name. Overrides of the
    config are given as for `mtl train`.

    Example: python -m spacy mtl tune config.cfg space.cfg --output tuning --trials 20
    """
    make_page = import_page()
    from ..search.results import BEST, PAGE, TABLE, collect, write_results
    from ..search.run import Plan, Search, owning
    from ..search.space import fill, read_space
    from ..search.study import describe, open_study, using_database

    overrides = parse_config_overrides(ctx.args)
    prepare(code_path, gpu_id, silent=True)
    with show_validation_error(config_path):
        nlp = fill(read_config(config_path, overrides))
    config = nlp.config
    metrics = find_metrics(nlp, metric)
    if pareto and len(metrics) < 2:
        raise ValueError(Errors.M275.format(metrics=quote(metrics) or "none"))
    if metric:
        set_score_weights(config, [*metrics.values()])
    arguments = ["--gpu-id", str(gpu_id), *(["--code", str(code_path)] if code_path else [])]
    plan = Plan(
        config=config,
        space=read_space(space_path, config),
        metrics=metrics,
        folder=output,
        trials=trials,
        workers=workers,
        timeout=timeout,
        is_pareto=pareto,
        is_shared=storage is not None,
        arguments=arguments,
    )
    url = storage or f"sqlite:///{(output / 'study.db').resolve()}"
    with owning(output), using_database(url):
        study = open_study(
            url,
            output.resolve().name if storage else "tune",
            describe(config, plan.space, metrics, is_pareto=pareto),
            n_objectives=len(metrics) if pareto else 1,
            seed=seed,
        )
        stop = Search(study, plan, tell=lambda line: print(line, flush=True)).run()
        results = collect(study, plan, test)
        write_results(output, plan, results, make_page)
    print_choices(results)
    if results.choices:
        msg.good(f"Saved the best config: {output / BEST}")
    msg.good(f"Saved the table {output / TABLE} and the page {output / PAGE}")
    if stop:
        msg.warn(f"Stopped by {stop}. The same command continues the search.")
    if stop == "Ctrl-C":
        raise Exit(STOPPED)


def import_page() -> "Callable[[Results], str]":
    """RETURNS (Callable): The function that makes the page.
    RAISES (ValueError): M265 without Optuna or matplotlib.
    """
    try:
        import optuna  # noqa: F401

        from ..search.page import make_page
    except ImportError as error:
        raise ValueError(
            Errors.M265.format(error=error, install=get_install_line("tune"))
        ) from error
    return make_page


def find_metrics(nlp: Language, names: str | None) -> dict[str, str]:
    """Find the scores to compare trials by.

    nlp (Language): The pipeline.
    names (Optional[str]): Tasks and keys of scores, separated by commas; by default all tasks.
    RETURNS (Dict[str, str]): The key of the score by name.
    RAISES (ValueError): M269 for a name that is neither.
    """
    from ..training.scoreboard import find_keys, find_score_keys

    tasks, keys = find_keys(nlp, {}), find_score_keys(nlp)
    if names is None:
        return tasks
    found = {}
    for name in map(str.strip, names.split(",")):
        key = tasks.get(name, name)
        if key not in keys:
            raise ValueError(
                Errors.M269.format(name=name, tasks=quote(tasks), keys=quote(sorted(keys)))
            )
        found[name] = key
    return found


def set_score_weights(config: Config, keys: list[str]) -> None:
    """Give some scores equal weights, and all others the weight 0."""
    weights = config["training"]["score_weights"]
    shown = {key: None if weight is None else 0.0 for key, weight in weights.items()}
    config["training"]["score_weights"] = shown | dict.fromkeys(keys, 1 / len(keys))


def print_choices(results: "Results") -> None:
    """Print a table with the trial that each rule chooses, and the bias of the choice."""
    from ..search.page import make_choice_table

    if results.choices:
        table = make_choice_table(results)
        aligns = ("l", *"r" * (len(table.header) - 1))
        msg.table(table.rows, header=table.header, aligns=aligns, divider=True)
    for sentence in results.optimism:
        print(sentence)
