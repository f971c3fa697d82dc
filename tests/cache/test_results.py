"""Results for Python programs: what is read, when, and what is said about panoramas that cannot be read."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import goodsam
from pipeline.cache.fused_reader import ensemble_probabilities
from pipeline.core.errors import ImageError, UserError
from stages.evaluate.stage import evaluate
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.conftest import Project, write_yaml
from tests.models import street


@pytest.fixture
def made(project: Project) -> Project:
    """Three panoramas, two of them with labels, through precompute and fuse."""
    for k in range(2):
        project.add_labels(f"p{k:03d}.png", np.full((64, 256), k, np.uint8))
    (project.folder / "images" / "p002.png").rename(project.folder / "images" / "q.png")
    labels = {"replace": [["images/", "labels/"]]}
    splits = {"test": {"images": ["images/p*.png"], "labels": labels}, "train": {"images": ["images/q.png"]}}
    write_yaml(project.manifest_path, {"name": "toy", "root": ".", "splits": splits})
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config())
    return project


def test_every_array_is_that_of_the_cache(made: Project) -> None:
    results = goodsam.open(made.manifest_path, made.config_path)
    assert list(results) == list(results.ids) == ["images/p000", "images/p001", "images/q"]
    assert (len(results), results.missing, results.splits) == (3, {}, ("test", "train"))
    panorama = results["images/p001"]
    group = made.config().artefact(made.manifest(), "fused").read("images/p001")
    np.testing.assert_array_equal(panorama.image, street(seed=1))
    np.testing.assert_array_equal(panorama.truth, np.ones((64, 256)))
    for name in ("label", "stitched"):
        np.testing.assert_array_equal(getattr(panorama, name), group.read_array(name))
    for name in ("gate", "weight"):
        np.testing.assert_array_equal(getattr(panorama, name), group.read_array(name).astype(np.float32) / 255)
    np.testing.assert_array_equal(panorama.refined_boundary, group.read_array("boundary"))
    np.testing.assert_array_equal(panorama.probabilities, ensemble_probabilities(group, results.space))
    assert panorama.logits.shape[:2] == (len(panorama.views), 19)
    assert panorama.boundary.shape == (64, 256)
    assert panorama.masks.mask(0).sum() == panorama.masks.table["area"].max()
    assert panorama.signals["weight"] == pytest.approx(panorama.weight.mean(), abs=1e-3)
    assert (panorama.id, panorama.split, panorama.problem) == ("images/p001", "test", None)


def test_splits_are_results_of_their_own(made: Project) -> None:
    results = goodsam.open(made.manifest_path, made.config_path)
    assert list(results.select("train")) == ["images/q"]
    assert list(goodsam.open(made.manifest_path, made.config_path, splits=["test"])) == ["images/p000", "images/p001"]
    assert results["images/q"].truth is None
    with pytest.raises(UserError, match=r"has no split 'val'; found test, train"):
        results.select("val")
    with pytest.raises(KeyError, match=r"no image 'images/q' in these splits; expected e\.g\. 'images/p000'"):
        results.select("test")["images/q"]
    assert "images/q" in results
    assert "images/q" not in results.select("test")


def test_arrays_become_tensors_without_a_copy(made: Project) -> None:
    panorama = goodsam.open(made.manifest_path, made.config_path)["images/p000"]
    for name in ("image", "truth", "logits", "stitched", "probabilities", "label", "gate", "weight", "boundary"):
        array = getattr(panorama, name)
        assert array.flags.writeable, name
        assert torch.from_numpy(array).data_ptr() == array.ctypes.data, name


def test_results_can_be_pickled_after_they_were_used(made: Project) -> None:
    results = goodsam.open(made.manifest_path, made.config_path)
    label = results["images/q"].label
    copy = pickle.loads(pickle.dumps(results))
    np.testing.assert_array_equal(copy["images/q"].label, label)


def test_a_panorama_that_is_not_up_to_date_says_why(made: Project) -> None:
    made.add_image("q.png", street(seed=9))
    made.add_image("p003.png", street(seed=3))
    made.add_labels("p003.png", np.zeros((64, 256), np.uint8))
    (made.folder / "images" / "p001.png").write_bytes(b"no picture")
    precompute(made.manifest(), made.config(), splits=["test"], only=["teacher"])
    results = goodsam.open(made.manifest_path, made.config_path)
    assert list(results) == ["images/p000"]
    assert set(results.missing) == {"images/p001", "images/p003", "images/q"}
    for image_id, reason in (
        ("images/q", "is not the image that was fused; run precompute and fuse again"),
        ("images/p003", "not fused: not computed"),
    ):
        assert reason in str(results[image_id].problem)
        with pytest.raises(ImageError, match=reason):
            _ = results[image_id].label
    with pytest.raises(ImageError, match=r"images/p001: teacher: .*is not an image that can be decoded"):
        _ = results["images/p001"].logits
    with pytest.raises(ImageError, match=r"images/q: .*q\.png is not the image that teacher was computed from"):
        _ = results["images/q"].logits
    with pytest.raises(ImageError, match="images/p003: masks: not computed"):
        _ = results["images/p003"].masks
    assert results["images/p003"].logits.dtype == np.float16
    np.testing.assert_array_equal(results["images/q"].image, street(seed=9))


def test_damaged_arrays_are_never_returned(made: Project) -> None:
    config = made.config()
    fused = config.artefact(made.manifest(), "fused")
    marker = fused.find_marker("images/q")
    assert marker is not None
    path = Path(config.cache, "toy", fused.file_path(marker))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ImageError, match="the cache was damaged, run `verify --repair`"):
        _ = goodsam.open(made.manifest_path, made.config_path)["images/q"].weight


def test_settings_that_nothing_was_computed_with_name_what_exists(made: Project) -> None:
    results = goodsam.open(made.manifest_path, made.config_path, fusion="best", settings=["fusion.rule.theta=0.9"])
    key = made.config().artefact(made.manifest(), "fused").key
    for read in (lambda: len(results), lambda: results["images/q"].label):
        with pytest.raises(UserError, match=rf"no such artefact in the cache; .* found those of other settings: {key}"):
            read()
    assert len(results["images/q"].masks) > 0, "the masks do not depend on the rule"


def test_the_expected_miou_is_that_of_evaluate(made: Project) -> None:
    results = goodsam.open(made.manifest_path, made.config_path, splits=["test"])
    scores, _ = evaluate(made.manifest(), [made.config()], splits=["test"])
    assert results.expected_miou() == pytest.approx(scores[1].expected_miou)
    areas = results["images/p000"].expected_areas
    predicted = areas[1] > 0
    iou = areas[0] / (areas[1] + areas[2] - areas[0])
    assert results["images/p000"].expected_miou == pytest.approx(100 * iou[predicted].mean())


def test_nothing_is_read_before_it_is_asked_for(made: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.cache.local import LocalStorage

    read: list[str] = []
    original = LocalStorage.read
    monkeypatch.setattr(LocalStorage, "read", lambda self, path: read.append(path) or original(self, path))
    results = goodsam.open(made.manifest_path, made.config_path)
    panorama = results["images/q"]
    assert read == []
    _ = panorama.logits
    assert [path.split("/")[0] for path in read if path.endswith(".zip")] == ["teacher"]
