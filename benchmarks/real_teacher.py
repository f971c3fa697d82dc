"""The TA on the CPU with and without subnormal weights: seconds per window of 480 x 512 on one thread.

Of the 506,577 weights of a published CGNet, 228,538 are subnormal floats, on which arithmetic is slow. That checkpoint
is used if `../shared/real` holds it; otherwise a CGNet with random weights, of which `SHARE` are made subnormal.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from pipeline.core.cli import print_table
from pipeline.core.project_files import PROJECT_ROOT
from pipeline.execution.devices import inference_context
from pipeline.models.weights import load_state_dict, zero_subnormals
from stages.precompute.teachers.mmseg import Mmseg

CONFIG = PROJECT_ROOT / "mmseg_configs" / "teachers" / "cgnet_cityscapes.py"
CHECKPOINT = PROJECT_ROOT.parent / "shared" / "real" / "teacher" / "cgnet_cityscapes_19.pth"
SIZE, REPEATS = (480, 512), 3

#: Share of the weights that are made subnormal where the real checkpoint is missing.
SHARE = 0.45


def run(size: tuple[int, int] = SIZE, repeats: int = REPEATS, checkpoint: Path = CHECKPOINT) -> dict[str, Any]:
    """Times one window with all weights, with zeroed subnormal weights, and as the pipeline runs it."""
    torch.manual_seed(0)
    network = Mmseg(config=CONFIG, random_weights=True).network("cpu")
    stored = network.model
    stored.load_state_dict(load_state_dict(checkpoint)[0] if checkpoint.is_file() else _partly_subnormal(stored))
    zeroed = zero_subnormals(copy.deepcopy(stored))
    blocks = np.random.default_rng(0).integers(0, 256, (1, -(-size[0] // 16), -(-size[1] // 16), 3), dtype=np.uint8)
    view = blocks.repeat(16, axis=1).repeat(16, axis=2)[:, : size[0], : size[1]]
    inputs = network.inputs(view, "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        slow, expected = _measure(stored, inputs, repeats)
        plain, without = _measure(zeroed, inputs, repeats)
        with inference_context("cpu"):
            fast, flushed = _measure(zeroed, inputs, repeats)
    finally:
        torch.set_num_threads(threads)
    print_table(
        f"CGNet, {size[0]} x {size[1]}, one CPU thread, {'real' if checkpoint.is_file() else 'random'} weights",
        ["subnormal numbers", "CPU seconds"],
        [["kept", slow], ["zero in the weights", plain], ["zero in weights and activations (the pipeline)", fast]],
    )
    return {
        "real_checkpoint": checkpoint.is_file(),
        "subnormal_weights": _count_subnormals(stored),
        "seconds_with_subnormals": round(slow, 4),
        "seconds_zeroed_weights": round(plain, 4),
        "seconds": round(fast, 4),
        "speedup_zeroed_weights": round(slow / plain, 2),
        "speedup": round(slow / fast, 2),
        "max_logit_difference": float(max((expected - without).abs().max(), (expected - flushed).abs().max())),
    }


def _partly_subnormal(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns the weights of a model with `SHARE` of its filters' entries below the smallest normal number."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for value in state.values():
        if value.ndim == 4:
            value[torch.rand(value.shape) < SHARE] *= 1e-40
    return state


def _count_subnormals(model: torch.nn.Module) -> int:
    tiny = torch.finfo(torch.float32).tiny
    return sum(int(((v != 0) & (v.abs() < tiny)).sum()) for v in model.state_dict().values() if v.is_floating_point())


@torch.inference_mode()
def _measure(model: torch.nn.Module, inputs: torch.Tensor, repeats: int) -> tuple[float, torch.Tensor]:
    """Returns the median CPU seconds of a forward pass after a warm-up, and the logits."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        logits = model(inputs)
        seconds.append(time.process_time() - start)
    return median(seconds[1:]), logits
