"""What a student's checkpoint must carry so that it can be used without its config file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from pipeline.student import STUDENT_META, without_weights


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
