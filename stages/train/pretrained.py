"""The weights that a training begins with: a whole model's, a backbone's, or random ones.

Files are read by `pipeline.models.weights`, without unpickling. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pipeline.core.errors import UserError
from pipeline.core.reading import load_json, short_repr
from pipeline.models.config_tree import walk
from pipeline.models.student import STUDENT_META
from pipeline.models.weights import load_state_dict


def resolve_pretrained(
    cfg: Config, load_from: str | Path | None, pretrained_backbone: str | Path | None, classes: Sequence[str]
) -> None:
    """Writes into `cfg.model` which weights `MKASegmentor.init_weights` loads.

    `load_from` (of a whole model) has priority over `pretrained_backbone`, and both over the config's own `load_from`.
    Other weights that the config names (`pretrained`, `init_cfg` of type `Pretrained`) count only without all of these.
    Raises `UserError` if a file cannot be read, or the config names an address.
    """
    from_config = cfg.pop("load_from", None)
    whole_model = load_from or (None if pretrained_backbone else from_config)
    if whole_model is not None:
        meta = load_state_dict(whole_model)[1]
        cfg.model.load_from = dict(path=str(whole_model), classifier=checkpoint_classes(meta) in (None, list(classes)))
    elif pretrained_backbone is not None:
        cfg.model.pretrained_backbone = str(pretrained_backbone)
    else:
        refuse_addresses(cfg.model)
        return
    drop_weights(cfg.model)


def drop_weights(model: Any) -> None:
    """Removes the weights that an mmsegmentation config names, in place."""
    for _, node in walk(model):
        if isinstance(node, dict):
            for key in [key for key, value in node.items() if _names_weights(key, value)]:
                del node[key]


def checkpoint_classes(meta: Mapping[str, Any]) -> list[str] | None:
    """Returns the class names of a checkpoint of this project or of mmsegmentation; None if it does not have any."""
    for read in (
        lambda: load_json(meta[STUDENT_META])["classes"],
        lambda: meta["dataset_meta"]["classes"],
        lambda: meta["CLASSES"],
    ):
        with suppress(KeyError, TypeError, ValueError):
            return [str(name) for name in read()]
    return None


def refuse_addresses(model: Mapping[str, Any]) -> None:
    """Raises `UserError` for a config whose weights would have to be downloaded."""
    for path, value in walk(model, ("model",)):
        address = str(value.get("checkpoint") if isinstance(value, Mapping) else value)
        if _names_weights(path[-1], value) and "://" in address:
            place = ".".join(map(str, path))
            raise UserError(
                f"{place}: found {short_repr(address, 200)}; expected weights in a local file: train.load_from or "
                f"train.pretrained_backbone (or --set 'train.overrides={{{place}: null}}' for random ones)"
            )


def _names_weights(key: str | int, value: Any) -> bool:
    if key == "init_cfg":
        return isinstance(value, Mapping) and value.get("type") == "Pretrained"
    return key == "pretrained" and value is not None
