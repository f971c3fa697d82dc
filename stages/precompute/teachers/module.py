"""A TA from any Python code: `module:function` that returns a `torch.nn.Module`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.core.components import import_by_name
from pipeline.core.errors import UserError
from pipeline.core.reading import error_text
from pipeline.core.settings import SettingsFile
from pipeline.models.network import Network
from pipeline.models.normalization import Normalization
from stages.precompute.teachers.base import NormalizedTeacher, load_checkpoint


class Module(NormalizedTeacher):
    """Your own model. Input: float32 NCHW RGB, normalized. Output: logits NCHW at any stride."""

    kind: str = "module"
    builder: str = Field(description="module:function that returns the torch.nn.Module.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the function.")
    checkpoint: SettingsFile | None = Field(None, description="Weights, loaded strictly; none if the function loads.")

    def network(self, device: str) -> Network:
        import torch

        builder = import_by_name(self.builder, "teacher.model.builder")
        try:
            model = builder(**self.options)
        except Exception as error:  # the user's code may raise anything
            raise UserError(f"teacher.model.builder: {self.builder!r} failed: {error_text(error)}") from error
        if not isinstance(model, torch.nn.Module):
            raise UserError(f"teacher.model.builder: {self.builder!r} gave {type(model)}, expected a torch.nn.Module")
        load_checkpoint(model, self.checkpoint, True, f"TA {self.builder}")
        return Network(model.to(device).eval(), Normalization(mean=self.mean, std=self.std), self.scale)


COMPONENT = Module
