"""The losses of multi-level knowledge adaptation (MKA) and of TA adaptation as pure functions on tensors.

Logits and probabilities are float `(N, C, H, W)`, labels int64 `(N, H, W)`, weights and boundaries `(N, H, W)`, all
weights are non-negative. Computation is in float32. A weighted mean is 0, with zero gradient, where the weights are 0.

Sources: [P] GoodSAM (CVPR 2024, arXiv 2403.16370), the arrows of its framework figure; [O] ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Returns `sum(weight * values) / sum(weight)`, or 0 if the weights sum to 0."""
    total = weight.sum()
    return (weight * values).sum() / torch.where(total > 0, total, torch.ones_like(total))


def soft_pixel_loss(log_probs: Tensor, target_probs: Tensor) -> Tensor:
    """Returns `−Σ_c t_c(u) log p_c(u)` of every pixel, `(N, H, W)`. No gradient flows into the target.

    It is linear in the target: for `E = (1−g)·S̄ + g·onehot(label)` it is `(1−g)` times that of `S̄` plus `g` times
    `hard_pixel_loss`, so that all terms share one `log_softmax`.
    """
    return -(target_probs.detach().float() * log_probs).sum(dim=1)


def hard_pixel_loss(log_probs: Tensor, label: Tensor, ignore_index: int = 255) -> Tensor:
    """Returns `−log p_label(u)` of every pixel, `(N, H, W)`; 0 where the label is ignored."""
    return F.nll_loss(log_probs, label, ignore_index=ignore_index, reduction="none")


def soft_cross_entropy(logits: Tensor, target_probs: Tensor, weight: Tensor | None = None) -> Tensor:
    """Returns the weighted mean of `soft_pixel_loss`: the term `CE(S_TA^w, P_S)` [P], on soft targets [O].

    Without `weight` every pixel counts once. At `softmax(logits) == target_probs` the value is the entropy of the
    target and the gradient is 0.
    """
    loss = soft_pixel_loss(F.log_softmax(logits.float(), dim=1), target_probs)
    return loss.mean() if weight is None else weighted_mean(loss, weight.float())


def hard_cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None = None, ignore_index: int = 255) -> Tensor:
    """Returns the weighted mean of `hard_pixel_loss` over the pixels that are not ignored.

    With `weight = M` this is `CE(E_H, P)` [P], normalized by the sum of `M` [O], so that the scale does not depend on
    the number of confident pixels. Without `weight` every pixel that is not ignored counts once.
    """
    loss = hard_pixel_loss(F.log_softmax(logits.float(), dim=1), label, ignore_index)
    counted = (label != ignore_index).float()
    return weighted_mean(loss, counted if weight is None else counted * weight.float())


def label_weights(label: Tensor, class_weights: Tensor, ignore_index: int = 255) -> Tensor:
    """Returns `class_weights` `(C,)` of each pixel's class [O], float32 `(N, H, W)`; 1 where the label is ignored."""
    valid = label != ignore_index
    return torch.where(valid, class_weights[torch.where(valid, label, 0)], torch.ones_like(label, dtype=torch.float32))


def consistency_loss(first: Tensor, second: Tensor) -> Tensor:
    """Returns `L_CC` [P], the mean symmetric KL divergence [O] of two views' overlapping logits; both get gradients."""
    log_p, log_q = F.log_softmax(first.float(), dim=1), F.log_softmax(second.float(), dim=1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=1).mean()


def ensemble_probs(stitched: Tensor, label: Tensor, gate: Tensor, ignore_index: int = 255) -> Tensor:
    """Returns the soft ensemble `E = (1−g)·S̄ + g·onehot(label)` [O]; `E = S̄` where the label is ignored.

    `stitched` holds the probabilities `S̄ = S_TA^w`, `gate` is `g`, `(N, H, W)` in 0..1.
    """
    valid = label != ignore_index
    gate = (gate.float() * valid).unsqueeze(1)
    ensemble = (1 - gate) * stitched.float()
    return ensemble.scatter_add(1, torch.where(valid, label, 0).unsqueeze(1), gate)


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """Returns `p^(1/T)`, renormalized over `C`: the softmax at temperature `T` of the logits of `p` [O]."""
    if temperature == 1:
        return probs
    return torch.softmax(torch.log(probs.float().clamp_min(1e-8)) / temperature, dim=1)


def upsample_log_probs(log_probs: Tensor, size: tuple[int, int], *, cyclic: bool) -> Tensor:
    """Returns `S̄` at `size` (H, W): bilinear interpolation of the TA's log-probabilities, then softmax [O].

    `log_probs` `(N, C, h, w)` is at the TA's output stride. If `cyclic`, and `w` divides `W`, column 0 is the right
    neighbour of the last column.
    """
    values = log_probs.float()
    stride, rest = divmod(size[1], values.shape[-1])
    if cyclic and rest == 0 and stride > 1:
        padded = F.pad(values, (1, 1, 0, 0), mode="circular")
        full = F.interpolate(padded, (size[0], size[1] + 2 * stride), mode="bilinear", align_corners=False)
        return torch.softmax(full[..., stride:-stride], dim=1)
    return torch.softmax(F.interpolate(values, size, mode="bilinear", align_corners=False), dim=1)


def soft_boundary(probs: Tensor, *, cyclic: bool = True) -> Tensor:
    """Returns `B_S(u) = max(½‖P(u)−P(right)‖₁, ½‖P(u)−P(below)‖₁)` [O], `(N, H, W)` in 0..1.

    This is the operator `∂` on soft predictions: on one-hot `P` it equals `∂(argmax P)`. The last row has no lower
    neighbour. The right neighbour of the last column is column 0 if `cyclic`; otherwise it has none.
    """
    right = 0.5 * (probs - probs.roll(-1, dims=-1)).abs().sum(dim=1)
    if not cyclic:
        right = F.pad(right[..., :-1], (0, 1))
    below = 0.5 * (probs[..., 1:, :] - probs[..., :-1, :]).abs().sum(dim=1)
    return torch.maximum(right, F.pad(below, (0, 0, 0, 1)))


def boundary_loss(
    probs: Tensor, boundary: Tensor, *, cyclic: bool = True, last_row: bool = True, eps: float = 1e-3
) -> Tensor:
    """Returns `L_bd(B_ref, B_S)` [P] as class-balanced, clamped binary cross-entropy [O]; 0 if `B_ref` is empty.

    Boundary and other pixels weigh one half each. The clamp bounds one pixel's loss by `−log eps`; a perfect one-hot
    student attains the minimum, `−log(1−eps)`.

    Args:
        probs, boundary: The student's `P`, and `B_ref`, 0 or 1.
        cyclic: The arrays span the panorama. In a crop, the last column is left out: its right neighbour is unknown.
        last_row: The last row is the panorama's own. In a crop, it is left out likewise.
        eps: `B_S` is clamped to `eps .. 1−eps` [O].
    """
    target = boundary.float()
    counted = torch.ones_like(target)
    if not cyclic:
        counted[..., :, -1] = 0
    if not last_row:
        counted[..., -1, :] = 0
    soft = soft_boundary(probs.float(), cyclic=cyclic).clamp(eps, 1 - eps)
    positive, negative = counted * target, counted * (1 - target)
    loss = 0.5 * weighted_mean(-soft.log(), positive) + 0.5 * weighted_mean(-(1 - soft).log(), negative)
    return loss * (positive.sum() > 0)
