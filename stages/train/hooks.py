"""mmengine hooks: progress, seeds, pictures, and the description that a checkpoint carries."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from PIL import Image

from pipeline.core.progress import Progress
from pipeline.data.labels import LabelSpace
from pipeline.data.visualization import overlay
from pipeline.geometry.circular_convolution import circular_padding_enabled
from pipeline.models.config_tree import to_json, without_weights
from pipeline.models.student import STUDENT_META
from pipeline.models.torch_student import whole_logits
from stages.train.mmengine_internals import network

LOSS_SECONDS = 1.0  #: Seconds between two readings of the loss; each one waits for the GPU.


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Stores the weights channels-last: convolutional networks, not transformers, train up to twice as fast on CPUs."""

    def before_train(self, runner: Any) -> None:
        network(runner).to(memory_format=torch.channels_last)


class StepProgressHook(Hook):
    """Reports every step, with the loss, to `progress`."""

    priority = "VERY_LOW"

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._read_at = -LOSS_SECONDS

    def before_train(self, runner: Any) -> None:
        self.progress.start("train", runner.max_iters - runner.iter, "step")

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        now, figures = time.monotonic(), ""
        if outputs and (now - self._read_at >= LOSS_SECONDS or runner.iter + 1 == runner.max_iters):
            self._read_at = now
            figures = f"loss {torch.as_tensor(outputs['loss']).item():.2f}"
        self.progress.advance(figures=figures)


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Seeds torch before every step by the run's seed, step and process: a resumed run drops the same units."""

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        state = np.random.SeedSequence([self.seed, runner.iter, runner.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]) >> 1)


@HOOKS.register_module()
class SamplePictureHook(Hook):
    """Adds a picture every `interval` steps to the runner's visualiser: image, pseudo-label and prediction.

    `space` is the label space, as plain data.
    """

    def __init__(self, interval: int, space: Mapping[str, Any]) -> None:
        self.interval = interval
        self.space = LabelSpace.model_validate(space)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.rank != 0 or not self.every_n_train_iters(runner, self.interval):
            return
        model = network(runner)
        pixels, sample = data_batch["inputs"][0], data_batch["data_samples"][0]
        model.eval()
        with torch.no_grad(), circular_padding_enabled(model, sample.metainfo.get("is_full_panorama", True)):
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
    """Writes the model's config and the `description` (a `StudentDescription`) as JSON into every checkpoint.

    mmengine stores the config as Python text, which must be executed to be read. JSON of unknown origin can be read
    safely.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.description = description

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        model = to_json(without_weights(runner.cfg.model.to_dict()))
        checkpoint["meta"][STUDENT_META] = json.dumps({"model": model, **self.description})
