"""mmsegmentation configs fitted to a run: classes, input, schedule, precision.

Configs are Python and are executed: they are the user's own settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from pipeline.core.errors import UserError
from pipeline.models.mmseg_import import import_mmseg

CHECKPOINTS = 5
"""However short a run, a kill costs at most this part of it."""

CONFIGS = Path(__file__).parents[2] / "mmseg_configs"
"""Where the configs of this project lie."""


def student_config(name: str | Path) -> Path:
    """The file of a student: a path, or the name of one in `mmseg_configs/students` (`goodsam_m`).

    Raises:
        UserError: there is neither.
    """
    for path in (Path(name), CONFIGS / "students" / f"{name}.py"):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.stem for p in (CONFIGS / "students").glob("*.py")))
    raise UserError(f"student {str(name)!r}: expected a config file or one of {known}")


#: Parts of a config that every training sets by itself, or by the settings of `train`.
SET_BY_TRAINING = {"custom_imports", "default_scope", "load_from", "log_level", "resume", "work_dir"}


def read_config(path: Path) -> Config:
    """A config of this project as it stands; of any other, its model with our own schedule and transforms."""
    import_mmseg()  # in silence: the configs of this project import it
    cfg = Config.fromfile(path)
    if "model" not in cfg:
        raise UserError(f"{path}: expected an mmseg config with a `model`")
    if "stages.train.register" in cfg.get("custom_imports", {}).get("imports", ()):
        return cfg
    own = Config.fromfile(CONFIGS / "_base_" / "default_runtime.py")
    own.merge_from_dict(Config.fromfile(CONFIGS / "_base_" / "schedule_gpu.py").to_dict())
    own.model = cfg.model
    return own


def schedule_config(name: str | Path) -> Path:
    """The file of a schedule: a path, or the name of one in `mmseg_configs/_base_` (`schedule_demo`).

    Raises:
        UserError: there is neither.
    """
    for path in (Path(name), CONFIGS / "_base_" / f"{name}.py"):
        if path.is_file():
            return path
    raise UserError(f"schedule {str(name)!r}: expected a config file or schedule_gpu, schedule_gpus, schedule_demo")


def replace_schedule(cfg: Config, schedule: str | Path) -> None:
    """Takes loop, optimiser and learning rates from another config. Raises `UserError` if there is none."""
    other = Config.fromfile(schedule_config(schedule))
    for key in ("train_cfg", "optim_wrapper", "param_scheduler"):
        if key not in other:
            raise UserError(f"{schedule_config(schedule)}: has no {key}; expected a config like schedule_gpu")
        cfg[key] = other[key]


def override(cfg: Config, changes: Mapping[str, Any]) -> None:
    """Merges `{'model.decode_head.channels': 64}` into a config. Raises `UserError` where that cannot be.

    What the config has no section of would be read by nobody, so it is refused.
    """
    for key, value in changes.items():
        if (section := key.partition(".")[0]) not in cfg and section != "custom_hooks":
            raise UserError(
                f"train.overrides: {key}: the student's config has no {section}; expected one of "
                f"{', '.join(sorted(set(cfg) - SET_BY_TRAINING))}"
            )
        if section in SET_BY_TRAINING:
            raise UserError(f"train.overrides: {key}: is set by the training; see train.* in the settings")
        try:
            cfg.merge_from_dict({key: value})
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"train.overrides: {key}: cannot become {value!r} in the config ({error})") from None


def check_kept(model: ConfigDict, changes: Mapping[str, Any]) -> None:
    """Raises `UserError` for a change of `override` that fitting the model to the data has undone."""
    for key, value in changes.items():
        first, *parts = key.split(".")
        if first != "model":
            continue
        found: Any = model
        for part in parts:
            found = found[int(part) if isinstance(found, list | tuple) else part] if _has(found, part) else None
        if not _holds(found, value):
            raise UserError(f"train.overrides: {key}: found {value!r}, but the training itself makes it {found!r}")


def _has(node: Any, part: str) -> bool:
    if isinstance(node, list | tuple):
        return part.isdigit() and int(part) < len(node)
    return isinstance(node, Mapping) and part in node


def _holds(found: Any, value: Any) -> bool:
    if isinstance(value, Mapping) and isinstance(found, Mapping):
        return all(_holds(found.get(key), item) for key, item in value.items() if key != "_delete_")
    return bool(found == value) or (isinstance(value, list | tuple) and list(value) == list(found or ()))


def fit_model(model: ConfigDict, classes: int, ignore_index: int, sync_bn: bool) -> None:
    """Fit any mmseg segmentor config to our data: type, classes, RGB input, unsynchronised BN."""
    if model.type == "EncoderDecoder":
        model.type = "MKASegmentor"
    if model.type != "MKASegmentor":
        raise UserError(f"model.type: expected EncoderDecoder or MKASegmentor, found {model.type!r}")
    auxiliary = model.get("auxiliary_head") or []
    for head in (model.decode_head, *(auxiliary if isinstance(auxiliary, list) else [auxiliary])):
        head.num_classes = classes
        head.ignore_index = ignore_index
        head.pop("out_channels", None)
    if not model.get("data_preprocessor"):
        raise UserError("model.data_preprocessor: is missing; expected mmseg's SegDataPreProcessor with mean and std")
    model.test_cfg = dict(mode="whole")  # the student sees the panorama as a whole
    # Configs are made for images read as BGR, which they convert or not; ours are RGB. Batches hold images of one size.
    takes_bgr = not model.data_preprocessor.get("bgr_to_rgb", False)
    model.data_preprocessor.update(
        bgr_to_rgb=False,
        rgb_to_bgr=takes_bgr,
        size=None,
        size_divisor=1,
        seg_pad_val=ignore_index,
        test_cfg=None,
    )
    if not sync_bn:
        _plain_batch_norm(model)


def _plain_batch_norm(config: Any) -> None:
    if isinstance(config, dict):
        if config.get("type") == "SyncBN":
            config["type"] = "BN"
        for value in config.values():
            _plain_batch_norm(value)
    elif isinstance(config, list | tuple):
        for value in config:
            _plain_batch_norm(value)


def fit_schedule(cfg: Config, max_iters: int | None, amp: bool) -> None:
    """Scales the schedule to `max_iters` steps; at least `CHECKPOINTS` checkpoints; mixed precision."""
    for key in ("train_cfg.max_iters", "optim_wrapper.optimizer", "param_scheduler"):
        section, _, part = key.partition(".")
        if section not in cfg or (part and part not in cfg[section]):
            raise UserError(f"the student's schedule: has no {key}; expected a config like schedule_gpu")
    nominal = cfg.train_cfg.max_iters
    cfg.train_cfg.max_iters = max_iters = max_iters or nominal
    schedulers = []
    for scheduler in cfg.param_scheduler:
        if "end" not in scheduler or scheduler.get("by_epoch", True):
            raise UserError(f"param_scheduler: {scheduler.type} has no end or counts epochs; expected by_epoch=False")
        scheduler.begin = round(scheduler.get("begin", 0) * max_iters / nominal)
        scheduler.end = round(scheduler.end * max_iters / nominal)
        if scheduler.end - scheduler.begin > 1:  # a warm-up of one step would never reach the full rate
            schedulers.append(scheduler)
    cfg.param_scheduler = schedulers
    hooks = cfg.default_hooks
    hooks.checkpoint.interval = min(hooks.checkpoint.interval, math.ceil(max_iters / CHECKPOINTS))
    hooks.logger.interval = min(hooks.logger.interval, max_iters)
    if amp:
        bf16 = torch.cuda.is_bf16_supported()
        cfg.optim_wrapper.update(
            type="AmpOptimWrapper",
            dtype="bfloat16" if bf16 else "float16",
            loss_scale=dict(enabled=False) if bf16 else "dynamic",
        )
