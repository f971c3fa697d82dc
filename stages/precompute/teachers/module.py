"""A TA from any Python code: `module:function` that returns a `torch.nn.Module`."""

from __future__ import annotations

import importlib
from typing import Any

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.core.reading import shortened
from pipeline.core.settings import SettingsFile
from stages.precompute.teachers.base import Deviation, Infer, Network, Teacher, inference


class Module(Teacher):
    """Your own model: float32 NCHW RGB, normalised, in; logits NCHW, at any stride, out."""

    kind: str = "module"
    builder: str = Field(description="module:function that returns the torch.nn.Module.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the function.")
    checkpoint: SettingsFile | None = Field(None, description="Weights, loaded strictly; none if the function loads.")
    mean: tuple[float, float, float] = Field((123.675, 116.28, 103.53), description="RGB mean, 0..255.")
    std: tuple[Deviation, Deviation, Deviation] = Field(
        (58.395, 57.12, 57.375), description="RGB standard deviation, 0..255."
    )

    def network(self, device: str) -> Network:
        import torch

        from pipeline.models.weights import load_into

        name, _, function = self.builder.partition(":")
        try:
            model = getattr(importlib.import_module(name), function)(**self.options)
        except Exception as error:  # the user's code may raise anything
            reason = shortened(error) or type(error).__name__
            raise UserError(f"teacher.model.builder: {self.builder!r} cannot be called: {reason}") from error
        if not isinstance(model, torch.nn.Module):
            raise UserError(f"teacher.model.builder: {self.builder!r} gave {type(model)}, expected a torch.nn.Module")
        if self.checkpoint is not None:
            load_into(model, self.checkpoint, f"TA {self.builder}")
        return Network(model.to(device).eval(), self.mean, self.std, bgr=False)

    def build(self, device: str) -> Infer:
        return inference(self, self.network(device), device)


COMPONENT = Module
