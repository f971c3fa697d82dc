"""Rows of several seeds as one, columns, and the settings of a row."""

from __future__ import annotations

import pytest

from pipeline.data.results import ResultRow, Results
from stages.report.tables import best_values, columns_of, flatten, format_setting, merge_seeds, seconds_text


def row(name: str, seed: int | None = None, **figures: float) -> ResultRow:
    return ResultRow(name=name, seed=seed, figures=figures, IoU={"road": figures.get("mIoU", 0.0)})


def test_seeds_become_mean_and_sample_deviation() -> None:
    rows = [row("a", 0, mIoU=50), row("b", None, mIoU=40), row("a", 1, mIoU=54), row("a", 2, mIoU=52, ECE=3)]
    first, second = merge_seeds(rows)
    assert (first.name, second.name) == ("a", "b")
    assert [one.seed for one in first.rows] == [0, 1, 2]
    assert first.mean == {"mIoU": 52, "ECE": 3}
    assert first.spread == {"mIoU": pytest.approx(2.0)}  # 4, 0 and 4 over two degrees of freedom
    assert first.iou == {"road": 52}
    assert second.spread == {}


def test_an_ensemble_and_its_students_of_one_name_are_two_rows() -> None:
    students = [ResultRow(name="a", kind="student", seed=seed, figures={"mIoU": 30 + seed}) for seed in (0, 2)]
    ensemble, student = merge_seeds([row("a", mIoU=50), *students])
    assert (ensemble.name, ensemble.mean, ensemble.spread) == ("a", {"mIoU": 50}, {})
    assert (student.name, student.mean) == ("a, student", {"mIoU": 31})


def test_columns_are_in_a_fixed_order_and_unknown_figures_come_last() -> None:
    rows = (row("a", l_cc=0.1, mIoU=50, images=8), row("b", new_figure=1))
    figures = columns_of(Results(title="t", rows=rows))
    assert [figure.name for figure in figures] == ["mIoU", "l_cc", "new_figure"]
    assert [figure.labels for figure in figures] == [True, False, True]


def test_the_best_value_follows_the_direction_of_a_figure() -> None:
    rows = (row("a", mIoU=50, ECE=3, weight=10), row("b", mIoU=40, ECE=2, weight=90))
    figures = columns_of(Results(title="t", rows=rows))
    assert best_values(merge_seeds(rows), figures) == {"mIoU": 50, "ECE": 2}
    assert best_values(merge_seeds(rows[:1]), figures) == {}


def test_settings_are_flattened_to_compare_them() -> None:
    settings = {"fusion": {"rule": {"kind": "best", "theta": 0.5}, "empty": {}}, "views": [1, 2]}
    assert flatten(settings) == {
        "fusion.rule.kind": "best",
        "fusion.rule.theta": "0.5",
        "fusion.empty": "{}",
        "views": "[1, 2]",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("best", "best"),
        ("/a/b/ta.pth", "ta.pth"),
        ({"kind": "best", "theta": 0.5}, "kind best, theta 0.5"),
        (None, "null"),
    ],
)
def test_settings_in_words(value: object, text: str) -> None:
    assert format_setting(value) == text


def test_durations_in_words() -> None:
    assert [seconds_text(value) for value in (4.25, 600, 7200)] == ["4.2 s", "10.0 min", "2.0 h"]
