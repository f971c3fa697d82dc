"""A training as plain values, and the checkpoints in its folder."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.data.images import ImagePreprocessing
from pipeline.data.labels import LabelSpace
from pipeline.data.samples import Reader
from pipeline.execution.devices import pick_device
from stages.train.selection import held_out_ids
from stages.train.settings import TrainSettings


@dataclass(frozen=True)
class TrainingRun:
    """Everything that determines a training.

    Its `work_dir` receives checkpoints, logs, the mmengine config, `train_images.json` with the ids of the images, and
    `label_sources.json` with the source of each label.
    """

    settings: TrainSettings
    space: LabelSpace  #: the classes of the labels
    reader: Reader  #: the images and their pseudo-labels; loader processes receive a copy
    work_dir: Path
    preprocessing: ImagePreprocessing = field(default_factory=ImagePreprocessing)  #: stored in the checkpoints
    device: str = "auto"  #: `auto` (CUDA if available), `cpu` or `cuda[:index]`
    resume: bool = True  #: continue from the last checkpoint in `work_dir`, if there is one
    distributed: bool = False  #: started by `torchrun`, with one process per GPU (NCCL), or on the CPU (gloo)
    label_sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  #: where each image's label comes from

    @cached_property
    def resolved_device(self) -> str:
        """`cpu` or `cuda[:index]`. Raises `UserError` for a device that is not available, or of another type."""
        device = pick_device(self.device)
        if device.partition(":")[0] not in ("cpu", "cuda"):
            raise UserError(f"device: found {self.device!r}, expected auto, cpu or cuda[:index]")
        return device

    @property
    def on_gpu(self) -> bool:
        """Whether the training runs on CUDA."""
        return self.resolved_device != "cpu"

    @cached_property
    def checkpoint(self) -> Path | None:
        """The checkpoint to continue from; None for a training from the first step."""
        return last_checkpoint(self.work_dir) if self.resume else None

    @cached_property
    def held_out_ids(self) -> tuple[str, ...]:
        """The images that are kept out of the training, to choose the checkpoint by."""
        return () if self.settings.select == "last" else held_out_ids(self.reader.ids, self.settings.held_out)

    @cached_property
    def train_ids(self) -> tuple[str, ...]:
        """The images to train on."""
        held_out = set(self.held_out_ids)
        return tuple(image_id for image_id in self.reader.ids if image_id not in held_out)


def checkpoints_of(work_dir: Path) -> list[Path]:
    """Returns the complete `iter_<n>.pth` of a run, oldest first.

    mmengine's `last_checkpoint` file is not read: it holds an absolute path, and a kill may leave it or the newest
    checkpoint half written. A zip archive has its directory at the end, so that a truncated one is recognised.
    """
    steps = {int(path.stem[5:]): path for path in work_dir.glob("iter_*.pth") if path.stem[5:].isdigit()}
    return [path for _, path in sorted(steps.items()) if zipfile.is_zipfile(path)]


def last_checkpoint(work_dir: Path) -> Path | None:
    """Returns the newest complete `iter_<n>.pth` of a run; None without one."""
    return next(iter(checkpoints_of(work_dir)[::-1]), None)


def set_checkpoints_aside(work_dir: Path) -> None:
    """Moves the checkpoints of an earlier run to a folder `earlier-<n>`, so that none is taken for one of a new run."""
    files = [path for path in (*work_dir.glob("iter_*.pth"), work_dir / "selection.json") if path.is_file()]
    if files:
        folder = next(f for n in count(1) if not (f := work_dir / f"earlier-{n}").exists())
        folder.mkdir()
        for path in files:
            path.rename(folder / path.name)
