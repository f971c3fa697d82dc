"""The benchmarks of adaptation and of the edges of windows, on little data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import adaptation, window_edges
from pipeline.geometry.windows import Window


def test_changes_are_counted_at_the_edges_and_elsewhere() -> None:
    labels = np.zeros((4, 16), np.uint8)
    labels[:2, 4:8] = 1  # changes at columns 4 and 8 in two of four rows
    labels[0, 0] = 2  # changes at columns 0 and 1 in one row
    at_edge, elsewhere = window_edges.change_shares(labels, [4, 12])
    assert at_edge == 25
    assert elsewhere == pytest.approx(100 * (0.5 + 0.25 + 0.25) / 14)
    rolled = window_edges.change_shares(np.roll(labels, 5, axis=1), [9, 1])
    assert rolled == pytest.approx((at_edge, elsewhere))


def test_borders_of_windows_across_the_seam() -> None:
    windows = [Window(0, x, 4, 8) for x in (0, 4, 8, 12)]
    assert window_edges.borders(windows, 16) == ([0, 4, 8, 12], [2, 6, 10, 14])


def test_the_edges_of_windows_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_edges, "CHECKPOINT", tmp_path / "none.pth")
    cases = [case for case in window_edges.CASES if case[0] in ("ssa", "ssa, cuts removed")]
    figures = window_edges.run(tmp_path, cases)
    assert figures["real"] is False
    assert 0 < figures["edge_ratio_ssa_cuts_removed"] == figures["window_edge_ratio"] < figures["edge_ratio_ssa"]


@pytest.mark.slow
def test_adaptation_keeps_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = adaptation.Bench(3, 1, 2, 3, tmp_path / "work", adaptation.Rows(tmp_path / "rows.json"))
    rows = bench.rounds("strong", 7, 1)
    assert len(rows) == 3
    assert all(0 < row["best"] < 100 and 0 < row["expected"] < 100 for row in rows)
    assert bench.student(7, "ensemble", 1) > 0
    assert bench.risk_areas("strong", 7)["risk_area"] > 0
    written = (tmp_path / "rows.json").stat().st_mtime_ns
    assert bench.rounds("strong", 7, 1) == rows
    assert (tmp_path / "rows.json").stat().st_mtime_ns == written
    assert "strong 7, ours, round 1" in capsys.readouterr().out
