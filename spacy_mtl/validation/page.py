"""The results of cross-validation, and likely errors of annotation, as HTML pages."""

from collections.abc import Sequence

from ..report.figures import Figure
from ..report.keys import Keys
from ..report.page import Page, Section, render
from ..report.plots import Series, plot_lines
from .summary import Summary
from .suspects import Suspect
from .tables import SECTION, SUSPECTS, make_suspect_table, make_tables, make_verdict

MOST = 200  # contradicted labels on the page of a cross-validation


def make_cv_page(summary: Summary, suspects: Sequence[Suspect]) -> str:
    """Write the page of a cross-validation.

    summary (Summary): The scores.
    suspects (Sequence[Suspect]): The contradicted labels. The page shows the first MOST.
    RETURNS (str): The page as HTML.
    """
    series = [
        Series(task.task, f"t{i}", i, task.get_lines()) for i, task in enumerate(summary.tasks)
    ]
    figures = []
    if series:
        plot = plot_lines("Scores of the folds", series, "%", heading="fold")
        caption = "The score of each fold. Thin lines are repeats, and thick ones their mean."
        figures = [Figure(caption, [plot])]
    sections = [Section(SECTION, figures, make_tables(summary))]
    if suspects:
        sections.append(Section(SUSPECTS, [], [make_suspect_table(suspects[:MOST])]))
    return _make_page("Cross-validation", make_verdict(summary), sections)


def make_suspect_page(suspects: Sequence[Suspect], verdict: str) -> str:
    """Write the page of contradicted labels.

    suspects (Sequence[Suspect]): The labels.
    verdict (str): The result in words.
    RETURNS (str): The page as HTML.
    """
    sections = [Section(SUSPECTS, [], [make_suspect_table(suspects)])]
    return _make_page(SUSPECTS, [verdict], sections)


def _make_page(title: str, verdict: Sequence[str], sections: Sequence[Section]) -> str:
    return render(Page(title, title, verdict, [], {}, sections, Keys([])))
