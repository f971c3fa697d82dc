"""The code of docs/python.md runs, and so does the notebook, on the cache of a small demo world."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.cache.results import Panorama
from pipeline.core.cli import run_command
from pipeline.core.project_files import PROJECT_ROOT
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.conftest import Project

PAGE = (PROJECT_ROOT / "docs" / "python.md").read_text(encoding="utf-8")
NOTEBOOK = PROJECT_ROOT / "docs" / "notebooks" / "open_the_cache.ipynb"


def test_the_code_of_the_page_runs(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config())
    monkeypatch.chdir(project.folder)
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), names)  # the page is part of the repository
    image, label, weight = names["PseudoLabels"]()[1]
    assert (image.shape, label.shape, weight.shape) == ((64, 256, 3), (64, 256), (64, 256))
    printed = capsys.readouterr().out
    assert "3 panoramas, splits ('train',)" in printed
    assert "no such artefact in the cache; expected one made by fuse" in printed


def test_every_property_of_a_panorama_is_on_the_page() -> None:
    table = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    documented = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    properties = {name for name, value in vars(Panorama).items() if isinstance(value, property)}
    assert documented == properties - {"expected_areas"}


@pytest.mark.slow
def test_the_notebook_runs_on_the_cache_of_the_demo_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    from demo.__main__ import render_world

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")])))
    render_world({"target-train": 2, "target-tune": 1, "target-test": 1}, workers=1)
    for stage in ("precompute", "fuse"):
        assert run_command(stage, "--manifest", "demo_world/manifest.yaml", "--config", "demo").returncode == 0
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the file holds no outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert "4 are up to date, 0 are missing" in text
    assert re.search(r"expected mIoU of all panoramas: \d\d\.\d %", text)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
