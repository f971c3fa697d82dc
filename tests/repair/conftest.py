"""A project with a complete cache, and copies of it to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import Project, write_yaml
from tests.models import street
from tests.repair.helpers import compute


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of two panoramas with a complete cache."""
    folder = tmp_path_factory.mktemp("made")
    project = Project(folder)
    for k in range(2):
        project.add_image(f"p{k:03d}.png", street(seed=k))
    write_yaml(project.manifest_path, {"name": "toy", "root": "images", "splits": {"train": {"images": ["**/*"]}}})
    views = {"width": 128, "stride": 64}
    model = {"kind": "module", "builder": "tests.models:tiny_teacher"}
    generator = {"kind": "felzenszwalb", "min_size": 30}
    config = {"cache": "cache", "sam": {"views": views, "generator": generator}}
    write_yaml(project.config_path, {**config, "teacher": {"views": views, "model": model}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        compute(project)
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the project with its times, and with a failed image."""
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    project = Project(folder)
    (folder / "images" / "broken.png").write_bytes(b"no image")
    compute(project)
    return project
