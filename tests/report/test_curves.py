"""Training curves: what trainings have written, and the charts."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from stages.report.curves import MAX_POINTS, draw_charts, read_curves, shorten, ticks


def write_scalars(folder: Path, name: str, *lines: str) -> None:
    path = folder / name / "vis_data" / "scalars.json"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines))


def test_a_resumed_training_is_one_curve_and_damaged_lines_are_left_out(tmp_path: Path) -> None:
    lines = [json.dumps({"loss": 3.0 - step, "decode.loss_ce": 1.0, "time": 0.1, "step": step}) for step in (0, 1, 2)]
    write_scalars(tmp_path, "20260101", lines[0], lines[1], '{"loss": NaN, "step": 5}', '{"loss": 1')
    write_scalars(tmp_path, "20260102", json.dumps({"loss": 9.0, "step": 1}), lines[2], '{"loss": "low", "step": 3}')
    curves = read_curves(tmp_path / "iter_2.pth")
    assert curves["loss"] == [(0, 3.0), (1, 9.0), (2, 1.0)]
    assert set(curves) == {"loss", "loss_ce"}


def test_the_losses_of_an_adaptation(tmp_path: Path) -> None:
    (tmp_path / "losses.json").write_text('{"ensemble": [2.0, 1.0], "empty": [], "odd": ["a", 1]}')
    assert read_curves(tmp_path / "config.yaml") == {"ensemble": [(1, 2.0), (2, 1.0)]}


def test_no_training_no_curve(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "iter_2.pth") == {}
    assert draw_charts({}) == []


def test_a_chart_is_well_formed_and_escaped() -> None:
    name = "<b>\"'"
    (loss, other) = draw_charts({name: {"lr": [(1, 0.5), (2, 0.5)], "loss": [(0, 1.0), (10, 3.0)]}})
    assert (loss.title, other.title) == ("loss", "lr")
    svg = ElementTree.fromstring(str(loss.svg))
    assert svg.get("aria-label") == f"loss: {name} from 1 to 3"
    points = [tuple(map(float, point.split(","))) for point in svg.find("polyline").get("points").split()]
    assert points[0][0] < points[1][0]
    assert points[0][1] > points[1][1], "y grows downwards"


def test_long_curves_are_averaged() -> None:
    curve = [(float(step), float(step % 2)) for step in range(10 * MAX_POINTS)]
    short = shorten(curve)
    assert len(short) == MAX_POINTS
    assert {value for _, value in short} == {0.5}
    assert shorten(curve[:3]) == curve[:3]


def test_ticks_are_round() -> None:
    assert ticks(0, 20) == [0, 5, 10, 15, 20]
    assert ticks(0.13, 0.29) == [0.15, 0.2, 0.25]
    assert ticks(3, 3) == [3]
