"""Killed and resumed, a training ends with the very weights of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.models.weights import load_state_dict
from stages.train.run import checkpoints_of, last_checkpoint
from stages.train.selection import pseudo_label_miou
from tests.train.helpers import MemoryReader, run, same_weights

ROOT = Path(__file__).resolve().parents[2]

#: Everything that draws random numbers: dropped units and paths, shifts, flips, colours; and a moving average.
OPTIONS: dict[str, Any] = {
    "ema": 0.1,
    "overrides": {"model.backbone.drop_path_rate": 0.2, "model.decode_head.dropout_ratio": 0.2},
}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_ends_where_an_undisturbed_one_does(tmp_path: Path, workers: int) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    expected = run(whole, 10, workers=workers, **OPTIONS)
    stopped.mkdir()
    at = checkpoints_of(whole)[0]
    assert at.name == "iter_8.pth", "two are kept"
    (stopped / at.name).write_bytes(at.read_bytes())
    resumed = run(stopped, 10, resume=True, workers=workers, **OPTIONS)
    assert resumed.name == expected.name == "iter_10.pth"
    assert same_weights(expected, resumed)
    assert not same_weights(expected, run(tmp_path / "other", 10, seed=1, **OPTIONS))


def test_the_moving_average_is_what_is_saved(tmp_path: Path) -> None:
    plain, averaged = run(tmp_path / "plain", 3), run(tmp_path / "averaged", 3, ema=0.1)
    assert not same_weights(plain, averaged)
    state = torch.load(averaged, weights_only=False)["ema_state_dict"]
    latest = load_state_dict(plain)[0]
    for name, value in latest.items():
        torch.testing.assert_close(state[f"module.{name}"], value, msg=f"{name}: the steps are those without EMA")


@pytest.mark.slow
def test_a_killed_training_goes_on_and_scores_the_same(tmp_path: Path) -> None:
    steps, whole, killed = 40, tmp_path / "whole", tmp_path / "killed"
    code = (
        "import sys; from pathlib import Path; from tests.train.test_resume import OPTIONS; "
        "from tests.train.helpers import run; "
        f"run(Path(sys.argv[1]), {steps}, resume=True, **OPTIONS)"
    )
    command = [sys.executable, "-c", code, str(killed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 300
        while last_checkpoint(killed) is None and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    interrupted = last_checkpoint(killed)
    assert interrupted is not None
    if interrupted.name == f"iter_{steps}.pth":
        pytest.skip("the run was over before it could be killed")
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    torch.set_num_threads(1)
    expected = run(whole, steps, **OPTIONS)
    found = last_checkpoint(killed)
    assert found is not None
    assert load_state_dict(found)[1]["iter"] == steps
    assert same_weights(expected, found)
    reader = MemoryReader()
    assert pseudo_label_miou(found, reader, reader.ids, "cpu") == pseudo_label_miou(expected, reader, reader.ids, "cpu")


def test_select_needs_panoramas_to_hold_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leaves none to train on"):
        run(tmp_path, 2, reader=MemoryReader(count=1), select="pseudo_label_miou")


def test_one_training_in_a_folder_at_a_time(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from pipeline.core.atomic_files import lock_folder\n"
    code += "with lock_folder(Path(sys.argv[1]), 'held'):\n    print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process trains into this folder"):
            run(tmp_path, 1)
    finally:
        other.kill()
        other.wait()
    assert run(tmp_path, 1).is_file(), "a lock of a killed process is none"


def test_a_second_training_in_the_folder_after_the_first(tmp_path: Path) -> None:
    checkpoints = [run(tmp_path, iterations, workers=1, resume=True) for iterations in (1, 2)]
    assert [path.stem for path in checkpoints] == ["iter_1", "iter_2"]
