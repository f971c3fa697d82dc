"""Manifests: every problem at once, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.manifests import load_manifest
from tests.conftest import Project, write_yaml
from tests.models import street


def write(project: Project, **settings: Any) -> None:
    base = {"name": "toy", "root": "images", "splits": {"train": {"images": ["**/*"]}}}
    write_yaml(project.manifest_path, base | settings)


def test_ids_are_relative_paths_without_suffix_in_order(project: Project) -> None:
    project.add_image("Straße 1/nah & fern.jpg", street())
    assert [r.id for r in project.manifest().images] == ["Straße 1/nah & fern", "p000", "p001", "p002"]


def test_root_by_environment_variable(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project, root="${TOY_ROOT}/images")
    with pytest.raises(UserError, match=r"root: found '\$\{TOY_ROOT\}/images', but .* TOY_ROOT is not set"):
        project.manifest()
    monkeypatch.setenv("TOY_ROOT", str(project.folder))
    assert len(project.manifest().images) == 3


def test_labels_by_replacement(project: Project) -> None:
    write(project, root=".", splits={"val": {"images": ["images/*.png"],
          "labels": {"replace": [["images/", "labels/"], [".png", "_labelTrainIds.png"]]}}})  # fmt: skip
    for name in ("p000", "p001"):
        project.add_labels(f"{name}_labelTrainIds.png", np.zeros((64, 256), np.uint8))
    with pytest.raises(UserError, match=r"p002.png: its label .*p002_labelTrainIds.png is missing"):
        project.manifest()
    project.add_labels("p002_labelTrainIds.png", np.zeros((64, 256), np.uint8))
    assert project.manifest().images[2].label_path == project.folder / "labels" / "p002_labelTrainIds.png"


def test_splits_select_and_exclude(project: Project) -> None:
    write(project, splits={"a": {"images": ["p000.png", "p001.png"]}, "b": {"images": ["*"], "exclude": ["p00[01]*"]}})
    manifest = project.manifest()
    assert [r.id for r in manifest.select(["b"])] == ["p002"]
    assert len(manifest.select()) == 3
    with pytest.raises(UserError, match="has no split 'c'; found a, b"):
        manifest.select(["c"])


def test_two_images_of_one_id(project: Project) -> None:
    project.add_image("p001.jpg", street())
    with pytest.raises(UserError, match=r"p001\.jpg and .*p001\.png have the same id 'p001'"):
        project.manifest()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"splits": {"train": {"images": ["*.tif"]}}}, r"splits.train.images: '\*.tif' matches no image under"),
        ({"splits": {"train": {"images": ["p9.png"]}}}, "p9.png is missing"),
        ({"splits": {"train": {"images": ["../*.png"]}}}, "leaves the root"),
        ({"splits": {"train": {"images": ["/etc/*.png"]}}}, "leaves the root"),
        ({"splits": {}}, "splits"),
        ({"root": "nowhere"}, "root: found no folder"),
        ({"name": "a/b"}, "name: found 'a/b'"),
        ({"label_space": "cityscapes20"}, "'cityscapes20' is not known"),
        ({"licens": "CC"}, "licens: unknown key; expected one of: .*licence"),
        ({"projection": "fisheye"}, "projection: found 'fisheye'"),
        ({"splits": {"v": {"images": ["*"], "labels": {"replace": [["x", "y"]]}}}}, "labels.replace expects 'x' in"),
        ({"splits": {"v": {"images": ["*"], "labels": {"replace": [["p", "../../p"]]}}}}, "out of the root"),
    ],
)
def test_a_wrong_manifest_is_refused_in_a_sentence(project: Project, settings: dict, message: str) -> None:
    write(project, **settings)
    with pytest.raises(UserError, match=message):
        project.manifest()


def test_links_out_of_the_root_are_refused(project: Project) -> None:
    outside = project.folder / "outside.png"
    (project.folder / "images" / "p000.png").rename(outside)
    (project.folder / "images" / "p000.png").symlink_to(outside)
    with pytest.raises(UserError, match="a link that leads out of the root"):
        project.manifest()


def test_a_name_that_is_no_text_is_told(project: Project) -> None:
    import os

    source = project.folder / "images" / "p000.png"
    os.rename(source, os.fsencode(project.folder / "images") + b"/p\xff.png")
    with pytest.raises(UserError, match="is not valid UTF-8"):
        project.manifest()


def test_all_problems_come_at_once(project: Project) -> None:
    write(project, splits={"a": {"images": ["x.png", "y.png"]}, "b": {"images": ["*.tif"]}})
    with pytest.raises(UserError, match="3 problems"):
        project.manifest()


PUBLISHED = sorted((Path(__file__).parent.parent / "data_manifests").glob("*.yaml"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_manifests_find_the_published_layout(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published_layout: Callable[[Path, str], str]
) -> None:
    """Each shipped manifest, on a folder laid out as the data set is published."""
    variable = published_layout(tmp_path / "data", path.stem)
    text = path.read_text()
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "data"))
    else:  # located beside the project: read a copy beside the laid-out folder instead
        text = text.replace("../demo_world", str(tmp_path / "data"))
    (tmp_path / path.name).write_text(text)
    manifest = load_manifest(tmp_path / path.name)
    assert manifest.name == path.stem
    assert {record.split for record in manifest.images} == set(manifest.settings.splits)
    assert manifest.settings.licence
    assert all(r.label_path is None or r.label_path.is_file() for r in manifest.images)
