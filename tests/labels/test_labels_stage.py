"""Pseudo-labels as files under the names of Cityscapes, and mmsegmentation reading them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from mmengine.config import Config
from mmseg.registry import DATASETS
from PIL import Image

from pipeline.cache.fused_reader import CacheReader
from pipeline.core.errors import UserError
from pipeline.core.progress import SilentProgress
from pipeline.data.label_files import label_file
from pipeline.data.labels import load_label_space
from pipeline.models.mmseg_import import import_mmseg
from stages.fuse.stage import fuse
from stages.labels.stage import write_labels
from stages.precompute.stage import precompute
from stages.train.configs import CONFIGS
from tests.conftest import Project
from tests.models import street


def test_names() -> None:
    assert label_file("images/a") == "images/a_labelTrainIds.png"
    assert label_file("leftImg8bit/val/x_leftImg8bit") == "leftImg8bit/val/x_gtFine_labelTrainIds.png"


def test_every_fused_panorama_becomes_a_label_map(project: Project, tmp_path: Path) -> None:
    manifest, config = project.manifest(), project.config()
    with pytest.raises(UserError, match="no such artefact"):
        write_labels(manifest, config, tmp_path / "out")
    precompute(manifest, config)
    fuse(manifest, config)
    reader = CacheReader(manifest, config)
    written = write_labels(manifest, config, tmp_path / "out")
    done = written.ids
    assert (done, written.failures) == ([record.id for record in manifest.images], {})
    confident = write_labels(manifest, config, tmp_path / "confident", confident=True)
    assert confident.ids == done
    ignored = 0
    for image_id in done:
        fused = reader.fused(image_id)
        np.testing.assert_array_equal(fused.label, reader.label(image_id))
        path = tmp_path / "out" / label_file(image_id)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), fused.label)
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), fused.label)
        sure = np.asarray(Image.open(tmp_path / "confident" / label_file(image_id)))
        np.testing.assert_array_equal(sure, np.where(fused.weight >= 128, fused.label, 255))
        ignored += int((sure == 255).sum())
    assert ignored, "the rule of the paper gives some masks a low weight"
    described = json.loads((tmp_path / "out" / "pseudo_labels.json").read_text())
    assert described["fused"] == reader.artefact.key
    assert described["classes"] == list(config.fused_space().classes)
    assert (tmp_path / "out" / "images.txt").read_text() == "p000\np001\np002\n"
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_panoramas_that_are_not_fused_are_failures(project: Project, tmp_path: Path) -> None:
    manifest, config = project.manifest(), project.config()
    precompute(manifest, config)
    fuse(manifest, config)
    project.add_image("p009.png", np.zeros((64, 256, 3), np.uint8))
    written = write_labels(project.manifest(), config, tmp_path)
    assert len(written.ids) == 3
    assert written.failures == {"p009": "not fused: not computed"}
    assert (tmp_path / "images.txt").read_text() == "p000\np001\np002\n"


def data_set(monkeypatch: pytest.MonkeyPatch, base: str, **variables: object) -> Any:
    """Returns mmsegmentation's data set of a base config, without the random steps of its pipeline."""
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    import_mmseg()
    described = Config.fromfile(CONFIGS / "_base_" / "datasets" / f"{base}.py").train_dataloader.dataset
    described.pipeline = [
        step for step in described.pipeline if step.type not in ("RandomFlip", "PhotoMetricDistortion")
    ]
    return DATASETS.build(described)


@pytest.mark.parametrize(("base", "space"), [("pseudo_labels_19", "cityscapes19"), ("pseudo_labels_13", "densepass13")])
def test_mmsegmentation_reads_them_as_a_data_set_of_its_own(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, space: str
) -> None:
    """The data-set bases for 13 and 19 classes, with mmsegmentation's own dataset and transforms.

    The root holds other PNGs too, as the demo world does, and a panorama that is not fused.
    """
    manifest, config = project.manifest(), project.config("fusion.rule=ta", f"fusion.label_space={space}")
    precompute(manifest, config, only=["teacher"])
    fuse(manifest, config)
    project.add_image("p009.png", np.zeros((64, 256, 3), np.uint8))
    written = write_labels(project.manifest(), config, tmp_path / "out")
    assert list(written.failures) == ["p009"]
    project.add_image("instances/p000.png", np.zeros((64, 256, 3), np.uint8))
    dataset = data_set(monkeypatch, base, IMAGES=project.folder / "images", LABELS=tmp_path / "out")
    expected = load_label_space(space)
    assert dataset.metainfo["classes"] == expected.classes
    assert [tuple(colour) for colour in dataset.metainfo["palette"]] == list(expected.palette)
    reader = CacheReader(manifest, config)
    assert len(dataset) == len(reader.ids) == 3
    for sample in dataset:
        image_id = Path(sample["data_samples"].img_path).stem
        np.testing.assert_array_equal(sample["data_samples"].gt_sem_seg.data[0], reader.label(image_id))


def test_mmsegmentation_reads_other_endings_too(
    make_project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of Cityscapes, JPEG files: one list serves images and labels."""
    project = make_project(1)
    (project.folder / "images" / "p000.png").unlink()
    for k, name in enumerate(("val/a", "train/b")):
        project.add_image(f"{name}_leftImg8bit.jpg", street(seed=k))
    manifest, config = project.manifest(), project.config("fusion.rule=ta")
    precompute(manifest, config, only=["teacher"])
    fuse(manifest, config)
    out = tmp_path / "out"
    done = write_labels(manifest, config, out).ids
    assert (out / "images.txt").read_text() == "train/b\nval/a\n"
    endings = {"IMG_SUFFIX": "_leftImg8bit.jpg", "SEG_SUFFIX": "_gtFine_labelTrainIds.png"}
    dataset = data_set(monkeypatch, "pseudo_labels_19", IMAGES=project.folder / "images", LABELS=out, **endings)
    reader = CacheReader(manifest, config)
    for sample, image_id in zip(dataset, sorted(done), strict=True):
        assert sample["data_samples"].img_path.endswith(f"{image_id}.jpg")
        np.testing.assert_array_equal(sample["data_samples"].gt_sem_seg.data[0], reader.label(image_id))


def test_cropped_images_are_written_beside_their_labels(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = yaml.safe_load(project.manifest_path.read_text())
    project.manifest_path.write_text(yaml.safe_dump({**settings, "preprocessing": {"crop_rows": [8, 56]}}))
    manifest, config = project.manifest(), project.config("fusion.rule=ta")
    precompute(manifest, config, only=["teacher"])
    fuse(manifest, config)
    write_labels(manifest, config, tmp_path / "out")
    dataset = data_set(monkeypatch, "pseudo_labels_19", IMAGES=tmp_path / "out" / "images", LABELS=tmp_path / "out")
    reader = CacheReader(manifest, config)
    assert len(dataset) == len(reader.ids)
    for sample, image_id in zip(dataset, sorted(reader.ids), strict=True):
        image = sample["inputs"].numpy()[::-1].transpose(1, 2, 0)
        assert image.shape == (48, 256, 3)
        assert sample["data_samples"].gt_sem_seg.data.shape == (1, 48, 256)
        with Image.open(tmp_path / "out" / "images" / f"{image_id}.png") as written:
            np.testing.assert_array_equal(np.asarray(written), reader.image(image_id))


def test_a_run_that_is_stopped_leaves_no_list(project: Project, tmp_path: Path) -> None:
    manifest, config = project.manifest(), project.config("fusion.rule=ta")
    precompute(manifest, config, only=["teacher"])
    fuse(manifest, config)
    out = tmp_path / "out"
    write_labels(manifest, config, out)

    class Interrupted(SilentProgress):
        def advance(self, failed: bool = False) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_labels(manifest, config, out, confident=True, progress=Interrupted())
    assert not (out / "images.txt").exists()
    assert not (out / "pseudo_labels.json").exists()


def test_a_folder_that_cannot_be_written_is_refused_first(project: Project, tmp_path: Path) -> None:
    manifest, config = project.manifest(), project.config("fusion.rule=ta")
    precompute(manifest, config, only=["teacher"])
    fuse(manifest, config)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out .*file: cannot be written \(File exists\)"):
        write_labels(manifest, config, tmp_path / "file")
