import pytest
import srsly

from spacy_mtl.report.table import make_table, read_metrics

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
    """Also each of two that look the same."""
    assert get_lines(["single", "multi"], [SINGLE, MULTI]) == [
        "| run    |   tag_acc |    ents_f |    ents_p |    ents_r | cats_score (F) |  words/s |",
        "| ------ | --------: | --------: | --------: | --------: | -------------: | -------: |",
        "| single | **91.23** |         - |         - |         - |      **50.00** |     1235 |",
        "| multi  |     90.00 | **66.67** | **75.00** | **60.00** |      **50.00** | **3000** |",
    ]


def test_missing_scores():
    lines = get_lines(["a", "b"], [{"tag_acc": 0.5}, {"ents_f": None}])
    header, _, first, second = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert header == ["run", "tag_acc", "ents_f", "ents_p", "ents_r", "cats_score", "words/s"]
    assert first == ["a", "**50.00**", "-", "-", "-", "-", "-"]
    assert second == ["b"] + ["-"] * 6


def test_category_scores_of_different_kinds_have_columns_of_their_own():
    kinds = ["macro F", "macro AUC", None, "macro F"]
    runs = [
        {"cats_score": i / 10, "cats_score_desc": kind} for i, kind in enumerate(kinds, start=1)
    ]
    cells = [[cell.strip() for cell in line.split("|")[6:-2]] for line in get_lines("abcd", runs)]
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


def test_read_metrics(tmp_path):
    srsly.write_json(tmp_path / "a.json", SINGLE)
    assert read_metrics(tmp_path / "a.json") == SINGLE


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        (None, "M201", "a.json"),
        ("", "M202", "a.json"),
        ('{"tag_acc": 0.5', "M202", "a.json"),
        ("\udcff", "M202", "utf-8"),
        ("[1, 2]", "M202", "tag_acc"),
        ("{}", "M202", "tag_acc"),
        ('{"speed": 100.0, "tagger": {"tag_acc": 0.5}}', "M202", "--per-component"),
    ],
)
def test_errors(tmp_path, text, code, part):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text, encoding="utf8", errors="surrogateescape")
    with pytest.raises(ValueError, match=code) as error:
        read_metrics(path)
    assert part in str(error.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="M201"):
        read_metrics(tmp_path)
