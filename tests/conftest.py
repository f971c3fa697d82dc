"""Fixtures: a small data set of panoramas on disk with its manifest and settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import settings
from PIL import Image

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pipeline.data.manifests import Manifest, load_manifest
from stages.config import Config, load_config
from tests.models import street

settings.register_profile("project", deadline=None)  # a busy machine is no failure
settings.load_profile("project")

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"


@dataclass(frozen=True)
class Project:
    """A data set with a manifest and settings, and ways to change them."""

    folder: Path

    @property
    def manifest_path(self) -> Path:
        return self.folder / "manifest.yaml"

    @property
    def config_path(self) -> Path:
        return self.folder / "config.yaml"

    def manifest(self) -> Manifest:
        return load_manifest(self.manifest_path)

    def config(self, *overrides: str) -> Config:
        return load_config(self.config_path, overrides)

    def add_image(self, name: str, image: np.ndarray) -> Path:
        path = self.folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        return path

    def add_labels(self, name: str, labels: np.ndarray) -> Path:
        path = self.folder / "labels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(path)
        return path

    def arguments(self) -> list[str]:
        return ["--manifest", str(self.manifest_path), "--config", str(self.config_path)]


def write_yaml(path: Path, data: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Project]:
    """`make_project(images=3)`: panoramas of 64 x 256, windows of 128 / 64, a tiny TA, felzenszwalb masks."""

    def make(images: int = 3, *, name: str = "toy", config: dict[str, Any] | None = None) -> Project:
        project = Project(tmp_path / name)
        for k in range(images):
            project.add_image(f"p{k:03d}.png", street(seed=k))
        write_yaml(
            project.manifest_path,
            {"name": name, "root": "images", "splits": {"train": {"images": ["**/*"]}}},
        )
        views = {"width": 128, "stride": 64}
        settings: dict[str, Any] = {
            "cache": str(tmp_path / "cache"),
            "sam": {"views": views, "generator": {"kind": "felzenszwalb", "min_size": 30}},
            "teacher": {"views": views, "model": {"kind": "module", "builder": "tests.models:tiny_teacher"}},
        }
        write_yaml(project.config_path, settings | (config or {}))
        return project

    return make


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    return make_project()


#: Where the published data sets keep an image and its label, and the variable that locates each.
PUBLISHED_FILES = {
    "densepass": (
        "DENSEPASS",
        ["leftImg8bit/train/1/a.png", "leftImg8bit/val/x_.png"],
        ["gtFine/val/x_labelTrainIds.png"],
    ),
    "wildpass": (
        "WILDPASS",
        ["leftImg8bit/train/1/a.jpg", "leftImg8bit/val/x.jpg"],
        ["gtFine/val/x_labelTrainIds.png"],
    ),
    "cityscapes": (
        "CITYSCAPES",
        [f"leftImg8bit/{s}/city/c_{s}_leftImg8bit.png" for s in ("train", "val")],
        [f"gtFine/{s}/city/c_{s}_gtFine_labelTrainIds.png" for s in ("train", "val")],
    ),
    "stanford2d3d": (
        "STANFORD2D3D",
        [
            f"area_{k}/pano/rgb/camera_{k}_frame_equirectangular_domain_rgb.png"
            for k in ("1", "2", "3", "4", "5a", "5b", "6")
        ],
        [f"area_{k}/pano/labels13/camera_{k}_frame_equirectangular_domain_labels13.png" for k in ("5a", "5b")],
    ),
    "demo": (
        "",
        [f"images/target-{s}/a.png" for s in ("train", "tune", "test")],
        [f"labels/target-{s}/a_labelTrainIds.png" for s in ("tune", "test")],
    ),
    "demo_source": (
        "",
        [f"images/source-{s}/a.png" for s in ("train", "val")],
        [f"labels/source-{s}/a_labelTrainIds.png" for s in ("train", "val")],
    ),
    "my_panoramas": ("MY_PANORAMAS", ["any/where.jpg"], []),
}


@pytest.fixture
def published_layout() -> Callable[[Path, str], str]:
    """Lays out one image a split below a folder, as the data set is published; returns the variable's name."""

    def lay_out(root: Path, name: str) -> str:
        variable, images, labels = PUBLISHED_FILES[name]
        for path in images + labels:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(street()[..., 0] if path in labels else street()).save(root / path)
        return variable

    return lay_out
