"""Regions: the pixels that lie in the same masks. Votes are counted once a region, however many masks hold it.

Pure functions on arrays. Sums are of whole numbers, so they do not depend on the order of pixels or masks, and a rolled
panorama gives the same votes bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from pipeline.geometry.boundaries import dilate
from pipeline.geometry.masks import MaskSet

#: Votes are whole multiples of 1 / UNIT.
UNIT = 1 << 24


@dataclass(frozen=True)
class Regions:
    """`index` int32 `(H, W)`: the region of every pixel, 0 .. R-1. `masks` int64 `(R, P)`: the masks that hold
    each region, as index + 1, one on every plane of the mask set, 0 where there is none; `count`: K, of all masks."""

    index: np.ndarray
    masks: np.ndarray
    count: int

    @cached_property
    def membership(self) -> csr_matrix:
        """1 where a mask holds a region: sparse `(K, R)`."""
        region, plane = np.nonzero(self.masks)
        rows = self.masks[region, plane] - 1
        return csr_matrix((np.ones(len(rows), dtype=np.int64), (rows, region)), shape=(self.count, len(self.masks)))

    def sum_over_regions(self, values: np.ndarray) -> np.ndarray:
        """For every mask the sum of its regions' `values` `(R, ...)`: `(K, ...)`."""
        total: np.ndarray = self.membership @ values
        return total

    def sum_over_masks(self, values: np.ndarray) -> np.ndarray:
        """For every region the sum of its masks' `values` `(K, ...)`: `(R, ...)`."""
        total: np.ndarray = self.membership.T @ values
        return total


def find_regions(masks: MaskSet) -> Regions:
    """The regions of a mask set; pixels in no mask are one region too. Their numbers do not change in a roll."""
    index = np.zeros(masks.shape, dtype=np.int64)
    columns = np.zeros((1, 0), dtype=np.int64)
    for plane in masks.planes:
        labels = np.concatenate([[0], np.flatnonzero(masks.table["plane"] == columns.shape[1]) + 1])
        rank = np.zeros(len(masks) + 1, dtype=np.int64)
        rank[labels] = np.arange(len(labels))
        index *= len(labels)
        index += rank.take(plane)
        index, kept = _renumber(index, len(columns) * len(labels))
        columns = np.column_stack([columns[kept // len(labels)], labels[kept % len(labels)]])
    return Regions(index.astype(np.int32), columns, len(masks))


def _renumber(values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`values` in 0 .. size-1 as ranks among those that occur, and what occurs."""
    if size > 8 * values.size:
        kept, ranks = np.unique(values, return_inverse=True)
        return ranks.reshape(values.shape), kept
    used = np.zeros(size, dtype=bool)
    used[values.ravel()] = True
    return (np.cumsum(used) - 1).take(values), np.flatnonzero(used)


def distance_to_boundary(index: np.ndarray, deepest: int) -> np.ndarray:
    """How far inside its region a pixel lies: int64 `(H, W)`, 1 beside another region, up to `deepest`; cyclic."""
    beside = index != np.roll(index, -1, axis=1)
    beside |= np.roll(beside, 1, axis=1)
    below = index[:-1] != index[1:]
    beside[:-1] |= below
    beside[1:] |= below
    result = np.ones(index.shape, dtype=np.int64)
    for radius in range(deepest - 1):
        result += ~dilate(beside, radius)
    return result


def soft_votes(regions: Regions, weight: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Sum of the class votes of every region's pixels: float64 `(R, C)`, whole multiples of 1 / `UNIT`.

    `votes` `(C, h, w)` in 0..1, on a grid of which a pixel takes the nearest value; `weight` `(H, W)` whole
    numbers, a factor of each pixel.
    """
    (height, width), (classes, h, w) = regions.index.shape, votes.shape
    step = width // w
    rows = ((np.arange(height) + 0.5) * h / height).astype(np.int64)
    scaled = np.ascontiguousarray(np.moveaxis(np.rint(votes.astype(np.float64) * UNIT), 0, -1))[rows]
    # one row of the matrix holds the pixels of one row that share a grid value
    ends = np.arange(0, height * width + 1, step)
    pixels = csr_matrix(
        (weight.ravel().astype(np.float64), regions.index.ravel(), ends), shape=(height * w, len(regions.masks))
    )
    total: np.ndarray = pixels.T @ scaled.reshape(height * w, classes)
    return total / UNIT


def connected_components(labels: np.ndarray) -> np.ndarray:
    """Connected pieces (4 neighbours, across the seam) of equal `labels` uint8 `(H, W)`: int32, numbered from 0."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from skimage.measure import label

    pieces = label(labels.astype(np.int16) + 1, background=0, connectivity=1)
    joined = labels[:, 0] == labels[:, -1]
    count = int(pieces.max()) + 1
    pairs = pieces[joined, 0], pieces[joined, -1]
    edges = coo_matrix((np.ones(len(pairs[0]), dtype=bool), pairs), shape=(count, count))
    # label 0 of the pieces does not occur, nor does its component
    whole: np.ndarray = (connected_components(edges, directed=False)[1].astype(np.int32) - 1)[pieces]
    return whole


def small_unmasked_components(
    labels: np.ndarray, confidence: np.ndarray, regions: Regions, largest: int, lowest: float, own: float
) -> np.ndarray:
    """Pixels of connected pieces of `labels` that are small, confident, and without a mask of their own (ours).

    bool `(H, W)`: pieces of at most `largest` pixels, of mean `confidence` (uint8, 255 is 1) at least `lowest`,
    such that no mask lies inside the piece with a part `own` of its area or more.
    """
    pieces = connected_components(labels).ravel()
    count = int(pieces.max()) + 1
    area = np.bincount(pieces, minlength=count)
    sure = np.bincount(pieces, weights=confidence.ravel(), minlength=count) >= lowest * 255 * area
    candidates = np.flatnonzero((area <= largest) & sure)
    number = np.full(count, -1)
    number[candidates] = np.arange(len(candidates))
    found = np.flatnonzero((number >= 0)[pieces])
    candidate = number[pieces[found]]
    place = regions.index.ravel()
    shape = (len(regions.masks), len(candidates))
    shared = csr_matrix((np.ones(len(found), dtype=np.int64), (place[found], candidate)), shape=shape)
    size = regions.sum_over_regions(np.bincount(place, minlength=len(regions.masks)))
    held = regions.membership @ shared
    inside = held.tocoo()
    masked = np.zeros(len(candidates), dtype=bool)
    masked[inside.col[inside.data >= own * size[inside.row]]] = True
    result = np.zeros(labels.size, dtype=bool)
    result[found] = ~masked[candidate]
    return result.reshape(labels.shape)
