"""Augmentation of image and cached arrays alike, pixel for pixel.

`S̄` lies at the teacher's output stride, everything else at full size. Shifts and crops move by whole cells
of the coarse grid, so the two stay aligned exactly, and `S̄` is never resampled here. Photometric
augmentation is mmseg's own `PhotoMetricDistortion`, which touches `img` alone (it is symmetric in red and
blue, so RGB is as good as BGR).

All transforms work on the dict of `PseudoLabelDataset.load`. Random numbers come from numpy's global
generator, which mmengine seeds per worker.
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

PLANES = ("label", "gate", "weight", "boundary")
"""Full-size `(H, W)` arrays that follow the image."""

LAYERS = ("window_label", "window_weight")
"""Those of each window, `(n, H, W)`."""


def grid_unit(full: int, coarse: int | None) -> tuple[int, int]:
    """The smallest step that is whole on both grids: `(pixels, cells)`.

    `(4, 1)` for 2048 pixels in 512 cells. Where the sizes do not divide, the step grows, up to the whole
    side.
    """
    if coarse is None:
        return 1, 1
    common = gcd(full, coarse)
    return full // common, coarse // common


def row_unit(full: int, coarse: int | None) -> tuple[int, int]:
    """`grid_unit` of rows, which end: `coarse` cells of one stride, of which the last may reach beyond the image."""
    if coarse is not None and full % coarse and -(-full // (stride := -(-full // coarse))) == coarse:
        return stride, 1
    return grid_unit(full, coarse)


def _units(results: dict[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    height, width = results["label"].shape
    stitched = results.get("stitched")
    coarse = (None, None) if stitched is None else stitched.shape[-2:]
    return row_unit(height, coarse[0]), grid_unit(width, coarse[1])


@TRANSFORMS.register_module()
class CyclicShift(BaseTransform):
    """Roll the panorama by a random number of columns, with probability `prob` [O].

    A rotation about the vertical axis: exact on an equirectangular ring. The shift is a multiple of the
        output stride.
    """

    def __init__(self, prob: float = 1.0) -> None:
        self.prob = prob

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if not results["full_ring"]:
            raise UserError("CyclicShift: must come before any crop")
        if np.random.rand() >= self.prob:  # noqa: NPY002 (the generator that mmengine seeds)
            return results
        _, (pixels, cells) = _units(results)
        steps = np.random.randint(results["label"].shape[1] // pixels)  # noqa: NPY002
        results["img"] = np.roll(results["img"], steps * pixels, axis=1)
        for name in (*PLANES, *LAYERS):
            if name in results:
                results[name] = np.roll(results[name], steps * pixels, axis=-1)
        if "stitched" in results:
            results["stitched"] = np.roll(results["stitched"], steps * cells, axis=2)
        return results


@TRANSFORMS.register_module()
class MirrorPanorama(BaseTransform):
    """Flip left and right, with probability `prob`.

    The boundary operator looks at the *right* neighbour, so the mirror image of a boundary map is not the
    boundary map of the mirror image (it is one column off). `flip` is toggled instead, and the loss
    compares boundaries in the orientation in which `B_ref` was computed: exact.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if np.random.rand() >= self.prob:  # noqa: NPY002
            return results
        results["img"] = np.ascontiguousarray(results["img"][:, ::-1])
        for name in (*PLANES, *LAYERS, "stitched"):
            if name in results:
                results[name] = results[name][..., ::-1]
        results["flip"] = not results["flip"]
        return results


@TRANSFORMS.register_module()
class RandomScaleCrop(BaseTransform):
    """Cut a random region, anywhere on the ring, and resize its image to `crop_size` [O].

    The region is `crop_size / scale`; only the image is resized. Labels, weights, boundary and `S̄` keep
    their own resolution (the loss brings the logits to the label's size), so no label is interpolated and a
    boundary stays one pixel thin. The region is rounded to whole cells of `S̄` and limited to the panorama:
    with `crop_size` the full height, only scales >= 1 are possible. Where the TA's stride does not divide the
    height, the rows below the last whole cell are left out.

    Args:
        crop_size: `(height, width)` of the image afterwards.
        scale_range: the scale is drawn log-uniformly from it; `(1, 1)` only crops.
    """

    def __init__(self, crop_size: tuple[int, int], scale_range: tuple[float, float] = (1.0, 1.0)) -> None:
        self.crop_size = tuple(crop_size)
        self.scale_range = scale_range

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if not results["full_ring"]:
            raise UserError("RandomScaleCrop: must come before any other crop")
        height, width = results["label"].shape
        if self.crop_size[0] > height or self.crop_size[1] > width:
            raise UserError(f"{results['image_id']}: crop_size {self.crop_size} is larger than {(height, width)}")
        low, high = np.log(self.scale_range)
        scale = max(
            np.exp(np.random.uniform(low, high)),  # noqa: NPY002
            self.crop_size[0] / height,
            self.crop_size[1] / width,
        )
        unit_y, unit_x = _units(results)
        if unit_x[0] > self.crop_size[1]:
            raise UserError(
                f"{results['image_id']}: {width} columns are no multiple of the TA's output stride, so no crop of "
                f"{self.crop_size[1]} columns fits its cells; expected another width, see preprocessing.size"
            )
        rows = _whole_units(self.crop_size[0] / scale, unit_y[0], height)
        columns = _whole_units(self.crop_size[1] / scale, unit_x[0], width)
        top = np.random.randint(height // unit_y[0] - rows + 1)  # noqa: NPY002
        places = width // unit_x[0]
        left = 0 if columns == places else np.random.randint(places)  # noqa: NPY002

        def cut(array: np.ndarray, axis: int, unit: int) -> np.ndarray:
            """Rows `axis` and columns `axis + 1`, in steps of the pixels (unit 0) or cells (unit 1) of the
            grid."""
            before = (slice(None),) * axis
            part = array[(*before, slice(top * unit_y[unit], (top + rows) * unit_y[unit]))]
            x, count = left * unit_x[unit], columns * unit_x[unit]
            beyond = max(0, x + count - array.shape[axis + 1])
            inside = part[(*before, slice(None), slice(x, x + count - beyond))]
            if not beyond:
                return inside
            return np.concatenate([inside, part[(*before, slice(None), slice(beyond))]], axis=axis + 1)

        image = cut(results["img"], 0, 0)
        if image.shape[:2] != self.crop_size:
            image = imresize(image, self.crop_size[::-1], interpolation="bilinear")
        results["img"] = image
        for name in PLANES:
            if name in results:
                results[name] = cut(results[name], 0, 0)
        for name in LAYERS:
            if name in results:
                results[name] = cut(results[name], 1, 0)
        if "stitched" in results:
            results["stitched"] = cut(results["stitched"], 1, 1)
        results["img_shape"] = self.crop_size
        results["full_ring"] = columns == places
        results["last_row"] = (top + rows) * unit_y[0] == height
        return results


def _whole_units(length: float, unit: int, limit: int) -> int:
    return int(np.clip(round(length / unit), 1, limit // unit))


@TRANSFORMS.register_module()
class PackMKAInputs(BaseTransform):
    """Pack for the model: `inputs` uint8 `(3, h, w)` RGB and a `SegDataSample`.

    The sample has `gt_sem_seg` (int64 `(1, H, W)`) and, where present, `stitched` (float16 `(C, h', w')`),
    `gate`, `weight`, `boundary` (uint8 `(1, H, W)`), `window_label` and `window_weight` (uint8 `(n, H, W)`); its
    metainfo says what the arrays are.
    """

    META = ("image_id", "ori_shape", "img_shape", "full_ring", "last_row", "flip")

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        image = np.ascontiguousarray(results["img"].transpose(2, 0, 1))
        sample = SegDataSample(metainfo={key: results[key] for key in self.META})
        label = torch.from_numpy(results["label"].astype(np.int64))
        sample.gt_sem_seg = PixelData(data=label[None])
        for name in ("gate", "weight", "boundary"):
            if name in results:
                plane = torch.from_numpy(np.ascontiguousarray(results[name]))
                sample.set_data({name: PixelData(data=plane[None])})
        for name in LAYERS:
            if name in results:
                sample.set_data({name: PixelData(data=torch.from_numpy(np.ascontiguousarray(results[name])))})
        if "stitched" in results:
            stitched = torch.from_numpy(np.ascontiguousarray(results["stitched"]))
            sample.set_data({"stitched": PixelData(data=stitched)})
        return {"inputs": torch.from_numpy(image), "data_samples": sample}
