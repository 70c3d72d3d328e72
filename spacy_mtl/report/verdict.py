"""The verdict of a report: its main result in one or a few sentences."""

from collections.abc import Sequence

from ..annotations import find_scored_layers
from .records import Report, RunSummary, Transfer
from .tables import order_keys, show_p

# The labels that a score is about. Scores of other packages' heads go by the name of the task.
NOUNS = {
    "tag_acc": "tags",
    "pos_acc": "parts of speech",
    "morph_acc": "morphological features",
    "pos_morph_acc": "parts of speech with their features",
    "lemma_acc": "lemmas",
    "dep_las": "dependencies",
    "sents_f": "sentences",
    "ents_f": "entities",
    "nel_micro_f": "entity links",
    "spans_sc_f": "spans",
    "cats_score": "categories",
    "cats_macro_f": "categories",
}
LEVEL = 0.05  # points: smaller differences show as 0.0


def make_verdict(report: Report) -> list[str]:
    """Say what each task gains or loses by training with other tasks.

    A difference is a gain or a loss if it is significant and larger than the standard deviation
    over seeds.

    report (Report): The report.
    RETURNS (List[str]): A sentence for each setting with several tasks, or one with the scores if
        no task is compared.
    """
    if not report.transfer:
        return [make_scores_sentence(report.runs)]
    names = list(dict.fromkeys(record.multi for record in report.transfer))
    sentences = []
    for name in names:
        own = [record for record in report.transfer if record.multi == name]
        text = judge(own)
        sentences.append(f"In “{name}”, {text}." if len(names) > 1 else f"{capitalize(text)}.")
    return sentences


def make_conditions(report: Report) -> list[str]:
    """RETURNS (List[str]): The docs and seeds of the comparisons, and the terms of the verdict; or
    why no task is compared.
    """
    if not report.transfer:
        return [explain(report)]
    docs = join_range([record.docs for record in report.transfer], "doc")
    seeds = join_range([record.seeds for record in report.transfer], "seed")
    lines = [f"Tested on {docs}, with {seeds} per side."]
    if any(record.p is not None for record in report.transfer):
        lines.append("p is the probability of a difference this large by chance.")
    if any(record.is_within_spread for record in report.transfer):
        lines.append(
            "“Within the spread” means: no larger than the standard deviation over seeds, so "
            "another seed may turn it around."
        )
    if any(record.seeds == 1 for record in report.transfer):
        lines.append("With one seed the spread over seeds is unknown: train with more seeds.")
    return lines


def join_range(numbers: Sequence[int], noun: str) -> str:
    """RETURNS (str): A number or a range of numbers with a noun, such as "2 to 3 seeds"."""
    low, high = min(numbers), max(numbers)
    plural = noun if high == 1 else f"{noun}s"
    return f"{low:,} {plural}" if low == high else f"{low:,} to {high:,} {plural}"


def judge(records: Sequence[Transfer]) -> str:
    """RETURNS (str): The differences of a setting in words: the clear ones first, largest first;
    then the unclear ones; then the ones without a test.
    """
    clear = [record for record in records if record.is_clear]
    clear.sort(key=lambda record: (record.difference < 0, -abs(record.difference)))
    unclear = [record for record in records if not record.is_clear and record.p is not None]
    untested = [record.task for record in records if record.p is None]
    told = clear if len(unclear) > 2 else clear + unclear
    parts = [describe(record, name_labels(record, records), i) for i, record in enumerate(told)]
    if len(unclear) > 2:
        names = join([name_labels(record, records) for record in unclear])
        parts.append(f"{names} show no clear difference")
    if untested:
        parts.append(f"nothing can be said about {join(untested)}, as other settings differ too")
    return "; ".join(parts)


def describe(record: Transfer, labels: str, index: int) -> str:
    """RETURNS (str): One difference in words. The first of several has the unit."""
    points = 100 * record.difference
    p = show_chance(record.p)
    if record.is_clear:
        reason = f", {p}"
    elif record.is_within_spread:
        reason = ", within the spread"
    else:
        reason = f", which may be chance ({p})"
    if abs(points) < LEVEL:
        return f"{labels} stay level"
    verb = "gain" if points > 0 else "lose"
    amount = f"{abs(points):.1f}"
    if index:
        return f"{labels} {verb} {amount}{reason}"
    unit = "point" if amount == "1.0" else "points"
    place = "from the other tasks" if points > 0 else "when trained with the other tasks"
    return f"{labels} {verb} {amount} {unit} {place}{reason}"


def show_chance(p: float | None) -> str:
    """RETURNS (str): A p value, such as "p = 0.012"."""
    text = show_p(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def name_labels(record: Transfer, records: Sequence[Transfer]) -> str:
    """RETURNS (str): The labels of a task, such as "entities"; with the name of the task if
    several tasks have such labels.
    """
    noun = NOUNS.get(record.measure)
    if noun is None:
        return f"labels of {record.task}"
    is_unique = sum(NOUNS.get(other.measure) == noun for other in records) == 1
    return noun if is_unique else f"{noun} of {record.task}"


def make_scores_sentence(runs: Sequence[RunSummary]) -> str:
    """RETURNS (str): The main scores of a run, or the best run for each main score."""
    parts = []
    keys = order_keys([run.scores for run in runs])
    main_keys = {layer.score_key for layer in find_scored_layers(keys)}
    for key in [key for key in keys if key in main_keys]:
        scores = {
            run.name: value for run in runs if isinstance(value := run.scores.get(key), int | float)
        }
        if not scores:
            continue
        best = max(scores, key=lambda name: scores[name])
        amount, noun = f"{100 * scores[best]:.1f} %", NOUNS.get(key, key)
        parts.append(f"{noun} {amount}" if len(runs) == 1 else f"{noun} {amount} ({best})")
    if not parts:
        return "The runs have no scores."
    start = f"{runs[0].name} scores" if len(runs) == 1 else "The best scores are"
    return f"{start}: {join(parts)}."


def explain(report: Report) -> str:
    """RETURNS (str): Why no task is compared with the same task trained alone, and what to do."""
    n_tasks = [len(run.tasks) for run in report.runs if run.setting is not None]
    if not any(n > 1 for n in n_tasks) or 1 not in n_tasks:
        return (
            "To see what tasks gain from each other, report a run with several tasks together "
            "with a run of each task alone."
        )
    if report.data is None:
        return "To test the differences, give data to run all pipelines on: --data FILE."
    return "No task was trained both alone and with other tasks, so there is nothing to compare."


def join(parts: Sequence[str]) -> str:
    """RETURNS (str): Parts of a sentence, with commas and "and"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def capitalize(text: str) -> str:
    """RETURNS (str): A text with a capital first letter; the rest stays."""
    return text[:1].upper() + text[1:]
