"""Tables and claims of a report."""

from dataclasses import replace

from spacy_mtl.report.records import Transfer
from spacy_mtl.report.tables import make_claim, make_table

SINGLE = {
    "token_acc": 1.0,
    "tag_acc": 0.91234,
    "ents_p": None,
    "ents_r": None,
    "ents_f": None,
    "ents_per_type": None,
    "cats_score": 0.5,
    "cats_score_desc": "F",
    "speed": 1234.6,
}
MULTI = {
    "tag_acc": 0.9,
    "ents_p": 0.75,
    "ents_r": 0.6,
    "ents_f": 2 / 3,
    "ents_per_type": {"ORG": {"p": 0.75, "r": 0.6, "f": 0.66}},
    "cats_score": 0.50001,
    "cats_score_desc": "F",
    "speed": 3000.0,
}


def get_lines(names, runs):
    return make_table(names, runs).to_markdown().splitlines()


def test_one_run():
    assert get_lines(["mtl"], [MULTI]) == [
        "| run | tag_acc | ents_f | ents_p | ents_r | cats_score (F) | words/s |",
        "| --- | ------: | -----: | -----: | -----: | -------------: | ------: |",
        "| mtl |   90.00 |  66.67 |  75.00 |  60.00 |          50.00 |    3000 |",
    ]


def test_the_best_is_bold():
    """Values that look the same are both bold."""
    assert get_lines(["single", "multi"], [SINGLE, MULTI]) == [
        "| run    |   tag_acc |    ents_f |    ents_p |    ents_r | cats_score (F) |  words/s |",
        "| ------ | --------: | --------: | --------: | --------: | -------------: | -------: |",
        "| single | **91.23** |         - |         - |         - |      **50.00** |     1235 |",
        "| multi  |     90.00 | **66.67** | **75.00** | **60.00** |      **50.00** | **3000** |",
    ]


def test_missing_scores():
    lines = get_lines(["a", "b"], [{"tag_acc": 0.5}, {"ents_f": None, "speed": 100.0}])
    header, _, first, second = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert header == ["run", "tag_acc", "words/s"]
    assert first == ["a", "**50.00**", "-"]
    assert second == ["b", "-", "**100**"]


def test_each_kind_of_category_score_has_a_column():
    kinds = ["macro F", "macro AUC", None, "macro F"]
    runs = [
        {"cats_score": i / 10, "cats_score_desc": kind} for i, kind in enumerate(kinds, start=1)
    ]
    cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in get_lines("abcd", runs)]
    assert cells[0] == ["cats_score (macro F)", "cats_score (macro AUC)", "cats_score"]
    assert cells[2:] == [
        ["10.00", "-", "-"],
        ["-", "**20.00**", "-"],
        ["-", "-", "**30.00**"],
        ["**40.00**", "-", "-"],
    ]


def test_names_cannot_break_the_table():
    lines = get_lines(["a|b", "ä"], [SINGLE, MULTI])
    assert lines[2].startswith("| a\\|b | ")
    assert lines[3].startswith("| ä    | ")
    assert len({len(line) for line in lines}) == 1


TRANSFER = Transfer("ner", "alone", "multi", "ents_f", 0.5, None, 0.6, 0.01, 0.1, 0.0004, 1, 9)


def test_claims_say_what_the_comparison_shows():
    """First the effect, then the numbers, then their conditions."""
    assert make_claim(TRANSFER) == (
        "Training together improves ner: +10.00 points of ents_f, 60.00 in multi against 50.00 "
        "alone (p < 0.001, 1 seed, 9 docs)."
    )
    worse = make_claim(replace(TRANSFER, difference=-0.1, p=0.04, seeds=2))
    assert worse.startswith("Training together harms ner: -10.00 points")
    assert "(p = 0.040, 2 seeds, 9 docs)" in worse


def test_no_claim_without_evidence():
    assert "no clear difference to ner" in make_claim(replace(TRANSFER, p=0.05))
    unlike = make_claim(replace(TRANSFER, p=None, differences=["updates"]))
    assert unlike.startswith("No conclusion about ner") and "(1 seed, 9 docs)" in unlike
