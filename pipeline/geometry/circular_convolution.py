"""Convolution and pooling with circular padding in x: a panorama's left and right edges are neighbours [O].

    zero padding       0 | a b c d | 0         circular padding       d | a b c d | a

With zero padding the seam has the effect of an edge. `make_circular` replaces every convolution and pooling layer that
pads; weights and their names stay the same. Interpolation inside a network still ends at the seam.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.core.errors import UserError


class CircularConv2d(torch.nn.Conv2d):
    """A convolution that pads circularly in x while `cyclic` is True, and with zeros otherwise and in y."""

    cyclic: bool = True

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.cyclic:
            return super().forward(input)
        vertical, horizontal = self.padding
        padded = F.pad(input, (int(horizontal), int(horizontal), 0, 0), mode="circular")
        return F.conv2d(padded, self.weight, self.bias, self.stride, (int(vertical), 0), self.dilation, self.groups)


class CircularPool2d(torch.nn.Module):
    """A max or average pooling layer that pads circularly in x while `cyclic` is True."""

    cyclic: bool = True

    def __init__(self, pool: torch.nn.MaxPool2d | torch.nn.AvgPool2d) -> None:
        super().__init__()
        self.plain, self.inner = pool, copy.copy(pool)
        vertical, self.horizontal = _padding_pair(pool.padding)
        self.inner.padding = (vertical, 0)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.cyclic:
            return self.plain(input)
        return self.inner(F.pad(input, (self.horizontal, self.horizontal, 0, 0), mode="circular"))


def _padding_pair(padding: int | tuple[int, ...]) -> tuple[int, int]:
    vertical, horizontal = (padding, padding) if isinstance(padding, int) else padding
    return int(vertical), int(horizontal)


def make_circular(network: torch.nn.Module) -> int:
    """Replaces the layers of `network` that pad in x, in place, and returns their number; weights are kept.

    Raises `UserError`, and replaces nothing, if a convolution may pad in a way that cannot be made circular.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Conv2d) and not _can_be_circular(layer):
            description = f"{type(layer).__name__} with kernel {layer.kernel_size} and padding {layer.padding!r}"
            mode = "" if layer.padding_mode == "zeros" else f" of mode {layer.padding_mode!r}"
            raise UserError(
                f"cyclic padding: layer {name}: found a {description}{mode}, which cannot be made to wrap around; "
                "expected torch.nn.Conv2d with padding in numbers (or no cyclic padding)"
            )
    return _replace_layers(network)


def _can_be_circular(conv: torch.nn.Conv2d) -> bool:
    """Whether all padding of `conv` in x is known and zero.

    A subclass may change its input and its padding (standardise its weights, pad by the size of the input), so it is
    accepted only if its kernel covers a single column.
    """
    from mmcv.cnn.bricks import wrappers

    if isinstance(conv, CircularConv2d):
        return True
    pads = conv.padding == "same" and conv.kernel_size[1] > 1 if isinstance(conv.padding, str) else conv.padding[1] > 0
    if type(conv) not in (torch.nn.Conv2d, wrappers.Conv2d):
        return conv.kernel_size[1] == 1 and not pads
    return not pads or (not isinstance(conv.padding, str) and conv.padding_mode in ("zeros", "circular"))


def _replace_layers(network: torch.nn.Module) -> int:
    count = 0
    for name, child in network.named_children():
        if isinstance(child, CircularConv2d | CircularPool2d):
            continue
        if isinstance(child, torch.nn.Conv2d):
            if isinstance(child.padding, tuple) and child.padding[1] and child.padding_mode == "zeros":
                setattr(network, name, _circular_copy(child))
                count += 1
        elif isinstance(child, torch.nn.MaxPool2d | torch.nn.AvgPool2d) and _padding_pair(child.padding)[1]:
            setattr(network, name, CircularPool2d(child))
            count += 1
        else:
            count += _replace_layers(child)
    return count


def _circular_copy(conv: torch.nn.Conv2d) -> CircularConv2d:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    arguments: dict[str, Any] = {name: getattr(conv, name) for name in names}
    with torch.device("meta"):
        new = CircularConv2d(**arguments, bias=conv.bias is not None)
    new.weight, new.bias = conv.weight, conv.bias
    new.train(conv.training)
    return new


@contextmanager
def circular_padding_enabled(network: torch.nn.Module, is_full_panorama: bool) -> Iterator[None]:
    """Within the context, replaced layers pad circularly only if inputs are full panoramas: a crop has no seam."""
    layers = [module for module in network.modules() if isinstance(module, CircularConv2d | CircularPool2d)]
    for layer in layers:
        layer.cyclic = is_full_panorama
    try:
        yield
    finally:
        for layer in layers:
            layer.cyclic = True
