"""Batch-norm statistics of the target domain, mixed with those of the source domain [O].

A network normalizes by the mean and variance of the images that it was trained on. Those of the target's images need no
label and no training: adaptive batch normalization (Li et al. 2016), mixed as by Schneider et al. (2020). This module
reads no cache and no settings file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.core.errors import ImageError, UserError
from pipeline.core.progress import Progress
from pipeline.data.images import ImagePreprocessing, read_image
from pipeline.geometry.views import ViewSettings, make_views
from pipeline.models.network import Network

BATCHES, BATCH_SIZE = 48, 8  # of views drawn at random

#: Mean and variance, float64 `(C,)`, of each batch-norm layer by its name.
Statistics = Mapping[str, tuple[Tensor, Tensor]]


def batch_norm_layers(model: torch.nn.Module) -> dict[str, _BatchNorm]:
    """Returns the layers of a model that normalize by stored statistics, by name."""
    layers = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, _BatchNorm))
    return {name: layer for name, layer in layers if layer.running_mean is not None}


def draw_batches(
    paths: Sequence[Path], preprocessing: ImagePreprocessing, views: ViewSettings, seed: int, count: int = BATCHES
) -> Iterator[np.ndarray]:
    """Yields at most `count` batches of views of random panoramas, RGB uint8 `(n, h, w, 3)`, `n <= BATCH_SIZE`.

    A panorama that cannot be read is left out; `precompute` reports it.
    """
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        drawn: list[np.ndarray] = []
        for index in rng.integers(len(paths), size=BATCH_SIZE):
            with suppress(ImageError):
                image = read_image(paths[index], preprocessing)
                candidates = make_views(views, *image.shape[:2])
                drawn.append(candidates[rng.integers(len(candidates))].extract_image(image))
        if drawn:
            yield np.stack([view for view in drawn if view.shape == drawn[0].shape])


@torch.no_grad()
def measure_statistics(
    network: Network, batches: Iterable[np.ndarray], device: str, progress: Progress, count: int = BATCHES
) -> Statistics:
    """Returns mean and variance of the inputs of every batch-norm layer.

    During the measurement each layer normalizes by its batch, so that the layers behind it get inputs of the target's
    statistics too. The model itself is not changed. Raises `UserError` if there is no batch.
    """
    moments: dict[str, list[Tensor]] = defaultdict(list)

    def measure(name: str) -> Callable[..., Tensor]:
        def normalize_by_batch(layer: _BatchNorm, inputs: tuple[Tensor], _: Tensor) -> Tensor:
            axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
            variance, mean = torch.var_mean(inputs[0], axes, correction=0)
            moments[name].append(torch.stack([mean, variance + mean**2]).double())
            return F.batch_norm(inputs[0], mean, variance, layer.weight, layer.bias, eps=layer.eps)

        return normalize_by_batch

    hooks = [layer.register_forward_hook(measure(name)) for name, layer in batch_norm_layers(network.model).items()]
    progress.start("statistics of the TA", count)
    try:
        for views in batches:
            network(network.inputs(views, device))
            progress.advance()
    finally:
        for hook in hooks:
            hook.remove()
    if not moments:
        raise UserError("adapt: found no panorama that can be read in train.split; expected one at least")
    means = {name: torch.stack(values).mean(0) for name, values in moments.items()}
    return {name: (mean, square - mean**2) for name, (mean, square) in means.items()}


def stored_statistics(model: torch.nn.Module) -> Statistics:
    """Returns a copy of the means and variances that a model holds."""
    copies = {}
    for name, layer in batch_norm_layers(model).items():
        assert layer.running_mean is not None
        assert layer.running_var is not None
        copies[name] = layer.running_mean.to(torch.float64, copy=True), layer.running_var.to(torch.float64, copy=True)
    return copies


def mix_statistics(model: torch.nn.Module, source: Statistics, target: Statistics, share: float) -> None:
    """Sets the means and variances of a model, in place: `target` by `share` in 0..1, `source` otherwise."""
    layers = batch_norm_layers(model)
    for name in source.keys() & target.keys():
        stored = layers[name].running_mean, layers[name].running_var
        for buffer, before, after in zip(stored, source[name], target[name], strict=True):
            buffer.copy_(torch.lerp(before, after, share))  # type: ignore[union-attr]
