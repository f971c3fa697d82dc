"""A student from its checkpoint alone, run by torch.

The model is built from the JSON that the train stage writes into its checkpoints. The config text that mmengine stores
beside it is never executed. Of the JSON, only registered network modules of the OpenMMLab packages and torch are built.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from torch.overrides import TorchFunctionMode

from pipeline.core.errors import UserError
from pipeline.core.reading import error_text, load_json, short_repr
from pipeline.data.images import ImagePreprocessing
from pipeline.data.labels import LabelSpace
from pipeline.execution.devices import inference_context, pick_device
from pipeline.geometry.circular_convolution import make_circular
from pipeline.models.config_tree import from_json, rebuild, walk, without_keys, without_weights
from pipeline.models.mmseg_import import import_mmseg
from pipeline.models.student import STUDENT_META, Student, StudentDescription, check_image, inference_error
from pipeline.models.weights import load_into, load_state_dict

_NETWORKS = ("mmseg.models.", "mmcv.", "mmengine.model.", "torch.nn.")
_NOT_NETWORKS = ("mmseg.models.backbones.vpd", "mmseg.models.backbones.timm_backbone", "mmseg.models.text_encoder")
"""Modules that read further configs or weights by a path or name in their settings."""

_TRAINING_ONLY = ("mka", "circular_padding", "cyclic", "class_weights")
"""Arguments of `MKASegmentor` alone; `cyclic` is `circular_padding` in older checkpoints."""

_NAME = re.compile(r"[\w +-]*")  # text in a network's config: types and modes; files and addresses do not match
_MAX_INTEGER = 2**20  # of a network's config: a number of channels, layers or classes


@dataclass(eq=False, repr=False)
class TorchStudent(Student):
    """A student as a torch module, in evaluation mode and on `device`."""

    model: torch.nn.Module
    space: LabelSpace
    preprocessing: ImagePreprocessing
    device: torch.device
    source: Path | None = None

    def __post_init__(self) -> None:
        self.model = self.model.to(self.device).eval()

    @torch.no_grad()
    def _run(self, image: np.ndarray, finish: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        """Returns `finish(logits)` for logits `(C, H, W)`."""
        check_image(image)
        try:
            with inference_context(str(self.device)):
                pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
                inputs = self.model.data_preprocessor({"inputs": [pixels]}, False)["inputs"]
                # on CUDA an error of the network may appear only when its result is copied
                return finish(whole_logits(self.model, inputs)[0].float()).cpu().numpy()
        except torch.OutOfMemoryError:
            pass
        except RuntimeError as error:
            raise inference_error(image, error) from None
        # outside the handler: the exception's frames no longer hold the tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise inference_error(image, f"{self.device} has too little memory")

    def logits(self, image: np.ndarray) -> np.ndarray:
        return self._run(image, lambda logits: logits)

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        return self._run(image, lambda logits: logits.softmax(dim=0))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self._run(image, lambda logits: logits.argmax(dim=0).to(torch.uint8))


def whole_logits(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Returns the logits `(N, C, H, W)` of an mmseg `EncoderDecoder` for normalized whole images `(N, 3, H, W)`."""
    logits = model.decode_head.forward(model.extract_feat(inputs))
    return torch.nn.functional.interpolate(logits, inputs.shape[2:], mode="bilinear", align_corners=model.align_corners)


def load_torch_student(checkpoint_path: str | Path, device: str = "auto") -> TorchStudent:
    """Loads the student of a checkpoint, see `pipeline.models.load.load_student`."""
    path = Path(checkpoint_path)
    _, meta = load_state_dict(path)
    try:
        stored = load_json(meta[STUDENT_META])
        config = from_json(stored["model"])
        fields = {name: stored[name] for name in StudentDescription.model_fields if stored.get(name) is not None}
        description = StudentDescription.model_validate(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"meta has no readable {STUDENT_META!r} entry; expected a checkpoint written by the train stage"
        raise UserError(f"{path}: not a student of this project: {reason}") from error
    space = description.space(str(path))
    import_mmseg()
    circular = isinstance(config, dict) and bool(config.get("circular_padding", config.get("cyclic")))
    config = network_config(config, str(path))
    from mmseg.registry import MODELS

    try:
        with _Bounded(8 * path.stat().st_size + 2**28):
            model = MODELS.build(ConfigDict(config))
        if circular:
            make_circular(model)
    except Exception as error:
        raise UserError(f"{path}: its model cannot be built ({error_text(error)})") from error
    load_into(model, path, "the model described in it")
    return TorchStudent(model, space, description.preparation, torch.device(pick_device(device)), path)


class _Bounded(TorchFunctionMode):
    """Limits the bytes and the number of the tensors that are made while a network is built: sizes are untrusted."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self.bytes_left, self.operations_left = max_bytes, 100_000

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.operations_left -= 1
        if isinstance(result, torch.Tensor) and not any(result is argument for argument in args):
            self.bytes_left -= result.nbytes
        if min(self.bytes_left, self.operations_left) < 0:
            raise ValueError("it is far larger than the weights in the file")
        return result


def network_config(model: Any, where: str) -> Any:
    """Returns the config that builds a trained model for prediction.

    Left out are weights to load, arguments for training alone, and samplers and files of class weights, which only a
    head's own loss uses. SyncBN becomes BN, which predicts the same. `model` is the config of an `EncoderDecoder` or
    `MKASegmentor`, with its final number of classes. Raises `UserError`, which names `where`, if it holds anything but
    registered networks, so that a student of it could never be loaded.
    """
    if isinstance(model, dict) and model.get("type") == "MKASegmentor":  # prediction is EncoderDecoder's
        model = {k: v for k, v in model.items() if k not in _TRAINING_ONLY} | {"type": "EncoderDecoder"}
    network = without_keys(
        without_weights(model), lambda key, v: key == "sampler" or (key == "class_weight" and isinstance(v, str))
    )
    network = rebuild(network, lambda v: v | {"type": "BN"} if isinstance(v, dict) and v.get("type") == "SyncBN" else v)
    for _, node in walk(network):
        if problem := _problem(node):
            raise UserError(f"{where}: found {problem}")
    return network


def _problem(node: Any) -> str | None:
    """Returns what makes a config's node unsafe to build, and what is expected; None if nothing does.

    mmengine's registries import any dotted name that they do not know (`type='os.system'` would call it), and scope
    prefixes make them import packages. Text may be a file or an address (`torchvision://resnet50`).
    """
    if isinstance(node, int) and abs(node) > _MAX_INTEGER:
        return f"{node} in its model; expected numbers up to {_MAX_INTEGER:,}"
    if isinstance(node, str) and not _NAME.fullmatch(node):
        return f"{short_repr(node)} in its model; expected names of types and modes alone"
    if not isinstance(node, dict):
        return None
    if "_scope_" in node:
        return "a '_scope_' in its model; expected networks of mmsegmentation"
    if "type" in node and not _is_network(str(node["type"])):
        return f"type {short_repr(node['type'])} in its model; expected registered networks only"
    return None


def _is_network(name: str) -> bool:
    from mmseg.registry import MODELS

    registry = MODELS
    registry.import_from_location()
    while registry is not None and name not in registry.module_dict:
        registry = registry.parent
    module = "" if registry is None else f"{registry.module_dict[name].__module__}."
    return module.startswith(_NETWORKS) and not module.startswith(_NOT_NETWORKS)
