"""CTCF, cross-task complementary fusion, per window as in the paper's figure (docs/method.md 3.3)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.geometry.masks import MaskSet
from stages.fuse.pooling import likelier_window, nearest_window
from stages.fuse.rules.base import FULL, Ensemble, FusionInput, FusionRule
from stages.fuse.voting import majority, paste_masks


class Paper(FusionRule):
    """Computes `E_i`, `M_i` of every window from its masks `I_i` and its TA prediction `S_i` [P].

    A mask takes the majority label of its pixels; its weight is 1 if the majority's share reaches `theta`, else 0. The
    argmax as Eq. (3), the value of theta, masks pasted largest first, and the TA with weight 1 in no mask are ours [O].
    The panorama's `label` and `weight` take each column from the window whose middle is nearest, or each pixel from the
    window whose label is likelier [O].
    """

    algorithm: ClassVar[int] = 2
    kind: str = "paper"
    needs: ClassVar[tuple[str, ...]] = ("teacher", "masks", "sam")
    theta: float = Field(0.7, ge=0, le=1, description="Share of the majority label from which on a mask has weight 1.")
    composition: Literal["nearest", "likelier"] = Field(
        "nearest",
        description="Window that a pixel of the panorama takes its label from: that of the nearest middle, or the one "
        "whose label is likelier and farther from its edge.",
    )

    def __call__(self, inputs: FusionInput) -> Ensemble:
        fused = [
            ctcf(masks, labels, inputs.num_classes, self.theta)
            for masks, labels in zip(inputs.window_masks, inputs.window_labels, strict=True)
        ]
        window_label, window_weight = (np.stack(arrays) for arrays in zip(*fused, strict=True))
        if self.composition == "nearest":
            window, column = nearest_window(inputs.windows, inputs.labels.shape[1])
        else:
            assert inputs.log_probabilities is not None
            window, column = likelier_window(inputs.windows, window_label, inputs.log_probabilities)
        rows = np.arange(inputs.labels.shape[0])[:, None]
        label, weight = window_label[window, rows, column], window_weight[window, rows, column]
        return Ensemble(
            label,
            np.full_like(label, FULL),
            weight,
            {"window_label": window_label, "window_weight": window_weight},
        )


def ctcf(masks: MaskSet, labels: np.ndarray, num_classes: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns `E` (labels) and `M` (0 or 255) of one window, both uint8 `(h, w)`, from the TA's `labels` there."""
    votes = majority(masks, labels, num_classes)
    trusted = np.where(votes.share >= theta, FULL, 0)
    return (
        paste_masks(masks, votes.winner, labels),
        paste_masks(masks, trusted, np.full(labels.shape, FULL, dtype=np.uint8)),
    )


COMPONENT = Paper
