"""Scores against a confusion matrix counted by hand, through label spaces, and of a real cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.fused_reader import (
    CacheReader,
    certainty_probabilities,
    ensemble_probabilities,
    stitched_probabilities,
)
from pipeline.core.errors import UserError
from pipeline.data.expected_miou import expected_areas, expected_miou
from pipeline.data.labels import load_label_space
from pipeline.data.samples import LabelReader
from stages.evaluate.score import Scorer, table
from stages.evaluate.stage import evaluate
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.conftest import Project, write_yaml
from tests.predict.helpers import untrained

CITYSCAPES = load_label_space("cityscapes19")


def one_hot(labels: np.ndarray, classes: int = 19) -> np.ndarray:
    return np.moveaxis(np.eye(classes, dtype=np.float32)[labels], -1, 0)


def test_scores_agree_with_counting() -> None:
    rng = np.random.default_rng(0)
    scorer = Scorer("x", CITYSCAPES, CITYSCAPES)
    confusion = np.zeros((19, 19))
    for _ in range(3):
        truth, prediction = rng.integers(0, 6, (8, 9)), rng.integers(0, 7, (8, 9))
        truth[0] = 255
        scorer.add(one_hot(prediction), truth.astype(np.uint8))
        np.add.at(confusion, (truth[1:], prediction[1:]), 1)
    scores = scorer.scores()
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    iou = 100 * np.diag(confusion)[:7] / union[:7]
    np.testing.assert_allclose(list(scores.iou.values())[:7], iou, rtol=1e-5)
    assert np.isnan(list(scores.iou.values())[7:]).all()
    assert scores.miou == pytest.approx(iou.mean(), rel=1e-5)  # class 6 is predicted only, and counts with 0
    assert scores.accuracy == pytest.approx(100 * np.trace(confusion) / confusion.sum(), rel=1e-5)
    assert scores.figures()["IoU"]["sky"] is None


def test_classes_that_the_predictor_does_not_know_are_left_out_and_named() -> None:
    target = load_label_space("wildpass8")
    scorer = Scorer("x", CITYSCAPES, target)
    truth = np.array([[3, 4, 6, 7, 255]], np.uint8)  # road, sidewalk, curb, crosswalk
    scorer.add(one_hot(np.array([[0, 1, 1, 0, 0]])), truth)
    scores = scorer.scores()
    assert scores.unreachable == ("curb", "crosswalk")
    assert scores.iou["road"] == scores.iou["sidewalk"] == 100
    assert np.isnan(scores.iou["curb"])
    assert scores.miou == 100


@pytest.fixture
def labelled(project: Project) -> Project:
    """The ensemble's own labels (rule ssa) as ground truth of the first two images."""
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config("fusion.rule=ssa"))
    reader = CacheReader(project.manifest(), project.config("fusion.rule=ssa"))
    for name in ("p000", "p001"):
        project.add_labels(f"{name}_labelTrainIds.png", reader.fused(name).label)
    write_yaml(project.manifest_path, {"name": "toy", "root": ".", "splits": {
        "val": {"images": ["images/p000.png", "images/p001.png"],
                "labels": {"replace": [["images/", "labels/"], [".png", "_labelTrainIds.png"]]}},
        "train": {"images": ["images/p002.png"]}}})  # fmt: skip
    precompute(project.manifest(), project.config())
    fuse(project.manifest(), project.config("fusion.rule=ssa"))
    return project


def test_the_ensemble_scores_100_against_itself_and_the_ta_less(labelled: Project) -> None:
    (ta, ensemble), failures = evaluate(labelled.manifest(), [labelled.config("fusion.rule=ssa")])
    assert failures == {}
    assert (ensemble.miou, ensemble.accuracy, ensemble.images) == (100, 100, 2)
    assert ta.miou < 100
    (_, mapped), _ = evaluate(labelled.manifest(), [labelled.config("fusion.rule=ssa")], label_space="densepass13")
    assert mapped.miou == 100
    assert len(mapped.iou) == 13


def test_several_rules_are_scored_side_by_side(labelled: Project) -> None:
    fuse(labelled.manifest(), labelled.config("fusion.rule=ta"))
    configs = [labelled.config(f"fusion.rule={rule}") for rule in ("ssa", "ta")]
    scores, _ = evaluate(labelled.manifest(), configs)
    assert [score.name for score in scores] == ["TA, stitched", "ensemble (ssa)", "ensemble (ta)"]
    assert scores[1].miou == 100
    assert scores[2].miou == scores[0].miou


def test_a_wrong_label_value_fails_its_image_only(labelled: Project) -> None:
    labelled.add_labels("p000_labelTrainIds.png", np.full((64, 256), 19, np.uint8))
    (_, ensemble), failures = evaluate(labelled.manifest(), [labelled.config("fusion.rule=ssa")])
    assert ensemble.images == 1
    assert "holds label value 19, expected 0..18 or 255" in failures["images/p000"]
    labelled.add_labels("p001_labelTrainIds.png", np.zeros((32, 64), np.uint8))
    with pytest.raises(UserError, match="none of 2 images could be evaluated"):
        evaluate(labelled.manifest(), [labelled.config("fusion.rule=ssa")])


def test_without_labels_there_is_the_expected_miou(project: Project) -> None:
    manifest, config = project.manifest(), project.config("fusion.rule=best")
    precompute(manifest, config)
    fuse(manifest, config)
    (ta, ensemble), failures = evaluate(manifest, [config])
    assert not failures
    assert set(ensemble.figures()) == {"images", "expected_mIoU"}
    artefact, space = config.artefact(manifest, "fused"), config.fused_space()
    groups = [artefact.read(record.id) for record in manifest.images]
    for scores, probabilities in (
        (ta, [stitched_probabilities(group) for group in groups]),
        (ensemble, [certainty_probabilities(group, space) for group in groups]),
    ):
        areas = sum(expected_areas(p, p.argmax(axis=0)) for p in probabilities)
        assert scores.expected_miou == pytest.approx(expected_miou(areas))
    titles, cells = table([ta, ensemble], space)
    assert [cell[0] for cell in cells] == ["mIoU, expected"]
    assert len(titles) == 3


def test_hard_votes_are_as_certain_as_the_ta(labelled: Project) -> None:
    """A rule of hard votes claims every label with probability 1; the expected mIoU does not believe it."""
    config = labelled.config("fusion.rule=ssa")
    (_, ensemble), _ = evaluate(labelled.manifest(), [config])
    artefact, space = config.artefact(labelled.manifest(), "fused"), config.fused_space()
    areas = 0
    for record in labelled.manifest().images:
        if record.label_path is not None:
            group = artefact.read(record.id)
            areas = areas + expected_areas(stitched_probabilities(group), group.read_array("label", ndim=2))
            assert (certainty_probabilities(group, space) == stitched_probabilities(group)).all()
    assert ensemble.expected_miou == pytest.approx(expected_miou(areas))
    assert ensemble.expected_miou < 90


def test_nothing_to_evaluate_is_refused(labelled: Project) -> None:
    with pytest.raises(UserError, match="no mapping from 'cityscapes19'"):
        evaluate(labelled.manifest(), [labelled.config("fusion.rule=ssa")], label_space="stanford2d3d")
    with pytest.raises(UserError, match=r"fused/\w+: no such artefact"):
        evaluate(labelled.manifest(), [labelled.config()])
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate(labelled.manifest(), [labelled.config()], pseudo_labels=False)


@pytest.mark.parametrize("rule", ["ta", "ssa"])
def test_the_ensemble_is_its_formula(labelled: Project, rule: str) -> None:
    config = labelled.config(f"fusion.rule={rule}")
    fuse(labelled.manifest(), config)
    reader = CacheReader(labelled.manifest(), config)
    group = reader.artefact.read("images/p000")
    stitched, ensemble = stitched_probabilities(group), ensemble_probabilities(group, CITYSCAPES)
    sample = reader.fused("images/p000")
    assert sample.gate is not None
    gate = sample.gate / np.float32(255)
    np.testing.assert_allclose(ensemble, (1 - gate) * stitched + gate * one_hot(sample.label), atol=1e-6)
    np.testing.assert_allclose(ensemble.sum(axis=0), 1, atol=1e-5)


def test_ground_truth_is_read_like_pseudo_labels(labelled: Project) -> None:
    reader = LabelReader(labelled.manifest(), ("val",))
    assert reader.ids == ("images/p000", "images/p001")
    sample = reader.fused("images/p000")
    assert sample.stitched is None
    assert sample.label.shape == reader.image("images/p000").shape[:2]
    with pytest.raises(UserError, match="no label"):
        LabelReader(labelled.manifest(), ("train",))


def test_reader_images_fit_their_arrays(labelled: Project, tmp_path: Path) -> None:
    reader = CacheReader(labelled.manifest(), labelled.config("fusion.rule=ssa"), ("train",))
    assert reader.ids == ("images/p002",)
    assert reader.image("images/p002").shape[:2] == reader.fused("images/p002").label.shape


def test_an_image_that_a_student_cannot_run_on_fails_alone(labelled: Project, tmp_path: Path) -> None:
    """16 columns are too few for a cyclic network with dilation; the other image is scored."""
    student = untrained(tmp_path / "narrow" / "student.pth", cyclic=True)
    labelled.add_image("p000.png", np.zeros((16, 16, 3), np.uint8))
    labelled.add_labels("p000_labelTrainIds.png", np.zeros((16, 16), np.uint8))
    (scores,), failures = evaluate(
        labelled.manifest(), [labelled.config("device=cpu")], students=[student], pseudo_labels=False
    )
    assert scores.images == 1
    assert list(failures) == ["images/p000"]
    assert failures["images/p000"].startswith("student narrow: the student cannot run on an image of 16 x 16 (")
