"""The slow, obvious versions of boundary enhancement and of the fusion rules: loops over pixels, views and masks."""

from __future__ import annotations

import math

import numpy as np

from stages.fuse.boundary import ViewLabels
from stages.fuse.rules.base import FusionInput
from stages.fuse.rules.best import SoftMaskVote


def dilate(mask: np.ndarray, radius: int, cyclic: bool) -> np.ndarray:
    height, width = mask.shape
    result = np.zeros(mask.shape, bool)
    for y, x in np.argwhere(mask):
        for v in range(height):
            for u in range(width):
                dx = abs(int(u) - int(x))
                dx = min(dx, width - dx) if cyclic else dx
                result[v, u] |= (v - y) ** 2 + dx**2 <= radius**2
    return result


def changes(labels: np.ndarray, cyclic: bool, covered: np.ndarray | None = None) -> np.ndarray:
    """Marks pixels that differ from their right or lower neighbour; none beside a pixel that is not covered."""
    height, width = labels.shape
    result = np.zeros(labels.shape, bool)
    for y in range(height):
        for x in range(width):
            if x + 1 < width or cyclic:
                result[y, x] |= labels[y, x] != labels[y, (x + 1) % width]
            if y + 1 < height:
                result[y, x] |= labels[y, x] != labels[y + 1, x]
            if covered is not None:
                for v, u in ((y, x), (y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)):
                    if 0 <= v < height and (0 <= u < width or cyclic) and not covered[v, u % width]:
                        result[y, x] = False
    return result


def refine(
    sam: np.ndarray, labels: np.ndarray, views: list[ViewLabels], grid: tuple[int, int], radius: int
) -> np.ndarray:
    height, width = labels.shape
    step = width // grid[1]
    row_of = [math.floor((y + 0.5) * grid[0] / height) for y in range(height)]
    changing, covering = np.zeros(labels.shape, int), np.zeros(labels.shape, int)
    for view in views:
        window = view.window
        rows = [y for y in range(height) if window.y0 <= row_of[y] < window.y0 + window.height]
        view_labels = np.array(
            [[view.labels[row_of[y] - window.y0, x // step] for x in range(window.width * step)] for y in rows]
        )
        covered = np.array(
            [[view.covered[row_of[y] - window.y0, x // step] for x in range(window.width * step)] for y in rows]
        )
        cyclic = window.width == grid[1]
        close = dilate(changes(view_labels, cyclic, covered), radius, cyclic)
        for i, y in enumerate(rows):
            for x in range(window.width * step):
                column = (window.x0 * step + x) % width
                covering[y, column] += covered[i, x]
                changing[y, column] += close[i, x] and covered[i, x]
    result = np.zeros(labels.shape, bool)
    shared, close_to_sam = changes(labels, True), dilate(sam, radius, True)
    for y in range(height):
        for x in range(width):
            a, n = changing[y, x], covering[y, x]
            result[y, x] = n > 0 and (
                (sam[y, x] and 2 * a >= n) or (shared[y, x] and a == n and not close_to_sam[y, x])
            )
    return result


def inpaint(values: np.ndarray, region_ids: np.ndarray, boundary: np.ndarray, radius: int) -> np.ndarray:
    height, width = region_ids.shape
    result, known = values.copy(), ~dilate(boundary, radius, True)
    for _ in range(2 * radius):
        filled = {}
        for y in range(height):
            for x in range(width):
                others = [
                    (y + dy, (x + dx) % width)
                    for dy in (-1, 0, 1)
                    for dx in (-1, 0, 1)
                    if (dy, dx) != (0, 0) and 0 <= y + dy < height
                ]
                others = [o for o in others if known[o] and region_ids[o] == region_ids[y, x]]
                if not known[y, x] and others:
                    filled[y, x] = np.mean([result[:, v, u] for v, u in others], axis=0)
        for place, value in filled.items():
            result[:, place[0], place[1]], known[place] = value, True
    return result


def best(inputs: FusionInput, rule: SoftMaskVote) -> np.ndarray:
    """Fused log-probabilities `(C, H, W)` of rule `best`, normalised, without protected regions and inpainting."""
    assert inputs.stitched is not None
    stitched, (height, width) = inputs.stitched.astype(np.float64), inputs.labels.shape
    p = np.exp(stitched) / np.exp(stitched).sum(axis=0)
    certainty = 1 + (p * np.log(np.maximum(p, 1e-12))).sum(axis=0) / np.log(max(2, len(p)))
    dense = [inputs.masks.mask(k) for k in range(len(inputs.masks))]
    same = np.array([[tuple(m[y, x] for m in dense) for x in range(width)] for y in range(height)], dtype=object)
    index = np.array([[hash(tuple(same[y, x])) for x in range(width)] for y in range(height)])
    edge = np.zeros(index.shape, bool)
    for y in range(height):
        for x in range(width):
            for v, u in ((y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)):
                edge[y, x] |= 0 <= v < height and index[v, u % width] != index[y, x]
    distance = 1 + sum((~dilate(edge, r, True)).astype(int) for r in range(rule.full_vote_distance - 1))
    averages, scores = [], []
    for k, mask in enumerate(dense):
        total = np.zeros(len(p))
        for y, x in np.argwhere(mask):
            v, u = math.floor((y + 0.5) * p.shape[1] / height), x * p.shape[2] // width
            total += distance[y, x] * max(0.0, certainty[v, u]) * p[:, v, u]
        averages.append(np.log(np.maximum(total / max(total.sum(), 1e-12), rule.floor)))
        row = inputs.masks.table[k]
        scores.append(np.prod([1 if np.isnan(row[n]) else row[n] for n in ("predicted_iou", "stability_score")]))
    fused = inputs.log_probabilities.astype(np.float64)
    for y in range(height):
        for x in range(width):
            held = [k for k, mask in enumerate(dense) if mask[y, x]]
            if held:
                weights = [scores[k] + 1 / 255 for k in held]
                average = np.average([averages[k] for k in held], axis=0, weights=weights)
                power = rule.strength * np.average([scores[k] for k in held], weights=weights)
                fused[:, y, x] = (1 - power) * fused[:, y, x] + power * average
    return fused - np.log(np.exp(fused).sum(axis=0))


def largest_first(inputs: FusionInput) -> list[int]:
    return sorted(range(len(inputs.masks)), key=lambda k: -int(inputs.masks.mask(k).sum()))  # type: ignore[union-attr]


def goodsampp(inputs: FusionInput, medium: float, large: float) -> tuple[np.ndarray, np.ndarray]:
    label, weight = inputs.labels.copy(), np.full(inputs.labels.shape, 255, np.uint8)
    winners, shares, levels = {}, {}, {}
    for k in range(len(inputs.masks)):
        mask = inputs.masks.mask(k)
        votes = [int(inputs.confidence[mask & (inputs.labels == c)].sum()) for c in range(inputs.num_classes)]
        winners[k] = int(np.argmax(votes))
        shares[k] = max(votes) / max(1, int(inputs.confidence[mask].sum()))
        part = mask.sum() / mask.size
        levels[k] = "large" if part >= large else "medium" if part >= medium else "small"
    for k in largest_first(inputs):
        mask = inputs.masks.mask(k)
        threshold = np.mean([shares[j] for j in shares if levels[j] == levels[k]])
        label[mask], weight[mask] = winners[k], 255 * (shares[k] >= threshold - 1e-9)
    return label, weight


def sepl(inputs: FusionInput, share: float, cover: float) -> np.ndarray:
    taken: dict[int, int] = {}
    for c in range(inputs.num_classes):
        class_pixels = inputs.labels == c
        for k in range(len(inputs.masks)):
            mask = inputs.masks.mask(k)
            overlap = int((mask & class_pixels).sum())
            if k not in taken and (overlap > share * mask.sum() or (overlap and overlap >= cover * class_pixels.sum())):
                taken[k] = c
    label = np.where(inputs.masks.covered(), 255, inputs.labels).astype(np.uint8)
    for k in largest_first(inputs):
        if k in taken:
            label[inputs.masks.mask(k)] = taken[k]
    return label


def sgml(inputs: FusionInput, ratio: float) -> np.ndarray:
    label = inputs.labels.copy()
    for k in largest_first(inputs):
        mask = inputs.masks.mask(k)
        counts = [int((inputs.labels[mask] == c).sum()) for c in range(inputs.num_classes)]
        first, *rest = sorted(range(inputs.num_classes), key=lambda c: -counts[c])
        winner = first
        if rest and counts[rest[0]] and not inputs.things[first] and inputs.things[rest[0]]:
            winner = rest[0] if counts[rest[0]] >= ratio * counts[first] else first
        label[mask] = winner
    return label
