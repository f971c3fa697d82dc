"""The program that torchrun starts in the test of distributed training: `ddp.py WORK_DIR BATCH_SIZE`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from tests.train.helpers import MemoryReader, run

STEPS = 4


@HOOKS.register_module(force=True)
class WritingHook(Hook):
    """Writes the panoramas of every step's samples, and its gradients as each process has them, averaged."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        with (self.folder / f"drawn.{runner.rank}").open("a") as stream:
            stream.writelines(f"{sample.image_id}\n" for sample in data_batch["data_samples"])

    def before_train(self, runner: Any) -> None:
        wrapper, step = runner.optim_wrapper, runner.optim_wrapper.step

        def noted(**kwargs: Any) -> None:
            gradients = [p.grad.flatten() for p in runner.model.parameters()]
            torch.save(torch.cat(gradients), self.folder / f"gradient_{runner.iter}_{runner.rank}.pt")
            step(**kwargs)

        wrapper.step = noted


def main(work_dir: Path, batch_size: int, distributed: bool) -> Path:
    torch.set_num_threads(1)
    return run(
        work_dir,
        STEPS,
        reader=MemoryReader(count=6),
        batch_size=batch_size,
        distributed=distributed,
        overrides={
            # without batch norm, dropout and dropped paths, the gradient of a batch is the mean of those of its halves
            "model.decode_head.norm_cfg": dict(type="GN", num_groups=4),
            "model.decode_head.dropout_ratio": 0.0,
            "model.backbone.drop_path_rate": 0.0,
            "custom_hooks": [dict(type="WritingHook", folder=str(work_dir))],
        },
    )


if __name__ == "__main__":
    written = main(Path(sys.argv[1]), int(sys.argv[2]), distributed=True)
    (Path(sys.argv[1]) / f"result.{os.environ['RANK']}").write_text(json.dumps(str(written)))
