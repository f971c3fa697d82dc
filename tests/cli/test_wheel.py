"""The wheel works without the checkout: all files come along, and the demo runs in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from pipeline.core.project_files import PROJECT_ROOT

pytestmark = pytest.mark.slow

#: What the wheel is built from.
SOURCES = [
    *("goodsam", "pipeline", "stages", "demo", "configs", "data_manifests", "mmseg_configs"),
    *("setup.cfg", "pyproject.toml", "README.md", "LICENSE"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the checkout; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = PROJECT_ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    (source / "demo_world" / "images").mkdir(parents=True)  # what a user renders is no part of the wheel
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", folder, source], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def goodsam(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command `goodsam` in an environment with the wheel and this environment's packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True)
    packages = next((folder / "lib").glob("python*/site-packages"))
    # a path in a .pth file: the packages are found there, and an editable install there is not
    (packages / "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return [str(folder / "bin" / "goodsam")]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    unset = ("PYTHONPATH", "GOODSAM_MANIFEST", "GOODSAM_CONFIG", "TA_CHECKPOINT", "SAM_CHECKPOINT")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_every_file_comes_along(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("goodsam", "pipeline", "stages", "demo", "configs", "data_manifests", "mmseg_configs"):
        files = [path for path in (PROJECT_ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"]
        assert files
        assert {str(path.relative_to(PROJECT_ROOT)) for path in files} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "demo_world"))]
    assert [name for name in names if name.endswith("LICENSE")]


def test_commands_work_in_any_folder(goodsam: list[str], tmp_path: Path) -> None:
    assert "Runs the whole chain" in run([*goodsam, "--help"], tmp_path).stdout
    assert run([*goodsam, "--version"], tmp_path).stdout.startswith("goodsam ")
    (tmp_path / "pipeline.py").write_text("raise SystemExit('the file of the user')")
    printed = run([*goodsam, "settings", "--config", "no_sam"], tmp_path).stdout
    assert "checkpoint: ${TA_CHECKPOINT}" in printed
    assert "site-packages/mmseg_configs/teachers/cgnet_cityscapes.py" in printed
    checks = json.loads(run([*goodsam, "doctor", "--json"], tmp_path).stdout)["checks"]
    assert "broken" not in {check["state"] for check in checks}


def test_the_demo_runs_in_an_empty_folder(goodsam: list[str], tmp_path: Path) -> None:
    done = run([*goodsam, "demo", "--panoramas", "4", "--tests", "2", "--iterations", "20"], tmp_path)
    assert (tmp_path / "demo_world" / "manifest.yaml").is_file()
    assert {path.name for path in (tmp_path / "outputs" / "demo").iterdir()} == {
        "target-test-0.png",
        "target-test-1.png",
    }
    assert "pictures: outputs/demo/target-test-0.png" in done.stdout
    assert done.stdout.count("next: ") == 1
    assert not [line for line in done.stdout.splitlines() if line.startswith("{")]
