"""One round's training of the TA: losses and loop, on panoramas and their ensembles; no cache, no settings file.

Paper: the TA is trained with `CE(E_i, S_i) + CE(E_H,i, S_i) + L_CC`. Ours: that this happens in rounds between two
fusions, on pairs of neighbouring windows, with the TA's batch norm and dropout as in use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.core.progress import Progress
from pipeline.core.reading import is_file, shortened
from pipeline.data.samples import FusedSample, Reader
from pipeline.geometry.windows import Window
from pipeline.models import losses
from pipeline.models.weights import save_checkpoint
from stages.adapt.settings import AdaptSettings

TERMS = ("ensemble", "confident", "consistency")

SAVE_STEPS = 50
"""A kill costs at most so many steps."""


@dataclass(frozen=True)
class Normalization:
    """What a view becomes for the TA: mean and std on 0..255 in the order of its channels; enlarged by `scale`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool
    scale: float = 1.0

    def __call__(self, views: np.ndarray, device: str) -> Tensor:
        """RGB uint8 `(N, h, w, 3)` as float32 `(N, 3, scale h, scale w)`."""
        batch = torch.from_numpy(np.ascontiguousarray(views)).to(device).permute(0, 3, 1, 2).float()
        if self.bgr:
            batch = batch.flip(1)
        mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        batch = (batch - mean) / std
        if self.scale != 1:
            size = [round(side * self.scale) for side in batch.shape[-2:]]
            batch = F.interpolate(batch, size, mode="bilinear", align_corners=False)
        return batch


def neighbours(views: Sequence[Any], width: int) -> list[tuple[Window, Window]]:
    """Every pair of windows of one height in which the second begins inside the first, to its right on the ring.

    Raises `UserError` if there is none: views that are no windows, or do not overlap.
    """
    windows = [view for view in views if isinstance(view, Window)]
    pairs = [
        (a, b)
        for a in windows
        for b in windows
        if (a.y0, a.height, a.width) == (b.y0, b.height, b.width) and 0 < (b.x0 - a.x0) % width < a.width
    ]
    if not pairs:
        raise UserError("teacher.views: adaptation needs overlapping windows; expected kind windows, stride < width")
    return pairs


def overlap(first: Tensor, second: Tensor, pair: tuple[Window, Window], width: int) -> tuple[Tensor, Tensor]:
    """The pair's logits `(..., h, w)`, `w` for a window's width, on their shared columns; both empty where these are no
    whole cells."""
    shift, rest = divmod((pair[1].x0 - pair[0].x0) % width * first.shape[-1], pair[0].width)
    if rest:
        return first[..., :0], second[..., :0]
    return first[..., shift:], second[..., : first.shape[-1] - shift]


def pair_losses(
    logits: Tensor, fused: FusedSample, pair: tuple[Window, Window], settings: AdaptSettings, ignore_index: int
) -> dict[str, Tensor]:
    """The weighted terms of one pair of windows.

    Args:
        logits: the TA's, `(2, C, h, w)` at its own stride.
        fused: the panorama's ensemble; with `E_i` and `M_i`, `pair` is of its windows.
    """
    if fused.stitched is None or fused.gate is None or fused.weight is None:
        raise ValueError("expected a fused sample with stitched, gate and weight")
    size, device = fused.label.shape, logits.device
    with torch.no_grad():
        stitched = losses.upsample_log_probs(torch.from_numpy(fused.stitched)[None].to(device), size, cyclic=True)[0]

    def cut(plane: np.ndarray) -> Tensor:
        return torch.from_numpy(np.stack([window.extract(plane) for window in pair])).to(device)

    full = F.interpolate(logits.float(), (pair[0].height, pair[0].width), mode="bilinear", align_corners=False)

    def own(plane: np.ndarray, per_window: np.ndarray | None) -> Tensor:
        """A plane of the pair: of a rule that works per window, that of each window itself (paper)."""
        if per_window is None:
            return cut(plane)
        return torch.from_numpy(np.stack([per_window[fused.windows.index(window)] for window in pair])).to(device)

    label = own(fused.label, fused.window_label).long()
    known = (label != ignore_index).float()
    terms: dict[str, Tensor] = {}
    if settings.ensemble:
        columns = [torch.from_numpy(window.columns(size[1])).to(device) for window in pair]
        rows = slice(pair[0].y0, pair[0].y0 + pair[0].height)
        target = torch.stack([stitched[:, rows].index_select(-1, x) for x in columns])
        ensemble = losses.ensemble_probs(target, label, cut(fused.gate).float() / 255, ignore_index)
        terms["ensemble"] = settings.ensemble * losses.soft_cross_entropy(full, ensemble, known)
    if settings.confident:
        weight = own(fused.weight, fused.window_weight).float() / 255
        terms["confident"] = settings.confident * losses.hard_cross_entropy(full, label, weight, ignore_index)
    if settings.consistency:
        first, second = overlap(logits[:1], logits[1:], pair, size[1])
        if not first.numel():  # no whole cells (a stride that does not divide the shift, a scaled TA): then in pixels
            first, second = overlap(full[:1], full[1:], pair, size[1])
        terms["consistency"] = settings.consistency * losses.consistency_loss(first, second)
    return terms


def finetune(
    model: torch.nn.Module,
    preprocessing: Normalization,
    reader: Reader,
    pairs_of: Any,
    settings: AdaptSettings,
    *,
    ignore_index: int,
    device: str,
    progress: Progress,
    state: Path | None = None,
) -> dict[str, list[float]]:
    """Trains `model` in place; the mean terms of the first and the last tenth of the steps.

    Args:
        model: in evaluation mode, which it keeps: its batch statistics were made on far more images.
        pairs_of: `(H, W)` of a panorama to its pairs of windows.
        state: a file that is written every `SAVE_STEPS` steps and at the end; if it is there, training goes on
            from it, with the result of one that was never stopped. One that cannot be read is told, and begins anew.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.01)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=settings.iterations)
    history: list[dict[str, float]] = []
    if state is not None and is_file(state):
        history = _resume(state, {"model": model, "optimizer": optimizer, "decay": decay}, device, progress)
    progress.start("adapt the TA", settings.iterations - len(history))
    for step in range(len(history), settings.iterations):
        rng = np.random.default_rng([settings.seed, step])
        optimizer.zero_grad()
        noted = dict.fromkeys(TERMS, 0.0)
        for _ in range(settings.batch_size):
            image_id = reader.ids[rng.integers(len(reader.ids))]
            image, fused = reader.image(image_id), reader.fused(image_id)
            pairs = pairs_of(image.shape[:2])
            pair = pairs[rng.integers(len(pairs))]
            views = np.stack([window.extract_image(image) for window in pair])
            terms = pair_losses(model(preprocessing(views, device)), fused, pair, settings, ignore_index)
            loss = torch.stack(list(terms.values())).sum() / settings.batch_size
            loss.backward()
            for name, value in terms.items():
                noted[name] += value.item() / settings.batch_size
        if not all(np.isfinite(value) for value in noted.values()):
            raise UserError(f"adapt: the loss became {noted}; expected a smaller adapt.learning_rate")
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay.step()
        history.append(noted)
        if state is not None and ((step + 1) % SAVE_STEPS == 0 or step + 1 == settings.iterations):
            parts = {"model": model, "optimizer": optimizer, "decay": decay}
            content = {name: part.state_dict() for name, part in parts.items()}
            save_checkpoint({**content, "history": history}, state)
        progress.advance()
    tenth = max(1, len(history) // 10)
    return {
        name: [round(float(np.mean([step[name] for step in part])), 6) for part in (history[:tenth], history[-tenth:])]
        for name in TERMS
    }


def _resume(state: Path, parts: Mapping[str, Any], device: str, progress: Progress) -> list[dict[str, float]]:
    """Loads `parts` from `state`; the terms of the steps that are done: none if it is damaged, and all is as it was."""
    before = {name: deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        saved = torch.load(state, map_location=device, weights_only=True)
        history = [{name: float(step[name]) for name in TERMS} for step in saved["history"]]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        if parts["decay"].last_epoch != len(history):
            raise ValueError("its parts are of different steps")
    except Exception as error:  # torch raises what it happens to raise on a damaged file
        for name, part in parts.items():
            part.load_state_dict(before[name])
        reason = shortened(" ".join(str(error).split()), 160) or type(error).__name__
        progress.note(f"{state}: cannot be read ({reason}); the round begins anew")
        return []
    return history
