"""A student from its checkpoint alone, run by torch.

The model is built from the JSON that the train stage writes into its checkpoints. The config text that mmengine stores
beside it is never executed, and of the JSON only registered network modules of the OpenMMLab packages and torch are
built.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from torch.overrides import TorchFunctionMode

from pipeline.core.errors import UserError
from pipeline.core.reading import load_json, shortened, shown
from pipeline.data.images import ImagePreprocessing
from pipeline.data.labels import LabelSpace
from pipeline.execution.devices import pick_device
from pipeline.geometry.circular_convolution import make_circular
from pipeline.models.mmseg_import import import_mmseg
from pipeline.models.student import STUDENT_META, Student, cannot_run, check_image, from_json, without_weights
from pipeline.models.weights import load_into, load_state_dict

_NETWORKS = ("mmseg.models.", "mmcv.", "mmengine.model.", "torch.nn.")
_NOT_NETWORKS = (
    "mmseg.models.backbones.vpd",
    "mmseg.models.backbones.timm_backbone",
    "mmseg.models.text_encoder",
)
"""Modules that read further configs or weights by a path or name in their settings."""


class TorchStudent(Student):
    """A student as a torch module.

    Attributes:
        model: the network, in evaluation mode, on `device`.
        device: where it runs.
    """

    def __init__(
        self, model: torch.nn.Module, space: LabelSpace, preprocessing: ImagePreprocessing, device: torch.device
    ) -> None:
        self.model = model.to(device).eval()
        self.space = space
        self.preprocessing = preprocessing
        self.device = device

    @torch.no_grad()
    def _run(self, image: np.ndarray, finish: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        """`finish(logits)`, logits `(C, H, W)`; on CUDA an error of the network may only show when they are copied."""
        check_image(image)
        try:
            return finish(self._logits(image)).cpu().numpy()
        except torch.OutOfMemoryError:
            pass
        except RuntimeError as error:
            raise cannot_run(image, error) from None
        # only here, where the exception is gone, and with it the frames that hold the tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise cannot_run(image, f"{self.device} has too little memory")

    def _logits(self, image: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        inputs = self.model.data_preprocessor({"inputs": [pixels]}, False)["inputs"]
        return whole_logits(self.model, inputs)[0].float()

    def logits(self, image: np.ndarray) -> np.ndarray:
        return self._run(image, lambda logits: logits)

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        return self._run(image, lambda logits: logits.softmax(dim=0))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self._run(image, lambda logits: logits.argmax(dim=0).to(torch.uint8))


def whole_logits(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Logits `(N, C, H, W)` of an mmseg `EncoderDecoder` for normalised images `(N, 3, H, W)`, each as a whole."""
    logits = model.decode_head.forward(model.extract_feat(inputs))
    return torch.nn.functional.interpolate(logits, inputs.shape[2:], mode="bilinear", align_corners=model.align_corners)


def load_torch_student(checkpoint_path: str | Path, device: str = "auto") -> TorchStudent:
    """See `pipeline.models.student.load_student`."""
    _, meta = load_state_dict(checkpoint_path)
    try:
        described = load_json(meta[STUDENT_META])
        config = from_json(described["model"])
        space = LabelSpace(
            name=described.get("label_space", "student"),
            classes=described["classes"],
            palette=described["palette"],
            ignore_index=described["ignore_index"],
        )
        preprocessing = ImagePreprocessing.model_validate(described.get("preparation") or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{checkpoint_path}: not a student of this project: meta has no readable {STUDENT_META!r} entry; "
            "expected a checkpoint written by the train stage"
        ) from error
    import_mmseg()
    cyclic = isinstance(config, dict) and bool(config.get("cyclic"))
    config = network_config(config, str(checkpoint_path))
    from mmseg.registry import MODELS

    try:
        with _Bounded(8 * Path(checkpoint_path).stat().st_size + 2**28):
            model = MODELS.build(ConfigDict(config))
    except Exception as error:
        reason = shortened(" ".join(str(error).split())) or type(error).__name__
        raise UserError(f"{checkpoint_path}: its model cannot be built ({reason})") from error
    load_into(model, checkpoint_path, "the model described in it")
    if cyclic:
        try:
            make_circular(model)
        except UserError as error:
            raise UserError(f"{checkpoint_path}: {error}") from None
    return TorchStudent(model, space, preprocessing, torch.device(pick_device(device)))


class _Bounded(TorchFunctionMode):
    """While a network is built, what its tensors may take all together, and how many operations may make them.

    The sizes come from the checkpoint; weights that it does not hold are of no use.
    """

    MOST_OPERATIONS = 100_000

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.most_bytes = most_bytes
        self.bytes = self.operations = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.operations += 1
        if isinstance(result, torch.Tensor) and not any(result is argument for argument in args):
            self.bytes += result.numel() * result.element_size()
        if self.bytes > self.most_bytes or self.operations > self.MOST_OPERATIONS:
            raise ValueError("it is far larger than the weights in the file")
        return result


_TRAINING_ONLY = ("mka", "cyclic", "class_weights")
"""Arguments of `MKASegmentor` that `EncoderDecoder` does not have."""


def network_config(model: Any, where: str) -> Any:
    """Of the config of a model in training, what it takes to build it for prediction.

    Args:
        model: of type `EncoderDecoder` or `MKASegmentor`, fitted to its classes.
        where: whose it is, for the message.

    Raises:
        UserError: it holds other things than registered networks, so a student of it could never be loaded.
    """
    if isinstance(model, dict) and model.get("type") == "MKASegmentor":  # prediction is EncoderDecoder's
        model = {k: v for k, v in model.items() if k not in _TRAINING_ONLY} | {"type": "EncoderDecoder"}
    network = _without_losses(without_weights(model))
    _check_networks(network, where)
    return network


def _without_losses(value: Any) -> Any:
    """Heads sample pixels for their own loss only; its class weights may be the name of a file, which is read."""
    if isinstance(value, dict):
        return {
            k: _without_losses(v)
            for k, v in value.items()
            if k != "sampler" and not (k == "class_weight" and isinstance(v, str))
        }
    return type(value)(_without_losses(v) for v in value) if isinstance(value, list | tuple) else value


#: Text in a network's config: names of types and modes. Files and addresses have other characters.
_NAME = re.compile(r"[\w +-]*")

#: The largest integer in a network's config: a number of channels, of layers, of classes.
_LARGEST = 2**20


def _check_networks(config: Any, path: str) -> None:
    """Refuse every `type` that is not a registered network; SyncBN becomes BN, which predicts the same.

    mmengine's registries import whatever dotted name they do not know (`type='os.system'` would call it), and
    scope prefixes make them import packages: names are looked up in the tables of registered classes only. Text that
    could be a file or an address (`torchvision://resnet50`) is refused wherever it stands.
    """
    if isinstance(config, list | tuple):
        for item in config:
            _check_networks(item, path)
    if isinstance(config, int) and abs(config) > _LARGEST:
        raise UserError(f"{path}: found {config} in its model; expected numbers up to {_LARGEST:,}")
    if isinstance(config, str) and not _NAME.fullmatch(config):
        raise UserError(f"{path}: found {shown(config)} in its model; expected names of types and modes alone")
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
            raise UserError(f"{path}: found type {shown(name)} in its model; expected registered networks only")
    for value in config.values():
        _check_networks(value, path)
