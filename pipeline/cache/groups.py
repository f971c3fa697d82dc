"""How views and mask sets are laid down in an image's zarr group; the same for every artefact that has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.cache.artefact import Attempt, ImageGroup
from pipeline.core.errors import ImageError
from pipeline.core.reading import shown
from pipeline.geometry.masks import TABLE, MaskSet
from pipeline.geometry.perspective import Perspective
from pipeline.geometry.views import View
from pipeline.geometry.windows import Window

#: Columns of the stored table: the view (0 for a set on the panorama), then those of masks.TABLE.
COLUMNS = ("view", *TABLE.names)  # type: ignore[misc]


def views_to_attributes(views: Sequence[View], image_size: tuple[int, int]) -> dict[str, Any]:
    """Attributes that place the views: `image_size` [H, W] and `views`, each [y0, x0, height, width] of a window or
    the fields of a perspective view by name."""
    described = [
        asdict(view) if isinstance(view, Perspective) else [view.y0, view.x0, view.height, view.width] for view in views
    ]
    return {"image_size": list(image_size), "views": described}


def views_from_attributes(group: ImageGroup) -> tuple[tuple[View, ...], tuple[int, int]]:
    """The views and the panorama's (H, W). Raises `ImageError` if they are missing or wrong."""
    attributes = group.attributes
    try:
        height, width = (int(n) for n in attributes["image_size"])
        views = tuple(_view(described) for described in attributes["views"])
        if not views:
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ImageError(
            f"{group.marker.id}: {group.artefact.path}: expected attributes image_size [H, W] and "
            f"views [[y0, x0, height, width] or {{column, pitch, fov, height, width}}, ...]"
        ) from None
    for view in views:
        if isinstance(view, Perspective):
            fits = 0 <= view.column < width and -90 <= view.pitch <= 90 and 0 < view.fov < 180
        else:
            fits = view.y0 >= 0 and view.y0 + view.height <= height and 0 < view.width <= width and 0 <= view.x0 < width
        if not (fits and view.height > 0 and view.width > 0):
            raise ImageError(f"{group.marker.id}: {group.artefact.path}: view {view} does not fit {height} x {width}")
    return views, (height, width)


def _view(described: Any) -> View:
    if not isinstance(described, dict):
        return Window(*(int(n) for n in described))
    whole = {name: int(described[name]) for name in ("column", "height", "width")}
    return Perspective(pitch=float(described["pitch"]), fov=float(described["fov"]), **whole)


def stack_padded(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays `(..., h, w)` of views that differ in size on a new first axis, zero below and right of smaller ones."""
    height, width = (max(part.shape[axis] for part in parts) for axis in (-2, -1))
    stacked = np.zeros((len(parts), *parts[0].shape[:-2], height, width), dtype=parts[0].dtype)
    for row, part in zip(stacked, parts, strict=True):
        row[..., : part.shape[-2], : part.shape[-1]] = part
    return stacked


def write_mask_sets(attempt: Attempt, sets: Sequence[MaskSet]) -> None:
    """Writes one mask set a view: `planes` uint16 (P, h, w), `plane_view` (P,), `table` float64 (K, columns).

    Planes of views that differ in size have zeros below and right of their own part.
    Attributes of the attempt must be set before; `columns` is added to them.
    """
    attempt.attributes["columns"] = list(COLUMNS)
    height, width = (max(s.shape[axis] for s in sets) for axis in (0, 1))
    planes = np.zeros((sum(len(s.planes) for s in sets), height, width), np.uint16)
    for row, plane in zip(planes, (plane for s in sets for plane in s.planes), strict=True):
        row[: plane.shape[0], : plane.shape[1]] = plane
    plane_view = np.concatenate([np.full(len(s.planes), view, np.uint16) for view, s in enumerate(sets)])
    rows = [
        np.column_stack(
            [np.full(len(s), float(view)), *(s.table[name].astype(np.float64) for name in TABLE.names or ())]
        )
        for view, s in enumerate(sets)
    ]
    attempt.array("planes", planes, chunks=(1, *planes.shape[1:]))
    attempt.array("plane_view", plane_view)
    attempt.array("table", np.concatenate(rows))


def read_mask_sets(group: ImageGroup, shapes: Sequence[tuple[int, int]]) -> list[MaskSet]:
    """The mask sets of views of these `shapes` (h, w). Raises `ImageError` where they do not fit.

    Columns that are missing in the stored table (a foreign program's) are NaN or 0; `view`, `plane` and the planes
    are needed, `area` is counted anew where it is missing.
    """
    where = f"{group.marker.id}: {group.artefact.path}"
    planes, plane_view = group.array("planes", ndim=3), group.array("plane_view", ndim=1)
    stored, columns = group.array("table", ndim=2), group.attributes.get("columns", [])
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise ImageError(f"{where}: attribute columns is {shown(columns)}, expected a list of names")
    shape = max(h for h, _ in shapes), max(w for _, w in shapes)
    if planes.shape[1:] != shape or planes.dtype != np.uint16 or len(plane_view) != len(planes):
        raise ImageError(
            f"{where}: planes are {planes.dtype} {planes.shape}, expected uint16 (P, {shape[0]}, {shape[1]})"
        )
    if not {"view", "plane"} <= set(columns) or stored.shape[1] != len(columns):
        raise ImageError(
            f"{where}: table is {stored.shape} with columns {shown(columns)}, expected at least view and plane"
        )
    sets = []
    for view, (height, width) in enumerate(shapes):
        rows = stored[stored[:, columns.index("view")] == view]
        own = _planes_of(planes, np.flatnonzero(plane_view == view))[:, :height, :width]
        if own.size and own.max() > len(rows):
            raise ImageError(
                f"{where}: a plane of view {view} holds label {own.max()}, but its table has {len(rows)} rows"
            )
        table = np.zeros(len(rows), TABLE)
        for name in TABLE.names or ():
            if name in columns:
                values = rows[:, columns.index(name)]
                table[name] = values if TABLE[name].kind == "f" else np.nan_to_num(values)
            elif TABLE[name].kind == "f":
                table[name] = np.nan
        if len(table) and len(own) and table["plane"].max() >= len(own):
            raise ImageError(f"{where}: a mask of view {view} is on plane {table['plane'].max()} of {len(own)}")
        if "area" not in columns and own.size:
            counts = [np.bincount(plane.ravel(), minlength=len(rows) + 1) for plane in own]
            table["area"] = np.sum(counts, axis=0)[1:]
        sets.append(MaskSet(own, table))
    return sets


def _planes_of(planes: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """`planes[indices]` (ascending), without a copy where they follow each other."""
    first, last = (indices[0], indices[-1]) if len(indices) else (0, -1)
    return planes[first : last + 1] if last - first + 1 == len(indices) else planes[indices]
