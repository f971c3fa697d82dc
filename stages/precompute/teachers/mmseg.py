"""A TA from mmsegmentation: any config with any checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.core.reading import is_file, shortened
from pipeline.core.settings import SettingsFile
from pipeline.models.student import without_weights
from stages.precompute.teachers.base import Infer, Network, Teacher, inference


class Mmseg(Teacher):
    """An mmsegmentation model. Its `data_preprocessor` gives mean, std and the channels' order.

    The config is a Python file and is executed: take it from where you take code. The checkpoint is data only.
    """

    kind: str = "mmseg"
    config: SettingsFile = Field(description="An mmsegmentation config (.py).")
    checkpoint: SettingsFile | None = Field(None, description="Weights; .pth or .safetensors.")
    random_weights: bool = Field(False, description="Run without a checkpoint (tests and timings).")

    def network(self, device: str) -> Network:
        from pipeline.models.mmseg_import import import_mmseg

        import_mmseg()
        from mmengine.config import Config, ConfigDict
        from mmengine.model import revert_sync_batchnorm
        from mmseg.registry import MODELS

        from pipeline.models.weights import load_into, register_safe_mmengine_loader

        if not is_file(self.config):
            raise UserError(f"teacher.model.config: {self.config} is missing; expected an mmsegmentation config")
        try:
            config = Config.fromfile(self.config)
        except Exception as error:  # a Python file may raise anything
            raise UserError(f"teacher.model.config: {self.config} cannot be read: {_reason(error)}") from None
        if not isinstance(config.get("model"), Mapping):
            raise UserError(f"{self.config}: has no key 'model' with a network, expected an mmsegmentation config")
        register_safe_mmengine_loader()
        try:  # the checkpoint brings all weights: those that the config names are neither read nor fetched
            model: Any = revert_sync_batchnorm(MODELS.build(ConfigDict(without_weights(config.model.to_dict()))))
        except Exception as error:
            raise UserError(f"teacher.model.config: {self.config} gives no model: {_reason(error)}") from error
        if self.checkpoint is not None:
            load_into(model, self.checkpoint, f"TA {self.config.name}")
        elif not self.random_weights:
            raise UserError("teacher.model.checkpoint: is missing; expected the weights of the TA")
        preprocessor = config.model.get("data_preprocessor") or config.get("data_preprocessor") or {}
        return Network(
            model.to(device).eval(),  # its forward in mode "tensor", the default, gives logits at their own stride
            mean=tuple(preprocessor.get("mean") or (0.0, 0.0, 0.0)),
            std=tuple(preprocessor.get("std") or (1.0, 1.0, 1.0)),
            # views are RGB; mmseg reads BGR, and bgr_to_rgb says that the model takes RGB
            bgr=not preprocessor.get("bgr_to_rgb", False),
        )

    def build(self, device: str) -> Infer:
        return inference(self, self.network(device), device)


def _reason(error: Exception) -> str:
    return shortened(" ".join(str(error).split())) or type(error).__name__


COMPONENT = Mmseg
