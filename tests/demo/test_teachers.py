"""The demo's TAs and the initial weights of its student: the shipped files, and their training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from demo.classes import Class
from demo.splits import WorldSettings, render_sample
from demo.teachers.augment import PhotoCrop
from demo.teachers.data import render_missing, write_manifest
from demo.teachers.evaluate import VIEWS, measure, teacher_config
from demo.teachers.export import export_weights, model_card, read_training_log
from demo.teachers.recipes import RECIPES, Recipe, find_recipe
from demo.teachers.train import train_teacher
from pipeline.core.errors import UserError
from pipeline.core.progress import SilentProgress
from pipeline.models.load import load_student
from pipeline.models.weights import load_state_dict
from stages.precompute.teachers.base import Infer

#: Largest size in bytes of all TAs, and of the initial weights of the student.
BUDGET = {True: 8_000_000, False: 2_000_000}
WORLD = WorldSettings()


@pytest.fixture(scope="module", params=list(RECIPES))
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


@pytest.fixture(scope="module")
def infer(recipe: Recipe) -> Infer:
    config = teacher_config(recipe, recipe.weights, VIEWS["windows"], Path("unused"))
    return config.teacher.model.build("cpu")  # type: ignore[union-attr]


def argmax_labels(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the argmax of upsampled logits `(1, C, h, w)`, uint8 `(height, width)`."""
    full = torch.nn.functional.interpolate(torch.from_numpy(logits), (height, width), mode="bilinear")
    return full[0].argmax(dim=0).numpy().astype(np.uint8)


def test_the_weights_fit_the_budget() -> None:
    for is_teacher, budget in BUDGET.items():
        assert sum(r.weights.stat().st_size for r in RECIPES.values() if r.is_teacher == is_teacher) <= budget
    for recipe in RECIPES.values():
        with safe_open(recipe.weights, framework="pt") as file:
            dtypes = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 (not a mapping)
        assert dtypes == {"F16", "F32"}
        assert recipe.weights.with_suffix(".md").is_file()


def test_a_window_gives_finite_logits_at_stride_4(infer: Infer) -> None:
    panorama = render_sample(WORLD, "target-tune", 0).image
    logits = infer(np.ascontiguousarray(panorama[None, :, :256]))
    assert logits.shape == (1, len(Class), 50, 64)
    assert np.isfinite(logits).all()


def test_the_weights_segment_photos(recipe: Recipe, infer: Infer) -> None:
    """The floors exceed the accuracy with channels in the wrong order (.81, .70, .78)."""
    floor = {"resnet_fpn": 0.85, "segformer": 0.8, "goodsam_demo": 0.84}[recipe.name]
    accuracy = []
    for index in (100, 101, 102):
        frame = render_sample(WORLD, "source-val", index)
        labels = argmax_labels(infer(frame.image[None]), *frame.labels.semantic.shape)
        accuracy.append((labels == frame.labels.semantic).mean())
    assert np.mean(accuracy) > floor, accuracy


def test_the_weights_also_serve_as_a_student(recipe: Recipe, infer: Infer) -> None:
    image = render_sample(WORLD, "source-val", 100).image
    student = load_student(recipe.weights, "cpu")
    assert student.space.classes[Class.RIDER] == "rider"
    np.testing.assert_array_equal(student(image), argmax_labels(infer(image[None]), *image.shape[:2]))


def photo(height: int = 32, width: int = 64) -> dict[str, object]:
    """Returns a sample whose red channel is the row, green the column and blue the label."""
    label = np.zeros((height, width), np.uint8)
    label[5, 7] = Class.POLE
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image = np.stack([rows, columns, label], axis=-1)
    return {"img": image, "label": label, "image_id": "x", "is_full_panorama": True, "last_row": True, "flip": False}


def test_a_crop_keeps_image_and_label_aligned_and_never_wraps() -> None:
    np.random.seed(0)  # noqa: NPY002 (the generator that mmengine seeds)
    crop = PhotoCrop((16, 24))
    corners = set()
    for _ in range(50):
        results = crop.transform(photo())
        image, label = results["img"], results["label"]
        assert image.shape == (16, 24, 3)
        np.testing.assert_array_equal(image[..., 2], label)
        assert (np.diff(image[..., 0].astype(int), axis=0) == 1).all()
        assert (np.diff(image[..., 1].astype(int), axis=1) == 1).all()
        corners.add((image[0, 0, 0], image[0, 0, 1]))
    assert len(corners) > 25


def test_crops_contain_a_rare_class_with_the_given_probability() -> None:
    np.random.seed(0)  # noqa: NPY002
    always = PhotoCrop((8, 8), rare_classes=[Class.POLE, Class.BUS], rare_prob=1.0)
    assert all((always.transform(photo())["label"] == Class.POLE).any() for _ in range(30))
    never = PhotoCrop((8, 8), rare_classes=[Class.POLE], rare_prob=0.0)
    assert sum((never.transform(photo())["label"] == Class.POLE).any() for _ in range(30)) < 15


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_only_the_image_is_scaled(scale: float) -> None:
    results = PhotoCrop((16, 32), (scale, scale)).transform(photo())
    assert results["img"].shape == (16, 32, 3)
    assert results["label"].shape == (min(32, 16 / scale), min(64, 32 / scale))


def test_labels_of_common_classes_are_kept_with_the_given_probability() -> None:
    np.random.seed(0)  # noqa: NPY002
    results = PhotoCrop((32, 64), common_classes=[Class.ROAD], common_keep_prob=0.25).transform(photo())
    label = results["label"]
    assert (label == Class.POLE).sum() == 1
    assert set(np.unique(label)) == {Class.ROAD, Class.POLE, 255}
    assert abs((label == Class.ROAD).mean() - 0.25) < 0.05


def test_unknown_names_and_other_folders_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--which: found 'nothing'; expected one of resnet_fpn, segformer, goodsam_demo"
    ):
        find_recipe("nothing")
    (tmp_path / "world.json").write_text('{"size": "full", "shift": "mild", "seed": 0}')
    with pytest.raises(UserError, match=r"size: found 'full'; expected half"):
        render_missing(tmp_path, {"source-val": 1}, SilentProgress())
    (tmp_path / "world.json").write_text("[]")
    with pytest.raises(UserError, match=r"not a record of a demo world"):
        render_missing(tmp_path, {"source-val": 1}, SilentProgress())


def test_a_manifest_names_exactly_the_first_images(tmp_path: Path) -> None:
    world = tmp_path / "world"
    render_missing(world, {"source-train": 3}, SilentProgress(), workers=1)
    manifest = write_manifest(tmp_path / "two.yaml", world, {"source-train": 2})
    assert [record.id[-5:] for record in manifest.select()] == ["00000", "00001"]
    assert all(record.label_path is not None for record in manifest.select())


@pytest.mark.slow
def test_training_resumes_and_its_weights_can_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a few steps from random weights to scores, interrupted once."""
    monkeypatch.setattr("demo.teachers.train.TRAINING", {"source-train": 4})
    monkeypatch.setattr("demo.teachers.evaluate.TESTING", {"source-val": 2, "target-test": 1})
    recipe, world, work = RECIPES["segformer"], tmp_path / "world", tmp_path / "work"
    counts = {"source-train": 4, "source-val": 2, "target-test": 1}
    render_missing(world, counts, SilentProgress(), workers=1)  # type: ignore[arg-type]
    first = train_teacher(recipe, world, work, iterations=2)
    last = train_teacher(recipe, world, work, iterations=4)
    assert (first.name, last.name) == ("iter_2.pth", "iter_4.pth")
    assert read_training_log(work).photos == 4
    weights = tmp_path / "w.safetensors"
    size = export_weights(last, weights)
    trained, exported = load_state_dict(last)[0], load_state_dict(weights)[0]
    assert set(trained) - set(exported) == {key for key in trained if key.endswith("num_batches_tracked")}
    for key, value in exported.items():
        torch.testing.assert_close(value.float(), trained[key].float(), rtol=1e-3, atol=1e-6)
    scores = measure(recipe, weights, world, SilentProgress())
    assert [(s.name, s.images) for s in scores] == [("photos", 2), ("whole", 1), ("windows", 1)]
    assert all(0 <= s.miou <= 100 for s in scores)
    card = model_card(recipe, WORLD, read_training_log(work), size, scores)
    assert "4 rendered photos" in card
    assert "| class | photos | whole | windows |\n|---|---|---|---|\n| **mIoU** |" in card
