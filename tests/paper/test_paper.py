"""The command that makes the paper's tables: what it checks, and the plan that it prints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.core.errors import UserError
from stages.commands import make_app
from tests.cli.test_json_keys import differences


@pytest.fixture
def densepass(tmp_path: Path) -> Path:
    """Three small panoramas to train on and two with labels, in the folders of DensePASS."""
    folder = tmp_path / "DensePASS"
    for split, count in (("train", 3), ("val", 2)):
        for k in range(count):
            path = folder / "leftImg8bit" / split / "city" / f"{k}_.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((50, 256, 3), 60 * k, np.uint8)).save(path)
            if split == "val":
                labels = folder / "gtFine" / "val" / "city" / f"{k}_labelTrainIds.png"
                labels.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.zeros((50, 256), np.uint8)).save(labels)
    for name in ("sam.pth", "ta.pth"):
        (tmp_path / name).write_bytes(name.encode())
    return folder


def paper(densepass: Path, *options: str) -> Result:
    folder = densepass.parent
    words = ["paper", "--densepass", str(densepass), "--sam", str(folder / "sam.pth"), "--ta", str(folder / "ta.pth")]
    words += ["--cache", str(folder / "cache"), "--work-dir", str(folder / "runs"), *options]
    return CliRunner().invoke(make_app(), words)


def test_the_plan_names_every_artefact_once(
    densepass: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # one table, not two of half the columns
    done = paper(densepass, "--plan")
    printed = done.output + capfd.readouterr().out
    assert done.exit_code == 0, printed
    assert "3 panoramas" in printed
    assert "another file" in printed
    (masks,) = (line for line in printed.splitlines() if "masks of the views" in line)
    assert masks.split("│")[2].strip() == "7", "six shapes of windows, and the whole panorama"
    assert not (densepass.parent / "cache").exists()


@pytest.mark.slow
def test_the_line_of_json_has_the_documented_keys(densepass: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = paper(densepass, "--plan", "--json")
    assert done.exit_code == 0, done.exception
    printed = done.stdout + capfd.readouterr().out
    figures = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    assert differences(figures, "paper") == []


def test_what_is_missing_is_named_before_any_work(densepass: Path) -> None:
    (densepass.parent / "ta.pth").unlink()
    assert "ta.pth: no such file; docs/models.md" in str(paper(densepass, "--plan").exception)
    (densepass / "gtFine" / "val" / "city" / "1_labelTrainIds.png").unlink()
    done = paper(densepass, "--plan")
    assert isinstance(done.exception, UserError)
    assert "1_" in str(done.exception) or "have no labels" in str(done.exception)
    assert "expected DensePASS" in str(paper(densepass.parent / "nowhere", "--plan").exception)
