"""What the student is trained on: panoramas with fused pseudo-labels, a reader behind an mmseg dataset.

The reader decides where images and labels come from (the cache, or labelled data); this module checks what
it returns and hands it to the transforms. It never decodes a file and never augments.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose
from mmseg.registry import DATASETS

from pipeline.core.errors import UserError
from pipeline.data.samples import FusedSample, Reader
from pipeline.geometry.windows import layers

#: Image and pseudo-label of a panorama.
Read = tuple[np.ndarray, FusedSample]


def open_reader(spec: Mapping[str, Any]) -> Reader:
    """Call `module:function` with the other keys of the spec.

    The spec is plain data, so that it can stand in a config and be opened again in every worker process. It
    is the caller's own setting; specs from files of others (checkpoints) must never come here.

    Raises:
        UserError: `type` is not an importable `module:function`.
    """
    arguments = dict(spec)
    name = str(arguments.pop("type", ""))
    module, _, function = name.partition(":")
    try:
        opener: Callable[..., Reader] = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"reader.type: expected an importable 'module:function', found {name!r}") from error
    return opener(**arguments)


@DATASETS.register_module()
class PseudoLabelDataset(torch.utils.data.Dataset):
    """Panoramas with pseudo-labels, through a pipeline of transforms.

    Args:
        reader: a `Reader`, or the spec of one (see `open_reader`), which is opened once per process.
        metainfo: `classes` and `palette`, as in every mmseg dataset.
        pipeline: transform configs; they get the keys of `load`.
        ignore_index: the label value without a class.
        ids: the images to use; `None` is all of the reader's.
        memory: MiB of decoded panoramas that a process keeps; those that do not fit are read again every time.
        seed: with the number of a sample in the stream (`NumberedSampler`) it determines that sample's augmentation.
    """

    def __init__(
        self,
        reader: Reader | Mapping[str, Any],
        metainfo: Mapping[str, Any],
        pipeline: Sequence[Mapping[str, Any]] = (),
        ignore_index: int = 255,
        ids: Sequence[str] | None = None,
        seed: int = 0,
        memory: int = 0,
    ) -> None:
        self._spec = reader
        self._opened: tuple[int, Reader] | None = None
        self._metainfo = dict(metainfo)
        self._classes = len(self._metainfo["classes"])
        self.ignore_index = ignore_index
        self.pipeline = Compose(list(pipeline))
        self.ids = tuple(self.reader.ids if ids is None else ids)
        self.seed = seed
        self._kept: dict[str, Read] = {}
        self._coming: dict[str, tuple[Future[Read], int]] = {}  # and how many samples will be drawn of it
        self._thread: tuple[int, ThreadPoolExecutor] | None = None
        self._room = memory * 2**20
        if not self.ids:
            raise UserError("no images to train on: the reader lists none")

    @property
    def metainfo(self) -> dict[str, Any]:
        """A copy of `classes` and `palette`."""
        return dict(self._metainfo)

    @property
    def reader(self) -> Reader:
        """This process's reader: a spec is opened anew after a fork, which open stores may not survive."""
        if not isinstance(self._spec, Mapping):
            return self._spec
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), open_reader(self._spec))
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_kept": {}, "_coming": {}, "_thread": None}

    def _read(self, image_id: str) -> Read:
        begun, draws = self._coming.pop(image_id, (None, 0))
        if begun is not None and draws > 1:
            self._coming[image_id] = begun, draws - 1
        if image_id in self._kept:
            return self._kept[image_id]
        read = self._read_now(image_id) if begun is None else begun.result()
        size = read[0].nbytes + sum(getattr(value, "nbytes", 0) for value in vars(read[1]).values())
        if size <= self._room:
            self._room -= size
            self._kept[image_id] = read
        return read

    def _read_now(self, image_id: str) -> Read:
        return self.reader.image(image_id), self.reader.fused(image_id)

    def _begin(self, image_id: str) -> None:
        """Has a thread read what is wanted soon; it draws no random number, so no sample depends on it."""
        if self._thread is None or self._thread[0] != os.getpid():  # a fork takes no threads along
            self._thread = (os.getpid(), ThreadPoolExecutor(1, thread_name_prefix="reading"))
            self._coming = {}
        if image_id not in self._kept:
            begun, draws = self._coming.get(image_id) or (self._thread[1].submit(self._read_now, image_id), 0)
            self._coming[image_id] = begun, draws + 1

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, item: int | tuple[int, ...]) -> Any:
        """Sample `index`, `(index, number)`, or `(index, number, coming)`.

        The same index and number give the same augmentation, in whatever process. The panorama `coming` is read by a
        thread from now on; the sampler says so of what is drawn soon.
        """
        if not isinstance(item, tuple):
            return self.pipeline(self.load(self.ids[item]))
        index, number, *coming = item
        for later in coming:
            self._begin(self.ids[later])
        np.random.seed([self.seed, number])  # noqa: NPY002 (the generator of mmcv's and our transforms)
        return self.pipeline(self.load(self.ids[index]))

    def load(self, image_id: str) -> dict[str, Any]:
        """Image and arrays of one panorama as the transforms take them.

        Returns:
            `img` uint8 `(H, W, 3)` RGB; `label`, and where present `stitched`, `gate`, `weight`,
            `boundary`, as in `FusedSample`; of a rule that works per window also `window_label` and `window_weight`
            uint8 `(n, H, W)`: what each of the windows that hold a pixel says of it; `image_id`, `ori_shape`,
            `img_shape` `(H, W)`; and what the arrays still are: `full_ring` (column 0 touches the last one),
            `last_row` (the last row is the panorama's own), `flip`.

        Raises:
            UserError: sizes, dtypes or classes do not fit.
        """
        image, fused = self._read(image_id)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"{image_id}: expected a uint8 (H, W, 3) image, found {image.dtype} {image.shape}")
        size = image.shape[:2]
        planes = {
            "label": fused.label,
            "gate": fused.gate,
            "weight": fused.weight,
            "boundary": fused.boundary,
        }
        for name, plane in planes.items():
            if plane is not None and (plane.dtype != np.uint8 or plane.shape != size):
                raise UserError(f"{image_id}: expected {name} uint8 {size}, found {plane.dtype} {plane.shape}")
        known = fused.label[fused.label != self.ignore_index]
        if known.size and known.max() >= self._classes:
            expected = f"expected 0..{self._classes - 1} or {self.ignore_index}"
            raise UserError(f"{image_id}: label {known.max()} found; {expected}")
        if fused.stitched is not None:
            shape = fused.stitched.shape
            if len(shape) != 3 or shape[0] != self._classes or shape[1] > size[0] or shape[2] > size[1]:
                raise UserError(f"{image_id}: expected stitched ({self._classes}, h, w), found {shape}")
            if fused.gate is None or fused.weight is None:
                raise UserError(f"{image_id}: a sample with stitched needs gate and weight too")
        arrays = {**planes, "stitched": fused.stitched, **self._per_window(image_id, fused)}
        return {
            "img": image.copy(),  # transforms may write; what is kept stays
            **{name: array.copy() for name, array in arrays.items() if array is not None},
            "image_id": image_id,
            "ori_shape": size,
            "img_shape": size,
            "full_ring": True,
            "last_row": True,
            "flip": False,
        }

    def _per_window(self, image_id: str, fused: FusedSample) -> dict[str, np.ndarray]:
        """`E_i` and `M_i` of every window, each pixel's below each other; nothing for other rules."""
        planes = {"window_label": fused.window_label, "window_weight": fused.window_weight}
        found = {}
        for (name, plane), fill in zip(planes.items(), (self.ignore_index, 0), strict=True):
            if plane is None:
                continue
            if plane.dtype != np.uint8 or len(plane) != len(fused.windows):
                expected = f"uint8, one plane for each of {len(fused.windows)} windows"
                raise UserError(f"{image_id}: expected {name} {expected}, found {plane.dtype} {plane.shape}")
            found[name] = layers(fused.windows, plane, fused.label.shape[:2], fill)
        return found
