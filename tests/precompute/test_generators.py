"""Mask generators: the real segment_anything, and felzenszwalb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator

from pipeline.errors import UserError
from pipeline.masks import MaskSet
from stages.fuse.stage import fuse
from stages.precompute.generators.felzenszwalb import Felzenszwalb, from_partition
from stages.precompute.generators.sam import Sam, mask_nms, prompt_component
from stages.precompute.stage import precompute
from tests.conftest import Project
from tests.models import street, tiny_sam

#: Random weights give logits near nought: take what comes, and do not merge all of it.
PERMISSIVE = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_side": 4, "box_nms_thresh": 1.0}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny_sam.pth"
    torch.save(tiny_sam().state_dict(), path)
    return path


def test_masks_are_those_of_segment_anything(weights: Path) -> None:
    image = street(48, 64)
    settings = Sam(builder="tests.models:tiny_sam", checkpoint=weights, **PERMISSIVE)
    masks = settings.build("cpu")(image)
    expected = SamAutomaticMaskGenerator(tiny_sam().eval(), **PERMISSIVE).generate(image)
    assert len(masks) == len(expected) > 3
    for k, reference in enumerate(expected):
        np.testing.assert_array_equal(masks.mask(k), reference["segmentation"])
        row = masks.table[k]
        assert row["area"] == reference["area"]
        assert row["predicted_iou"] == pytest.approx(reference["predicted_iou"], rel=1e-6)
        assert row["stability_score"] == pytest.approx(reference["stability_score"], rel=1e-6)
        assert [row["point_x"], row["point_y"]] == pytest.approx(reference["point_coords"][0])


def test_prompt_component_keeps_the_piece_under_the_point() -> None:
    mask = np.zeros((5, 6), bool)
    mask[0, 0] = mask[1, 1] = True  # one piece, across a corner
    mask[3:5, 3:6] = True
    np.testing.assert_array_equal(np.argwhere(prompt_component(mask, 0.5, 0.5)), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(prompt_component(mask, 6.0, 5.0)[3:5, 3:6], True)
    assert prompt_component(mask, 5.0, 0.0).sum() == 6, "no piece there: the largest"
    assert not prompt_component(np.zeros((2, 2), bool), 0, 0).any()


@pytest.mark.parametrize("seed", range(6))
def test_mask_nms_is_greedy_suppression_by_iou(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = [rng.random((7, 9)) < rng.uniform(0, 1) for _ in range(12)]
    masks += [masks[0].copy(), np.zeros((7, 9), bool)]
    scores = rng.integers(0, 5, len(masks)).astype(float).tolist()
    expected: list[int] = []
    for k in sorted(range(len(masks)), key=lambda k: -scores[k]):
        ious = [(masks[k] & masks[j]).sum() / (masks[k] | masks[j]).sum() for j in expected if masks[k].any()]
        if masks[k].any() and all(iou <= 0.4 for iou in ious):
            expected.append(k)
    assert mask_nms(masks, scores, 0.4) == expected
    assert mask_nms([], [], 0.4) == []


def test_mask_nms_and_components_replace_the_boxes(weights: Path) -> None:
    image = street(48, 64)
    sam = Sam(builder="tests.models:tiny_sam", checkpoint=weights, **PERMISSIVE)
    every = SamAutomaticMaskGenerator(tiny_sam().eval(), **PERMISSIVE).generate(image)
    pieces = [prompt_component(mask["segmentation"], *mask["point_coords"][0]) for mask in every]
    kept = mask_nms(pieces, [mask["predicted_iou"] for mask in every], 0.6)
    found = sam.model_copy(update={"keep_prompt_component": True, "mask_nms_thresh": 0.6}).build("cpu")(image)
    assert 1 < len(found) == len(kept) < len(every)
    for k, index in enumerate(kept):
        np.testing.assert_array_equal(found.mask(k), pieces[index])
    boxes = sam.model_copy(update={"box_nms_thresh": 0.5, "mask_nms_thresh": 1.0}).build("cpu")(image)
    assert len(boxes) == len(every), "masks are compared instead of boxes"


def test_sam_runs_through_stage_one_and_two(project: Project, weights: Path) -> None:
    sam = f"sam.generator={{kind: sam, builder: 'tests.models:tiny_sam', checkpoint: {weights}, "
    sam += ", ".join(f"{name}: {value}" for name, value in PERMISSIVE.items()) + "}"
    loose = ["masks.filter.predicted_iou=0", "masks.filter.stability_score=0"]
    reports = precompute(project.manifest(), project.config(sam, *loose))
    assert [report.computed for report in reports] == [3, 3, 3]
    assert fuse(project.manifest(), project.config(sam, *loose)).computed == 3
    strict = precompute(project.manifest(), project.config(sam, "masks.filter.predicted_iou=1"))
    assert [report.computed for report in strict] == [0, 3, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "vit_x", "random_weights": True}, "found 'vit_x', expected one of .*vit_h"),
        ({"model_type": "vit_b"}, "sam.generator.checkpoint: is missing"),
        ({"builder": "tests.models:nothing", "random_weights": True}, "'tests.models:nothing' cannot be imported"),
        ({"builder": "nothing", "random_weights": True}, "'nothing' cannot be imported"),
    ],
)
def test_wrong_sam_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sam(**settings).build("cpu")


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(tiny_sam(128).state_dict(), path)
    with pytest.raises(UserError, match=r"other\.pth"):
        Sam(builder="tests.models:tiny_sam", checkpoint=path).build("cpu")


@pytest.mark.slow
def test_vit_b_of_the_registry_runs() -> None:
    settings = Sam(
        model_type="vit_b", random_weights=True, points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0
    )
    assert isinstance(settings.build("cpu")(street(64, 128)), MaskSet)


def test_felzenszwalb_partitions_the_view() -> None:
    masks = Felzenszwalb(min_size=30).build("cpu")(street(48, 64))
    assert len(masks) > 3
    assert masks.covered().all()
    assert masks.table["area"].sum() == 48 * 64
    assert np.isnan(masks.table["predicted_iou"]).all()
    for k in range(len(masks)):
        rows, columns = np.nonzero(masks.mask(k))
        x, y, w, h = (int(masks.table[k][f"box_{side}"]) for side in "xywh")
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x, y, x + w, y + h)


def test_a_constant_view_is_one_segment() -> None:
    assert len(Felzenszwalb().build("cpu")(np.full((40, 50, 3), 7, np.uint8))) == 1
    assert len(from_partition(np.zeros((1, 1), np.int64))) == 1
