"""The losses of multi-level knowledge adaptation (MKA) and of TA adaptation as pure functions on tensors.

Nothing here reads a file or a config. Logits and probabilities are NCHW float, labels NHW int64, weights
and boundaries NHW; computation is in float32 whatever comes in. Every mean is over the weight it is given
and is 0, with zero and finite gradient, when that weight is 0 everywhere.

Sources: [P] GoodSAM (CVPR 2024, arXiv 2403.16370), the arrows of its framework figure; [O] ours, where the
figure is silent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """`sum(weight * values) / sum(weight)`, and 0 where the weight sums to 0."""
    total = weight.sum()
    return (weight * values).sum() / torch.where(total > 0, total, torch.ones_like(total))


def soft_pixel_loss(log_probs: Tensor, target_probs: Tensor) -> Tensor:
    """`−Σ_c t_c(u) log p_c(u)` of every pixel: `(N, H, W)`. No gradient flows into the target.

    It is linear in the target: of `E = (1−g)·S̄ + g·onehot(label)` it is `(1−g)` times that of `S̄` plus `g` times
    `hard_pixel_loss`, so one `log_softmax` serves every term.
    """
    return -(target_probs.detach().float() * log_probs).sum(dim=1)


def hard_pixel_loss(log_probs: Tensor, label: Tensor, ignore_index: int = 255) -> Tensor:
    """`−log p_label(u)` of every pixel: `(N, H, W)`, 0 where the label is ignored."""
    return F.nll_loss(log_probs, label, ignore_index=ignore_index, reduction="none")


def soft_cross_entropy(logits: Tensor, target_probs: Tensor, weight: Tensor | None = None) -> Tensor:
    """`mean_u weight(u) · −Σ_c t_c(u) log softmax(logits)_c(u)`: the whole-image term `CE(S_TA^w, P_S)` [P].

    Soft targets instead of their argmax are [O]. At `softmax(logits) == target` the value is the entropy of
    the target and the gradient is 0.

    Args:
        logits: `(N, C, H, W)`.
        target_probs: `(N, C, H, W)`, non-negative, summing to 1 over `C`. No gradient flows into it.
        weight: `(N, H, W)`, non-negative; `None` counts every pixel once.
    """
    loss = soft_pixel_loss(F.log_softmax(logits.float(), dim=1), target_probs)
    return loss.mean() if weight is None else weighted_mean(loss, weight.float())


def hard_cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None = None, ignore_index: int = 255) -> Tensor:
    """Cross-entropy on labels, a mean over the weight of the pixels that are not ignored.

    With `weight = M` this is `CE(E_H, P)` [P], normalised by the sum of `M`, the number of `E_H`'s own
    pixels [O]: the term keeps its scale however few pixels are confident.

    Args:
        logits: `(N, C, H, W)`.
        label: `(N, H, W)` int64, `0 .. C-1` or `ignore_index`.
        weight: `(N, H, W)`, non-negative; `None` counts every pixel that is not ignored once.
    """
    loss = hard_pixel_loss(F.log_softmax(logits.float(), dim=1), label, ignore_index)
    counted = (label != ignore_index).float()
    return weighted_mean(loss, counted if weight is None else counted * weight.float())


def label_weights(label: Tensor, class_weights: Tensor, ignore_index: int = 255) -> Tensor:
    """Each pixel's class weight [O]: float32 `(N, H, W)`; 1 where the label is ignored.

    Args:
        label: `(N, H, W)` int64.
        class_weights: `(C,)`, non-negative.
    """
    known = label != ignore_index
    return torch.where(known, class_weights[torch.where(known, label, 0)], torch.ones_like(label, dtype=torch.float32))


def consistency_loss(first: Tensor, second: Tensor) -> Tensor:
    """`L_CC` [P: the term; O: its form]: the mean symmetric KL divergence of two predictions of the same pixels.

    Args:
        first, second: logits `(N, C, h, w)` of two views on their overlap; gradients flow into both.
    """
    log_p, log_q = F.log_softmax(first.float(), dim=1), F.log_softmax(second.float(), dim=1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=1).mean()


def ensemble_probs(stitched: Tensor, label: Tensor, gate: Tensor, ignore_index: int = 255) -> Tensor:
    """The soft ensemble `E = (1−g)·S̄ + g·onehot(label)` [O]; where the label is ignored, `E = S̄`.

    Args:
        stitched: `S̄ = S_TA^w`, `(N, C, H, W)` probabilities.
        label: `(N, H, W)` int64.
        gate: `g`, `(N, H, W)` in 0 .. 1.

    Returns:
        `(N, C, H, W)` float32 probabilities.
    """
    known = label != ignore_index
    gate = (gate.float() * known).unsqueeze(1)
    ensemble = (1 - gate) * stitched.float()
    return ensemble.scatter_add(1, torch.where(known, label, 0).unsqueeze(1), gate)


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """`p^(1/T)`, renormalised over `C`: the softmax at temperature `T` of the logits that gave `p` [O]."""
    if temperature == 1:
        return probs
    return torch.softmax(torch.log(probs.float().clamp_min(1e-8)) / temperature, dim=1)


def upsample_log_probs(log_probs: Tensor, size: tuple[int, int], *, cyclic: bool) -> Tensor:
    """Bring `S̄` from the teacher's output stride to full size: bilinear on log-probabilities, softmax [O].

    Args:
        log_probs: `(N, C, h, w)`.
        size: `(H, W)`.
        cyclic: column 0 is the right neighbour of the last one, so the seam is interpolated like any other
            place. Where `w` does not divide `W`, the edges are repeated instead.

    Returns:
        `(N, C, H, W)` float32 probabilities.
    """
    values = log_probs.float()
    stride, rest = divmod(size[1], values.shape[-1])
    if cyclic and rest == 0 and stride > 1:
        ring = F.pad(values, (1, 1, 0, 0), mode="circular")
        wide = F.interpolate(ring, (size[0], size[1] + 2 * stride), mode="bilinear", align_corners=False)
        return torch.softmax(wide[..., stride:-stride], dim=1)
    return torch.softmax(F.interpolate(values, size, mode="bilinear", align_corners=False), dim=1)


def soft_boundary(probs: Tensor, *, cyclic: bool = True) -> Tensor:
    """`B_S(u) = max(½‖P(u)−P(right)‖₁, ½‖P(u)−P(below)‖₁)` [O]: the operator `∂` on soft predictions.

    On one-hot `P` it equals `∂(argmax P)`. The last row has no lower neighbour; the last column's right
    neighbour is column 0 if `cyclic`, else it has none.

    Args:
        probs: `(N, C, H, W)`.

    Returns:
        `(N, H, W)` in 0 .. 1.
    """
    right = 0.5 * (probs - probs.roll(-1, dims=-1)).abs().sum(dim=1)
    if not cyclic:
        right = F.pad(right[..., :-1], (0, 1))
    below = 0.5 * (probs[..., 1:, :] - probs[..., :-1, :]).abs().sum(dim=1)
    return torch.maximum(right, F.pad(below, (0, 0, 0, 1)))


def boundary_loss(
    probs: Tensor,
    boundary: Tensor,
    *,
    cyclic: bool = True,
    last_row: bool = True,
    eps: float = 1e-3,
) -> Tensor:
    """`L_bd(B_ref, B_S)` [P: the term; O: its form]: class-balanced binary cross-entropy, clamped.

    Boundary and other pixels weigh one half each; `B_S` is clamped to `eps .. 1−eps`, so that one pixel's
    loss is at most `−log eps` and a perfect one-hot student attains the minimum, `−log(1−eps)`. Zero when
    `B_ref` is empty.

    Args:
        probs: the student's `P`, `(N, C, H, W)`.
        boundary: `B_ref`, `(N, H, W)`, 0 or 1.
        cyclic: the arrays are a whole ring. If not (a crop), the last column, whose right neighbour is
            unknown, is left out.
        last_row: the last row is the panorama's own. If not (a crop), it is left out likewise.
        eps: the clamp [O].
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
