"""A TA from mmsegmentation: any config with any checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pipeline.core.errors import UserError
from pipeline.core.project_files import PROJECT_ROOT, project_file_names
from pipeline.core.reading import error_text, is_file
from pipeline.core.settings import SettingsFile, parse_settings
from pipeline.models.network import Network
from pipeline.models.normalization import Normalization
from stages.precompute.teachers.base import Teacher, load_checkpoint


def _find_config(value: Any) -> Any:
    """Returns the file of a plain name in `mmseg_configs/teachers`, and any other value unchanged."""
    if not (isinstance(value, str) and re.fullmatch(r"[\w-]+", value)):
        return value
    names = project_file_names("mmseg_configs/teachers")
    if value not in names:
        raise ValueError(f"expected a .py file or one of {', '.join(names)}")
    return PROJECT_ROOT / "mmseg_configs" / "teachers" / f"{value}.py"


class Mmseg(Teacher):
    """An mmsegmentation model. Its `data_preprocessor` gives mean, std and the order of the channels.

    The config is a Python file and is executed: use one from a source whose code you would run. The checkpoint is data
    only.
    """

    kind: str = "mmseg"
    config: Annotated[SettingsFile, BeforeValidator(_find_config)] = Field(
        description="An mmsegmentation config (.py), or the name of one in mmseg_configs/teachers."
    )
    checkpoint: SettingsFile | None = Field(None, description="Weights; .pth or .safetensors.")
    random_weights: bool = Field(False, description="Run without a checkpoint (tests and timings).")

    def network(self, device: str) -> Network:
        from pipeline.models.mmseg_import import import_mmseg

        import_mmseg()
        from mmengine.config import Config, ConfigDict
        from mmengine.model import revert_sync_batchnorm
        from mmseg.registry import MODELS

        from pipeline.models.config_tree import without_weights
        from pipeline.models.weights import register_safe_mmengine_loader

        if not is_file(self.config):
            raise UserError(f"teacher.model.config: {self.config} is missing; expected an mmsegmentation config")
        try:
            config = Config.fromfile(self.config)
        except Exception as error:  # a Python file may raise anything
            raise UserError(f"teacher.model.config: {self.config} cannot be read: {error_text(error)}") from None
        if not isinstance(config.get("model"), Mapping):
            raise UserError(f"{self.config}: has no key 'model' with a network, expected an mmsegmentation config")
        register_safe_mmengine_loader()
        try:  # weights that the config names are neither read nor downloaded: the checkpoint holds all of them
            model: Any = revert_sync_batchnorm(MODELS.build(ConfigDict(without_weights(config.model.to_dict()))))
        except Exception as error:
            raise UserError(f"teacher.model.config: {self.config} gives no model: {error_text(error)}") from error
        load_checkpoint(model, self.checkpoint, self.random_weights, f"TA {self.config.name}")
        preprocessor = config.model.get("data_preprocessor") or config.get("data_preprocessor") or {}
        # mmseg reads BGR, and bgr_to_rgb means that the model takes RGB
        values: dict[str, Any] = {"channels": "RGB" if preprocessor.get("bgr_to_rgb") else "BGR"}
        for key in ("mean", "std"):
            if value := tuple(preprocessor.get(key) or ()):
                values[key] = value * 3 if len(value) == 1 else value
        normalization = parse_settings(Normalization, values, f"{self.config}: data_preprocessor")
        # the forward of mmseg's models, in its default mode "tensor", gives logits at their own stride
        return Network(model.to(device).eval(), normalization, self.scale)


COMPONENT = Mmseg
