"""Export's use of private parts of mmsegmentation, checked by `tests/contracts/test_mmseg.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from pipeline.models.normalization import Normalization


def preprocessor_normalization(preprocessor: Any) -> Normalization:
    """Returns the normalization of a `SegDataPreProcessor` for RGB images."""
    channels = "BGR" if preprocessor._channel_conversion else "RGB"
    if not preprocessor._enable_normalize:
        return Normalization(channels=channels)
    mean, std = (tuple(buffer.flatten().tolist()) for buffer in (preprocessor.mean, preprocessor.std))
    return Normalization(channels=channels, mean=mean, std=std)


@contextmanager
def integer_upsampling(network: torch.nn.Module) -> Iterator[None]:
    """Makes mmseg's `Upsample` (in the head of a feature pyramid) traceable for any image size within the context.

    It multiplies sizes as floats, which the exporter takes for constants. Integers stay symbolic.
    """
    from mmseg.models.utils import Upsample

    layers = [
        module
        for module in network.modules()
        if isinstance(module, Upsample) and not module.size and float(module.scale_factor).is_integer()
    ]
    for layer in layers:
        layer.forward = partial(_upsample, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _upsample(layer: Any, features: torch.Tensor) -> torch.Tensor:
    size = [side * int(layer.scale_factor) for side in features.shape[2:]]
    return torch.nn.functional.interpolate(features, size, mode=layer.mode, align_corners=layer.align_corners)
