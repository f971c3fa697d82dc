"""Convolutions on the ring (ours): in x a panorama's left and right edges are neighbours, so padding wraps around.

A network that pads with zeros sees an edge at the seam where there is none. `make_cyclic` changes that for every
convolution and pooling layer that pads; weights and their names stay the same. Interpolation inside a network still
ends at the seam.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from pipeline.core.errors import UserError


class CircularConv2d(torch.nn.Conv2d):
    """A convolution whose zero padding in x is circular padding while `cyclic` is True; in y it stays zeros."""

    cyclic: bool = True

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.cyclic:
            return super().forward(input)
        vertical, horizontal = self.padding
        wrapped = F.pad(input, (int(horizontal), int(horizontal), 0, 0), mode="circular")
        return F.conv2d(wrapped, self.weight, self.bias, self.stride, (int(vertical), 0), self.dilation, self.groups)


class CircularPool2d(torch.nn.Module):
    """A max or average pooling layer, likewise."""

    cyclic: bool = True

    def __init__(self, pool: torch.nn.MaxPool2d | torch.nn.AvgPool2d) -> None:
        super().__init__()
        self.plain, self.inner = pool, copy.copy(pool)
        vertical, self.horizontal = _pair(pool.padding)
        self.inner.padding = (vertical, 0)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.cyclic:
            return self.plain(input)
        return self.inner(F.pad(input, (self.horizontal, self.horizontal, 0, 0), mode="circular"))


def _pair(padding: int | tuple[int, ...]) -> tuple[int, int]:
    vertical, horizontal = (padding, padding) if isinstance(padding, int) else padding
    return int(vertical), int(horizontal)


def make_circular(network: torch.nn.Module) -> int:
    """Replaces what pads in x (convolutions, pooling) in `network`, in place; returns how many. Weights are kept.

    Raises `UserError`, before anything is replaced, if a convolution may pad in a way that cannot be wrapped.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Conv2d) and not _can_wrap(layer):
            found = f"{type(layer).__name__} with kernel {layer.kernel_size} and padding {layer.padding!r}"
            mode = "" if layer.padding_mode == "zeros" else f" of mode {layer.padding_mode!r}"
            raise UserError(
                f"cyclic padding: layer {name}: found a {found}{mode}, which cannot be made to wrap around; "
                "expected torch.nn.Conv2d with padding in numbers (or no cyclic padding)"
            )
    return _replace(network)


def _can_wrap(conv: torch.nn.Conv2d) -> bool:
    """Whether all that `conv` may pad in x is known and is zeros.

    A subclass may do anything before and with its padding (standardise its weights, pad by the size of the input):
    only one that looks at single columns is left as it is.
    """
    from mmcv.cnn.bricks import wrappers

    if isinstance(conv, CircularConv2d):
        return True
    pads = conv.padding == "same" and conv.kernel_size[1] > 1 if isinstance(conv.padding, str) else conv.padding[1] > 0
    if type(conv) not in (torch.nn.Conv2d, wrappers.Conv2d):
        return conv.kernel_size[1] == 1 and not pads
    return not pads or (not isinstance(conv.padding, str) and conv.padding_mode in ("zeros", "circular"))


def _replace(network: torch.nn.Module) -> int:
    count = 0
    for name, child in network.named_children():
        new: torch.nn.Module | None = None
        if isinstance(child, CircularConv2d | CircularPool2d):
            continue
        if isinstance(child, torch.nn.Conv2d):
            if isinstance(child.padding, tuple) and child.padding[1] and child.padding_mode == "zeros":
                new = _cyclic(child)
        elif isinstance(child, torch.nn.MaxPool2d | torch.nn.AvgPool2d) and _pair(child.padding)[1]:
            new = CircularPool2d(child)
        if new is not None:
            setattr(network, name, new)
            count += 1
        else:
            count += _replace(child)
    return count


def _cyclic(conv: torch.nn.Conv2d) -> CircularConv2d:
    with torch.device("meta"):
        new = CircularConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
        )
    new.weight, new.bias = conv.weight, conv.bias
    new.train(conv.training)
    return new


@contextmanager
def circular_padding_enabled(network: torch.nn.Module, whole: bool) -> Iterator[None]:
    """Within the context cyclic convolutions wrap only if inputs are `whole` rings: a crop's edges do not touch."""
    layers = [module for module in network.modules() if isinstance(module, CircularConv2d | CircularPool2d)]
    for layer in layers:
        layer.cyclic = whole
    try:
        yield
    finally:
        for layer in layers:
            layer.cyclic = True
