"""CTCF, cross-task complementary fusion, as the paper's figure draws it: per window (docs/method.md 3.3)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from pipeline.geometry.masks import MaskSet
from stages.fuse.pooling import nearest_window
from stages.fuse.rules.base import FULL, Ensemble, FusionInput, FusionRule
from stages.fuse.voting import majority, paste_masks


class Paper(FusionRule):
    """`E_i`, `M_i` of every window from its masks `I_i` and its own TA prediction `S_i` (paper).

    Inside a mask the whole mask takes the majority label; the weight is 1 if the majority's share reaches `theta`,
    else 0. Ours: the arg-max as Eq. (3), the value of theta, large masks first, and pixels in no mask keep the TA with
    weight 1. The panorama's `label` and `weight` take each column from the window in whose middle it lies (ours).
    """

    algorithm: ClassVar[int] = 2
    kind: str = "paper"
    needs: ClassVar[tuple[str, ...]] = ("teacher", "masks", "sam")
    theta: float = Field(0.7, ge=0, le=1, description="Share of the majority label from which a mask is trusted.")

    def __call__(self, inputs: FusionInput) -> Ensemble:
        fused = [
            ctcf(masks, labels, inputs.num_classes, self.theta)
            for masks, labels in zip(inputs.window_masks, inputs.window_labels, strict=True)
        ]
        window_label = np.stack([label for label, _ in fused])
        window_weight = np.stack([weight for _, weight in fused])
        owner, column = nearest_window(inputs.windows, inputs.labels.shape[1])
        label = window_label[owner, :, column].T
        weight = window_weight[owner, :, column].T
        return Ensemble(
            np.ascontiguousarray(label),
            np.full_like(label, FULL, order="C"),
            np.ascontiguousarray(weight),
            {"window_label": window_label, "window_weight": window_weight},
        )


def ctcf(masks: MaskSet, labels: np.ndarray, num_classes: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """`E` (labels) and `M` (0 or 255) of one window, both uint8 `(h, w)`, from the TA's `labels` there."""
    votes = majority(masks, labels, num_classes)
    trusted = np.where(votes.share >= theta, FULL, 0)
    return (
        paste_masks(masks, votes.winner, labels),
        paste_masks(masks, trusted, np.full(labels.shape, FULL, dtype=np.uint8)),
    )


COMPONENT = Paper
