"""The dataset of a training: panoramas with pseudo-labels from a `Reader`, checked and handed to the transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmseg.registry import TRANSFORMS
from torch.utils.data import Dataset

from pipeline.core.errors import UserError
from pipeline.data.labels import LabelSpace
from pipeline.data.samples import FusedSample, Reader
from pipeline.geometry.windows import stack_windows
from stages.train.mmengine_internals import seed_transforms

Panorama = tuple[np.ndarray, FusedSample]  #: Image and pseudo-label of a panorama.


class PanoramaStore:
    """Reads panoramas, keeps as many of them as fit into `memory` (bytes), and reads others ahead in a thread.

    Two threads call the `reader` at a time. Panoramas that do not fit are read again every time.
    """

    def __init__(self, reader: Reader, memory: int) -> None:
        self.reader = reader
        self._free = memory
        self._panoramas: dict[str, Panorama] = {}
        self._pending: dict[str, Future[Panorama]] = {}
        self._thread: ThreadPoolExecutor | None = None  # started when needed: loader processes receive a copy

    def prefetch(self, image_id: str) -> None:
        """Starts to read a panorama that `fetch` will return later."""
        if image_id not in self._panoramas and image_id not in self._pending:
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="prefetch")
            self._pending[image_id] = self._thread.submit(self._read, image_id)

    def fetch(self, image_id: str) -> Panorama:
        """Returns a panorama; its arrays must not be changed. Raises what the reader raises."""
        future = self._pending.pop(image_id, None)
        if image_id in self._panoramas:
            return self._panoramas[image_id]
        image, fused = panorama = future.result() if future else self._read(image_id)
        size = image.nbytes + sum(getattr(value, "nbytes", 0) for value in vars(fused).values())
        if size <= self._free:
            self._free -= size
            self._panoramas[image_id] = panorama
        return panorama

    def _read(self, image_id: str) -> Panorama:
        return self.reader.image(image_id), self.reader.fused(image_id)


class PseudoLabelDataset(Dataset):
    """Panoramas with pseudo-labels, through a pipeline of transforms.

    Args:
        reader: reads images and pseudo-labels.
        space: the classes of the labels.
        pipeline: configs of transforms, which take the results of `load`.
        ids: the images to use; None for all of the reader.
        seed: with the number of a sample (`NumberedSampler`) it determines the sample's augmentation.
        memory: MiB of decoded panoramas to keep in each process.

    Raises `UserError` if there are no images.
    """

    def __init__(
        self,
        reader: Reader,
        space: LabelSpace,
        pipeline: Sequence[Mapping[str, Any]] = (),
        *,
        ids: Sequence[str] | None = None,
        seed: int = 0,
        memory: int = 0,
    ) -> None:
        self.ids = tuple(reader.ids if ids is None else ids)
        self.space, self.seed = space, seed
        self.store = PanoramaStore(reader, memory * 2**20)
        self.transforms = Compose([TRANSFORMS.build(transform) for transform in pipeline])
        if not self.ids:
            raise UserError("no images to train on: the reader lists none")

    @property
    def metainfo(self) -> dict[str, Any]:
        """`classes` and `palette`, as in every mmseg dataset."""
        return {"classes": self.space.classes, "palette": [list(colour) for colour in self.space.palette]}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, item: int | tuple[int, ...]) -> Any:
        """Returns sample `index`, `(index, number)` or `(index, number, next_index)`, see `NumberedSampler`.

        The same index and number give the same augmentation in every process.
        """
        index, *number = item if isinstance(item, tuple) else (item,)
        if number[1:]:
            self.store.prefetch(self.ids[number[1]])
        if number:
            seed_transforms(self.seed, number[0])
        return self.transforms(self.load(self.ids[index]))

    def load(self, image_id: str) -> dict[str, Any]:
        """Reads one panorama for the transforms.

        Returns:
            `img` uint8 `(H, W, 3)` RGB; `label` and, where present, `stitched`, `gate`, `weight`, `boundary` as in
            `FusedSample`; of a rule that labels each window by itself also `window_label` and `window_weight`, uint8
            `(n, H, W)`: for each pixel those of the windows that cover it; `image_id`; `ori_shape` and `img_shape`
            `(H, W)`; `is_full_panorama` (column 0 is a neighbour of the last), `last_row` (the last row is that of
            the panorama) and `flip`. Raises `UserError` if sizes, dtypes or classes do not fit.
        """
        image, fused = self.store.fetch(image_id)
        self._check(image_id, image, fused)
        arrays = {name: getattr(fused, name) for name in ("label", "gate", "weight", "boundary", "stitched")}
        arrays |= self._window_planes(image_id, fused)
        # transforms may write; the stored panorama must not change
        copies = {name: array.copy() for name, array in arrays.items() if array is not None}
        size = {"ori_shape": image.shape[:2], "img_shape": image.shape[:2]}
        state = {"is_full_panorama": True, "last_row": True, "flip": False}
        return {"img": image.copy(), **copies, "image_id": image_id, **size, **state}

    def _check(self, image_id: str, image: np.ndarray, fused: FusedSample) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"{image_id}: expected a uint8 (H, W, 3) image, found {image.dtype} {image.shape}")
        size, classes, ignore = image.shape[:2], self.space.num_classes, self.space.ignore_index
        for name in ("label", "gate", "weight", "boundary"):
            plane = getattr(fused, name)
            if plane is not None and (plane.dtype != np.uint8 or plane.shape != size):
                raise UserError(f"{image_id}: expected {name} uint8 {size}, found {plane.dtype} {plane.shape}")
        labels = fused.label[fused.label != ignore]
        if labels.size and labels.max() >= classes:
            raise UserError(f"{image_id}: label {labels.max()} found; expected 0..{classes - 1} or {ignore}")
        if fused.stitched is not None:
            shape = fused.stitched.shape
            if len(shape) != 3 or shape[0] != classes or shape[1] > size[0] or shape[2] > size[1]:
                raise UserError(f"{image_id}: expected stitched ({classes}, h, w), found {shape}")
            if fused.gate is None or fused.weight is None:
                raise UserError(f"{image_id}: a sample with stitched needs gate and weight too")

    def _window_planes(self, image_id: str, fused: FusedSample) -> dict[str, np.ndarray]:
        """Returns `E_i` and `M_i` of all windows at each pixel; nothing for rules that fuse whole panoramas."""
        planes = {}
        for name, fill in (("window_label", self.space.ignore_index), ("window_weight", 0)):
            plane = getattr(fused, name)
            if plane is None:
                continue
            if plane.dtype != np.uint8 or len(plane) != len(fused.windows):
                expected = f"uint8, one plane for each of {len(fused.windows)} windows"
                raise UserError(f"{image_id}: expected {name} {expected}, found {plane.dtype} {plane.shape}")
            planes[name] = stack_windows(fused.windows, plane, fused.label.shape[:2], fill)
        return planes
