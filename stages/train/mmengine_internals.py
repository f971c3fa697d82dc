"""Everything that the training relies on of mmengine and mmseg beyond their documented interfaces.

Written for onedl-mmengine 0.10 and onedl-mmsegmentation 1.4. Each assumption has a test in
tests/contracts/test_mmengine_training.py.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.device import utils as device_utils
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

#: Beginnings of log records that mmengine repeats for each parameter, or writes about its own deprecated functions.
_NOISE = ("paramwise_options", '"FileClient"', '"HardDiskBackend"')


@contextmanager
def use_device(device_type: str) -> Iterator[None]:
    """Within the context, mmengine trains on `cpu` or `cuda`; otherwise it takes the best device of the machine."""
    previous = device_utils.DEVICE
    device_utils.DEVICE = device_type
    try:
        yield
    finally:
        device_utils.DEVICE = previous


def seed_transforms(*seeds: int) -> None:
    """Seeds numpy's global generator, from which the transforms of mmcv and mmseg draw, and ours with them."""
    np.random.seed(seeds)  # noqa: NPY002


def network(runner: Any) -> nn.Module:
    """Returns the network that a runner trains, without a wrapper for distributed training."""
    model: nn.Module = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model


class QuietRunner(Runner):
    """mmengine's Runner; what it logs about environment and hooks goes to the log file only."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        logger.addFilter(lambda record: not record.getMessage().startswith(_NOISE))
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.WARNING)
        return logger


def build_runner(config: Config, loader: DataLoader) -> Runner:
    """Returns a runner for `config` that trains on the batches of `loader`.

    `Runner.from_cfg` would copy the loader, and its dataset with it.
    """
    names = inspect.signature(Runner).parameters
    arguments = {name: config[name] for name in names if name in config}
    return QuietRunner(**arguments, train_dataloader=loader, cfg=config)
