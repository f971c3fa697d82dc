"""Regions: sets of pixels that are in the same masks. Votes are summed per region, and then per mask.

    masks       1 1 1 .        regions     0 0 0 1
                1 # # 2                    0 2 2 3        (#: pixels of both masks)
                . 2 2 2                    1 3 3 3

Pure functions on arrays. All sums are of whole numbers, so they do not depend on the order of pixels or masks, and a
rolled panorama gives the same votes bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy  # its subpackages are loaded when they are used

from pipeline.geometry.boundaries import dilate
from pipeline.geometry.masks import MaskSet

#: Votes are whole multiples of 1 / UNIT.
UNIT = 1 << 24


@dataclass(frozen=True)
class Regions:
    """The regions of a mask set.

    Attributes:
        index: region of every pixel, int32 `(H, W)` in 0 .. R-1.
        masks: int64 `(R, P)`, index + 1 of the mask on each plane of the set that holds the region, 0 without one.
        count: number of masks, K.
    """

    index: np.ndarray
    masks: np.ndarray
    count: int

    @cached_property
    def membership(self) -> scipy.sparse.csr_matrix:
        """1 for each region in a mask: sparse `(K, R)`."""
        region, plane = np.nonzero(self.masks)
        rows = self.masks[region, plane] - 1
        return scipy.sparse.csr_matrix(
            (np.ones(len(rows), dtype=np.int64), (rows, region)), shape=(self.count, len(self.masks))
        )

    def sum_over_regions(self, values: np.ndarray) -> np.ndarray:
        """Sums `values` `(R, ...)` over the regions of each mask: `(K, ...)`."""
        total: np.ndarray = self.membership @ values
        return total

    def sum_over_masks(self, values: np.ndarray) -> np.ndarray:
        """Sums `values` `(K, ...)` over the masks of each region: `(R, ...)`."""
        total: np.ndarray = self.membership.T @ values
        return total


def find_regions(masks: MaskSet) -> Regions:
    """Returns the regions of a mask set; pixels in no mask are one region. A roll does not change their numbers."""
    index = np.zeros(masks.shape, dtype=np.int64)
    columns = np.zeros((1, 0), dtype=np.int64)
    for plane in masks.planes:
        labels = np.concatenate([[0], np.flatnonzero(masks.table["plane"] == columns.shape[1]) + 1])
        rank = np.zeros(len(masks) + 1, dtype=np.int64)
        rank[labels] = np.arange(len(labels))
        index *= len(labels)
        index += rank.take(plane)
        index, values = _renumber(index, len(columns) * len(labels))
        columns = np.column_stack([columns[values // len(labels)], labels[values % len(labels)]])
    return Regions(index.astype(np.int32), columns, len(masks))


def _renumber(values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Replaces values in 0 .. size-1 by their ranks; returns the ranks and the sorted values that occur."""
    if size > 8 * values.size:
        occurring, ranks = np.unique(values, return_inverse=True)
        return ranks.reshape(values.shape), occurring
    used = np.zeros(size, dtype=bool)
    used[values.ravel()] = True
    return (np.cumsum(used) - 1).take(values), np.flatnonzero(used)


def distance_to_boundary(index: np.ndarray, max_distance: int) -> np.ndarray:
    """Returns the distance of each pixel to the next region: int64 `(H, W)` in 1 .. `max_distance`; cyclic."""
    boundary = index != np.roll(index, -1, axis=1)
    boundary |= np.roll(boundary, 1, axis=1)
    differs_below = index[:-1] != index[1:]
    boundary[:-1] |= differs_below
    boundary[1:] |= differs_below
    distance = np.ones(index.shape, dtype=np.int64)
    for radius in range(max_distance - 1):
        distance += ~dilate(boundary, radius)
    return distance


def soft_votes(regions: Regions, weight: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Sums class votes over each region's pixels: float64 `(R, C)`, whole multiples of 1 / `UNIT`.

    `votes` `(C, h, w)` are in 0..1, on a grid of which a pixel takes the nearest value; `weight` `(H, W)` is an integer
    factor of each pixel.
    """
    (height, width), (classes, h, w) = regions.index.shape, votes.shape
    step = width // w
    rows = ((np.arange(height) + 0.5) * h / height).astype(np.int64)
    scaled = np.ascontiguousarray(np.moveaxis(np.rint(votes.astype(np.float64) * UNIT), 0, -1))[rows]
    # A row of the matrix holds the pixels of one image row that share a grid value.
    ends = np.arange(0, height * width + 1, step)
    pixels = scipy.sparse.csr_matrix(
        (weight.ravel().astype(np.float64), regions.index.ravel(), ends), shape=(height * w, len(regions.masks))
    )
    total: np.ndarray = pixels.T @ scaled.reshape(height * w, classes)
    return total / UNIT


def connected_components(labels: np.ndarray) -> np.ndarray:
    """Numbers the connected components (4 neighbours, across the seam) of `labels` uint8 `(H, W)`: int32 from 0."""
    from skimage.measure import label

    components = label(labels.astype(np.int16) + 1, background=0, connectivity=1)
    crosses_seam = labels[:, 0] == labels[:, -1]
    count = int(components.max()) + 1
    pairs = components[crosses_seam, 0], components[crosses_seam, -1]
    edges = scipy.sparse.coo_matrix((np.ones(len(pairs[0]), dtype=bool), pairs), shape=(count, count))
    # Component 0 does not occur.
    merged: np.ndarray = (scipy.sparse.csgraph.connected_components(edges, directed=False)[1].astype(np.int32) - 1)[
        components
    ]
    return merged


def small_unmasked_components(
    labels: np.ndarray, confidence: np.ndarray, regions: Regions, max_area: int, min_confidence: float, overlap: float
) -> np.ndarray:
    """Marks connected components of `labels` that are small, confident, and have no mask of their own [O].

    Returns bool `(H, W)`. The components have at most `max_area` pixels and a mean `confidence` (uint8 `(H, W)`, 255 is
    1) of at least `min_confidence`, and hold less than the part `overlap` of the area of every mask.
    """
    components = connected_components(labels).ravel()
    count = int(components.max()) + 1
    area = np.bincount(components, minlength=count)
    total = np.bincount(components, weights=confidence.ravel(), minlength=count)
    candidates = np.flatnonzero((area <= max_area) & (total >= min_confidence * 255 * area))
    candidate_of_component = np.full(count, -1)
    candidate_of_component[candidates] = np.arange(len(candidates))
    pixels = np.flatnonzero((candidate_of_component >= 0)[components])
    candidate = candidate_of_component[components[pixels]]
    region = regions.index.ravel()
    shape = (len(regions.masks), len(candidates))
    region_pixels = scipy.sparse.csr_matrix(
        (np.ones(len(pixels), dtype=np.int64), (region[pixels], candidate)), shape=shape
    )
    mask_area = regions.sum_over_regions(np.bincount(region, minlength=len(regions.masks)))
    mask_pixels = (regions.membership @ region_pixels).tocoo()
    has_mask = np.zeros(len(candidates), dtype=bool)
    has_mask[mask_pixels.col[mask_pixels.data >= overlap * mask_area[mask_pixels.row]]] = True
    result = np.zeros(labels.size, dtype=bool)
    result[pixels] = ~has_mask[candidate]
    return result.reshape(labels.shape)
