"""What a student's checkpoint must carry so that it can be used without its config file."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from pipeline.progress import clock
from pipeline.student import STUDENT_META, without_weights

SHOWN = ("loss", "decode.agreement")
"""What a line of progress shows of a step's outputs: the loss, and the percentage of pixels predicted as labelled."""


@HOOKS.register_module()
class StepProgressHook(Hook):
    """A line on the console now and then: steps, rate, time left, loss. The details are in the run's log file.

    Args:
        seconds: between two lines.
    """

    priority = "VERY_LOW"

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self._began = self._last = 0.0
        self._first = 0

    def before_train(self, runner: Any) -> None:
        self._began = self._last = time.monotonic()
        self._first = runner.iter

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        now, done = time.monotonic(), runner.iter + 1
        if not is_main_process() or (now - self._last < self.seconds and done < runner.max_iters):
            return
        self._last = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        figures = {name: torch.as_tensor(value).item() for name, value in (outputs or {}).items() if name in SHOWN}
        shown = "".join(f", {name.removeprefix('decode.')} {value:.2f}" for name, value in figures.items())
        left = clock((runner.max_iters - done) / rate)
        print(f"train: {done}/{runner.max_iters} steps, {rate:.2f} steps/s, {left} left{shown}", flush=True)


@HOOKS.register_module()
class StudentMetaHook(Hook):
    """Write the model as JSON into every checkpoint.

    mmengine stores the config as Python text, which can only be read by running it. JSON can be read from a
    checkpoint that nobody vouches for.

    Args:
        classes: names, in label order.
        palette: one `[r, g, b]` per class.
        ignore_index: the label value without a class.
        label_space: name of the label space.
        preparation: crop and size of the training images.
    """

    def __init__(
        self,
        classes: Sequence[str],
        palette: Sequence[Sequence[int]],
        ignore_index: int,
        label_space: str = "student",
        preparation: Mapping[str, Any] | None = None,
    ) -> None:
        self.described = {
            "classes": list(classes),
            "palette": [list(color) for color in palette],
            "ignore_index": ignore_index,
            "label_space": label_space,
            "preparation": dict(preparation or {}),
        }

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        model = without_weights(runner.cfg.model.to_dict())
        checkpoint["meta"][STUDENT_META] = json.dumps({"model": model, **self.described})
