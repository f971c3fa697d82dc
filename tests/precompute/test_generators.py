"""Mask generators: SAM batched and by segment_anything itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, label
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.utils import amg

from pipeline.core.errors import ImageError, UserError
from pipeline.execution.devices import BatchSize
from pipeline.geometry.masks import MaskSet, mask_box
from stages.fuse.stage import fuse
from stages.precompute.generators.felzenszwalb import Felzenszwalb, from_partition
from stages.precompute.generators.sam import Sam
from stages.precompute.generators.sam_reference import SamReference
from stages.precompute.sam.binary import mask_nms, prompt_component, remove_small_regions
from stages.precompute.sam.lowres import Axis, Geometry, find_candidates
from stages.precompute.stage import precompute
from tests.conftest import Project
from tests.models import street, tiny_sam

#: Random weights give logits near nought: take what comes, and do not merge all of it.
PERMISSIVE = {"points_per_side": 5, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}

TINY = "tests.models:tiny_sam"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny_sam.pth"
    torch.save(tiny_sam().state_dict(), path)
    return path


def assert_same(found: MaskSet, expected: MaskSet) -> None:
    """The same masks in the same order, to the pixel, with the same qualities and points."""
    assert len(found) == len(expected)
    for k in range(len(expected)):
        np.testing.assert_array_equal(found.mask(k), expected.mask(k))
    for name in ("predicted_iou", "stability_score", "point_x", "point_y"):
        np.testing.assert_allclose(found.table[name], expected.table[name], rtol=1e-5)


# -- against segment_anything


def test_the_reference_is_segment_anything(weights: Path) -> None:
    image = street(48, 64)
    (masks,) = SamReference(builder=TINY, checkpoint=weights, **PERMISSIVE).build("cpu")([image])
    expected = SamAutomaticMaskGenerator(tiny_sam().eval(), **PERMISSIVE).generate(image)
    assert len(masks) == len(expected) > 3
    for k, reference in enumerate(expected):
        np.testing.assert_array_equal(masks.mask(k), reference["segmentation"])
        row = masks.table[k]
        assert row["area"] == reference["area"]
        assert row["predicted_iou"] == pytest.approx(reference["predicted_iou"], rel=1e-6)
        assert row["stability_score"] == pytest.approx(reference["stability_score"], rel=1e-6)
        assert [row["point_x"], row["point_y"]] == pytest.approx(reference["point_coords"][0])


BLOBS = {
    "builder": "tests.models:blob_sam",
    "random_weights": True,
    "points_per_side": 10,
    "pred_iou_thresh": 0.3,
    "stability_score_thresh": 0.6,
    "stability_score_offset": 0.3,
}


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((200, 256), {}),
        ((256, 90), {}),
        ((150, 400), {"crop_n_layers": 1}),
        ((90, 130), {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2}),
        ((200, 256), {"min_mask_region_area": 60, "box_nms_thresh": 0.5}),
        ((200, 256), {"crop_n_layers": 1, "min_mask_region_area": 200, "crop_nms_thresh": 0.4}),
        ((200, 256), {"keep_prompt_component": True}),
        ((200, 300), {"stability_score_thresh": 0.0, "pred_iou_thresh": 0.0}),
        ((400, 512), {"stability_score_thresh": 0.8, "stability_score_offset": 0.5}),
    ],
    ids=str,
)
def test_batched_masks_are_those_of_the_reference(shape: tuple[int, int], settings: dict[str, Any]) -> None:
    """What it would catch: another grid, resize, threshold, order or rule of suppression; a mask cut at its region."""
    view = street(*(-(-side // 16) * 16 for side in shape))[: shape[0], : shape[1]]
    both = [kind(**BLOBS | settings).build("cpu")([view])[0] for kind in (Sam, SamReference)]
    full = both[1].select(both[1].table["area"] > 0)  # segment_anything keeps empty masks if nothing is filtered
    assert len(full) > 3
    assert_same(both[0], full)


def test_several_windows_and_other_batches_are_the_same_masks() -> None:
    views = [street(192, 256, seed=seed) for seed in range(3)]
    alone = Sam(windows_per_batch=1, points_per_batch=36, **BLOBS).build("cpu")
    together = Sam(windows_per_batch=2, points_per_batch=7, **BLOBS).build("cpu")
    for found, view in zip(together(views), views, strict=True):
        (expected,) = alone([view])
        assert len(expected) > 3
        assert_same(found, expected)
    assert together([]) == []


@pytest.mark.parametrize(("points", "layers"), [(10, 0), (5, 1)])
def test_components_and_mask_nms_replace_the_boxes(points: int, layers: int) -> None:
    view = street(192, 256)
    settings = BLOBS | {"stability_score_thresh": 0.5, "keep_prompt_component": True, "mask_nms_thresh": 0.4}
    settings |= {"points_per_side": points, "crop_n_layers": layers}
    settings |= {"box_nms_thresh": 0.0}  # boxes are not compared, or one mask would be left
    (found,) = Sam(**settings).build("cpu")([view])
    (expected,) = SamReference(**settings).build("cpu")([view])
    masks = list(found)
    assert len(masks) > 8
    for k, mask in enumerate(masks):
        assert label(mask, structure=np.ones((3, 3)))[1] == 1
        for other in masks[:k]:
            assert (mask & other).sum() <= 0.4 * (mask | other).sum()
    # Low-resolution components may touch where full-size ones do not, so a few masks differ from the reference.
    best = [max((mask & other).sum() / (mask | other).sum() for other in masks) for mask in expected]
    assert np.mean(np.array(best) > 0.9) > 0.8


@given(
    size=st.integers(1, 90), input_size=st.integers(1, 64), low=st.sampled_from([16, 32, 128]), seed=st.integers(0, 99)
)
def test_an_axis_up_samples_as_the_model_does(size: int, input_size: int, low: int, seed: int) -> None:
    from torch.nn.functional import interpolate

    axis = Axis.of(size, input_size, 64, low, "cpu")
    values = torch.randn(1, 1, low, generator=torch.Generator().manual_seed(seed))
    padded = interpolate(values, size=64, mode="linear", align_corners=False)[..., :input_size]
    expected = interpolate(padded, size=size, mode="linear", align_corners=False)[0, 0]
    torch.testing.assert_close(axis.weights @ values[0, 0, : axis.used], expected)
    profile = values[0, :, : axis.used].numpy()
    if (profile > 0).any():
        begin, end, first, last = (int(part[0]) for part in axis.region(profile, 0.0))
        above = np.flatnonzero(expected.numpy() > 1e-6)
        assert not len(above) or first <= above[0] <= above[-1] < last
        weights = axis.weights.clone()
        weights[:, begin:end] = 0
        assert not weights[first:last].any(), "nothing outside of begin..end matters inside of first..last"


@given(st.integers(0, 10**6), st.sampled_from([(40, 60), (90, 50), (64, 64), (200, 30)]))
@settings(max_examples=30, deadline=None)
def test_the_box_of_an_up_sampled_mask_is_between_its_bounds(seed: int, size: tuple[int, int]) -> None:
    model = tiny_sam()
    geometry = Geometry.of(model, size)
    low_size = [4 * n for n in model.prompt_encoder.image_embedding_size]
    rng = np.random.default_rng(seed)
    logits = gaussian_filter(rng.normal(size=(8, *low_size)), (0, 2, 2)).astype(np.float32) * 20 - 1
    candidates = find_candidates(torch.from_numpy(logits), torch.rand(8), rng.random((8, 2)), geometry, 0.0, 0.5)
    assert candidates
    for candidate in candidates:
        x, y, width, height = mask_box((candidate.upsampled(geometry) > 0).numpy())
        if not width:
            continue
        left, top, right, bottom = candidate.region
        assert 0 <= left + x < left + x + width <= right <= size[1]
        assert 0 <= top + y < top + y + height <= bottom <= size[0]
        box = np.array([left + x, top + y, left + x + width - 1, top + y + height - 1])
        outwards = np.array([-1, -1, 1, 1])
        assert ((candidate.outer - box) * outwards >= -1).all()
        for first, last in ((0, 2), (1, 3)):
            if candidate.inner[first] <= candidate.inner[last]:
                assert box[first] <= candidate.inner[first] <= candidate.inner[last] <= box[last]


@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 0.6, 0.95]), st.integers(1, 30))
def test_small_regions_go_as_in_segment_anything(seed: int, density: float, min_area: int) -> None:
    pytest.importorskip("cv2")
    mask = np.random.default_rng(seed).random((9, 13)) < density
    filled, _ = amg.remove_small_regions(mask, min_area, mode="holes")
    expected, _ = amg.remove_small_regions(filled, min_area, mode="islands")
    found = remove_small_regions(mask, min_area)
    if filled.any() and expected.sum() < min_area:  # all pieces are small: which of equally large ones stays is free
        assert found.sum() == expected.sum()
        assert (found <= filled).all()
    else:
        np.testing.assert_array_equal(found, expected)
    assert (found is mask) == np.array_equal(found, mask)


# -- memory that runs out, numbers that are none, pictures that show nothing


def limited_sam() -> torch.nn.Module:
    """tiny_sam whose decoder fits three points and whose encoder fits one window: above, CUDA's own error."""
    sam = tiny_sam()

    def limit(module: torch.nn.Module, most: int) -> None:
        forward = module.forward

        def limited(*arguments: Any, **named: Any) -> Any:
            if len(named.get("sparse_prompt_embeddings", arguments[0] if arguments else ())) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return forward(*arguments, **named)

        module.forward = limited  # type: ignore[method-assign]

    limit(sam.image_encoder, 1)
    limit(sam.mask_decoder, 3)
    return sam


def test_when_memory_runs_out_the_batch_is_halved(weights: Path) -> None:
    views = [street(48, 64, seed=seed) for seed in range(3)]
    name = "tests.precompute.test_generators:limited_sam"
    limited = Sam(builder=name, checkpoint=weights, windows_per_batch=4, points_per_batch=16, **PERMISSIVE).build("cpu")
    alone = Sam(builder=TINY, checkpoint=weights, windows_per_batch=1, points_per_batch=2, **PERMISSIVE).build("cpu")
    for found, expected in zip(limited(views), alone(views), strict=True):
        assert_same(found, expected)
    assert (limited.encoder_batch.size, limited.decoder_batch.size) == (1, 2), "halved for good"  # type: ignore[attr-defined]


def test_a_batch_of_one_that_does_not_fit_fails_its_image() -> None:
    def infer(part: slice) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ImageError, match="too little memory, even for a batch of one"):
        list(BatchSize(8).run(infer, 20))


@given(st.integers(1, 12), st.integers(0, 30), st.integers(1, 12))
def test_batches_are_consecutive_whatever_fits(size: int, count: int, most: int) -> None:
    def infer(part: slice) -> list[int]:
        if part.stop - part.start > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(part.start, part.stop))

    batches = BatchSize(size)
    results = list(batches.run(infer, count))
    assert [k for _, part in results for k in part] == list(range(count))
    assert all(list(range(part.start, part.stop)) == result for part, result in results)
    assert not count or batches.size <= max(size, most)


def nan_sam() -> torch.nn.Module:
    sam = tiny_sam()
    with torch.no_grad():
        sam.mask_decoder.iou_token.weight.fill_(float("nan"))
    return sam


def test_nan_from_the_model_fails_the_image_and_names_it(project: Project) -> None:
    sam = "sam.generator={kind: sam, builder: 'tests.precompute.test_generators:nan_sam', random_weights: true}"
    report = precompute(project.manifest(), project.config(sam, "sam.generator.points_per_side=2"))[0]
    assert report.computed == 0
    assert set(report.failures) == {"p000", "p001", "p002"}
    for reason in report.failures.values():
        assert reason.endswith(".png: SAM gave NaN or infinite values; precision is float32")


@pytest.mark.parametrize("kind", [Sam, Felzenszwalb])
@pytest.mark.parametrize("shape", [(1, 1), (40, 1), (1, 40), (2, 2)], ids=str)
def test_constant_and_one_pixel_views_are_views(kind: type, shape: tuple[int, int], weights: Path) -> None:
    settings = {"builder": TINY, "checkpoint": weights, "crop_n_layers": 1, **PERMISSIVE} if kind is Sam else {}
    (masks,) = kind(**settings).build("cpu")([np.full((*shape, 3), 7, np.uint8)])
    assert masks.shape == shape
    assert (masks.table["area"] > 0).all()


def test_a_view_too_narrow_for_sam_is_refused(weights: Path) -> None:
    generate = Sam(builder=TINY, checkpoint=weights, **PERMISSIVE).build("cpu")
    with pytest.raises(ImageError, match=r"a view of 1 x 200 \(H x W\) is 0 x 64 at the input size of SAM"):
        generate([np.zeros((1, 200, 3), np.uint8)])


def test_more_masks_than_a_set_holds_are_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.geometry.masks.MAX_MASKS", 5)
    generate = Sam(builder=TINY, checkpoint=weights, **PERMISSIVE).build("cpu")
    with pytest.raises(ImageError, match="found more than 5 masks, expected at most as many; raise the smallest area"):
        generate([street(48, 64)])
    with pytest.raises(ImageError, match="found more than 5 masks"):
        from_partition(np.arange(6).reshape(2, 3))


def test_views_of_two_shapes_are_refused_and_the_stage_sorts_them(weights: Path) -> None:
    from stages.precompute.tasks import by_shape

    generate = Sam(builder=TINY, checkpoint=weights, **PERMISSIVE).build("cpu")
    views = [street(48, 64), street(64, 48), street(48, 64, seed=1)]
    with pytest.raises(ValueError, match="expected one shape"):
        generate(views)
    for found, view in zip(by_shape(generate, views), views, strict=True):
        assert_same(found, generate([view])[0])


# -- operations on binary masks


def test_prompt_component_is_the_component_at_the_point() -> None:
    mask = np.zeros((5, 6), bool)
    mask[0, 0] = mask[1, 1] = True  # one component, across a corner
    mask[3:5, 3:6] = True
    np.testing.assert_array_equal(np.argwhere(prompt_component(mask, 0.5, 0.5)), [[0, 0], [1, 1]])
    for x, y in ((5.0, 0.0), (-0.5, 0.5), (6.0, 5.0)):
        assert prompt_component(mask, x, y).sum() == 6, "no component there: the largest"
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


# -- in the stage


@pytest.mark.parametrize("kind", ["sam", "sam_reference"])
def test_sam_runs_through_stage_one_and_two(project: Project, weights: Path, kind: str) -> None:
    sam = f"sam.generator={{kind: {kind}, builder: 'tests.models:tiny_sam', checkpoint: {weights}, "
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


def test_crops_without_points_are_refused(project: Project) -> None:
    sam = "sam.generator={kind: sam, points_per_side: 4, crop_n_layers: 3, crop_n_points_downscale_factor: 2}"
    with pytest.raises(UserError, match="leaves no point of points_per_side 4 on crop layer 3"):
        project.config(sam)


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
    assert isinstance(settings.build("cpu")([street(64, 128)])[0], MaskSet)


def test_the_batched_generator_has_keys_of_its_own(project: Project) -> None:
    """Caches that kind sam made when it was segment_anything's own generator must not be taken for its own."""

    def settings(kind: str) -> dict[str, Any]:
        config = project.config(f"sam.generator={{kind: {kind}, random_weights: true}}")
        generator: dict[str, Any] = config.artefacts(project.manifest().preprocessing).settings("sam")["sam"][
            "generator"
        ]
        return generator

    assert settings("sam") == {"kind": "sam", "random_weights": True, "algorithm": 2}
    assert settings("sam_reference") == {"kind": "sam_reference", "random_weights": True}
