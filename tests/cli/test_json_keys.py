"""The line of `--json` has the keys that docs/commands.md lists, for every command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.main import get_command

from pipeline.core.project_files import PROJECT_ROOT
from stages.commands import make_app
from tests.conftest import Project, write_yaml

PAGE = (PROJECT_ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
ROWS = {name: keys for name, keys in re.findall(r"^\| `([a-z -]+)` \| (.*) \|$", PAGE, re.MULTILINE) if "`" in keys}
STUDENT = """
_base_ = [{base!r}]
model = dict(
    backbone=dict(embed_dims=8, num_heads=[1, 1, 1, 1], num_layers=[1, 1, 1, 1]),
    decode_head=dict(in_channels=[8, 8, 8, 8], channels=16))
"""

Call = Callable[..., dict[str, Any]]


def documented(row: str) -> dict[str, bool]:
    """Returns the paths that a row of the table lists, and whether each is always there."""
    cell = ROWS[row]
    paths = {} if cell.startswith("no `stage`; ") else {"stage": True}
    return paths | {text.rstrip("?"): not text.endswith("?") for text in re.findall(r"`([^`]+)`", cell.split("; ")[-1])}


def matches(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return len(path) == len(pattern) and all(
        wanted == name or wanted.startswith("<") for name, wanted in zip(path, pattern, strict=True)
    )


def split(pattern: str) -> tuple[str, ...]:
    return tuple(pattern.replace("[]", ".[]").split("."))


def differences(figures: Any, row: str) -> list[str]:
    """Returns the keys that are not documented, and the documented ones that are missing."""
    wanted = documented(row)
    patterns = {name: split(name) for name in wanted}
    found: set[str] = set()
    problems: list[str] = []

    def visit(value: Any, path: tuple[str, ...]) -> None:
        fitting = [name for name, pattern in patterns.items() if matches(path, pattern)]
        deeper = any(len(p) > len(path) and matches(path, p[: len(path)]) for p in patterns.values())
        literal = [name for name in fitting if "<" not in name.split(".")[-1]]
        found.update(literal or fitting)
        if literal or (fitting and not deeper):
            return
        if deeper and isinstance(value, dict):
            for name, item in value.items():
                visit(item, (*path, name))
        elif deeper and isinstance(value, list):
            for item in value:
                visit(item, (*path, "[]"))
        elif not fitting:
            problems.append(f"{row}: {'.'.join(path)} is not in docs/commands.md")

    for name, item in figures.items():
        visit(item, (name,))
    return problems + [f"{row}: {name} is missing" for name, always in wanted.items() if always and name not in found]


@pytest.fixture
def call(project: Project, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """`call("fuse", ...)` runs a command with `--json` and returns its line, which is all that is on stdout."""
    monkeypatch.chdir(project.folder)

    def run(*words: object) -> dict[str, Any]:
        capfd.readouterr()
        make_app()([*map(str, words), "--json"], standalone_mode=False)
        (line,) = capfd.readouterr().out.splitlines()
        figures: dict[str, Any] = json.loads(line)
        return figures

    return run


@pytest.fixture
def labelled(project: Project) -> Project:
    """Three panoramas with labels, a tiny student and a TA that can be adapted."""
    for k in range(3):
        project.add_labels(f"p{k:03d}_labelTrainIds.png", np.full((64, 256), k, np.uint8))
    labels = {"replace": [["images/", "labels/"], [".png", "_labelTrainIds.png"]]}
    splits = {"train": {"images": ["images/*"], "labels": labels}}
    write_yaml(project.manifest_path, {"name": "toy", "root": ".", "splits": splits})
    base = PROJECT_ROOT / "mmseg_configs" / "students" / "goodsam_m.py"
    (project.folder / "student.py").write_text(STUDENT.format(base=str(base)))
    settings = yaml.safe_load(project.config_path.read_text())
    settings["train"] = {"student": str(project.folder / "student.py"), "iterations": 2, "workers": 0}
    settings["adapt"] = {"statistics": 0.5, "iterations": 2}
    settings["teacher"]["model"]["builder"] = "tests.models:batch_norm_teacher"
    write_yaml(project.config_path, settings)
    return project


def test_every_command_has_json_and_a_row() -> None:
    commands = get_command(make_app()).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        assert any("--json" in option.opts for option in command.params), name
    assert {name.split()[0] for name in ROWS} == set(commands)


def test_an_unknown_and_a_missing_key_are_found() -> None:
    assert differences({"stage": "view", "picture": "a.png"}, "view") == []
    assert differences({"stage": "view", "file": 1}, "view") == [
        "view: file is not in docs/commands.md",
        "view: picture is missing",
    ]
    assert differences({"stage": "doctor", "checks": [{"name": 1, "state": 1}]}, "doctor") == [
        "doctor: checks[].detail is missing"
    ]


def test_the_commands_of_a_cache_have_the_documented_keys(labelled: Project, call: Call) -> None:
    here = labelled.arguments()
    words: dict[str, list[object]] = {
        "precompute": here,
        "fuse": here,
        "evaluate": here,
        "labels": [*here, "--out", "labels_out"],
        "view": ["images/p000", *here, "--out", "view.png"],
        "report": [*here, "--out", "report.html"],
        "inspect": here,
        "verify": here,
        "gc": here,
        "migrate": here,
        "settings": here[2:],
        "ablate": [*here, "--vary", "fusion.rule=ta,best"],
        "ablate --plan": [*here, "--vary", "fusion.rule=paper"],
    }
    lines = {row: call(*row.split(), *options) for row, options in words.items()}
    assert [problem for row, figures in lines.items() for problem in differences(figures, row)] == []
    (labelled.folder / "labels_out" / "digests.txt").unlink()
    assert differences(call("corrections", *here, "--labels", "labels_out"), "corrections") == []
    assert differences(call("settings", "--kind", "rule.best"), "settings") == []
    assert Path(lines["view"]["picture"]).is_file()


@pytest.mark.slow
def test_the_commands_of_models_have_the_documented_keys(labelled: Project, call: Call) -> None:
    here = labelled.arguments()
    call("precompute", *here)
    call("fuse", *here)
    trained = call("train", *here)
    assert differences(trained, "train") == []
    student = trained["checkpoint"]
    assert differences(call("predict", "images", "--student", student, "--out", "out"), "predict") == []
    assert differences(call("evaluate", *here, "--student", student), "evaluate") == []
    assert differences(call("export", "--student", student), "export") == []
    assert differences(call("adapt", *here, "--rounds", "1"), "adapt") == []
    assert differences(call("demo", "--panoramas", "1", "--tests", "1", "--workers", "1", "--world-only"), "demo") == []
    assert differences(call("doctor", *here), "doctor") == []
