"""Storage of views and mask sets in an image's zarr group; the same in every artefact that has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.cache.artefact import ImageGroup, ImageWriter
from pipeline.core.errors import ImageError
from pipeline.core.reading import short_repr
from pipeline.geometry.masks import TABLE, MaskSet
from pipeline.geometry.perspective import Perspective
from pipeline.geometry.views import View
from pipeline.geometry.windows import Window

#: Columns of the stored table: the view (0 for a set on the panorama), then those of masks.TABLE.
COLUMNS = ("view", *TABLE.names)  # type: ignore[misc]


def views_to_attributes(views: Sequence[View], image_size: tuple[int, int]) -> dict[str, Any]:
    """Returns attributes: `image_size` [H, W], and `views`, windows as lists and perspective views as mappings."""
    stored = [
        asdict(view) if isinstance(view, Perspective) else [view.y0, view.x0, view.height, view.width] for view in views
    ]
    return {"image_size": list(image_size), "views": stored}


def views_from_attributes(group: ImageGroup) -> tuple[tuple[View, ...], tuple[int, int]]:
    """Returns the views and the panorama's (H, W).

    Raises `ImageError` if an attribute is missing or malformed, or a view does not fit the panorama.
    """
    try:
        height, width = (int(n) for n in group.attributes["image_size"])
        views = tuple(map(_view, group.attributes["views"]))
        if not views:
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ImageError(
            f"{group}: expected attributes image_size [H, W] and "
            "views [[y0, x0, height, width] or {column, pitch, fov, height, width}, ...]"
        ) from None
    for view in views:
        if isinstance(view, Perspective):
            fits = 0 <= view.column < width and -90 <= view.pitch <= 90 and 0 < view.fov < 180
        else:
            fits = view.y0 >= 0 and view.y0 + view.height <= height and 0 < view.width <= width and 0 <= view.x0 < width
        if not (fits and view.height > 0 and view.width > 0):
            raise ImageError(f"{group}: view {view} does not fit {height} x {width}")
    return views, (height, width)


def _view(stored: Any) -> View:
    if not isinstance(stored, dict):
        return Window(*(int(n) for n in stored))
    integers = {name: int(stored[name]) for name in ("column", "height", "width")}
    return Perspective(pitch=float(stored["pitch"]), fov=float(stored["fov"]), **integers)


def stack_padded(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks arrays `(..., h, w)` that may differ in size on a new first axis; zero below and right of smaller ones."""
    height, width = (max(part.shape[axis] for part in parts) for axis in (-2, -1))
    stacked = np.zeros((len(parts), *parts[0].shape[:-2], height, width), dtype=parts[0].dtype)
    for row, part in zip(stacked, parts, strict=True):
        row[..., : part.shape[-2], : part.shape[-1]] = part
    return stacked


def write_mask_sets(writer: ImageWriter, sets: Sequence[MaskSet]) -> None:
    """Writes one mask set per view: `planes` uint16 (P, h, w), `plane_view` (P,), `table` float64 (K, columns).

    Planes of smaller views are zero below and right of the view. The attribute `columns` is added.
    """
    from numpy.lib.recfunctions import structured_to_unstructured

    writer.attributes["columns"] = list(COLUMNS)
    height, width = (max(s.shape[axis] for s in sets) for axis in (0, 1))
    planes = np.zeros((sum(len(s.planes) for s in sets), height, width), np.uint16)
    for row, plane in zip(planes, (plane for s in sets for plane in s.planes), strict=True):
        row[: plane.shape[0], : plane.shape[1]] = plane
    plane_view = np.repeat(np.arange(len(sets), dtype=np.uint16), [len(s.planes) for s in sets])
    rows = [np.insert(structured_to_unstructured(s.table, np.float64), 0, view, axis=1) for view, s in enumerate(sets)]
    writer.add_array("planes", planes, chunks=(1, *planes.shape[1:]))
    writer.add_array("plane_view", plane_view)
    writer.add_array("table", np.concatenate(rows))


def read_mask_sets(group: ImageGroup, shapes: Sequence[tuple[int, int]]) -> list[MaskSet]:
    """Returns the mask sets of views of these `shapes` (h, w).

    The table of another program may lack columns but `view` and `plane`: `area` is counted, others are NaN or 0.
    Raises `ImageError` if arrays or attributes are missing or do not fit the views.
    """
    planes, plane_view = group.read_array("planes", ndim=3), group.read_array("plane_view", ndim=1)
    stored, columns = group.read_array("table", ndim=2), group.attributes.get("columns", [])
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise ImageError(f"{group}: attribute columns is {short_repr(columns)}, expected a list of names")
    shape = tuple(map(max, zip(*shapes, strict=True)))
    if planes.shape[1:] != shape or planes.dtype != np.uint16 or len(plane_view) != len(planes):
        expected = f"uint16 (P, {shape[0]}, {shape[1]})"
        raise ImageError(f"{group}: planes are {planes.dtype} {planes.shape}, expected {expected}")
    if not {"view", "plane"} <= set(columns) or stored.shape[1] != len(columns):
        found = f"{stored.shape} with columns {short_repr(columns)}"
        raise ImageError(f"{group}: table is {found}, expected at least view and plane")
    sets = []
    for view, (height, width) in enumerate(shapes):
        rows = stored[stored[:, columns.index("view")] == view]
        view_planes = _select_planes(planes, np.flatnonzero(plane_view == view))[:, :height, :width]
        if view_planes.size and view_planes.max() > len(rows):
            problem = f"holds label {view_planes.max()}, but its table has {len(rows)} rows"
            raise ImageError(f"{group}: a plane of view {view} {problem}")
        table = np.zeros(len(rows), TABLE)
        for name in TABLE.names or ():
            if name in columns:
                values = rows[:, columns.index(name)]
                table[name] = values if TABLE[name].kind == "f" else np.nan_to_num(values)
            elif TABLE[name].kind == "f":
                table[name] = np.nan
        if len(table) and table["plane"].max() >= len(view_planes):
            raise ImageError(f"{group}: a mask of view {view} is on plane {table['plane'].max()} of {len(view_planes)}")
        if "area" not in columns and view_planes.size:
            counts = [np.bincount(plane.ravel(), minlength=len(rows) + 1) for plane in view_planes]
            table["area"] = np.sum(counts, axis=0)[1:]
        sets.append(MaskSet(view_planes, table))
    return sets


def _select_planes(planes: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Returns `planes[indices]` (ascending), without a copy if the indices are consecutive."""
    first, last = (indices[0], indices[-1]) if len(indices) else (0, -1)
    return planes[first : last + 1] if last - first + 1 == len(indices) else planes[indices]
