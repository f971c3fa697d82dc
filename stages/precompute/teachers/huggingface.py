"""A TA from Hugging Face's transformers: SegFormer and its other semantic segmentation models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.core.reading import error_text, is_file, read_json
from pipeline.core.settings import SettingsFile
from pipeline.models.network import Network
from pipeline.models.normalization import Normalization
from stages.precompute.teachers.base import NormalizedTeacher, load_checkpoint


class HuggingFace(NormalizedTeacher):
    """The two files that `save_pretrained` writes. Nothing is downloaded; the extra `huggingface` is needed."""

    kind: str = "huggingface"
    config: SettingsFile = Field(description="The model's config.json.")
    checkpoint: SettingsFile | None = Field(None, description="Weights; .safetensors or .bin.")
    random_weights: bool = Field(False, description="Run without a checkpoint (tests and timings).")

    def network(self, device: str) -> Network:
        try:
            from transformers import AutoConfig, AutoModelForSemanticSegmentation
        except ImportError:
            raise UserError(
                "teacher.model.kind: huggingface needs the package transformers; install the extra 'huggingface'"
            ) from None

        if not is_file(self.config):
            raise UserError(f"teacher.model.config: {self.config} is missing; expected the model's config.json")
        read_json(self.config, "the model's config.json")
        try:
            with _offline():
                config = AutoConfig.from_pretrained(str(self.config), local_files_only=True, trust_remote_code=False)
                for part in filter(None, (config, getattr(config, "backbone_config", None))):
                    if getattr(part, "use_pretrained_backbone", False):  # the checkpoint holds the backbone's weights
                        part.use_pretrained_backbone = False
                model: Any = AutoModelForSemanticSegmentation.from_config(config, trust_remote_code=False)
        except Exception as error:  # transformers checks little: a wrong value fails where it is used
            raise UserError(
                f"teacher.model.config: {self.config} gives no segmentation model: {error_text(error)}"
            ) from error
        load_checkpoint(model, self.checkpoint, self.random_weights, f"TA {config.model_type}")
        model = model.to(device).eval()
        normalization = Normalization(mean=self.mean, std=self.std)
        return Network(model, normalization, self.scale, run=lambda inputs: model(pixel_values=inputs).logits)


@contextmanager
def _offline() -> Iterator[None]:
    """Stops downloads of a backbone that the config names, which `local_files_only` does not prevent."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


COMPONENT = HuggingFace
