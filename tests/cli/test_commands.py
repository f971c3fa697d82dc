"""The command line: what it lists, how it reports, and how options become arguments."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
import warnings
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

import stages
from pipeline.core.cli import Result, echo
from pipeline.core.errors import UserError, print_warnings_once
from pipeline.core.project_files import PROJECT_ROOT
from pipeline.core.settings import OldNameWarning
from stages.commands import ORDER, make_app, typer_command
from stages.precompute.stage import precompute
from tests.conftest import Project

RUNNER = CliRunner()


def goodsam(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, arguments)],
        cwd=PROJECT_ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# ---- the list of commands


def test_commands_are_listed_in_working_order() -> None:
    printed = RUNNER.invoke(make_app(), ["-h"]).stdout.partition("Commands:")[2]
    listed = re.findall(r"^  (\w+) ", printed, re.MULTILINE)
    assert [name for name in listed if name in ORDER] == list(ORDER)
    assert set(ORDER) == {module.name for module in pkgutil.iter_modules(stages.__path__) if module.ispkg}
    assert "..." not in printed, "the sentence of a command fits into 80 columns"


def test_the_demo_is_added_by_its_entry_point_alone() -> None:
    config = ConfigParser()
    config.read(PROJECT_ROOT / "setup.cfg")
    assert config["options.entry_points"]["goodsam.commands"].strip() == "demo = demo.__main__:demo"
    for package in ("pipeline", "stages"):
        for path in (PROJECT_ROOT / package).rglob("*.py"):
            text = re.sub(r"goodsam_demo|schedule_demo", "", path.read_text(encoding="utf-8"))
            assert not re.search(r"\bdemo(_world)?\b", text), path


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_as_wide_as_the_terminal(option: str) -> None:
    for columns in (80, 160):
        shown = RUNNER.invoke(make_app(), ["precompute", option], terminal_width=columns).stdout
        widest = max(len(line) for line in shown.splitlines())
        assert columns - 30 < widest <= columns
        assert "list[" not in shown


def test_the_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"goodsam \d+\.\d+\.\d+\n", RUNNER.invoke(make_app(), ["--version"]).stdout)


def test_completion_can_be_installed() -> None:
    assert "--install-completion" in RUNNER.invoke(make_app(), ["--help"]).stdout
    words = {"_GOODSAM_COMPLETE": "complete_bash", "COMP_WORDS": "goodsam prec", "COMP_CWORD": "1"}
    assert goodsam(**words).stdout.split() == ["precompute"]


# ---- groups of options


@dataclass(frozen=True)
class Group:
    """A group of two options."""

    size: Annotated[int, typer.Option("--size", metavar="N")] = 1
    names: Annotated[list[str] | None, typer.Option("--name")] = None


def app_of(command: object) -> typer.Typer:
    app = typer.Typer()
    app.command()(typer_command(command))  # type: ignore[arg-type]
    return app


def test_each_field_of_a_group_is_an_option() -> None:
    calls = []

    def command(word: str, group: Group, flag: bool = False) -> None:
        calls.append((word, group, flag))

    assert RUNNER.invoke(app_of(command), ["a"]).exit_code == 0
    assert RUNNER.invoke(app_of(command), ["b", "--size", "3", "--name", "x", "--name", "y", "--flag"]).exit_code == 0
    assert calls == [("a", Group(), False), ("b", Group(3, ["x", "y"]), True)]
    assert RUNNER.invoke(app_of(command), ["a", "--json"]).exit_code == 2, "it reports no figures"


@pytest.mark.parametrize(("failed", "status"), [(False, 0), (True, 3)])
def test_json_is_alone_on_stdout(failed: bool, status: int) -> None:
    def command() -> Result:
        echo("for people")
        subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
        return Result({"images": 2}, failed=failed)

    plain = RUNNER.invoke(app_of(command), [])
    assert (plain.exit_code, plain.stdout) == (status, "for people\n")
    done = RUNNER.invoke(app_of(command), ["--json"])
    assert (done.exit_code, json.loads(done.stdout)) == (status, {"images": 2})
    assert done.stderr == "for people\n"


@pytest.fixture
def computed(project: Project) -> Project:
    """A project with the TA's logits of all panoramas but one."""
    (project.folder / "images" / "p001.png").write_bytes(b"no picture")
    precompute(project.manifest(), project.config(), only=["teacher"])
    return project


def test_json_of_a_real_command_is_alone_on_stdout(computed: Project) -> None:
    done = goodsam("fuse", *computed.arguments(), "--fusion", "ta", "--json")
    figures = json.loads(done.stdout)
    assert (done.returncode, figures["stage"], figures["computed"], figures["failed"]) == (3, "fuse", 2, 1)
    assert "p001: failed: " in done.stderr


# ---- hints


def test_hints_and_notes_of_a_command(computed: Project) -> None:
    fuse = ("fuse", *computed.arguments(), "--fusion", "ta")
    shown = goodsam(*fuse, "--set", "device=cpu").stdout
    assert "next: train, or evaluate where there are labels, with the same --manifest, --config, --fusion ta" in shown
    assert "shard" not in shown
    shown = goodsam(*fuse, "--shard", "1/3", GOODSAM_HINTS="0").stdout
    assert "next:" not in shown, "of a command that another one calls"
    assert "shard 1/3: the data set needs the shards 0/3 to 2/3" in shown


# ---- warnings and errors


def test_an_old_name_is_one_line_printed_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = []
    with warnings.catch_warnings():
        monkeypatch.setattr(warnings, "showwarning", lambda message, *_: others.append(str(message)))
        warnings.simplefilter("always")
        print_warnings_once()
        for _ in range(2):
            warnings.warn("settings: 'lift' is now named 'merge'", OldNameWarning, stacklevel=1)
        warnings.warn("of somebody else", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: settings: 'lift' is now named 'merge'\n"
    assert others == ["of somebody else"]


def test_components_are_found_in_the_working_directory(project: Project) -> None:
    (project.folder / "my_ta.py").write_text("import torch\n\ndef build():\n    return torch.nn.Conv2d(3, 19, 4, 4)\n")
    (project.folder / "pipeline.py").write_text("raise SystemExit('the file of the user')\n")
    command = [Path(sys.executable).with_name("goodsam"), "precompute", *project.arguments(), "--only", "teacher"]
    done = subprocess.run(
        [*command, "--set", "teacher.model={kind: module, builder: my_ta:build}"],
        cwd=project.folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_predict_without_images_is_refused_by_make_in_one_sentence() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "predict", "CHECKPOINT=x.pth"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "IMAGES is missing; expected e.g. make predict IMAGES=/data/panoramas" in done.stderr


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ((), "--manifest 'data_manifests/demo.yaml' --config 'demo'"),
        (("MANIFEST=my.yaml",), "--manifest 'my.yaml'"),
        (("CONFIG=my.yaml",), "--config 'my.yaml'"),
    ],
)
def test_make_supplies_the_demo_only_without_manifest_and_config(variables: tuple[str, ...], options: str) -> None:
    names = ("MANIFEST", "CONFIG", "GOODSAM_MANIFEST", "GOODSAM_CONFIG")
    done = subprocess.run(
        ["make", "--dry-run", "fuse", *variables],
        cwd=PROJECT_ROOT,
        env={name: value for name, value in os.environ.items() if name not in names},
        capture_output=True,
        text=True,
        check=True,
    )
    command = next(line for line in done.stdout.splitlines() if "-m pipeline fuse" in line)
    assert command.split("fuse")[1].split() == options.split()


def test_the_licence_of_the_package_comes_along() -> None:
    config = ConfigParser()
    config.read(PROJECT_ROOT / "setup.cfg")
    assert config["metadata"]["license"] == "Apache-2.0"
    assert "Apache License" in (PROJECT_ROOT / config["metadata"]["license_files"]).read_text()
    assert tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["build-system"]


def test_the_sentence_of_a_refused_command_is_all_it_prints() -> None:
    done = goodsam("fuse", GOODSAM_MANIFEST="", GOODSAM_CONFIG="")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --manifest is missing; expected a data manifest, e.g. --manifest ")
    with pytest.raises(UserError, match="--manifest is missing"):
        RUNNER.invoke(make_app(), ["fuse", "--config", "no_sam"], catch_exceptions=False)
