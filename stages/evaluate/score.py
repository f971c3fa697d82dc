"""Scores of predictions on labelled images, in any label space the classes map to; mIoU is mmsegmentation's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.data.labels import LabelSpace
from stages.evaluate.boundary import boundary_counts, boundary_f
from stages.evaluate.confidence import (
    calibration_counts,
    coverage_and_precision,
    expected_calibration_error,
    precision_at,
    weight_counts,
)

#: Width of the band at the seam that is scored by itself, as a part of the panorama's width; half on either side.
SEAM = 1 / 16

#: Coverage at which the precision of the weight map is told.
COVERAGE = 0.6


@dataclass(frozen=True)
class Scores:
    """Percentages over all images; a class that is neither predicted nor in the truth is NaN and counts nowhere.

    `things`: mIoU of the space's thing classes; `seam`: mIoU of the band at the seam; `boundary_f`: F-score by
    tolerance in pixels; `ece`: expected calibration error; `coverage`, `precision`: of the weight map `M`, and
    `precision_at_60`: of the 60 % of pixels that weigh most (NaN without a weight map); `by_image`: mIoU by id.
    `unreachable` names the classes that the predictor does not know: they are left out, truth and all.
    """

    name: str
    images: int
    miou: float
    accuracy: float
    iou: dict[str, float]
    things: float
    seam: float
    boundary_f: dict[int, float]
    ece: float
    coverage: float
    precision: float
    precision_at_60: float
    unreachable: tuple[str, ...] = ()
    by_image: dict[str, float] = field(default_factory=dict, repr=False)

    def figures(self) -> dict[str, Any]:
        """For the line of JSON; two digits, NaN as null. `by_image` is not in it."""
        figures = {"images": self.images, "mIoU": plain(self.miou), "aAcc": plain(self.accuracy)}
        figures |= {"things": plain(self.things), "seam": plain(self.seam), "ECE": plain(self.ece)}
        figures |= {f"boundary_F_{radius}px": plain(value) for radius, value in self.boundary_f.items()}
        if not np.isnan(self.coverage):
            figures |= {"coverage": plain(self.coverage), "precision": plain(self.precision)}
            figures |= {"precision_at_60": plain(self.precision_at_60)}
        iou = {name: plain(value) for name, value in self.iou.items()}
        return {**figures, "IoU": iou, "not_scored": list(self.unreachable)}


def plain(value: float) -> float | None:
    """Two digits; NaN as None."""
    return None if np.isnan(value) else round(value, 2)


@dataclass(frozen=True)
class Counts:
    """What is counted on one image, and summed over images: the areas that mmsegmentation counts (intersection, union,
    prediction, truth, each `(C,)`), the same at the seam, and the counts of the modules beside this one."""

    areas: np.ndarray
    seam: np.ndarray
    boundary: np.ndarray
    calibration: np.ndarray
    weight: np.ndarray

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass
class Scorer:
    """Collects one predictor's counts over images; `source` are its classes, `target` those of the score.

    `cyclic` says that images are panoramas, whose left and right edges touch.
    """

    name: str
    source: LabelSpace
    target: LabelSpace
    cyclic: bool = True
    results: list[tuple[str, Counts]] = field(default_factory=list)

    def add(
        self, probabilities: np.ndarray, truth: np.ndarray, weight: np.ndarray | None = None, image_id: str = ""
    ) -> None:
        """One image: probabilities `(C_source, H, W)`, labels `(H, W)` in the target space, weight map uint8."""
        mapped = self.target.map_probabilities(probabilities, self.source)
        prediction = mapped.argmax(axis=0)
        reachable = self.target.reachable_from(self.source)
        known = np.append(reachable, np.zeros(256 - len(reachable), dtype=bool))
        truth = np.where(known[truth], truth, self.target.ignore_index)
        labelled = truth != self.target.ignore_index
        correct = (prediction == truth)[labelled]
        band = np.arange(truth.shape[1])
        half = max(1, round(truth.shape[1] * SEAM / 2))
        at_seam = np.where((band < half) | (band >= truth.shape[1] - half), truth, self.target.ignore_index)
        counts = Counts(
            self._areas(prediction, truth),
            self._areas(prediction, at_seam),
            boundary_counts(prediction, truth, self.target.ignore_index, cyclic=self.cyclic),
            calibration_counts(mapped.max(axis=0)[labelled], correct),
            np.zeros((256, 2)) if weight is None else weight_counts(weight[labelled], correct),
        )
        self.results.append((image_id, counts))

    def _areas(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        import torch
        from mmseg.evaluation import IoUMetric

        areas = IoUMetric.intersect_and_union(
            torch.from_numpy(prediction),
            torch.from_numpy(truth.astype(np.int64)),
            self.target.num_classes,
            self.target.ignore_index,
        )
        return np.stack([area.numpy() for area in areas])

    def scores(self) -> Scores:
        """The figures over all images so far."""
        total = self.results[0][1]
        for _, counts in self.results[1:]:
            total = total + counts
        iou, accuracy = _iou(total.areas)
        things = np.array([name in self.target.things for name in self.target.classes])
        reachable = self.target.reachable_from(self.source)
        weighed = bool(total.weight.any())
        coverage, precision = coverage_and_precision(total.weight) if weighed else (float("nan"), float("nan"))
        return Scores(
            name=self.name,
            images=len(self.results),
            miou=_mean(iou),
            accuracy=accuracy,
            iou={name: float(value) for name, value in zip(self.target.classes, iou, strict=True)},
            things=_mean(iou[things]),
            seam=_mean(_iou(total.seam)[0]),
            boundary_f=boundary_f(total.boundary),
            ece=expected_calibration_error(total.calibration),
            coverage=coverage,
            precision=precision,
            precision_at_60=precision_at(total.weight, COVERAGE) if weighed else float("nan"),
            unreachable=tuple(n for n, there in zip(self.target.classes, reachable, strict=True) if not there),
            by_image={image_id: _mean(_iou(counts.areas)[0]) for image_id, counts in self.results},
        )


def _iou(areas: np.ndarray) -> tuple[np.ndarray, float]:
    """IoU by class `(C,)` and pixel accuracy, in percent, as mmsegmentation computes them."""
    import torch
    from mmseg.evaluation import IoUMetric

    with np.errstate(invalid="ignore", divide="ignore"):
        metrics = IoUMetric.total_area_to_metrics(*(torch.from_numpy(area) for area in areas), ["mIoU"])
    return np.asarray(metrics["IoU"], dtype=np.float64) * 100, float(metrics["aAcc"]) * 100


def _mean(values: np.ndarray) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))


def table(scores: Sequence[Scores], space: LabelSpace) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for printing: one column a predictor, what no predictor has left out."""
    rows: list[list[Any]] = [
        ["mIoU", *(s.miou for s in scores)],
        ["mIoU of things", *(s.things for s in scores)],
        ["mIoU at the seam", *(s.seam for s in scores)],
        ["pixel accuracy", *(s.accuracy for s in scores)],
        *([f"boundary F, {r} px", *(s.boundary_f[r] for s in scores)] for r in scores[0].boundary_f),
        ["calibration error", *(s.ece for s in scores)],
        ["M: coverage", *(s.coverage for s in scores)],
        ["M: precision", *(s.precision for s in scores)],
        ["M: precision of 60 %", *(s.precision_at_60 for s in scores)],
    ]
    rows = [row for row in rows if not all(np.isnan(value) for value in row[1:])]
    rows += [[name, *(s.iou[name] for s in scores)] for name in space.classes]
    cells = [[name, *("-" if np.isnan(value) else value for value in values)] for name, *values in rows]
    return ["class", *(score.name for score in scores)], cells


def best_and_worst(before: Scores, after: Scores, count: int = 3) -> list[tuple[str, float, float]]:
    """The images that gain and lose most, as (id, mIoU before, mIoU after): at most `count` of each, best first."""
    pairs = [(image_id, before.by_image[image_id], value) for image_id, value in after.by_image.items()]
    pairs = sorted((pair for pair in pairs if not np.isnan(pair[1:]).any()), key=lambda pair: pair[1] - pair[2])
    return pairs if len(pairs) <= 2 * count else pairs[:count] + pairs[-count:]
