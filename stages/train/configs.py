"""The mmengine config of a training: the student's config with the changes of the settings, fitted to the run.

Student configs are Python and are executed: they are the user's own settings. No function here changes its arguments.
"""

from __future__ import annotations

import copy
import math
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from pipeline.core.errors import UserError
from pipeline.core.project_files import PROJECT_ROOT, find_project_file
from pipeline.data.class_balance import class_shares, class_weights
from pipeline.data.labels import LabelSpace
from pipeline.models.config_tree import rebuild, walk
from pipeline.models.mmseg_import import import_mmseg
from pipeline.models.student import StudentDescription
from pipeline.models.torch_student import network_config
from stages.train.pretrained import drop_weights, resolve_pretrained
from stages.train.run import TrainingRun
from stages.train.selection import CANDIDATES
from stages.train.settings import TrainSettings

CONFIGS = PROJECT_ROOT / "mmseg_configs"  #: The mmsegmentation configs of this project.
CHECKPOINTS = 5  #: Least number of checkpoints of a run: a kill costs at most this part of it.

#: Sections of a config that every training sets.
SET_BY_TRAINING = {"custom_imports", "default_scope", "load_from", "log_level", "resume", "work_dir"}


def student_config(name: str | Path) -> Path:
    """Returns a file, or that of a config by its name in `mmseg_configs/students`. Raises `UserError`."""
    return find_project_file("mmseg_configs/students", name, "train.student")


def schedule_config(name: str | Path) -> Path:
    """Returns a file, or that of a config by its name in `mmseg_configs/_base_`. Raises `UserError`."""
    return find_project_file("mmseg_configs/_base_", name, "train.schedule")


def read_config(path: Path) -> Config:
    """Reads a student's config; of a config of another project only the model, with our schedule and transforms.

    Raises `UserError` if there is no `model`.
    """
    import_mmseg()  # without its messages: the configs of this project import it
    config = Config.fromfile(path)
    if "model" not in config:
        raise UserError(f"{path}: expected an mmseg config with a `model`")
    if "stages.train.register" in config.get("custom_imports", {}).get("imports", ()):
        return config
    base = Config.fromfile(CONFIGS / "_base_" / "default_runtime.py")
    base.merge_from_dict(Config.fromfile(CONFIGS / "_base_" / "schedule_gpu.py").to_dict())
    base.model = config.model
    return base


def requested_config(settings: TrainSettings) -> Config:
    """Returns the student's config with the schedule and the overrides of the settings.

    Raises `UserError` if there is no such config, a schedule lacks a section, or an override cannot be merged.
    """
    config = read_config(student_config(settings.student))
    if settings.schedule is not None:
        path = schedule_config(settings.schedule)
        schedule = Config.fromfile(path)
        for section in ("train_cfg", "optim_wrapper", "param_scheduler"):
            if section not in schedule:
                raise UserError(f"{path}: has no {section}; expected a config like schedule_gpu")
            config[section] = schedule[section]
    for key, value in settings.overrides.items():
        section = key.partition(".")[0]
        if section not in config and section != "custom_hooks":  # nothing would read it
            names = ", ".join(sorted(set(config) - SET_BY_TRAINING))
            raise UserError(f"train.overrides: {key}: the student's config has no {section}; expected one of {names}")
        if section in SET_BY_TRAINING:
            raise UserError(f"train.overrides: {key}: is set by the training; see train.* in the settings")
        try:
            config.merge_from_dict({key: value})
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"train.overrides: {key}: cannot become {value!r} in the config ({error})") from None
    return config


def fit_model(model: Mapping[str, Any], space: LabelSpace, sync_bn: bool = False) -> dict[str, Any]:
    """Returns the config of an `EncoderDecoder` or `MKASegmentor`, fitted to our classes, RGB input and one GPU.

    With `sync_bn` it keeps synchronised batch norm, for several GPUs. Raises `UserError` if the model is of another
    type, or has no data preprocessor.
    """
    fitted: dict[str, Any] = rebuild(model, (lambda node: node) if sync_bn else _without_sync_bn)
    if fitted["type"] == "EncoderDecoder":
        fitted["type"] = "MKASegmentor"
    if fitted["type"] != "MKASegmentor":
        raise UserError(f"model.type: expected EncoderDecoder or MKASegmentor, found {fitted['type']!r}")
    auxiliary = fitted.get("auxiliary_head") or []
    for head in (fitted["decode_head"], *(auxiliary if isinstance(auxiliary, list) else [auxiliary])):
        head |= {"num_classes": space.num_classes, "ignore_index": space.ignore_index}
        head.pop("out_channels", None)
    if not fitted.get("data_preprocessor"):
        raise UserError("model.data_preprocessor: is missing; expected mmseg's SegDataPreProcessor with mean and std")
    fitted["test_cfg"] = {"mode": "whole"}  # a student predicts the whole panorama at once
    # Configs are made for images read as BGR, which they convert or not; ours are RGB. Batches hold images of one size.
    fitted["data_preprocessor"] |= {
        "bgr_to_rgb": False,
        "rgb_to_bgr": not fitted["data_preprocessor"].get("bgr_to_rgb", False),
        "size": None,
        "size_divisor": 1,
        "seg_pad_val": space.ignore_index,
        "test_cfg": None,
    }
    return fitted


def _without_sync_bn(node: Any) -> Any:
    return {**node, "type": "BN"} if isinstance(node, dict) and node.get("type") == "SyncBN" else node


def check_overrides_kept(model: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Raises `UserError` for an override of the model that `fit_model` has undone."""
    fitted = {".".join(map(str, path)): node for path, node in walk(model, ("model",))}
    changes = (change for key, value in overrides.items() for change in walk(value, (key,)))
    for path, value in changes:
        place = ".".join(map(str, path))
        is_leaf = not isinstance(value, Mapping | list | tuple) and path[-1] != "_delete_"
        if is_leaf and place.startswith("model.") and (place not in fitted or fitted[place] != value):
            found = fitted.get(place)
            raise UserError(f"train.overrides: {place}: found {value!r}, but the training itself makes it {found!r}")


def fit_schedule(config: Config, max_iters: int | None = None) -> Config:
    """Returns `config` with its schedule scaled to `max_iters` steps, and at least `CHECKPOINTS` checkpoints.

    Raises `UserError` if a section of the schedule is missing, or a learning rate follows epochs.
    """
    for key in ("train_cfg.max_iters", "optim_wrapper.optimizer", "param_scheduler"):
        section, _, part = key.partition(".")
        if section not in config or (part and part not in config[section]):
            raise UserError(f"the student's schedule: has no {key}; expected a config like schedule_gpu")
    config = copy.deepcopy(config)
    nominal = config.train_cfg.max_iters
    config.train_cfg.max_iters = max_iters = max_iters or nominal
    for scheduler in config.param_scheduler:
        if "end" not in scheduler or scheduler.get("by_epoch", True):
            raise UserError(f"param_scheduler: {scheduler.type} has no end or counts epochs; expected by_epoch=False")
        scheduler.begin = round(scheduler.get("begin", 0) * max_iters / nominal)
        scheduler.end = round(scheduler.end * max_iters / nominal)
    # a warm-up of one step would never reach the full rate
    config.param_scheduler = [s for s in config.param_scheduler if s.end - s.begin > 1]
    hooks = config.default_hooks
    hooks.checkpoint.interval = min(hooks.checkpoint.interval, math.ceil(max_iters / CHECKPOINTS))
    hooks.logger.interval = min(hooks.logger.interval, max_iters)
    return config


def build_config(run: TrainingRun) -> Config:
    """Returns the mmengine config of a training; it lacks only the data loader, see `stages.train.launch`.

    Raises `UserError` if settings, config or initial weights do not fit.
    """
    settings, space = run.settings, run.space
    sync_bn = run.distributed and run.on_gpu  # torch has no synchronised batch norm on the CPU
    config = fit_schedule(requested_config(settings), settings.iterations)
    model = fit_model(config.model, space, sync_bn)
    check_overrides_kept(model, settings.overrides)
    if settings.circular_padding:
        model["circular_padding"] = True
    if settings.class_balance:
        shares = class_shares(run.reader, run.train_ids, space.num_classes)
        model["class_weights"] = class_weights(shares, settings.class_balance).round(6).tolist()
    config.model = model
    if run.checkpoint is None:
        resolve_pretrained(config, settings.load_from, settings.pretrained_backbone, space.classes)
    else:
        drop_weights(config.model)
    network_config(config.model.to_dict(), f"the student {settings.student}")  # a student must be loadable later
    if run.on_gpu:
        is_bf16 = torch.cuda.is_bf16_supported()
        config.optim_wrapper.update(
            type="AmpOptimWrapper",
            dtype="bfloat16" if is_bf16 else "float16",
            loss_scale={"enabled": False} if is_bf16 else "dynamic",
        )
    elif run.distributed:
        config.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)
    checkpoints = config.default_hooks.checkpoint
    if settings.select != "last":
        checkpoints.interval = math.ceil(config.train_cfg.max_iters / CANDIDATES)
        checkpoints.max_keep_ckpts = CANDIDATES
    config.custom_hooks = [*config.get("custom_hooks", []), *_hooks(run, checkpoints.interval)]
    if settings.tensorboard:
        config.visualizer.vis_backends.append({"type": "TensorboardVisBackend"})
    config.work_dir = str(run.work_dir)
    config.randomness = {"seed": settings.seed}
    config.launcher = "pytorch" if run.distributed else "none"
    config.sync_bn = "torch" if sync_bn else None
    config.experiment_name = f"{Path(settings.student).stem}-{uuid.uuid4().hex[:8]}"  # mmengine keeps a logger per name
    config.load_from = None if run.checkpoint is None else str(run.checkpoint)
    config.resume = run.checkpoint is not None
    return config


def _hooks(run: TrainingRun, checkpoint_interval: int) -> list[dict[str, Any]]:
    settings, space = run.settings, run.space
    description = StudentDescription.of(space, run.preprocessing)
    sources = dict(Counter(entry["source"] for entry in run.label_sources.values()))
    hooks: list[dict[str, Any]] = [
        {"type": "StepSeedHook", "seed": settings.seed},
        {"type": "StudentMetaHook", "description": description.model_dump(mode="json") | {"label_sources": sources}},
    ]
    if settings.ema is not None:
        hooks.append({"type": "EMAHook", "momentum": settings.ema, "update_buffers": True})
    if settings.tensorboard:
        plain = space.model_dump(mode="json")
        hooks.append({"type": "SamplePictureHook", "interval": checkpoint_interval, "space": plain})
    return hooks
