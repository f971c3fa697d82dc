"""Chooses the scale of the TA's input and the share of the panoramas' statistics, without labels [O].

The best choice has the least mean entropy of the predictions for random views: they become surer where the input fits
the network better. This module reads no cache and no settings file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from pipeline.core.progress import Progress
from pipeline.models.network import Network
from stages.adapt.statistics import batch_norm_layers, measure_statistics, mix_statistics, stored_statistics

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
SCALES = (0.5, 0.625, 0.75, 0.875, 0.9375, 1.0, 1.125, 1.25, 1.5, 2.0)  #: times the scale in the settings
LIMITS = (1 / 16, 4.0)  #: of the setting


@dataclass(frozen=True)
class Choice:
    """A factor of the TA's scale, a share of the panoramas' statistics, and the mean entropy of predictions in nats."""

    scale: float
    share: float
    entropy: float


@torch.no_grad()
def mean_entropy(network: Network, batches: Sequence[np.ndarray], device: str) -> float:
    """Returns the mean entropy of the predictions for views, in nats a pixel at the network's output stride."""
    values = []
    for views in batches:
        log_p = network(network.inputs(views, device)).float().log_softmax(1)
        values.append(float(-(log_p.exp() * log_p).sum(1).mean()))
    return float(np.mean(values))


def choose_input(
    network: Network,
    batches: Sequence[np.ndarray],
    scale: float | Literal["auto"],
    share: float | Literal["auto"],
    device: str,
    progress: Progress,
) -> tuple[Choice, list[Choice]]:
    """Returns the choice with the least entropy, and all that were tried; the model stays as it is.

    A number is kept, `auto` is searched: every share of `SHARES`, and scales of `SCALES` from 1 downwards, or else
    upwards, as long as they improve. A network without batch norm has no statistics: its share is 0.
    """
    source = stored_statistics(network.model)
    shares = (0.0,) if not batch_norm_layers(network.model) else SHARES if share == "auto" else (share,)
    tried: list[Choice] = []

    def best_of_scale(factor: float) -> Choice:
        scaled = replace(network, scale=network.scale * factor)
        target = measure_statistics(scaled, batches, device, progress, len(batches)) if any(shares) else {}
        found = []
        progress.start(f"entropy at scale {scaled.scale:g}", len(shares))
        for candidate in shares:
            mix_statistics(network.model, source, target, candidate)
            found.append(Choice(factor, candidate, mean_entropy(scaled, batches, device)))
            progress.advance(figures=f"{found[-1].entropy:.4f}")
        mix_statistics(network.model, source, target, 0)
        tried.extend(found)
        return min(found, key=lambda choice: choice.entropy)

    if scale != "auto":
        return best_of_scale(scale), tried
    possible = [factor for factor in SCALES if LIMITS[0] <= factor * network.scale <= LIMITS[1]]
    return search_line(possible, 1.0, best_of_scale), tried


def search_line(candidates: Sequence[float], start: float, score: Callable[[float], Choice]) -> Choice:
    """Returns the best choice along sorted candidates from `start`: downwards or, if that is worse, upwards."""
    middle, first = candidates.index(start), score(start)
    for direction in (list(reversed(candidates[:middle])), candidates[middle + 1 :]):
        best = first
        for candidate in direction:
            other = score(candidate)
            if other.entropy >= best.entropy:
                break
            best = other
        if best is not first:
            return best
    return first
