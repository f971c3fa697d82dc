"""The README's commands exist, and their options too."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages.commands import make_app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(pattern: str) -> list[str]:
    found = [line.strip() for page in PAGES for line in re.findall(pattern, page.read_text())]
    return sorted(set(found))


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(commands(r"(?:`|\n)make ([a-z-]+)"))
    assert named
    assert named <= targets


def test_make_help_lists_the_targets() -> None:
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "precompute", "fuse", "train", "test"):
        assert f"make {target} " in printed


@pytest.mark.parametrize("command", commands(r"(?:python -m pipeline|\bgoodsam) ([a-z][^`\n]*)"))
def test_every_option_that_is_shown_exists(command: str) -> None:
    stage, *options = command.split()
    if stage == "STAGE":
        return
    shown = CliRunner().invoke(make_app(), [stage, "--help"], env={"COLUMNS": "200"}).output
    for option in options:
        if option.startswith("--"):
            assert option.rstrip(".,;") in shown


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_configs_are_valid_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from stages.config import load_config

    for variable in ("TA_CHECKPOINT", "SAM_CHECKPOINT"):
        monkeypatch.setenv(variable, str(tmp_path / "weights.pth"))
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        config = load_config(path)
        assert config.teacher.model is not None
        assert config.teacher.model.config.is_file()
