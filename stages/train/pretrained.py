"""What a training begins with: a whole model's weights, a backbone's, or random ones.

Files are read by `pipeline.models.weights`, without unpickling. Nothing is ever fetched from an address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pipeline.core.errors import UserError
from pipeline.core.reading import load_json, shown
from pipeline.models.student import STUDENT_META
from pipeline.models.weights import load_state_dict


def resolve_pretrained(
    cfg: Config, load_from: str | Path | None, pretrained_backbone: str | Path | None, classes: Sequence[str]
) -> None:
    """Writes into `cfg.model` what `MKASegmentor.init_weights` is to load.

    `load_from` comes before `pretrained_backbone`, and either before the config's own `load_from`. What the config
    says besides (`pretrained`, `init_cfg` of type `Pretrained`) counts only without all of them.

    Raises:
        UserError: a file cannot be read, or the config names an address.
    """
    own = cfg.pop("load_from", None)
    whole = load_from or (None if pretrained_backbone else own)
    if whole is not None:
        meta = load_state_dict(whole)[1]
        cfg.model.load_from = dict(path=str(whole), classifier=labels_of(meta) in (None, list(classes)))
    elif pretrained_backbone is not None:
        cfg.model.pretrained_backbone = str(pretrained_backbone)
    else:
        refuse_addresses(cfg.model)
        return
    drop_weights(cfg.model)


def labels_of(meta: Mapping[str, Any]) -> list[str] | None:
    """The classes that a checkpoint of this project or of mmsegmentation is for; `None` where it does not say."""
    try:
        return [str(name) for name in load_json(meta[STUDENT_META])["classes"]]
    except (KeyError, TypeError, ValueError):
        pass
    try:
        named = meta["dataset_meta"]["classes"] if "dataset_meta" in meta else meta["CLASSES"]
        return [str(name) for name in named]
    except (KeyError, TypeError):
        return None


def refuse_addresses(model: Mapping[str, Any]) -> None:
    """Raises `UserError` for a config whose weights would have to be fetched."""
    for key, value in _named_weights(model, "model"):
        if "://" in value:
            raise UserError(
                f"{key}: found {shown(value, 200)}; expected weights in a local file: train.pretrained_backbone or "
                f"train.load_from (or --set 'train.overrides={{{key}: null}}' for random ones)"
            )


def drop_weights(model: Any) -> None:
    """Removes, in place, what an mmsegmentation config says of weights to begin with."""
    if isinstance(model, dict):
        for key in [key for key, value in model.items() if _names_weights(key, value)]:
            del model[key]
        for value in model.values():
            drop_weights(value)
    elif isinstance(model, list | tuple):
        for value in model:
            drop_weights(value)


def _names_weights(key: str, value: Any) -> bool:
    if key == "init_cfg":
        return isinstance(value, Mapping) and value.get("type") == "Pretrained"
    return key == "pretrained" and value is not None


def _named_weights(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Keys and values of a config that name weights."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if _names_weights(key, item):
                yield (f"{path}.{key}", str(item.get("checkpoint") if key == "init_cfg" else item))
            else:
                yield from _named_weights(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _named_weights(item, f"{path}.{index}")
