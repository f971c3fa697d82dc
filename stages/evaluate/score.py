"""mIoU, per-class IoU and pixel accuracy by mmsegmentation's own metric, in any label space the classes map to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.labels import LabelSpace

#: A prediction of one panorama: probabilities float32 (C, H, W), or None if there is none for it.
Predict = Callable[[str, np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class Scores:
    """Percentages over all images; a class that is neither predicted nor in the truth is NaN and counts nowhere.

    ``unreachable`` names the classes that the predictor does not know: they are left out, truth and all.
    """

    name: str
    images: int
    miou: float
    accuracy: float
    iou: dict[str, float]
    unreachable: tuple[str, ...] = ()

    def figures(self) -> dict[str, Any]:
        """For the line of JSON; two digits, NaN as null."""

        def plain(value: float) -> float | None:
            return None if np.isnan(value) else round(value, 2)

        return {
            "images": self.images,
            "mIoU": plain(self.miou),
            "aAcc": plain(self.accuracy),
            "IoU": {name: plain(value) for name, value in self.iou.items()},
            "not_scored": list(self.unreachable),
        }


@dataclass
class Scorer:
    """Collects one predictor's confusion over images; ``source`` are its classes, ``target`` those of the score."""

    name: str
    source: LabelSpace
    target: LabelSpace
    results: list[Any] = field(default_factory=list)

    def add(self, probabilities: np.ndarray, truth: np.ndarray) -> None:
        """One image: probabilities ``(C_source, H, W)`` and labels ``(H, W)`` in the target space."""
        import torch
        from mmseg.evaluation import IoUMetric

        mapped = self.target.map_probabilities(probabilities, self.source)
        prediction = mapped.argmax(axis=0)
        reachable = self.target.reachable_from(self.source)
        known = np.append(reachable, np.zeros(256 - len(reachable), dtype=bool))
        truth = np.where(known[truth], truth, self.target.ignore_index)
        self.results.append(
            IoUMetric.intersect_and_union(
                torch.from_numpy(prediction),
                torch.from_numpy(truth.astype(np.int64)),
                self.target.num_classes,
                self.target.ignore_index,
            )
        )

    def scores(self) -> Scores:
        """The figures over all images so far."""
        from mmseg.evaluation import IoUMetric

        intersect, union, predicted, truth = (sum(parts) for parts in zip(*self.results, strict=True))
        with np.errstate(invalid="ignore", divide="ignore"):
            metrics = IoUMetric.total_area_to_metrics(intersect, union, predicted, truth, ["mIoU"])
        iou = np.asarray(metrics["IoU"], dtype=np.float64) * 100
        reachable = self.target.reachable_from(self.source)
        return Scores(
            name=self.name,
            images=len(self.results),
            miou=float(np.nanmean(iou)) if not np.isnan(iou).all() else float("nan"),
            accuracy=float(metrics["aAcc"]) * 100,
            iou={name: float(value) for name, value in zip(self.target.classes, iou, strict=True)},
            unreachable=tuple(n for n, there in zip(self.target.classes, reachable, strict=True) if not there),
        )


def table(scores: Sequence[Scores], space: LabelSpace) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for printing: one column a predictor."""

    def cell(value: float) -> Any:
        return "-" if np.isnan(value) else value

    columns = ["class", *(score.name for score in scores)]
    rows: list[list[Any]] = [
        ["mIoU", *(cell(s.miou) for s in scores)],
        ["pixel accuracy", *(cell(s.accuracy) for s in scores)],
    ]
    rows += [[name, *(cell(s.iou[name]) for s in scores)] for name in space.classes]
    return columns, rows
