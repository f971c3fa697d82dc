"""A trained student from its checkpoint alone: image in, labels out.

The model is built from the JSON that the train stage writes into its checkpoints. The config text that mmengine stores
beside it is never executed, and of the JSON only registered network modules of the OpenMMLab packages and torch are
built.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict

from pipeline.checkpoints import load_into, load_state_dict
from pipeline.devices import pick_device
from pipeline.errors import UserError
from pipeline.images import Preparation
from pipeline.labels import LabelSpace
from pipeline.mmseg_import import import_mmseg

STUDENT_META = "student"
"""Key under a checkpoint's `meta`: JSON text with `model`, `classes`, `palette`, `ignore_index`, `label_space` (its
name) and `preparation` (how training images were cropped and resized)."""

_NETWORKS = ("mmseg.models.", "mmcv.", "mmengine.model.", "torch.nn.")
_NOT_NETWORKS = (
    "mmseg.models.backbones.vpd",
    "mmseg.models.backbones.timm_backbone",
    "mmseg.models.text_encoder",
)
"""Modules that read further configs or weights by a path or name in their settings."""


class Student:
    """A segmentation model and the label space it was trained in.

    Attributes:
        model: the network, in evaluation mode, on `device`.
        space: the classes, their colours and the ignore index (which is never predicted).
        preparation: the crop and size that the training images had.
        device: where it runs.
    """

    def __init__(
        self, model: torch.nn.Module, space: LabelSpace, preparation: Preparation, device: torch.device
    ) -> None:
        self.model = model.to(device).eval()
        self.space = space
        self.preparation = preparation
        self.device = device

    @torch.no_grad()
    def logits(self, image: np.ndarray) -> torch.Tensor:
        """float32 `(C, H, W)` on `device`, for a uint8 `(H, W, 3)` RGB panorama seen as a whole."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected a uint8 (H, W, 3) RGB image, found {image.dtype} {image.shape}")
        size = image.shape[:2]
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        inputs = self.model.data_preprocessor({"inputs": [pixels]}, False)["inputs"]
        meta = {"ori_shape": size, "img_shape": size, "pad_shape": size, "padding_size": [0, 0, 0, 0]}
        return self.model.inference(inputs, [meta])[0].float()

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """float32 `(C, H, W)`, summing to 1 over `C`."""
        return self.logits(image).softmax(dim=0).cpu().numpy()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The most probable class per pixel: uint8 `(H, W)`."""
        return self.logits(image).argmax(dim=0).to(torch.uint8).cpu().numpy()


def load_student(checkpoint_path: str | Path, device: str = "auto") -> Student:
    """Build a student from its checkpoint, of whatever origin.

    Args:
        checkpoint_path: a checkpoint of `stages.train.run.train`.
        device: `auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`.

    Raises:
        UserError: the file carries code, is not a student's, or names something that is not a network.
    """
    _, meta = load_state_dict(checkpoint_path)
    try:
        described = json.loads(meta[STUDENT_META])
        config = described["model"]
        space = LabelSpace(
            name=described.get("label_space", "student"),
            classes=described["classes"],
            palette=described["palette"],
            ignore_index=described["ignore_index"],
        )
        preparation = Preparation.model_validate(described.get("preparation") or {})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{checkpoint_path}: not a student of this project: meta has no readable {STUDENT_META!r} entry; "
            "expected a checkpoint written by the train stage"
        ) from error
    import_mmseg()
    if isinstance(config, dict) and config.get("type") == "MKASegmentor":  # prediction is EncoderDecoder's
        config = {key: value for key, value in config.items() if key != "mka"} | {"type": "EncoderDecoder"}
    config = without_weights(config)
    _check_networks(config, str(checkpoint_path))
    from mmseg.registry import MODELS

    try:
        model = MODELS.build(ConfigDict(config))
    except Exception as error:
        raise UserError(f"{checkpoint_path}: its model cannot be built ({error})") from error
    load_into(model, checkpoint_path, "the model described in it")
    return Student(model, space, preparation, torch.device(pick_device(device)))


def without_weights(value: Any) -> Any:
    """A model's config as JSON data, without the keys that name weights to start from."""
    if isinstance(value, dict):
        return {k: without_weights(v) for k, v in value.items() if k not in ("init_cfg", "pretrained")}
    if isinstance(value, list | tuple):
        return [without_weights(item) for item in value]
    return value


def _check_networks(config: Any, path: str) -> None:
    """Refuse every `type` that is not a registered network; SyncBN becomes BN, which predicts the same.

    mmengine's registries import whatever dotted name they do not know (`type='os.system'` would call it), and
    scope prefixes make them import packages: names are looked up in the tables of registered classes only.
    """
    if isinstance(config, list):
        for item in config:
            _check_networks(item, path)
    if not isinstance(config, dict):
        return
    if config.get("type") == "SyncBN":
        config["type"] = "BN"
    if "_scope_" in config:
        raise UserError(f"{path}: found a '_scope_' in its model; expected networks of mmsegmentation")
    if "type" in config:
        from mmseg.registry import MODELS

        name, registry = str(config["type"]), MODELS
        registry.import_from_location()
        while registry is not None and name not in registry.module_dict:
            registry = registry.parent
        home = "" if registry is None else f"{registry.module_dict[name].__module__}."
        if not home.startswith(_NETWORKS) or home.startswith(_NOT_NETWORKS):
            raise UserError(f"{path}: found type {name!r} in its model; expected registered networks only")
    for value in config.values():
        _check_networks(value, path)
