"""Distributed training: two CPU processes by torchrun do what one process does with the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.models.weights import load_state_dict
from stages.fuse.stage import fuse
from stages.precompute.stage import precompute
from tests.conftest import Project
from tests.test_end_to_end import small  # noqa: F401 (a fixture)
from tests.train import ddp

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def torchrun(*arguments: str) -> str:
    done = subprocess.run(
        [*TORCHRUN, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    both, alone = tmp_path / "both", tmp_path / "alone"
    both.mkdir()
    alone.mkdir()
    torchrun("tests.train.ddp", str(both), "2")
    single = ddp.main(alone, 4, distributed=False)

    results = {json.loads((both / f"result.{rank}").read_text()) for rank in range(2)}
    assert results == {str(both / f"iter_{ddp.STEPS}.pth")}
    drawn = [(both / f"drawn.{rank}").read_text().split() for rank in range(2)]
    whole = (alone / "drawn.0").read_text().split()
    assert len(whole) == 4 * ddp.STEPS
    for step in range(ddp.STEPS):
        halves = [set(images[2 * step : 2 * step + 2]) for images in drawn]
        assert not halves[0] & halves[1], "no process draws another's samples"
        assert halves[0] | halves[1] == set(whole[4 * step : 4 * step + 4])
    for step in range(ddp.STEPS):
        first, second = (torch.load(both / f"gradient_{step}_{rank}.pt") for rank in range(2))
        assert torch.equal(first, second), "both processes step by the same gradient"
        expected = torch.load(alone / f"gradient_{step}_0.pt")
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(first, expected, rtol=1e-2, atol=1e-4)
    weights, expected_weights = load_state_dict(results.pop())[0], load_state_dict(single)[0]
    for name in expected_weights:
        torch.testing.assert_close(weights[name], expected_weights[name], rtol=1e-2, atol=2e-3)


@pytest.mark.slow
def test_the_command_by_torchrun(small: Project, tmp_path: Path) -> None:  # noqa: F811
    precompute(small.manifest(), small.config())
    fuse(small.manifest(), small.config())
    printed = torchrun(
        "pipeline", "train", "--distributed", "--json", *small.arguments(), "--work-dir", str(tmp_path / "runs"),
        "--set", "device=cpu", "--set", "train.select=pseudo_label_miou",
    )  # fmt: skip
    results = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert len(results) == 1, "the first process speaks"
    checkpoint = Path(results[0]["checkpoint"])
    assert checkpoint.is_file()
    assert json.loads((checkpoint.parent / "selection.json").read_text())["chosen"] == checkpoint.name
