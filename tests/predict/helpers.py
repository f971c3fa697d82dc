"""Students without training: checkpoints as the train stage writes them, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict

from pipeline.data.labels import load_label_space
from pipeline.models.mmseg_import import import_mmseg
from pipeline.models.student import STUDENT_META, to_json
from pipeline.models.torch_student import network_config
from stages.train.configs import fit_model, read_config, student_config
from tests.train.helpers import TINY_CGNET


def untrained(path: Path, student: str = "cgnet", tiny: dict[str, Any] = TINY_CGNET, **changes: Any) -> Path:
    """Writes a checkpoint of `student`, 19 Cityscapes classes; `changes` are keys of its model."""
    import_mmseg()
    from mmseg.registry import MODELS

    space = load_label_space("cityscapes19")
    config = read_config(student_config(student))
    config.merge_from_dict({key: value for key, value in tiny.items() if key.startswith("model.")})
    config.model.update(changes)
    fit_model(config.model, space.num_classes, space.ignore_index, sync_bn=False)
    model = config.model.to_dict()
    torch.manual_seed(0)
    network = MODELS.build(ConfigDict(network_config(model, str(path))))
    described = {
        "model": to_json(model),
        "classes": space.classes,
        "palette": space.palette,
        "ignore_index": space.ignore_index,
        "label_space": space.name,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": network.state_dict(), "meta": {STUDENT_META: json.dumps(described)}}, path)
    return path
