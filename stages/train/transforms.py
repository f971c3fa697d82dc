"""Augmentation of the image together with the cached arrays.

`S̄` has the teacher's output stride, all other arrays have full size. Shifts and crops move by whole cells of the coarse
grid: image and arrays stay aligned exactly, and `S̄` is never resampled. Photometric augmentation is mmseg's own
`PhotoMetricDistortion`, which changes `img` alone (it treats red and blue alike, so that RGB serves as well as BGR).

The transforms take the dict of `PseudoLabelDataset.load`. Random numbers come from numpy's global generator, like those
of mmcv and mmseg; the dataset seeds it for every sample.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import torch
from mmcv.image import imresize
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.registry import TRANSFORMS
from mmseg.structures import SegDataSample

from pipeline.core.errors import UserError

#: Full-size arrays `(H, W)` that follow the image, and those of a pixel's windows, `(n, H, W)`.
PLANES = ("label", "gate", "weight", "boundary")
WINDOW_PLANES = ("window_label", "window_weight")


def grid_unit(full: int, coarse: int | None) -> tuple[int, int]:
    """Returns the smallest step that is whole on both grids: `(pixels, grid_cells)`.

    `(4, 1)` for 2048 pixels in 512 cells. Where the sizes do not divide, the step grows up to the whole side.
    """
    if coarse is None:
        return 1, 1
    common = gcd(full, coarse)
    return full // common, coarse // common


def row_unit(full: int, coarse: int | None) -> tuple[int, int]:
    """Returns `grid_unit` for rows. They do not wrap around, so that the last cell may reach beyond the image."""
    if coarse is not None and full % coarse and -(-full // (stride := -(-full // coarse))) == coarse:
        return stride, 1
    return grid_unit(full, coarse)


def _grid_units(results: dict[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the steps `(pixels, grid_cells)` of rows and columns."""
    height, width = results["label"].shape
    stitched = results.get("stitched")
    coarse = (None, None) if stitched is None else stitched.shape[-2:]
    return row_unit(height, coarse[0]), grid_unit(width, coarse[1])


@TRANSFORMS.register_module()
class CyclicShift(BaseTransform):
    """Rolls the panorama, with probability `prob`, by a random multiple of the output stride in columns [O].

    It is a rotation about the vertical axis, which is exact for equirectangular panoramas.
    """

    def __init__(self, prob: float = 1.0) -> None:
        self.prob = prob

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if not results["is_full_panorama"]:
            raise UserError("CyclicShift: must come before any crop")
        if np.random.rand() >= self.prob:  # noqa: NPY002 (see the module's docstring)
            return results
        _, (pixels, grid_cells) = _grid_units(results)
        steps = np.random.randint(results["label"].shape[1] // pixels)  # noqa: NPY002
        results["img"] = np.roll(results["img"], steps * pixels, axis=1)
        for name in (*PLANES, *WINDOW_PLANES):
            if name in results:
                results[name] = np.roll(results[name], steps * pixels, axis=-1)
        if "stitched" in results:
            results["stitched"] = np.roll(results["stitched"], steps * grid_cells, axis=2)
        return results


@TRANSFORMS.register_module()
class MirrorPanorama(BaseTransform):
    """Flips left and right with probability `prob`.

    The boundary operator compares a pixel with its *right* neighbour, so that the mirror image of a boundary map is
    not the boundary map of the mirror image (it is shifted by one column). The loss therefore flips predictions and
    boundaries back where `flip` is set.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if np.random.rand() >= self.prob:  # noqa: NPY002
            return results
        results["img"] = np.ascontiguousarray(results["img"][:, ::-1])
        for name in (*PLANES, *WINDOW_PLANES, "stitched"):
            if name in results:
                results[name] = results[name][..., ::-1]
        results["flip"] = not results["flip"]
        return results


@TRANSFORMS.register_module()
class RandomScaleCrop(BaseTransform):
    """Crops a random region, which may cross the seam, and resizes its image to `crop_size` [O].

    The region is `crop_size / scale`, rounded to whole cells of `S̄` and limited to the panorama: if `crop_size` has the
    full height, only scales >= 1 are possible. Labels, weights, boundary and `S̄` keep their resolution, because the
    loss resizes the logits to the size of the labels: no label is interpolated, and a boundary stays one pixel wide.
    Rows below the last whole cell are left out where the TA's stride does not divide the height.

    Args:
        crop_size: `(height, width)` of the resulting image.
        scale_range: the scale is drawn log-uniformly from it; `(1, 1)` only crops.
    """

    def __init__(self, crop_size: tuple[int, int], scale_range: tuple[float, float] = (1.0, 1.0)) -> None:
        self.crop_size = tuple(crop_size)
        self.scale_range = scale_range

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if not results["is_full_panorama"]:
            raise UserError("RandomScaleCrop: must come before any other crop")
        height, width = results["label"].shape
        if self.crop_size[0] > height or self.crop_size[1] > width:
            raise UserError(f"{results['image_id']}: crop_size {self.crop_size} is larger than {(height, width)}")
        scale = np.exp(np.random.uniform(*np.log(self.scale_range)))  # noqa: NPY002
        scale = max(scale, self.crop_size[0] / height, self.crop_size[1] / width)
        unit_y, unit_x = _grid_units(results)
        if unit_x[0] > self.crop_size[1]:
            raise UserError(
                f"{results['image_id']}: {width} columns are no multiple of the TA's output stride, so no crop of "
                f"{self.crop_size[1]} columns fits its cells; expected another width, see preprocessing.size"
            )
        rows = _whole_units(self.crop_size[0] / scale, unit_y[0], height)
        columns = _whole_units(self.crop_size[1] / scale, unit_x[0], width)
        top = np.random.randint(height // unit_y[0] - rows + 1)  # noqa: NPY002
        positions = width // unit_x[0]
        left = 0 if columns == positions else np.random.randint(positions)  # noqa: NPY002

        def crop(array: np.ndarray, axis: int, unit: int) -> np.ndarray:
            """Crops rows `axis` and columns `axis + 1`, in units of pixels (`unit` 0) or grid cells (`unit` 1)."""
            outer = (slice(None),) * axis
            strip = array[(*outer, slice(top * unit_y[unit], (top + rows) * unit_y[unit]))]
            first, count = left * unit_x[unit], columns * unit_x[unit]
            beyond = max(0, first + count - array.shape[axis + 1])
            inside = strip[(*outer, slice(None), slice(first, first + count - beyond))]
            if not beyond:
                return inside
            return np.concatenate([inside, strip[(*outer, slice(None), slice(beyond))]], axis=axis + 1)

        image = crop(results["img"], 0, 0)
        if image.shape[:2] != self.crop_size:
            image = imresize(image, self.crop_size[::-1], interpolation="bilinear")
        results["img"] = image
        axes = dict.fromkeys(PLANES, (0, 0)) | dict.fromkeys(WINDOW_PLANES, (1, 0)) | {"stitched": (1, 1)}
        for name in set(axes) & set(results):
            results[name] = crop(results[name], *axes[name])
        results["img_shape"] = self.crop_size
        results["is_full_panorama"] = columns == positions
        results["last_row"] = (top + rows) * unit_y[0] == height
        return results


def _whole_units(length: float, unit: int, limit: int) -> int:
    return int(np.clip(round(length / unit), 1, limit // unit))


@TRANSFORMS.register_module()
class PackMKAInputs(BaseTransform):
    """Packs the results for the model: `inputs` uint8 `(3, h, w)` RGB and a `SegDataSample`.

    The sample has `gt_sem_seg` (int64 `(1, H, W)`) and, where present, `stitched` (float16 `(C, h', w')`), `gate`,
    `weight`, `boundary` (uint8 `(1, H, W)`), `window_label` and `window_weight` (uint8 `(n, H, W)`). Its metainfo
    holds the keys `META` of the results.
    """

    META = ("image_id", "ori_shape", "img_shape", "is_full_panorama", "last_row", "flip")

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        image = np.ascontiguousarray(results["img"].transpose(2, 0, 1))
        sample = SegDataSample(metainfo={key: results[key] for key in self.META})
        label = torch.from_numpy(results["label"].astype(np.int64))
        sample.gt_sem_seg = PixelData(data=label[None])
        for name in ("gate", "weight", "boundary", *WINDOW_PLANES, "stitched"):
            if name in results:
                array = torch.from_numpy(np.ascontiguousarray(results[name]))
                sample.set_data({name: PixelData(data=array if array.ndim == 3 else array[None])})
        return {"inputs": torch.from_numpy(image), "data_samples": sample}
