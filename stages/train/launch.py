"""Runs a training: loader, device, processes, and mmengine's Runner."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate, worker_init_fn
from mmengine.dist import get_dist_info
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from pipeline.core.atomic_files import lock_folder, write_text
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, SilentProgress
from pipeline.execution.devices import keep_freed_memory
from pipeline.models.weights import load_into, register_safe_mmengine_loader
from stages.train import register  # noqa: F401 (registers segmentor, transforms and hooks)
from stages.train.configs import build_config
from stages.train.dataset import PseudoLabelDataset
from stages.train.hooks import StepProgressHook
from stages.train.mmengine_internals import build_runner, network, use_device
from stages.train.pretrained import checkpoint_classes
from stages.train.run import TrainingRun, checkpoints_of, set_checkpoints_aside
from stages.train.sampler import NumberedSampler
from stages.train.segmentor import MKASegmentor
from stages.train.selection import CANDIDATES, choose


def launch(run: TrainingRun, progress: Progress = SilentProgress()) -> Path:
    """Trains a student and returns its checkpoint: the last one, or the one that `run.settings.select` chooses.

    Raises `UserError` before any training if settings, config, initial weights or the folder do not fit.
    """
    register_safe_mmengine_loader()
    device, settings = torch.device(run.resolved_device), run.settings
    if device.index is not None:
        torch.cuda.set_device(device)
    if device.type == "cpu":
        keep_freed_memory()
    config = build_config(run)
    with use_device(device.type), _process_group(run), _lock(run.work_dir):
        runner = _build_runner(run, config)
        _check_weights(cast(MKASegmentor, network(runner)), run)
        is_main = runner.rank == 0
        runner.register_hook(StepProgressHook(progress if is_main else SilentProgress()))
        if is_main:
            if not run.resume:
                set_checkpoints_aside(run.work_dir)
            write_text(run.work_dir / "train_images.json", json.dumps(run.train_ids, ensure_ascii=False))
            write_text(run.work_dir / "label_sources.json", json.dumps(run.label_sources, ensure_ascii=False, indent=1))
        runner.train()
    checkpoints = checkpoints_of(run.work_dir)
    if not checkpoints:
        raise UserError(f"{run.work_dir}: the training wrote no checkpoint")
    if settings.select != "last" and is_main:
        return choose(checkpoints[-CANDIDATES:], run.reader, run.held_out_ids, device.type)
    return checkpoints[-1]


def build_loader(run: TrainingRun, transforms: Sequence[Mapping[str, Any]]) -> DataLoader:
    """Returns the loader of a training: batches of packed samples, without end.

    Without loader processes, a thread of the dataset reads one batch ahead.
    """
    settings = run.settings
    dataset = PseudoLabelDataset(
        run.reader, run.space, transforms, ids=run.train_ids, seed=settings.seed, memory=settings.memory
    )
    rank, world_size = get_dist_info()
    ahead = 0 if settings.workers else settings.batch_size
    return DataLoader(
        dataset,
        settings.batch_size,
        sampler=NumberedSampler(len(dataset), settings.seed, rank=rank, world_size=world_size, ahead=ahead),
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        pin_memory=run.on_gpu,
        collate_fn=pseudo_collate,
        worker_init_fn=partial(worker_init_fn, num_workers=settings.workers, rank=rank, seed=settings.seed),
    )


def _build_runner(run: TrainingRun, config: Config) -> Runner:
    try:
        return build_runner(config, build_loader(run, config.train_pipeline))
    except UserError:
        raise
    except (AssertionError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{run.settings.student}: the training cannot be set up ({error})") from error


def _check_weights(model: MKASegmentor, run: TrainingRun) -> None:
    """Loads the weights to continue or to start from, before anything is written; mmengine loads them again."""
    if run.checkpoint is None:
        try:
            model.load_pretrained()
        except UserError as error:
            setting = "pretrained_backbone" if model.load_from is None else "load_from"
            raise UserError(f"{error} (--set train.{setting}=null starts from random weights)") from None
        return
    classes = checkpoint_classes(load_into(model, run.checkpoint, f"the student {run.settings.student}"))
    if classes not in (None, list(run.space.classes)):
        raise UserError(f"{run.checkpoint}: was trained for the classes {classes}; expected {list(run.space.classes)}")


@contextmanager
def _process_group(run: TrainingRun) -> Iterator[None]:
    """Within the context, the processes that torchrun has started are joined."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if not run.distributed:
        if processes != "1":
            found = f"found {processes} processes of torchrun (WORLD_SIZE)"
            raise UserError(f"train: {found}, each of which would train alone into one folder; expected --distributed")
        yield
        return
    if "LOCAL_RANK" not in os.environ:
        raise UserError(
            "--distributed: found no LOCAL_RANK in the environment; expected to be started by "
            "`torchrun --nproc-per-node 2 -m pipeline train --distributed ...`"
        )
    if run.on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if run.on_gpu else "gloo")
    try:
        yield
        torch.distributed.barrier()  # the other processes look for what the first one has written
    finally:
        torch.distributed.destroy_process_group()


def _lock(work_dir: Path) -> AbstractContextManager[None]:
    """Holds the lock of the folder; of several processes the first one does."""
    if os.environ.get("RANK", "0") != "0":
        return nullcontext()
    work_dir.mkdir(parents=True, exist_ok=True)
    return lock_folder(work_dir, "another process trains into this folder")
