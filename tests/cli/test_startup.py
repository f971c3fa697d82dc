"""Help of every stage, and what the command line imports before it works."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeline.core.project_files import PROJECT_ROOT


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False
    )


def stages() -> list[str]:
    return sorted(path.parent.name for path in (PROJECT_ROOT / "stages").glob("*/cli.py"))


def test_help_lists_every_stage() -> None:
    result = command("-m", "pipeline", "--help")
    assert all(stage in result.stdout for stage in stages())


@pytest.mark.parametrize("stage", stages())
def test_every_stage_has_help(stage: str) -> None:
    result = command("-m", "pipeline", stage, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "--manifest" in result.stdout or stage in ("predict", "export", "settings", "paper")


def imported_modules(*arguments: str) -> set[str]:
    """Returns the modules that a run of Python imports."""
    result = command("-X", "importtime", *arguments)
    assert result.returncode == 0, result.stderr
    return {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}


def test_the_command_line_imports_little_besides_its_libraries() -> None:
    """Counts modules, which does not depend on the load of the machine."""
    modules = imported_modules("-m", "pipeline", "--help")
    heavy = {"torch", "zarr", "dask", "distributed", "mmengine", "mmseg", "scipy", "skimage", "matplotlib"}
    assert not heavy & {module.partition(".")[0] for module in modules}
    libraries = imported_modules("-c", "import pydantic, typer, yaml")
    assert len(modules - libraries) < 250


def test_reading_the_settings_imports_no_network_and_no_mathematics() -> None:
    """Every run reads the settings, one with nothing to do as well; fusion rules belong to them."""
    modules = imported_modules("-c", "from stages.config import load_config; load_config(None, ['fusion.rule=best'])")
    heavy = {"torch", "zarr", "distributed", "mmengine", "scipy.special", "scipy.sparse", "scipy.ndimage", "skimage"}
    assert "stages.fuse.regions" in modules, "the rule is loaded"
    assert not heavy & modules
