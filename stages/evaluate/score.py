"""Scores of predictions on labelled images, in any label space that the classes map to; mIoU as in mmsegmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.data.expected_miou import expected_areas, expected_miou
from pipeline.data.labels import LabelSpace
from stages.evaluate import measures

SEAM = 1 / 16  #: Width of the band at the seam that is scored by itself, as a share of the panorama; half on each side.
COVERAGE = 0.6  #: Coverage at which the precision of the weight map is measured.


@dataclass(frozen=True)
class Scores:
    """Percentages over all images. A class that is neither predicted nor true is NaN and enters no mean."""

    name: str  #: of the predictor
    images: int
    miou: float  #: mean IoU over classes
    accuracy: float  #: share of correct pixels
    iou: dict[str, float]  #: by class
    things: float  #: mean IoU of the thing classes
    seam: float  #: mean IoU of the band at the seam
    boundary_f: dict[int, float]  #: boundary F-score by tolerance in pixels
    ece: float  #: expected calibration error
    coverage: float  #: mean of the weight map; NaN without one, like the next two
    precision: float  #: correct share of the weight
    precision_at_60: float  #: precision of the `COVERAGE` of pixels with the highest weights
    risk_area: float  #: area under the risk-coverage curve of the weight map
    expected_miou: float  #: mean IoU that the probabilities promise, without labels
    unreachable: tuple[str, ...] = ()  #: classes that the predictor does not know; their pixels are not scored
    by_image: dict[str, float] = field(default_factory=dict, repr=False)  #: mean IoU by image id
    title: str = ""  #: short name for tables

    def figures(self) -> dict[str, Any]:
        """Returns plain JSON values with two digits, NaN as None, without `by_image`; less if there are no labels."""
        if np.isnan(self.miou):
            return round_figures({"images": self.images, "expected_mIoU": self.expected_miou})
        figures: dict[str, Any] = {"images": self.images, "mIoU": self.miou, "expected_mIoU": self.expected_miou}
        figures |= {"aAcc": self.accuracy}
        figures |= {"things": self.things, "seam": self.seam, "ECE": self.ece}
        figures |= {f"boundary_F_{radius}px": value for radius, value in self.boundary_f.items()}
        if not np.isnan(self.coverage):
            figures |= {"coverage": self.coverage, "precision": self.precision}
            figures |= {"precision_at_60": self.precision_at_60, "risk_area": self.risk_area}
        return round_figures({**figures, "IoU": self.iou}) | {"not_scored": list(self.unreachable)}


def round_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Returns numbers with two digits and NaN as None, also in nested mappings."""
    return {
        name: round_figures(value) if isinstance(value, Mapping) else None if np.isnan(value) else round(value, 2)
        for name, value in figures.items()
    }


@dataclass
class Scorer:
    """Collects the counts of one predictor over images.

    Its `counts` are, for each image id: "areas" `(4, C)`, the intersection, union, prediction and truth of each class,
    "seam", the same in the band at the seam, "expected" `(3, C)`, the expected areas, and others as in
    `stages.evaluate.measures`.
    """

    name: str  #: of the predictor
    source: LabelSpace  #: its classes
    target: LabelSpace  #: the classes that are scored
    cyclic: bool = True  #: whether the images are panoramas, whose left and right edges touch
    title: str = ""  #: short name for tables; by default `name`
    counts: list[tuple[str, dict[str, np.ndarray]]] = field(default_factory=list)

    def add(
        self,
        probabilities: np.ndarray,
        truth: np.ndarray | None,
        weight: np.ndarray | None = None,
        image_id: str = "",
        certainty: np.ndarray | None = None,
    ) -> None:
        """Adds an image: float `(C_source, H, W)`, true labels of `target` and weight map as uint8 `(H, W)`.

        The expected mIoU is that of `certainty`, of the shape of `probabilities`, if it is given.
        """
        ignore_index = self.target.ignore_index
        mapped = self.target.map_probabilities(probabilities, self.source)
        prediction = mapped.argmax(axis=0)
        if truth is None:
            truth = np.full(prediction.shape, ignore_index)
        scored = np.flatnonzero(self.target.reachable_from(self.source))
        truth = np.where(np.isin(truth, scored), truth, ignore_index)
        labelled = truth != ignore_index
        correct = (prediction == truth)[labelled]
        at_seam, half = truth.copy(), max(1, round(truth.shape[1] * SEAM / 2))
        at_seam[:, half:-half] = ignore_index
        counts = {
            "areas": self._areas(prediction, truth),
            "seam": self._areas(prediction, at_seam),
            "boundary": measures.boundary_counts(prediction, truth, ignore_index, cyclic=self.cyclic),
            "calibration": measures.calibration_counts(mapped.max(axis=0)[labelled], correct),
            "expected": expected_areas(
                mapped if certainty is None else self.target.map_probabilities(certainty, self.source), prediction
            ),
            "weight": np.zeros((256, 2)) if weight is None else measures.weight_counts(weight[labelled], correct),
        }
        self.counts.append((image_id, counts))

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
        """Returns the scores over all images so far, of which there must be one."""
        names = self.counts[0][1]
        total = {name: np.sum([counts[name] for _, counts in self.counts], axis=0) for name in names}
        iou, accuracy = _iou(total["areas"])
        things = np.array([name in self.target.things for name in self.target.classes])
        reachable = self.target.reachable_from(self.source)
        coverage, precision = measures.coverage_and_precision(total["weight"])
        return Scores(
            name=self.name,
            images=len(self.counts),
            miou=_mean(iou),
            accuracy=accuracy,
            iou={name: float(value) for name, value in zip(self.target.classes, iou, strict=True)},
            things=_mean(iou[things]),
            seam=_mean(_iou(total["seam"])[0]),
            boundary_f=measures.boundary_f(total["boundary"]),
            ece=measures.expected_calibration_error(total["calibration"]),
            coverage=coverage,
            precision=precision,
            precision_at_60=measures.precision_at(total["weight"], COVERAGE),
            risk_area=measures.risk_area(total["weight"]),
            expected_miou=expected_miou(total["expected"]),
            unreachable=tuple(name for name, scored in zip(self.target.classes, reachable, strict=True) if not scored),
            by_image={image_id: _mean(_iou(counts["areas"])[0]) for image_id, counts in self.counts},
            title=self.title or self.name,
        )


def _iou(areas: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns IoU by class `(C,)` and pixel accuracy, in percent, as mmsegmentation computes them."""
    import torch
    from mmseg.evaluation import IoUMetric

    with np.errstate(invalid="ignore", divide="ignore"):
        metrics = IoUMetric.total_area_to_metrics(*(torch.from_numpy(area) for area in areas), ["mIoU"])
    return np.asarray(metrics["IoU"], dtype=np.float64) * 100, float(metrics["aAcc"]) * 100


def _mean(values: np.ndarray) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))


def table(scores: Sequence[Scores], space: LabelSpace) -> tuple[list[str], list[list[Any]]]:
    """Returns titles and cells for printing: scores and classes as rows, predictors as columns.

    Scores that no predictor has are left out; a class that is neither predicted nor true is "-".
    """
    rows: list[list[Any]] = [
        ["mIoU", *(s.miou for s in scores)],
        ["mIoU, expected", *(s.expected_miou for s in scores)],
        ["mIoU of things", *(s.things for s in scores)],
        ["mIoU at the seam", *(s.seam for s in scores)],
        ["pixel accuracy", *(s.accuracy for s in scores)],
        *([f"boundary F, {r} px", *(s.boundary_f[r] for s in scores)] for r in scores[0].boundary_f),
        ["calibration error", *(s.ece for s in scores)],
        ["M: coverage", *(s.coverage for s in scores)],
        ["M: precision", *(s.precision for s in scores)],
        ["M: precision of 60 %", *(s.precision_at_60 for s in scores)],
        ["M: risk-coverage area", *(s.risk_area for s in scores)],
    ]
    rows = [row for row in rows if not all(np.isnan(value) for value in row[1:])]
    if not all(np.isnan(s.miou) for s in scores):
        rows += [[name, *(s.iou[name] for s in scores)] for name in space.classes]
    cells = [[name, *("-" if np.isnan(value) else value for value in values)] for name, *values in rows]
    return ["class", *(score.title for score in scores)], cells


def largest_changes(before: Scores, after: Scores, count: int = 3) -> list[tuple[str, float, float]]:
    """Returns the images with the largest gains and losses, at most `count` of each, gains first.

    Each is (id, mIoU before, mIoU after).
    """
    pairs = [(image_id, before.by_image[image_id], value) for image_id, value in after.by_image.items()]
    pairs = sorted((pair for pair in pairs if not np.isnan(pair[1:]).any()), key=lambda pair: pair[1] - pair[2])
    return pairs if len(pairs) <= 2 * count else pairs[:count] + pairs[-count:]
