"""What CONTRIBUTING.md shows works as it stands: each block becomes a module and runs through the stages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.conftest import Project

PAGE = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's blocks as the modules my_ta, my_masks and my_rules on the Python path."""
    folder = tmp_path / "modules"
    folder.mkdir()
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name, block in zip(["my_ta", "my_masks", "my_rules"], blocks, strict=True):
        (folder / f"{name}.py").write_text(block)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.usefixtures("modules")
def test_own_ta_generator_and_rule_run(project: Project) -> None:
    config = project.config(
        "teacher.model={kind: module, builder: 'my_ta:build'}",
        "sam.generator={kind: 'my_masks:Halves'}",
        "fusion.rule={kind: 'my_rules:Half', share: 0.1}",
        "masks.filter.min_area=1",
    )
    reports = precompute(project.manifest(), config)
    assert [report.computed for report in reports] == [3, 3, 3]
    assert reports[0].artefact.read("p000").read_array("table").shape[0] == 8
    report = fuse(project.manifest(), config)
    assert (report.computed, report.failures) == (3, {})
    assert report.artefact.read("p001").read_array("label").max() < 19
