"""Training of the TA in one adaptation round: losses and loop, on panoramas and their ensembles.

[P] The TA is trained with `CE(E_i, S_i) + CE(E_H,i, S_i) + L_CC`. [O] This happens in rounds between two fusions, on
pairs of neighbouring windows, with batch norm and dropout in evaluation mode. This module reads no cache and no
settings file.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.core.progress import Progress
from pipeline.core.reading import error_text, is_file
from pipeline.data.class_balance import class_shares, class_weights
from pipeline.data.samples import FusedSample, Reader
from pipeline.execution.processes import Member
from pipeline.geometry.views import ViewSettings, make_views
from pipeline.geometry.windows import Window
from pipeline.models import losses
from pipeline.models.network import Network
from pipeline.models.weights import save_checkpoint
from stages.adapt.settings import AdaptSettings

TERMS = ("ensemble", "confident", "consistency")
SAVE_STEPS = 50  #: Steps between two saved states; a killed training loses at most this many.


@functools.cache
def neighbouring_windows(views: ViewSettings, height: int, width: int) -> list[tuple[Window, Window]]:
    """Returns the pairs of windows in which the second begins inside the first, to its right, at the same height.

    The seam of the panorama `(height, width)` may be between them. Raises `UserError` if there is no such pair.
    """
    windows = [view for view in make_views(views, height, width) if isinstance(view, Window)]
    pairs = [
        (a, b)
        for a, b in itertools.product(windows, windows)
        if (a.y0, a.height, a.width) == (b.y0, b.height, b.width) and 0 < (b.x0 - a.x0) % width < a.width
    ]
    if not pairs:
        raise UserError("teacher.views: adaptation needs overlapping windows; expected kind windows, stride < width")
    return pairs


def crop_to_overlap(
    first: Tensor, second: Tensor, pair: tuple[Window, Window], panorama_width: int
) -> tuple[Tensor, Tensor]:
    """Returns the shared columns of two maps `(..., h, w)`, where `w` columns span the width of their window.

    Both are empty if the overlap is not a whole number of columns.
    """
    shift, rest = divmod((pair[1].x0 - pair[0].x0) % panorama_width * first.shape[-1], pair[0].width)
    if rest:
        return first[..., :0], second[..., :0]
    return first[..., shift:], second[..., : first.shape[-1] - shift]


def pair_losses(
    logits: Tensor,
    fused: FusedSample,
    pair: tuple[Window, Window],
    settings: AdaptSettings,
    ignore_index: int,
    weights_of_classes: Tensor | None = None,
) -> dict[str, Tensor]:
    """Returns the weighted loss terms of one pair of windows; terms of weight 0 are left out.

    `logits` are those of the TA, `(2, C, h, w)` at its own stride. `fused` is the panorama's ensemble, with `stitched`,
    `gate` and `weight`, or with `E_i` and `M_i` of each window. With `weights_of_classes` `(C,)`, a pixel counts with
    the weight of its label's class.
    """
    if fused.stitched is None or fused.gate is None or fused.weight is None:
        raise ValueError("expected a fused sample with stitched, gate and weight")
    height, width = fused.label.shape
    full = F.interpolate(logits.float(), (pair[0].height, pair[0].width), mode="bilinear", align_corners=False)

    def crop(plane: np.ndarray, per_window: np.ndarray | None = None) -> Tensor:
        """Both windows of a plane; of a rule that works per window, each window's own plane [P]."""
        planes = [
            window.extract(plane) if per_window is None else per_window[fused.windows.index(window)] for window in pair
        ]
        return torch.from_numpy(np.stack(planes)).to(logits.device)

    label = crop(fused.label, fused.window_label).long()
    counts = (label != ignore_index).float()
    if weights_of_classes is not None:
        counts = counts * losses.label_weights(label, weights_of_classes, ignore_index)
    terms: dict[str, Tensor] = {}
    if settings.ensemble:
        with torch.no_grad():
            coarse = torch.from_numpy(fused.stitched)[None].to(logits.device)
            stitched = losses.upsample_log_probs(coarse, (height, width), cyclic=True)[0]
        rows = slice(pair[0].y0, pair[0].y0 + pair[0].height)
        columns = [torch.from_numpy(window.columns(width)).to(logits.device) for window in pair]
        target = torch.stack([stitched[:, rows].index_select(-1, x) for x in columns])
        ensemble = losses.ensemble_probs(target, label, crop(fused.gate).float() / 255, ignore_index)
        terms["ensemble"] = settings.ensemble * losses.soft_cross_entropy(full, ensemble, counts)
    if settings.confident:
        weight = counts * crop(fused.weight, fused.window_weight).float() / 255
        terms["confident"] = settings.confident * losses.hard_cross_entropy(full, label, weight, ignore_index)
    if settings.consistency:
        first, second = crop_to_overlap(logits[:1], logits[1:], pair, width)
        if not first.numel():  # a stride that does not divide the shift, or a scaled TA: compared in pixels
            first, second = crop_to_overlap(full[:1], full[1:], pair, width)
        terms["consistency"] = settings.consistency * losses.consistency_loss(first, second)
    return terms


def finetune(
    network: Network,
    reader: Reader,
    views: ViewSettings,
    settings: AdaptSettings,
    *,
    ignore_index: int,
    device: str,
    progress: Progress,
    state: Path | None = None,
    member: Member = Member(),
) -> dict[str, list[float]]:
    """Trains the network's model in place; it stays in evaluation mode, as its statistics come from far more images.

    The file `state` is written every `SAVE_STEPS` steps and at the end. The training continues from it, with the same
    result as without an interruption; if it cannot be read, the training begins anew. `views` are the TA's windows.
    Several processes share the pairs of each step and add their gradients; the first one writes.
    Returns the mean of each term over the first and the last tenth of the steps. Raises `UserError` if one is not
    finite.
    """
    model, classes = network.model, _weights_of_classes(reader, settings.class_balance, device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.01)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=settings.iterations)
    parts = {"model": model, "optimizer": optimizer, "decay": decay}
    history = _resume(state, parts, device, progress) if state is not None and is_file(state) else []
    progress.start("adapt the TA", settings.iterations - len(history))
    for step in range(len(history), settings.iterations):
        rng = np.random.default_rng([settings.seed, step])
        optimizer.zero_grad()
        values = dict.fromkeys(TERMS, 0.0)
        for number in range(settings.batch_size):
            image_id = reader.ids[rng.integers(len(reader.ids))]
            image = reader.image(image_id)
            pairs = neighbouring_windows(views, *image.shape[:2])
            pair = pairs[rng.integers(len(pairs))]
            if number % member.count != member.rank:
                continue
            fused = reader.fused(image_id)
            inputs = network.inputs(np.stack([window.extract_image(image) for window in pair]), device)
            terms = pair_losses(network(inputs), fused, pair, settings, ignore_index, classes)
            loss = torch.stack(list(terms.values())).sum() / settings.batch_size
            loss.backward()
            for name, value in terms.items():
                values[name] += value.item() / settings.batch_size
        values = member.add_up(parameters, values)
        if not np.isfinite(list(values.values())).all():
            raise UserError(f"adapt: the loss became {values}; expected a smaller adapt.learning_rate")
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay.step()
        history.append(values)
        if state is not None and member.is_first and ((step + 1) % SAVE_STEPS == 0 or step + 1 == settings.iterations):
            save_checkpoint({name: part.state_dict() for name, part in parts.items()} | {"history": history}, state)
        progress.advance()
    tenth = max(1, len(history) // 10)
    return {
        name: [round(float(np.mean([step[name] for step in part])), 6) for part in (history[:tenth], history[-tenth:])]
        for name in TERMS
    }


@torch.no_grad()
def mix_weights(model: torch.nn.Module, anchor: torch.nn.Module, share: float) -> None:
    """Moves all weights and statistics of a model, in place, towards those of `anchor` by `share` in 0..1 [O].

    Rounds that are mixed with the weights before the first one stay near it: with 0.5, all rounds together move the
    model about as far as one does alone.
    """
    others = anchor.state_dict()
    for name, value in model.state_dict().items():
        if value.dtype.is_floating_point:
            value.lerp_(others[name], share)


def _weights_of_classes(reader: Reader, exponent: float, device: str) -> Tensor | None:
    if not exponent:
        return None
    shares = class_shares(reader, reader.ids, 255)
    return torch.from_numpy(class_weights(shares, exponent)).float().to(device)


def _resume(state: Path, parts: Mapping[str, Any], device: str, progress: Progress) -> list[dict[str, float]]:
    """Loads `parts` from `state` and returns the terms of its steps; leaves them unchanged if it is damaged."""
    before = {name: deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        saved = torch.load(state, map_location=device, weights_only=True)
        history = [{name: float(step[name]) for name in TERMS} for step in saved["history"]]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        if parts["decay"].last_epoch != len(history):
            raise ValueError("its parts are of different steps")
    except Exception as error:  # torch raises many classes of errors on a damaged file
        for name, part in parts.items():
            part.load_state_dict(before[name])
        progress.note(f"{state}: cannot be read ({error_text(error, 160)}); the round begins anew")
        return []
    return history
