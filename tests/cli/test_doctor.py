"""`goodsam doctor`: states of packages, cache and features."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stages.commands import make_app
from stages.doctor.checks import check_cache, check_features, check_packages
from stages.options import RunOptions
from stages.precompute.stage import precompute
from tests.conftest import Project


def doctor(*options: str) -> Result:
    return CliRunner().invoke(make_app(), ["doctor", *options])


def test_the_installation_is_whole_and_fits_the_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    done = doctor()
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 50
    checks = {check["name"]: check for check in json.loads(doctor("--json").stdout)["checks"]}
    assert {checks[name]["state"] for name in ("python", "torch", "OpenMMLab", "SAM", "zarr", "dask")} == {"ok"}
    assert "not written yet" in checks["cache"]["detail"]
    assert "GiB free" in checks["cache"]["detail"]


def test_a_required_package_that_cannot_be_imported_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    (sam,) = [check for check in check_packages() if check.name == "SAM"]
    assert sam.state == "broken"
    assert "segment_anything: " in sam.detail
    done = doctor("--json")
    assert done.exit_code == 1
    assert "broken" in done.stderr


def test_an_optional_package_is_missing_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    features = {check.name: check for check in check_features()}
    assert features["ONNX export"].state == "missing"
    assert features["ONNX export"].detail == "onnxscript not installed: pip install 'goodsam-offline[onnx]'"
    assert doctor().exit_code == 0, "optional"


def test_weights_are_files_that_variables_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAM_CHECKPOINT", raising=False)
    monkeypatch.setenv("TA_CHECKPOINT", str(tmp_path / "ta.pth"))
    features = {check.name: check for check in check_features()}
    assert features["SAM weights"].detail == "SAM_CHECKPOINT is not set; expected the path of a checkpoint"
    assert "ta.pth: no such file" in features["TA weights"].detail
    (tmp_path / "ta.pth").touch()
    assert {check.name: check.state for check in check_features()}["TA weights"] == "ok"


def test_the_cache_is_counted(project: Project) -> None:
    (project.folder / "images" / "p001.png").write_bytes(b"no picture")
    precompute(project.manifest(), project.config())
    document = Path(project.config().cache) / "toy" / "sam" / "0123456789ab" / "zarr.json"
    document.parent.mkdir()
    document.write_text('{"attributes": {"format": 99}}')
    check = check_cache(RunOptions(config=project.config_path))
    assert "3 artefacts, 6 images, 3 failed, 1 of another format or damaged; " in check.detail
    remote = check_cache(RunOptions(config=project.config_path, cache="s3://bucket/cache"))
    assert remote.detail == "s3://bucket/cache: not checked; expected --manifest"


def test_settings_need_no_weights_to_be_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TA_CHECKPOINT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert doctor("--config", "no_sam").exit_code == 0
