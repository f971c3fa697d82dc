"""Every transform moves the image and the cached arrays together, pixel for pixel.

The image, each plane and the coarse `S̄` carry their own column and row numbers; after a transform they
must still agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.geometry.boundaries import label_boundary
from pipeline.models import losses
from stages.train.dataset import PseudoLabelDataset
from stages.train.transforms import (
    CyclicShift,
    MirrorPanorama,
    PackMKAInputs,
    RandomScaleCrop,
    grid_unit,
    row_unit,
)
from tests.train.helpers import SPACE, MemoryReader

STRIDE = 4


def coded(height: int = 32, width: int = 64, stride: int | None = STRIDE) -> dict[str, Any]:
    """The image holds y and x of each pixel, planes hold x, y and mixtures, `stitched` holds y and x of its cells."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    results: dict[str, Any] = {
        "img": np.stack([y, x, y ^ x], axis=-1),
        "label": x.copy(),
        "gate": y.copy(),
        "weight": (x + y).astype(np.uint8),
        "boundary": (x ^ y).astype(np.uint8),
        "window_label": np.stack([x, y]),
        "window_weight": np.stack([y, x]),
        "image_id": "coded",
        "ori_shape": (height, width),
        "img_shape": (height, width),
        "is_full_panorama": True,
        "last_row": True,
        "flip": False,
    }
    if stride is not None:
        grid_cells = np.mgrid[: height // stride, : width // stride]
        results["stitched"] = grid_cells.astype(np.float16)
    return results


def assert_aligned(results: dict[str, Any], stride: int = STRIDE) -> None:
    y, x = results["gate"], results["label"]
    np.testing.assert_array_equal(results["img"], np.stack([y, x, y ^ x], axis=-1))
    assert_planes_aligned(results, stride)


def assert_planes_aligned(results: dict[str, Any], stride: int = STRIDE) -> None:
    y, x = results["gate"], results["label"]
    np.testing.assert_array_equal(results["weight"], x + y)
    np.testing.assert_array_equal(results["boundary"], x ^ y)
    np.testing.assert_array_equal(results["window_label"], np.stack([x, y]))
    np.testing.assert_array_equal(results["window_weight"], np.stack([y, x]))
    grid_cells = results["stitched"].repeat(stride, axis=1).repeat(stride, axis=2)
    np.testing.assert_array_equal(grid_cells, np.stack([y // stride, x // stride]))


@pytest.mark.parametrize("seed", range(8))
def test_shift_flip_and_crop_stay_aligned(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002
    results = coded()
    for transform in (CyclicShift(), RandomScaleCrop((16, 24)), MirrorPanorama(0.5)):
        results = transform(results)
        assert_aligned(results)
    assert results["img"].shape == (16, 24, 3)
    assert results["stitched"].shape == (2, 4, 6)
    assert not results["is_full_panorama"]
    columns = results["label"][0].astype(int)
    assert set(np.diff(columns) % 64) == {63 if results["flip"] else 1}, "columns are consecutive, also across the seam"


def test_shifts_are_whole_cells_and_reach_all_of_them() -> None:
    np.random.seed(0)  # noqa: NPY002
    starts = set()
    for _ in range(300):
        results = CyclicShift()(coded())
        assert_aligned(results)
        starts.add(int(results["label"][0, 0]))
    assert starts == set(range(0, 64, STRIDE))
    assert CyclicShift(prob=0)(coded())["label"][0, 0] == 0


def test_crops_cross_the_seam() -> None:
    np.random.seed(1)  # noqa: NPY002
    crossed = 0
    for _ in range(40):
        results = RandomScaleCrop((16, 32))(coded())
        assert_aligned(results)
        crossed += bool((np.diff(results["label"][0].astype(int)) < 0).any())
        assert results["last_row"] == (results["gate"][-1, 0] == 31)
    assert crossed > 5


@pytest.mark.parametrize(("scale", "region"), [(2.0, (8, 12)), (0.5, (32, 48)), (1.0, (16, 24)), (0.1, (32, 48))])
def test_scaling_resizes_the_image_alone(scale: float, region: tuple[int, int]) -> None:
    np.random.seed(0)  # noqa: NPY002
    results = RandomScaleCrop((16, 24), (scale, scale))(coded())
    assert results["img"].shape == (16, 24, 3)
    assert results["label"].shape == region
    assert results["stitched"].shape[1:] == (region[0] // STRIDE, region[1] // STRIDE)
    assert_planes_aligned(results)
    rows = results["gate"][:, 0].astype(float)
    centre = (np.arange(16) + 0.5) * region[0] / 16 - 0.5
    expected = np.interp(centre, np.arange(region[0]), rows)
    np.testing.assert_allclose(results["img"][:, 0, 0], expected, atol=1)


def test_a_crop_of_full_width_stays_a_full_panorama() -> None:
    results = RandomScaleCrop((16, 64))(coded())
    assert results["is_full_panorama"]
    assert results["label"][0, 0] == 0
    assert_aligned(results)


def test_sizes_that_the_stride_does_not_divide() -> None:
    assert grid_unit(2048, 512) == (4, 1)
    assert grid_unit(2048, None) == (1, 1)
    assert grid_unit(2050, 513) == (2050, 513)
    assert grid_unit(100, 30) == (10, 3)
    results = coded(30, 60, stride=None)
    results["stitched"] = np.broadcast_to(np.arange(18.0), (2, 9, 18)).astype(np.float16)
    np.random.seed(0)  # noqa: NPY002
    starts = set()
    for _ in range(100):
        shifted = CyclicShift()(dict(results))
        start = int(shifted["label"][0, 0])
        assert shifted["stitched"][0, 0, 0] == start * 18 / 60
        starts.add(start)
    assert starts == {0, 10, 20, 30, 40, 50}


@pytest.mark.parametrize(("height", "coarse", "stride"), [(402, 101, 4), (450, 113, 4), (500, 63, 8), (400, 100, 4)])
def test_crops_keep_their_shape_where_the_stride_does_not_divide_the_height(
    height: int, coarse: int, stride: int
) -> None:
    assert row_unit(height, coarse) == (stride, 1)
    rows = np.arange(height, dtype=np.uint8)[:, None].repeat(2048, axis=1)
    grid_cells = np.arange(coarse)[:, None].repeat(2048 // stride, axis=1)
    arrays = {"img": rows[..., None].repeat(3, axis=2), "label": rows, "stitched": grid_cells[None].astype(np.float16)}
    np.random.seed(0)  # noqa: NPY002
    for _ in range(20):
        made = RandomScaleCrop((200, 256), (1.0, 1.5))({**arrays, "is_full_panorama": True, "image_id": "a"})
        region_height, region_width = made["label"].shape
        assert region_height / region_width == pytest.approx(200 / 256, rel=0.05)
        np.testing.assert_array_equal(made["label"][::stride, 0], (made["stitched"][0, :, 0] * stride) % 256)
        assert made["stitched"].shape[1] * stride == region_height


def test_a_width_that_the_stride_does_not_divide_is_refused() -> None:
    plane = np.zeros((400, 2050), dtype=np.uint8)
    arrays = {
        "img": plane[..., None].repeat(3, axis=2),
        "label": plane,
        "stitched": np.zeros((2, 100, 513), np.float16),
    }
    with pytest.raises(UserError, match="2050 columns are no multiple of the TA's output stride"):
        RandomScaleCrop((200, 256))({**arrays, "is_full_panorama": True, "image_id": "a"})


def test_crop_refuses_what_cannot_be() -> None:
    with pytest.raises(UserError, match="crop_size"):
        RandomScaleCrop((64, 64))(coded())
    cropped = RandomScaleCrop((16, 24))(coded())
    for transform in (CyclicShift(), RandomScaleCrop((8, 8))):
        with pytest.raises(UserError, match="before"):
            transform(cropped)


def test_flipped_boundary_is_compared_in_its_own_orientation() -> None:
    """A mirrored boundary map is not the boundary of the mirrored labels; un-mirroring both is exact."""
    label = MemoryReader().labels["pano/0.png"]
    boundary = label_boundary(label)
    mirrored = label[:, ::-1]
    assert (label_boundary(mirrored) != boundary[:, ::-1]).any()
    perfect = torch.nn.functional.one_hot(torch.from_numpy(mirrored.copy()).long(), 4).movedim(-1, 0)[None]
    target = torch.from_numpy(boundary[:, ::-1].copy())[None]
    minimum = -np.log1p(-1e-3)
    exact = losses.boundary_loss(perfect.flip(-1).float(), target.flip(-1))
    assert exact == pytest.approx(minimum, rel=1e-4)
    assert losses.boundary_loss(perfect.float(), target) > 2 * minimum


def test_pack() -> None:
    dataset = PseudoLabelDataset(MemoryReader(), SPACE)
    results = MirrorPanorama(1.0)(dataset.load("pano/1.png"))
    packed = PackMKAInputs()(results)
    sample = packed["data_samples"]
    assert packed["inputs"].shape == (3, 32, 64)
    assert packed["inputs"].dtype == torch.uint8
    assert sample.gt_sem_seg.data.shape == (1, 32, 64)
    assert sample.gt_sem_seg.data.dtype == torch.int64
    assert sample.stitched.data.shape == (4, 8, 16)
    assert sample.stitched.data.dtype == torch.float16
    for name in ("gate", "weight", "boundary"):
        assert sample.get(name).data.shape == (1, 32, 64)
    assert sample.metainfo["flip"] is True
    assert sample.metainfo["image_id"] == "pano/1.png"
    np.testing.assert_array_equal(packed["inputs"].numpy().transpose(1, 2, 0), results["img"])
