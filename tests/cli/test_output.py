"""Tables and progress: they fit the terminal, and slow work shows useful figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.core import progress
from pipeline.core.cli import free_mib, print_table
from pipeline.core.progress import BarProgress, LogProgress, describe_rate

PREDICTORS = ["TA, stitched", *(f"ensemble ({rule})" for rule in ("ta", "ssa", "paper", "best"))]
STUDENTS = ["student goodsam_demo-87ea260a460e", "student goodsam_m-0123456789ab"]
CLASSES = ["mIoU at the seam", "M: precision of 60 %", "road", "motorcycle"]


def table(capsys: pytest.CaptureFixture[str], columns: list[str], rows: list[list[object]]) -> list[str]:
    print_table("a table", columns, rows)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_a_table_of_classes_keeps_its_numbers_whole(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    names = [*PREDICTORS, *STUDENTS]
    rows: list[list[object]] = [
        [name, *(100.0 - 10 * row - column for column in range(len(names)))] for row, name in enumerate(CLASSES)
    ]
    lines = table(capsys, ["class", *names], rows)
    assert max(map(len, lines)) <= columns
    for row, name in enumerate(CLASSES):
        shown = [cell for line in lines if name in line for cell in line.split("│")[2:-1]]
        assert [cell.strip() for cell in shown] == [f"{100.0 - 10 * row - column:.2f}" for column in range(len(names))]
    assert sum("a table" in line for line in lines) == 1
    if columns == 200:
        assert sum("road" in line for line in lines) == 1, "one table"


def test_long_text_is_folded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    reason = " ".join(f"word{k}" for k in range(40))
    lines = table(capsys, ["artefact", "panorama", "reason"], [["sam/0123456789ab", "some/folder/p001", reason]])
    assert max(map(len, lines)) <= 80
    assert all(f"word{k}" in "".join(lines) for k in range(40))


def test_markup_in_a_cell_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert any("[red]name[/red]" in line for line in table(capsys, ["a", "b"], [["[red]name[/red]", 1.0]]))


def test_a_table_without_rows_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert any("artefact" in line for line in table(capsys, ["artefact", "failed"], []))


@pytest.mark.parametrize(
    ("done", "seconds", "text"),
    [(10, 4.0, "2.50 images/s"), (1, 1.0, "1.00 images/s"), (1, 90.0, "90.0 s/image"), (2, 25.0, "12.5 s/image")],
)
def test_slow_work_is_measured_in_seconds_per_image(done: int, seconds: float, text: str) -> None:
    assert describe_rate(done, seconds) == text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time, in seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def set_time(seconds: float) -> None:
        now[0] = seconds

    return set_time


def test_a_log_has_a_line_now_and_then(clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    log = LogProgress()
    log.start("TA logits", 4)
    for seconds, failed in ((5, False), (20, True), (25, False), (60, False)):
        clock(seconds)
        log.advance(failed)
    assert capsys.readouterr().out.splitlines() == [
        "TA logits: 2/4, 1 failed, 10.0 s/image, 0:00:20 left",
        "TA logits: 4/4, 1 failed, 15.0 s/image, 0:00:00 left",
    ]


def test_a_bar_shows_the_seconds_per_step(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    bar = BarProgress()
    bar.start("train", 3, "step")
    clock(8.0)
    bar.advance(figures="loss 1.50")
    bar.note("[a note]")
    bar.stop()
    shown = capsys.readouterr().out
    assert "[a note]" in shown
    assert "8.0 s/step, 0:00:16 left, loss 1.50" in " ".join(shown.split())


def test_free_space_is_that_of_the_nearest_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cache")
    free = free_mib(str(folder / "not" / "yet"))
    assert free is not None
    assert free > 0
    assert free_mib("s3://bucket/cache") is None
