"""Run a training through mmengine's `Runner`: config, reader and label space in, a checkpoint out.

Configs (`mmseg_configs/*.py`) are Python and are executed: they are the user's own settings. Checkpoints
are data and never executed.
"""

from __future__ import annotations

import json
import logging
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import utils as device_utils
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from pipeline.checkpoints import load_into, register_safe_mmengine_loader
from pipeline.errors import UserError
from pipeline.student import STUDENT_META
from stages.train import register  # noqa: F401 (registers segmentor, dataset, transforms, hook)
from stages.train.dataset import open_reader

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


def train(
    student: str | Path,
    reader: Mapping[str, Any],
    work_dir: str | Path,
    *,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    ignore_index: int = 255,
    label_space: str = "student",
    preparation: Mapping[str, Any] | None = None,
    schedule: str | Path | None = None,
    max_iters: int | None = None,
    batch_size: int = 2,
    num_workers: int = 0,
    device: str = "auto",
    amp: bool | None = None,
    seed: int = 0,
    resume: bool = False,
    load_from: str | Path | None = None,
    pretrained_backbone: str | Path | None = None,
    distributed: bool = False,
    log_level: str = "INFO",
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Train a student and return its last checkpoint.

    Args:
        student: see `student_config`. Any mmseg `EncoderDecoder` config works: its model is taken, with
            `MKASegmentor` for its type, and this project's schedule and transforms.
        reader: the spec of a `stages.train.dataset.Reader`: plain data, `type='module:function'` plus
            arguments.
        work_dir: gets checkpoints, logs, the config and `train_images.json`, the ids that were trained on.
        classes: names, in label order.
        palette: one `(r, g, b)` per class.
        ignore_index: the label value without a class.
        label_space: name of the label space; kept in the checkpoint.
        preparation: crop and size of the images (`pipeline.images.Preparation` as a dict); kept in the checkpoint.
        schedule: a config whose `train_cfg`, `optim_wrapper`, `param_scheduler` replace the student's; a path
            or the name of one in `mmseg_configs/_base_` (`schedule_demo`).
        max_iters: instead of the config's; the schedulers' begin and end are scaled with it.
        batch_size: per device.
        num_workers: loader processes; 0 loads in the training process.
        device: `auto` (CUDA if there is one), `cpu` or `cuda`.
        amp: automatic mixed precision (bfloat16 where the GPU has it, else float16); `None` is yes on CUDA.
            The CPU always computes in float32.
        seed: of weights, data order and augmentation.
        resume: go on from the last checkpoint in `work_dir`; begin anew if there is none.
        load_from: start from these weights (optimizer and iteration anew).
        pretrained_backbone: a local file with weights for the backbone alone.
        distributed: started by `torchrun`.
        log_level: of mmengine's logger.
        overrides: `{'model.decode_head.channels': 64, ...}`, merged into the config last.

    Raises:
        UserError: settings, config or checkpoint do not fit; before any training.
    """
    register_safe_mmengine_loader()
    work_dir = Path(work_dir)
    kind = _device(device)
    if distributed and kind != "cuda":
        raise UserError("distributed: mmengine's distributed training needs CUDA devices; found none")
    cfg = _read_config(student_config(student))
    if schedule is not None:
        _replace_schedule(cfg, schedule)
    cfg.merge_from_dict(dict(overrides or {}))
    ids = tuple(open_reader(reader).ids)
    _configure_model(cfg.model, len(classes), ignore_index, distributed)
    if pretrained_backbone is not None:
        cfg.model.backbone.init_cfg = dict(type="Pretrained", checkpoint=str(pretrained_backbone))
    _configure_schedule(cfg, max_iters, kind == "cuda" if amp is None else amp and kind == "cuda")

    labels = dict(classes=tuple(classes), palette=[list(color) for color in palette])
    cfg.train_dataloader = dict(
        batch_size=batch_size,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=kind == "cuda",
        sampler=dict(type="InfiniteSampler", shuffle=True),
        dataset=dict(
            type="PseudoLabelDataset",
            reader=dict(reader),
            metainfo=labels,
            pipeline=cfg.pop("train_pipeline"),
            ignore_index=ignore_index,
        ),
    )
    cfg.custom_hooks = [
        *cfg.get("custom_hooks", []),
        dict(type="StepProgressHook"),
        dict(
            type="StudentMetaHook",
            ignore_index=ignore_index,
            label_space=label_space,
            preparation=dict(preparation or {}),
            **labels,
        ),
    ]
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(seed=seed)
    cfg.log_level = log_level
    cfg.launcher = "pytorch" if distributed else "none"
    cfg.sync_bn = "torch" if distributed else None
    cfg.experiment_name = f"{Path(student).stem}-{uuid.uuid4().hex[:8]}"  # logs are kept per name in a process
    last = last_checkpoint(work_dir) if resume else None
    start = last or load_from
    cfg.load_from = None if start is None else str(start)
    cfg.resume = last is not None

    with _use_device(kind):
        runner = _build_runner(cfg, student)
        runner.logger.addFilter(_worth_logging)
        if start is not None:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            meta = load_into(model, start, f"the student {student}")
            _check_same_labels(meta, classes, start)
        work_dir.mkdir(parents=True, exist_ok=True)
        (work_dir / "train_images.json").write_text(json.dumps(ids, ensure_ascii=False))
        runner.train()
    written = last_checkpoint(work_dir)
    if written is None:
        raise UserError(f"{work_dir}: the training wrote no checkpoint")
    return written


def last_checkpoint(work_dir: Path) -> Path | None:
    """The newest complete `iter_<n>.pth` of a run; `None` without one.

    mmengine's `last_checkpoint` file is not asked: it holds an absolute path, and a kill may leave it or the
    newest checkpoint half written. A zip archive has its directory at the end, so a cut one is recognised.
    """
    found = [(int(p.stem[5:]), p) for p in work_dir.glob("iter_*.pth") if p.stem[5:].isdigit()]
    return next((p for _, p in sorted(found, reverse=True) if zipfile.is_zipfile(p)), None)


def _device(name: str) -> str:
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device: expected auto, cpu or cuda, found {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda was asked for, but torch finds no CUDA device")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


@contextmanager
def _use_device(kind: str) -> Iterator[None]:
    """mmengine's Runner takes the best device of the machine; this is the only way to ask it for the CPU."""
    before = device_utils.DEVICE
    device_utils.DEVICE = kind
    try:
        yield
    finally:
        device_utils.DEVICE = before


def _read_config(path: Path) -> Config:
    """A config of this project as it stands; of any other, its model with our own schedule and transforms."""
    cfg = Config.fromfile(path)
    if "model" not in cfg:
        raise UserError(f"{path}: expected an mmseg config with a `model`")
    if "stages.train.register" in cfg.get("custom_imports", {}).get("imports", ()):
        return cfg
    own = Config.fromfile(CONFIGS / "_base_" / "default_runtime.py")
    own.merge_from_dict(Config.fromfile(CONFIGS / "_base_" / "schedule_gpu.py").to_dict())
    own.model = cfg.model
    return own


class _QuietRunner(Runner):
    """mmengine's Runner, whose pages about environment and hooks go to the log file only."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.WARNING)
        return logger


def _build_runner(cfg: Config, student: str | Path) -> Runner:
    try:
        return _QuietRunner.from_cfg(cfg)
    except UserError:
        raise
    except (AssertionError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{student}: the training cannot be set up ({error})") from error


def _worth_logging(record: logging.LogRecord) -> bool:
    """False for what mmengine says once per parameter, and about its own deprecated functions."""
    return not record.getMessage().startswith(("paramwise_options", '"FileClient"', '"HardDiskBackend"'))


def _replace_schedule(cfg: Config, schedule: str | Path) -> None:
    paths = (Path(schedule), CONFIGS / "_base_" / f"{schedule}.py")
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise UserError(f"schedule {str(schedule)!r}: expected a config file or schedule_gpu, schedule_demo")
    other = Config.fromfile(path)
    for key in ("train_cfg", "optim_wrapper", "param_scheduler"):
        cfg[key] = other[key]


def _configure_model(model: ConfigDict, classes: int, ignore_index: int, sync_bn: bool) -> None:
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
    # Configs made for images read as BGR convert them; ours are RGB already. Batches hold images of one size.
    model.data_preprocessor.update(bgr_to_rgb=False, size=None, size_divisor=1, seg_pad_val=ignore_index, test_cfg=None)
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


def _configure_schedule(cfg: Config, max_iters: int | None, amp: bool) -> None:
    nominal = cfg.train_cfg.max_iters
    cfg.train_cfg.max_iters = max_iters = max_iters or nominal
    schedulers = []
    for scheduler in cfg.param_scheduler:
        scheduler.begin = round(scheduler.begin * max_iters / nominal)
        scheduler.end = round(scheduler.end * max_iters / nominal)
        if scheduler.end - scheduler.begin > 1:  # a warm-up of one step would never reach the full rate
            schedulers.append(scheduler)
    cfg.param_scheduler = schedulers
    hooks = cfg.default_hooks
    hooks.checkpoint.interval = min(hooks.checkpoint.interval, max_iters)
    hooks.logger.interval = min(hooks.logger.interval, max_iters)
    if amp:
        bf16 = torch.cuda.is_bf16_supported()
        cfg.optim_wrapper.update(
            type="AmpOptimWrapper",
            dtype="bfloat16" if bf16 else "float16",
            loss_scale=dict(enabled=False) if bf16 else "dynamic",
        )


def _check_same_labels(meta: Mapping[str, Any], classes: Sequence[str], path: str | Path) -> None:
    if STUDENT_META in meta:
        found = json.loads(meta[STUDENT_META])["classes"]
        if found != list(classes):
            raise UserError(f"{path}: was trained for the classes {found}; expected {list(classes)}")
