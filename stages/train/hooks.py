"""What happens beside the steps of a training: progress, seeds, pictures, and what a checkpoint must carry."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS
from PIL import Image

from pipeline.core.progress import clock
from pipeline.data.labels import LabelSpace
from pipeline.data.visualization import overlay
from pipeline.geometry.circular_convolution import circular_padding_enabled
from pipeline.models.student import STUDENT_META, to_json, without_weights
from pipeline.models.torch_student import whole_logits

SHOWN = ("loss", "decode.pseudo_label_acc")
"""What a line of progress shows of a step's outputs: the loss, and the percentage of pixels predicted as labelled."""


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Lays the network's weights out channels-last, for convolutional networks: on a CPU they train up to twice as
    fast. A transformer gains nothing."""

    def before_train(self, runner: Any) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.to(memory_format=torch.channels_last)


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
class StepSeedHook(Hook):
    """Seeds torch before every step by seed, step and process, so that a resumed run drops the same units.

    Args:
        seed: of the run.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        state = np.random.SeedSequence([self.seed, runner.iter, runner.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]) >> 1)


@HOOKS.register_module()
class SamplePictureHook(Hook):
    """A picture now and then of one training sample: image, pseudo-label, prediction.

    It goes to the runner's visualiser: a PNG in the run's folder, and TensorBoard where that is on.

    Args:
        interval: steps between two pictures.
        classes: names, in label order.
        palette: one `[r, g, b]` per class.
        ignore_index: the label value without a class.
    """

    def __init__(
        self, interval: int, classes: Sequence[str], palette: Sequence[Sequence[int]], ignore_index: int
    ) -> None:
        self.interval = interval
        self.space = LabelSpace.model_validate(
            {"name": "student", "classes": classes, "palette": palette, "ignore_index": ignore_index}
        )

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if not is_main_process() or not self.every_n_train_iters(runner, self.interval):
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        pixels, sample = data_batch["inputs"][0], data_batch["data_samples"][0]
        model.eval()
        with torch.no_grad(), circular_padding_enabled(model, sample.metainfo.get("full_ring", True)):
            inputs = model.data_preprocessor({"inputs": [pixels]}, False)["inputs"]
            predicted = whole_logits(model, inputs)[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
        model.train()
        image = pixels.permute(1, 2, 0).cpu().numpy()
        target = Image.fromarray(sample.gt_sem_seg.data[0].to(torch.uint8).cpu().numpy())
        label = np.asarray(target.resize(image.shape[1::-1], Image.Resampling.NEAREST))
        picture = np.concatenate([image, overlay(image, label, self.space), overlay(image, predicted, self.space)])
        runner.visualizer.add_image("image, pseudo-label, student", picture, step=runner.iter + 1)


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
        preprocessing: crop and size of the training images.
    """

    def __init__(
        self,
        classes: Sequence[str],
        palette: Sequence[Sequence[int]],
        ignore_index: int,
        label_space: str = "student",
        preprocessing: Mapping[str, Any] | None = None,
    ) -> None:
        self.described = {
            "classes": list(classes),
            "palette": [list(color) for color in palette],
            "ignore_index": ignore_index,
            "label_space": label_space,
            "preparation": dict(preprocessing or {}),
        }

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        model = to_json(without_weights(runner.cfg.model.to_dict()))
        checkpoint["meta"][STUDENT_META] = json.dumps({"model": model, **self.described})
