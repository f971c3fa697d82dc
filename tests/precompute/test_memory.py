"""Memory does not grow with the number of images: the real command on few and on many, felzenszwalb on small images."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.precompute.stage import precompute
from tests.conftest import Project
from tests.models import street

REPOSITORY = Path(__file__).resolve().parents[2]


def peak_of(project: Project, *options: str) -> int:
    """Peak resident memory of `precompute`, in KiB."""
    command = [sys.executable, "-m", "pipeline", "precompute", *project.arguments(), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1)


@pytest.mark.slow
def test_ten_images_and_two_hundred_take_the_same_memory(make_project: Callable[..., Project]) -> None:
    peaks = {}
    for images in (10, 200):
        project = make_project(1, name=f"images{images}")
        first = project.add_image("p000.png", street(128, 512))
        for k in range(1, images):
            shutil.copyfile(first, first.with_name(f"p{k:03d}.png"))
        peaks[images] = peak_of(project)
        found = precompute(project.manifest(), project.config())
        assert [report.reused for report in found] == [images] * 3
    # all arrays of 190 images are about 300 MB, more than half of what the process takes
    assert peaks[200] <= 1.1 * peaks[10], peaks
