"""Run a training through mmengine's `Runner`: config, reader and label space in, a checkpoint out.

Configs (`mmseg_configs/*.py`) are Python and are executed: they are the user's own settings. Checkpoints
are data and never executed.
"""

from __future__ import annotations

import json
import logging
import math
import os
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.config import Config
from mmengine.device import utils as device_utils
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from pipeline.core.atomic_files import locked, write_text
from pipeline.core.errors import UserError
from pipeline.execution.devices import pick_device
from pipeline.models.torch_student import network_config
from pipeline.models.weights import load_into, register_safe_mmengine_loader
from stages.train import register  # noqa: F401 (registers segmentor, dataset, sampler, transforms, hooks)
from stages.train.balance import class_shares, class_weights
from stages.train.configs import (
    check_kept,
    fit_model,
    fit_schedule,
    override,
    read_config,
    replace_schedule,
    student_config,
)
from stages.train.dataset import open_reader
from stages.train.pretrained import drop_weights, labels_of, resolve_pretrained
from stages.train.selection import CANDIDATES, choose, held_out_ids

Select = Literal["last", "pseudo_label_miou"]


def train(
    student: str | Path,
    reader: Mapping[str, Any],
    work_dir: str | Path,
    *,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    ignore_index: int = 255,
    label_space: str = "student",
    preprocessing: Mapping[str, Any] | None = None,
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
    class_balance: float = 0.0,
    cyclic_padding: bool = False,
    ema: float | None = None,
    select: Select = "last",
    held_out: float = 0.1,
    tensorboard: bool = False,
    memory: int = 0,
) -> Path:
    """Train a student and return its checkpoint: the last one, or the one that `select` names.

    Args:
        student: see `student_config`. Any mmseg `EncoderDecoder` config works: its model is taken, with
            `MKASegmentor` for its type, and this project's schedule and transforms.
        reader: the spec of a `pipeline.data.samples.Reader` (see `open_reader`): plain data, `type='module:function'` plus
            arguments.
        work_dir: gets checkpoints, logs, the config and `train_images.json`, the ids that were trained on.
        classes: names, in label order.
        palette: one `(r, g, b)` per class.
        ignore_index: the label value without a class.
        label_space: name of the label space; kept in the checkpoint.
        preprocessing: crop and size of the images (`pipeline.data.images.ImagePreprocessing` as a dict); kept in the checkpoint.
        schedule: a config whose `train_cfg`, `optim_wrapper`, `param_scheduler` replace the student's; a path
            or the name of one in `mmseg_configs/_base_` (`schedule_demo`).
        max_iters: instead of the config's; the schedulers' begin and end are scaled with it.
        batch_size: per device.
        num_workers: loader processes; 0 loads in the training process, a thread of which reads one batch ahead.
        device: `auto` (CUDA if there is one), `cpu` or `cuda[:index]`.
        amp: automatic mixed precision (bfloat16 where the GPU has it, else float16); `None` is yes on CUDA.
            The CPU always computes in float32.
        seed: of weights, data order and augmentation.
        resume: go on from the last checkpoint in `work_dir`; begin anew if there is none. Without it the checkpoints of
            an earlier run are moved to a folder `earlier-<n>` in `work_dir`.
        load_from: start from these weights (optimizer and iteration anew), or else from those that the config names as
            `load_from`. The layer that names the classes begins with random ones if the file's classes are others.
        pretrained_backbone: a local file with weights for the backbone alone: its own, or those of a whole segmentor
            with the same backbone.
        distributed: started by `torchrun`: one process a GPU (NCCL), or on the CPU (gloo).
        log_level: of mmengine's logger.
        overrides: `{'model.decode_head.channels': 64, ...}`, merged into the config; what the other arguments and
            the fit to the data set is refused.
        class_balance: exponent of the inverse class share in the labels by which pixels are weighted; 0 is off.
        cyclic_padding: convolutions of the student wrap around the seam.
        ema: momentum of a moving average of the weights, which the checkpoints then hold; `None` is off.
        select: `last`, or `pseudo_label_miou`: hold out a share of the panoramas and choose the checkpoint that agrees best
            with their pseudo-labels.
        held_out: that share.
        tensorboard: write scalars and sample pictures for TensorBoard too.
        memory: MiB of decoded panoramas that each loader process keeps.

    Raises:
        UserError: settings, config or checkpoint do not fit; before any training.
    """
    register_safe_mmengine_loader()
    work_dir = Path(work_dir)
    kind = _device(device)
    _check_launch(distributed)
    cfg = read_config(student_config(student))
    if schedule is not None:
        replace_schedule(cfg, schedule)
    override(cfg, overrides or {})
    opened = open_reader(reader)
    kept_out = held_out_ids(opened.ids, held_out) if select == "pseudo_label_miou" else ()
    ids = tuple(image_id for image_id in opened.ids if image_id not in set(kept_out))
    synchronised = distributed and kind == "cuda"  # torch has no synchronised batch norm on the CPU
    fit_model(cfg.model, len(classes), ignore_index, synchronised)
    check_kept(cfg.model, overrides or {})
    if cyclic_padding:
        cfg.model.cyclic = True
    if class_balance:
        shares = class_shares(opened, ids, len(classes))
        cfg.model.class_weights = class_weights(shares, class_balance).round(6).tolist()
    last = last_checkpoint(work_dir) if resume else None
    resolve_pretrained(cfg, load_from, pretrained_backbone, classes) if last is None else drop_weights(cfg.model)
    network_config(cfg.model.to_dict(), f"the student {student}")  # refused now rather than when it is used
    fit_schedule(cfg, max_iters, kind == "cuda" if amp is None else amp and kind == "cuda")
    if select == "pseudo_label_miou":
        checkpoints = cfg.default_hooks.checkpoint
        checkpoints.update(interval=math.ceil(cfg.train_cfg.max_iters / CANDIDATES), max_keep_ckpts=CANDIDATES)

    labels = dict(classes=tuple(classes), palette=[list(color) for color in palette])
    cfg.train_dataloader = dict(
        batch_size=batch_size,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=kind == "cuda",
        sampler=dict(type="NumberedSampler", shuffle=True, seed=seed, ahead=0 if num_workers else batch_size),
        dataset=dict(
            type="PseudoLabelDataset",
            reader=dict(reader),
            metainfo=labels,
            pipeline=cfg.pop("train_pipeline"),
            ignore_index=ignore_index,
            ids=ids,
            seed=seed,
            memory=memory,
        ),
    )
    described = dict(label_space=label_space, preprocessing=dict(preprocessing or {}))
    _add_hooks(cfg, {**labels, "ignore_index": ignore_index}, described, seed, ema, tensorboard)
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(seed=seed)
    cfg.log_level = log_level
    cfg.launcher = "pytorch" if distributed else "none"
    cfg.sync_bn = "torch" if synchronised else None
    if distributed and kind == "cpu":
        cfg.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)
    cfg.experiment_name = f"{Path(student).stem}-{uuid.uuid4().hex[:8]}"  # logs are kept per name in a process
    cfg.load_from = None if last is None else str(last)
    cfg.resume = last is not None

    with _use_device(kind), _processes(kind, distributed), _alone(work_dir):
        runner = _build_runner(cfg, student)
        runner.logger.addFilter(_worth_logging)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if last is not None:
            meta = load_into(model, last, f"the student {student}")
            _check_same_labels(meta, classes, last)
        else:
            model.begin()  # what does not fit is refused here, before anything is written; init_weights does it again
        if runner.rank == 0:
            work_dir.mkdir(parents=True, exist_ok=True)
            if not resume:
                _set_aside(work_dir)
            write_text(work_dir / "train_images.json", json.dumps(ids, ensure_ascii=False))
        runner.train()
    written = checkpoints_of(work_dir)
    if not written:
        raise UserError(f"{work_dir}: the training wrote no checkpoint")
    if select == "pseudo_label_miou" and runner.rank == 0:
        return choose(written[-CANDIDATES:], opened, kept_out, kind)
    return written[-1]


def _add_hooks(
    cfg: Config,
    labels: Mapping[str, Any],
    described: Mapping[str, Any],
    seed: int,
    ema: float | None,
    tensorboard: bool,
) -> None:
    """What happens beside the steps; `labels` are classes, palette and ignore index, `described` go along."""
    hooks = [
        *cfg.get("custom_hooks", []),
        dict(type="StepSeedHook", seed=seed),
        dict(type="StepProgressHook"),
        dict(type="StudentMetaHook", **labels, **described),
    ]
    if ema is not None:
        hooks.append(dict(type="EMAHook", momentum=ema, update_buffers=True))
    if tensorboard:
        cfg.visualizer.vis_backends.append(dict(type="TensorboardVisBackend"))
        hooks.append(dict(type="SamplePictureHook", interval=cfg.default_hooks.checkpoint.interval, **labels))
    cfg.custom_hooks = hooks


def last_checkpoint(work_dir: Path) -> Path | None:
    """The newest complete `iter_<n>.pth` of a run; `None` without one."""
    return next(iter(checkpoints_of(work_dir)[::-1]), None)


def checkpoints_of(work_dir: Path) -> list[Path]:
    """The complete `iter_<n>.pth` of a run, oldest first.

    mmengine's `last_checkpoint` file is not asked: it holds an absolute path, and a kill may leave it or the
    newest checkpoint half written. A zip archive has its directory at the end, so a cut one is recognised.
    """
    found = [(int(p.stem[5:]), p) for p in work_dir.glob("iter_*.pth") if p.stem[5:].isdigit()]
    return [path for _, path in sorted(found) if zipfile.is_zipfile(path)]


def _set_aside(work_dir: Path) -> None:
    """Moves an earlier run's checkpoints away: a killed new run must not be taken for it, nor chosen from among it."""
    old = [path for path in (*work_dir.glob("iter_*.pth"), work_dir / "selection.json") if path.is_file()]
    if not old:
        return
    folder = next(f for n in count(1) if not (f := work_dir / f"earlier-{n}").exists())
    folder.mkdir()
    for path in old:
        path.rename(folder / path.name)


def _device(name: str) -> str:
    device = pick_device(name)
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda"):
        raise UserError(f"device: found {name!r}, expected auto, cpu or cuda[:index]")
    if index:
        torch.cuda.set_device(int(index))
    return kind


def _check_launch(distributed: bool) -> None:
    processes = os.environ.get("WORLD_SIZE", "1")
    if not distributed and processes != "1":
        raise UserError(
            f"train: found {processes} processes of torchrun (WORLD_SIZE), each of which would train alone into "
            "the same folder; expected --distributed"
        )


@contextmanager
def _use_device(kind: str) -> Iterator[None]:
    """mmengine's Runner takes the best device of the machine; this is the only way to ask it for the CPU."""
    before = device_utils.DEVICE
    device_utils.DEVICE = kind
    try:
        yield
    finally:
        device_utils.DEVICE = before


@contextmanager
def _processes(kind: str, distributed: bool) -> Iterator[None]:
    """The processes that torchrun started, joined for the training and parted after it."""
    if not distributed:
        yield
        return
    if "LOCAL_RANK" not in os.environ:
        raise UserError(
            "--distributed: found no LOCAL_RANK in the environment; expected to be started by "
            "`torchrun --nproc-per-node 2 -m pipeline train --distributed ...`"
        )
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield
        torch.distributed.barrier()  # the first process has written what the others look for next
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def _alone(work_dir: Path) -> Iterator[None]:
    """One training in a folder at a time; of several processes the first one says so."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    work_dir.mkdir(parents=True, exist_ok=True)
    with locked(work_dir, "another process trains into this folder"):
        yield


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


def _check_same_labels(meta: Mapping[str, Any], classes: Sequence[str], path: str | Path) -> None:
    found = labels_of(meta)
    if found not in (None, list(classes)):
        raise UserError(f"{path}: was trained for the classes {found}; expected {list(classes)}")
