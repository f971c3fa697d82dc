"""Results files: what is written is read again, and every defect is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.data.results import LiteratureRow, ResultRow, Results, load_results, save_results

ROW: dict[str, Any] = {"name": "rule best", "figures": {"mIoU": 50.0, "ECE": None}}


def write(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({"format": 1, "title": "fusion", "rows": [ROW], **changes}), encoding="utf-8")
    return path


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    row = ResultRow(
        name='rule "best" </script>',
        settings={"rule": {"kind": "best"}, "theta": 0.5, "split": None},
        seed=1,
        figures={"images": 8, "mIoU": 50.8},
        IoU={"road": 92.1},
        panoramas={"street/Straße 2": {"mIoU": 40.0}},
    )
    results = Results(title="fusion", rows=(row,), literature=(LiteratureRow(name="GoodSAM", figures={"mIoU": 60}),))
    save_results(tmp_path / "results.json", results)
    assert load_results(tmp_path / "results.json") == results


def test_figures_without_a_value_are_left_out_and_unknown_keys_are_ignored(tmp_path: Path) -> None:
    results = load_results(write(tmp_path / "results.json", added_later=1))
    assert results.rows[0].figures == {"mIoU": 50.0}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": 2}, "format: found 2; input should be 1"),
        ({"rows": [ROW, ROW]}, "the row 'rule best' with seed None occurs twice"),
        ({"rows": [{**ROW, "kind": "teacher"}]}, r"rows\.0\.kind: found 'teacher'; input should be 'ensemble' or"),
        ({"rows": [{**ROW, "figures": {"mIoU": "high"}}]}, r"rows\.0\.figures\.mIoU: found 'high'"),
        ({"rows": [{}]}, r"rows\.0\.name: is missing"),
        ({"rows": "all"}, "rows: found 'all'"),
    ],
)
def test_a_defect_is_named_with_its_place(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        load_results(write(tmp_path / "results.json", **changes))


def test_a_figure_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"format": 1, "title": "a", "rows": [{"name": "b", "figures": {"mIoU": NaN}}]}')
    with pytest.raises(UserError, match="found NaN, expected a finite number"):
        load_results(path)


def test_a_file_with_many_panoramas_is_read(tmp_path: Path) -> None:
    panoramas = {f"p{k}": {"mIoU": 1.0, "weight": 2.0, "l_cc": 0.1} for k in range(60_000)}
    path = tmp_path / "results.json"
    save_results(path, Results(title="a", rows=(ResultRow(name="b", panoramas=panoramas),)))
    assert len(load_results(path).rows[0].panoramas) == 60_000


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.json: no such file; expected a results file"):
        load_results(tmp_path / "results.json")
