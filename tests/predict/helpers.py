"""Students without training: checkpoints as the train stage writes them, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict

from pipeline.data.images import ImagePreprocessing
from pipeline.data.labels import LabelSpace, load_label_space
from pipeline.models.config_tree import to_json
from pipeline.models.mmseg_import import import_mmseg
from pipeline.models.student import STUDENT_META, StudentDescription
from pipeline.models.torch_student import network_config
from stages.train.configs import fit_model, read_config, student_config
from tests.train.helpers import TINY_CGNET


def untrained(
    path: Path,
    student: str = "cgnet",
    tiny: dict[str, Any] = TINY_CGNET,
    *,
    space: LabelSpace | None = None,
    preprocessing: ImagePreprocessing = ImagePreprocessing(),
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Writes a checkpoint of `student`, by default of the 19 Cityscapes classes; `changes` are keys of its model."""
    import_mmseg()
    from mmseg.registry import MODELS

    space = space or load_label_space("cityscapes19")
    config = read_config(student_config(student))
    config.merge_from_dict({key: value for key, value in tiny.items() if key.startswith("model.")})
    config.model.update(changes)
    model = fit_model(config.model.to_dict(), space)
    torch.manual_seed(seed)
    network = MODELS.build(ConfigDict(network_config(model, str(path))))
    description = StudentDescription.of(space, preprocessing)
    meta = json.dumps({"model": to_json(model), **description.model_dump(mode="json")})
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": network.state_dict(), "meta": {STUDENT_META: meta}}, path)
    return path
