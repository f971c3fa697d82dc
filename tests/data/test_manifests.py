"""Manifests: every problem at once, before any work."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.data.manifests import ImageRecord, load_manifest
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
    with pytest.raises(UserError, match=r"root: found '\$\{TOY_ROOT\}/images'; .* TOY_ROOT is not set"):
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
        ({"splits": {"v": {"images": ["*"], "labels": {"replace": [["p", "/etc/p"]]}}}}, "out of the root"),
        ({"splits": {"v": {"images": ["*"], "labels": {"replace": [["", "x"]]}}}}, "at least 1 character"),
        ({"splits": {"v": {"images": ["*"], "labels": {"replace": [["p", "pp" * 99]] * 9}}}}, r"path of \d+,\d+ char"),
        ({"splits": {"v": {"images": ["**x/*"]}}}, r"splits.v.images.0: .*'\*\*' matches whole folders"),
        ({"splits": {"v": {"images": ["***/*"]}}}, r"'\*\*' matches whole folders"),
        ({"splits": {"v": {"images": ["*"], "exclude": [""]}}}, r"splits.v.exclude.0: .*names no file"),
        ({"splits": {"v": {"images": ["*"], "exclude": ["."]}}}, r"splits.v.exclude.0: .*names no file"),
        ({"splits": {"v": {"images": ["x" * 300 + ".png"]}}}, "cannot be reached .File name too long"),
        ({"splits": {"v": {"images": ["x" * 5000]}}}, "at most 4096 characters"),
        ({"root": "x" * 5000}, "root: found no folder"),
        ({"root": "~nobody-of-that-name/x"}, "the home folder in '~nobody-of-that-name/x' is not known"),
        ({"label_space": "x" * 5000}, "is not known"),
        ({"label_space": "x" * 5000 + ".yaml"}, "cannot be read"),
        (
            {"preprocessing": {"size": [100000, 100000]}},
            r"preprocessing.size: found \[100000, 100000\]; .*at most 134,217,728",
        ),
        ({"preprocessing": {"size": [0, 0]}}, "16 pixels or more a side"),
        ({"preprocessing": {"size": [-64, 256]}}, "16 pixels or more a side"),
        ({"preprocessing": {"crop_rows": [50, 10]}}, r"preprocessing.crop_rows: found \[50, 10\]; holds no rows"),
        ({"preprocessing": {"crop_rows": [-5, 10]}}, "holds no rows"),
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


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("loop", "cannot be reached .Too many levels of symbolic links"),
        ("lost", "is a link that leads nowhere"),
        ("FIFO", "is a FIFO, expected an ordinary file"),
        ("device", "is a link that leads out of the root"),
    ],
)
@pytest.mark.parametrize("pattern", ["*", "odd.png"])
def test_only_ordinary_files_are_images(project: Project, kind: str, message: str, pattern: str) -> None:
    odd = project.folder / "images" / "odd.png"
    os.mkfifo(odd) if kind == "FIFO" else odd.symlink_to({"loop": odd, "device": "/dev/zero"}.get(kind, "lost.png"))
    write(project, splits={"v": {"images": [pattern, "p000.png"]}})
    with pytest.raises(UserError, match=rf"1 problem\n.*odd\.png {message}"):
        project.manifest()
    write(project, splits={"v": {"images": ["*"], "exclude": ["odd*"]}})
    assert len(project.manifest().images) == 3


def test_labels_behind_a_link_out_of_the_root_are_refused(project: Project, tmp_path: Path) -> None:
    write(project, splits={"v": {"images": ["p000.png"], "labels": {"replace": [["p000", "labels/p000"]]}}})
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "p000.png").write_bytes(b"")
    (project.folder / "images" / "labels").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=r"its label .* is a link that leads out of the root"):
        project.manifest()


def test_folders_are_no_images(project: Project) -> None:
    (project.folder / "images" / "folder.png").mkdir()
    (project.folder / "images" / "up.png").symlink_to(".")
    assert len(project.manifest().images) == 3
    write(project, splits={"v": {"images": ["folder.png"]}})
    with pytest.raises(UserError, match="is a folder, expected an ordinary file"):
        project.manifest()


def test_a_listed_image_without_a_suffix_keeps_its_name(project: Project) -> None:
    (project.folder / "images" / "p000.png").rename(project.folder / "images" / "frame")
    write(project, splits={"v": {"images": ["./frame"]}})
    assert [(r.id, r.path.name) for r in project.manifest().images] == [("frame", "frame")]


def test_problems_beyond_the_first_twenty_are_counted(project: Project) -> None:
    write(project, splits={"v": {"images": [f"x{k:04d}.png" for k in range(3000)]}})
    with pytest.raises(UserError, match="3000 problems") as error:
        project.manifest()
    lines = str(error.value).splitlines()
    assert len(lines) == 22
    assert "x0000.png is missing" in lines[1]
    assert lines[-1].strip() == "- and 2980 more"


def test_records_are_values() -> None:
    record = ImageRecord("a/p", "train", "/data", ".png", "labels/p.png")
    assert (record.path, record.label_path) == (Path("/data/a/p.png"), Path("/data/labels/p.png"))
    assert ImageRecord("p", "train", "/", "").path == Path("/p")
    assert ImageRecord("p", "train", "/", "").label_path is None
    again = pickle.loads(pickle.dumps(record))
    assert (again, hash(again)) == (record, hash(record))
    with pytest.raises(FrozenInstanceError):
        record.id = "x"  # type: ignore[misc]


@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_images_take_little_memory(tmp_path: Path, count: int) -> None:
    """300 bytes for each image with its label."""
    for folder in ("images", "labels"):
        for k in range(0, count, 1000):
            (tmp_path / folder / f"sequence_{k // 1000:04d}").mkdir(parents=True)
    for k in range(count):
        name = f"sequence_{k // 1000:04d}/panorama_{k:08d}.png"
        for folder in ("images", "labels"):
            os.close(os.open(tmp_path / folder / name, os.O_CREAT | os.O_WRONLY))
    split = {"images": ["images/**/*.png"], "labels": {"replace": [["images/", "labels/"]]}}
    write_yaml(tmp_path / "manifest.yaml", {"name": "many", "splits": {"train": split}})
    load_manifest(tmp_path / "manifest.yaml")
    tracemalloc.start()
    manifest = load_manifest(tmp_path / "manifest.yaml")
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(manifest.images) == count
    assert kept < 300 * count + 2**18
    assert peak < 450 * count + 2**19


def test_a_name_that_is_not_unicode_is_refused(project: Project) -> None:
    source = project.folder / "images" / "p000.png"
    os.rename(source, os.fsencode(project.folder / "images") + b"/p\xff.png")
    with pytest.raises(UserError, match="is not valid UTF-8"):
        project.manifest()


def test_all_problems_come_at_once(project: Project) -> None:
    write(project, splits={"a": {"images": ["x.png", "y.png"]}, "b": {"images": ["*.tif"]}})
    with pytest.raises(UserError, match="3 problems"):
        project.manifest()


PUBLISHED = sorted((Path(__file__).parents[2] / "data_manifests").glob("*.yaml"))


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
