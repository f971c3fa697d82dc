"""A TA from Hugging Face's transformers: SegFormer and whatever else its semantic segmentation models are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.core.reading import is_file, read_json, shortened
from pipeline.core.settings import SettingsFile
from stages.precompute.teachers.base import Deviation, Infer, Network, Teacher, inference


class HuggingFace(Teacher):
    """The two files that `save_pretrained` writes. Nothing is downloaded; the extra `huggingface` is needed."""

    kind: str = "huggingface"
    config: SettingsFile = Field(description="The model's config.json.")
    checkpoint: SettingsFile | None = Field(None, description="Weights; .safetensors or .bin.")
    random_weights: bool = Field(False, description="Run without a checkpoint (tests and timings).")
    mean: tuple[float, float, float] = Field((123.675, 116.28, 103.53), description="RGB mean, 0..255.")
    std: tuple[Deviation, Deviation, Deviation] = Field(
        (58.395, 57.12, 57.375), description="RGB standard deviation, 0..255."
    )

    def network(self, device: str) -> Network:
        try:
            from transformers import AutoConfig, AutoModelForSemanticSegmentation
        except ImportError:
            raise UserError(
                "teacher.model.kind: huggingface needs the package transformers; install the extra 'huggingface'"
            ) from None

        from pipeline.models.weights import load_into

        if not is_file(self.config):
            raise UserError(f"teacher.model.config: {self.config} is missing; expected the model's config.json")
        read_json(self.config, "the model's config.json")
        try:
            with _offline():
                config = AutoConfig.from_pretrained(str(self.config), local_files_only=True, trust_remote_code=False)
                for part in filter(None, (config, getattr(config, "backbone_config", None))):
                    if getattr(part, "use_pretrained_backbone", False):  # the checkpoint brings its weights
                        part.use_pretrained_backbone = False
                model: Any = AutoModelForSemanticSegmentation.from_config(config, trust_remote_code=False)
        except Exception as error:  # transformers checks little: a wrong value shows where it is used
            reason = shortened(" ".join(str(error).split())) or type(error).__name__
            raise UserError(f"teacher.model.config: {self.config} gives no segmentation model: {reason}") from error
        if self.checkpoint is not None:
            load_into(model, self.checkpoint, f"TA {config.model_type}")
        elif not self.random_weights:
            raise UserError("teacher.model.checkpoint: is missing; expected the weights of the TA")
        outputs = model.forward
        model.forward = lambda views: outputs(pixel_values=views).logits  # as every Network's; weights keep their names
        return Network(model.to(device).eval(), mean=self.mean, std=self.std, bgr=False)

    def build(self, device: str) -> Infer:
        return inference(self, self.network(device), device)


@contextmanager
def _offline() -> Iterator[None]:
    """A config may name a backbone of the hub, which `local_files_only` does not hold back: nothing is asked for."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


COMPONENT = HuggingFace
