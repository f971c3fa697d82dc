"""Corrected label maps: which files count, how they are trained on, and that their source is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.cache.fused_reader import CacheReader
from pipeline.core.errors import ImageError, UserError
from pipeline.core.progress import SilentProgress
from pipeline.core.project_files import PROJECT_ROOT
from pipeline.data.corrections import CorrectedReader, corrected_sample, find_corrections
from pipeline.data.label_files import label_file
from pipeline.data.labels import load_label_space
from pipeline.data.samples import FusedSample, Reader
from pipeline.models.losses import upsample_log_probs
from pipeline.models.weights import load_state_dict
from stages.corrections.stage import compare_corrections
from stages.fuse.stage import fuse
from stages.labels.stage import write_labels
from stages.precompute.stage import precompute
from stages.train.stage import label_sources, read_corrections, run_folder, train_student
from tests.conftest import Project

SPACE = load_label_space("cityscapes19")
CAR = SPACE.classes.index("car")
STUDENT = """
_base_ = [{base!r}]
model = dict(
    backbone=dict(embed_dims=8, num_heads=[1, 1, 1, 1], num_layers=[1, 1, 1, 1]),
    decode_head=dict(in_channels=[8, 8, 8, 8], channels=16))
"""


@pytest.fixture
def fused(project: Project) -> Project:
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config())
    return project


@pytest.fixture
def correct(fused: Project, tmp_path: Path) -> Callable[..., Path]:
    """`correct("p000", label)` writes a label map into the folder of corrections, which it returns."""
    folder = tmp_path / "corrected"

    def write(image_id: str = "p000", label: np.ndarray | None = None) -> Path:
        folder.mkdir(exist_ok=True)
        label = np.full((64, 256), CAR, np.uint8) if label is None else label
        Image.fromarray(label).save(folder / label_file(image_id))
        return folder

    return write


def test_what_was_exported_and_not_changed_is_no_correction(fused: Project, tmp_path: Path) -> None:
    manifest, config, folder = fused.manifest(), fused.config(), tmp_path / "labels"
    write_labels(manifest, config, folder, confident=True)
    corrections = find_corrections(folder, manifest, manifest.images, SPACE)
    assert (corrections.files, corrections.unchanged) == ({}, ("p000", "p001", "p002"))
    path = folder / label_file("p001")
    label = np.array(Image.open(path))
    Image.fromarray(label).convert("P").save(path, optimize=True)  # another file with the same pixels
    assert find_corrections(folder, manifest, manifest.images, SPACE).files == {}
    label[0, 0] = (label[0, 0] + 1) % 19
    Image.fromarray(label).save(path)
    corrections = find_corrections(folder, manifest, manifest.images, SPACE)
    assert corrections.files == {"p001": path}
    np.testing.assert_array_equal(corrections.read("p001", SPACE), label)
    (folder / "digests.txt").unlink()
    assert len(find_corrections(folder, manifest, manifest.images, SPACE).files) == 3


def test_every_file_that_cannot_be_used_is_named(fused: Project, correct: Callable[..., Path]) -> None:
    correct("p000", np.zeros((32, 256), np.uint8))
    correct("p001", np.full((64, 256), 19, np.uint8))
    folder = correct("elsewhere")
    Image.fromarray(np.zeros((64, 256, 3), np.uint8)).save(folder / label_file("p002"))
    with pytest.raises(UserError) as error:
        find_corrections(folder, fused.manifest(), fused.manifest().images, SPACE)
    text = str(error.value)
    assert "4 problems" in text
    assert "p000_labelTrainIds.png: is 32 x 256 (H x W), expected 64 x 256, the size at which 'p000' is" in text
    assert "p001_labelTrainIds.png: holds label value 19, expected 0..18 or 255 (cityscapes19)" in text
    assert (
        f"elsewhere_labelTrainIds.png: matches no image of {fused.manifest_path}; expected files such as p000_" in text
    )
    assert "p002_labelTrainIds.png: has mode RGB, expected a label map with one channel" in text


def test_a_folder_without_label_maps_is_refused(fused: Project, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.corrections: found no folder .*nowhere; expected one of corrected"):
        read_corrections(fused.manifest(), fused.config(f"train.corrections={tmp_path / 'nowhere'}"))
    (tmp_path / "empty").mkdir()
    Image.fromarray(np.zeros((64, 256), np.uint8)).save(tmp_path / "empty" / "p000.png")
    with pytest.raises(UserError, match=r"no label map of these panoramas in .*empty; expected files such as p000_lab"):
        read_corrections(fused.manifest(), fused.config(f"train.corrections={tmp_path / 'empty'}"))


def test_a_file_beside_another_is_passed_over(fused: Project, correct: Callable[..., Path]) -> None:
    folder = correct("p000")
    (folder / f"._{label_file('p000')}").write_bytes(b"of a file manager")
    assert list(find_corrections(folder, fused.manifest(), fused.manifest().images, SPACE).files) == ["p000"]


def test_a_corrected_sample_is_one_hot_with_full_weight() -> None:
    label = np.zeros((8, 16), np.uint8)
    label[:4, 8:] = CAR
    label[6:] = 255
    stitched = np.full((19, 4, 8), -3.0, np.float16)
    boundary = np.zeros((8, 16), np.uint8)
    sample = corrected_sample(FusedSample(label * 0, stitched, label * 0, label * 0, boundary), label, SPACE)
    assert sample.gate is not None
    assert sample.stitched is not None
    assert sample.boundary is not None
    np.testing.assert_array_equal(sample.label, label)
    np.testing.assert_array_equal(sample.gate, np.where(label == 255, 0, 255))
    np.testing.assert_array_equal(sample.weight, sample.gate)
    probabilities = np.exp(sample.stitched.astype(np.float64))
    assert (probabilities[CAR, :2, 4:] == 1).all()
    assert (probabilities[0, 2, :] == 1).all()
    np.testing.assert_array_equal(sample.stitched[:, 3], stitched[:, 3])
    expected = np.zeros((8, 16), np.uint8)
    expected[:4, 7] = expected[:4, 15] = expected[3, 8:] = 1  # the last column is adjacent to the first
    np.testing.assert_array_equal(sample.boundary, expected)
    full = upsample_log_probs(torch.from_numpy(sample.stitched)[None].float(), (8, 16), cyclic=True)[0]
    assert (full.argmax(dim=0).numpy()[:6] == label[:6]).mean() > 0.9


def test_the_grid_of_a_height_that_the_stride_does_not_divide() -> None:
    label = np.repeat(np.arange(10, dtype=np.uint8)[:, None], 8, axis=1)
    stitched = np.zeros((19, 3, 2), np.float16)
    sample = corrected_sample(FusedSample(label, stitched), label, SPACE)
    assert sample.stitched is not None
    shares = np.exp(sample.stitched.astype(np.float64))
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=0.01)
    np.testing.assert_allclose(shares[:4, 0], 0.25, atol=0.01)


def test_only_corrected_panoramas_change(fused: Project, correct: Callable[..., Path]) -> None:
    manifest, config = fused.manifest(), fused.config(f"train.corrections={correct('p001')}")
    plain = CacheReader(manifest, config, ("train",)).reader
    corrected = CorrectedReader(plain, read_corrections(manifest, config), SPACE)
    assert isinstance(corrected, Reader)
    assert corrected.ids == plain.ids
    assert (corrected.label("p001") == CAR).all()
    assert (corrected.fused("p001").weight == 255).all()
    np.testing.assert_array_equal(corrected.image("p001"), plain.image("p001"))
    for name in ("label", "gate", "weight", "stitched", "boundary", "window_label"):
        np.testing.assert_array_equal(getattr(corrected.fused("p000"), name), getattr(plain.fused("p000"), name))


def test_a_file_that_changes_during_the_run_is_refused(fused: Project, correct: Callable[..., Path]) -> None:
    manifest, config = fused.manifest(), fused.config(f"train.corrections={correct('p001')}")
    corrections = read_corrections(manifest, config)
    correct("p001", np.zeros((64, 256), np.uint8))
    with pytest.raises(ImageError, match="was changed during the run; start it again"):
        corrections.read("p001", SPACE)


def test_a_run_is_named_by_its_corrected_labels(fused: Project, correct: Callable[..., Path], tmp_path: Path) -> None:
    manifest = fused.manifest()
    without = run_folder(Path("runs"), manifest, fused.config())
    folder = correct("p001")
    first = run_folder(Path("runs"), manifest, fused.config(f"train.corrections={folder}"))
    assert first != without
    folder.rename(tmp_path / "moved")
    assert run_folder(Path("runs"), manifest, fused.config(f"train.corrections={tmp_path / 'moved'}")) == first
    (tmp_path / "moved").rename(folder)
    correct("p001", np.zeros((64, 256), np.uint8))
    assert run_folder(Path("runs"), manifest, fused.config(f"train.corrections={folder}")) not in (without, first)


class Notes(SilentProgress):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("rule", ["best", "paper"])
def test_a_training_says_and_records_where_its_labels_come_from(
    fused: Project, correct: Callable[..., Path], tmp_path: Path, rule: str
) -> None:
    folder = correct("p001")
    student = tmp_path / "student.py"
    student.write_text(STUDENT.format(base=str(PROJECT_ROOT / "mmseg_configs" / "students" / "goodsam_m.py")))
    settings = (f"fusion.rule={rule}", f"train.corrections={folder}", "train.iterations=2", "train.workers=0")
    manifest, config, notes = fused.manifest(), fused.config(*settings, f"train.student={student}"), Notes()
    fuse(manifest, config)
    checkpoint = train_student(manifest, config, tmp_path / "run", progress=notes)
    assert f"1 of 3 panoramas: corrected labels from {folder}" in notes.notes
    sources = json.loads((tmp_path / "run" / "label_sources.json").read_text())
    corrections = read_corrections(manifest, config)
    reader = CacheReader(manifest, config, ("train",))
    assert sources == label_sources(reader, corrections)
    assert sources["p000"] == {"source": f"fused/{reader.artefact.key}"}
    assert sources["p001"]["file"] == str(folder / label_file("p001"))
    assert sources["p001"]["digest"] == corrections.digests["p001"]
    described = json.loads(load_state_dict(checkpoint)[1]["student"])["label_sources"]
    assert described == {f"fused/{reader.artefact.key}": 2, sources["p001"]["source"]: 1}


def test_corrections_are_compared_with_the_pseudo_labels(fused: Project, correct: Callable[..., Path]) -> None:
    manifest, config = fused.manifest(), fused.config()
    label = CacheReader(manifest, config).label("p000").copy()
    changed = label == (most := int(np.bincount(label.ravel()).argmax()))
    label[changed] = 255
    correct("p000", label)
    folder = correct("p002")
    fused.add_image("p009.png", np.zeros((64, 256, 3), np.uint8))
    correct("p009")
    corrections, changes, failures = compare_corrections(fused.manifest(), config, folder=folder)
    assert set(corrections.files) == {"p000", "p002", "p009"}
    assert failures == {"p009": "not fused: not computed"}
    by_id = {change.id: change for change in changes}
    assert by_id["p000"].share == pytest.approx(changed.mean())
    assert (by_id["p000"].before, by_id["p000"].after) == (SPACE.classes[most], "ignored")
    assert by_id["p002"].after == "car"
    assert [change.share for change in changes] == sorted((change.share for change in changes), reverse=True)
    with pytest.raises(UserError, match=r"found no folder; expected --labels FOLDER, or train\.corrections"):
        compare_corrections(manifest, config)
