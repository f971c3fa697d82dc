"""`python -m pipeline settings`: what it prints is what the program reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.core.errors import UserError
from stages.commands import make_app
from stages.config import COMPONENTS, load_config

RUNNER = CliRunner()


def test_what_is_printed_is_read_back_as_the_same_settings(tmp_path: Path) -> None:
    change = [
        "teacher.views={kind: perspective, additional: [{width: 64, stride: 32}]}",
        "fusion.rule={kind: paper, theta: 0.8}",
    ]
    options = [part for text in change for part in ("--set", text)]
    printed = RUNNER.invoke(make_app(), ["settings", *options])
    assert printed.exit_code == 0
    path = tmp_path / "all.yaml"
    path.write_text(printed.stdout)
    assert load_config(path) == load_config(None, change)
    assert "# Share of the majority label from which on a mask has weight 1.\n    theta: 0.8\n" in printed.stdout


def test_every_component_describes_itself() -> None:
    for group in COMPONENTS.values():
        for kind in group.known_kinds():
            printed = RUNNER.invoke(make_app(), ["settings", "--kind", f"{group.name}.{kind}"])
            assert printed.exit_code == 0
            assert f"kind: {kind}" in printed.stdout
    with pytest.raises(UserError, match=r"expected GROUP\.NAME with a group of generator, teacher, rule"):
        RUNNER.invoke(make_app(), ["settings", "--kind", "sam"], catch_exceptions=False)
