"""A full and a read-only disk under the cache, through the real command."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cache import Marker
from tests.test_faults import (
    ENVIRONMENT,
    PATIENCE,
    REPOSITORY,
    Run,
    assert_whole,
    contents,
    lay_out,
    markers,
    start,
    undisturbed,
)

__all__ = ["start", "undisturbed"]  # fixtures


#: Mounts a finished cache read-only, and runs each command.
READ_ONLY = """
set -e
mount --bind "$CACHE" "$CACHE"
mount -o remount,bind,ro "$CACHE"
for stage in $STAGES; do
    status=0
    "$PYTHON" -m pipeline $stage "$@" >"$RESULTS/${stage%% *}.out" 2>"$RESULTS/${stage%% *}.err" || status=$?
    echo $status >"$RESULTS/${stage%% *}.status"
done
"""


@pytest.mark.slow
def test_a_read_only_cache_can_be_read(tmp_path: Path, start: Callable[..., Run]) -> None:
    project = lay_out(tmp_path / "project", 3)
    start(project).figures()
    start(project, stage="fuse").figures()
    results = tmp_path / "results"
    results.mkdir()
    share = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*share, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not permit mounts")
    stages = ("precompute", "fuse", "gc", "migrate", "inspect", "verify")
    environment = {"CACHE": project.folder / "cache", "RESULTS": results, "PYTHON": sys.executable}
    before = contents(project)
    subprocess.run(
        [*share, "sh", "-c", READ_ONLY, "sh", *project.arguments()],
        cwd=REPOSITORY,
        env={**ENVIRONMENT, **{k: str(v) for k, v in environment.items()}, "STAGES": " ".join(stages)},
        check=True,
        capture_output=True,
        timeout=5 * PATIENCE,
    )
    for stage in stages[:2]:
        assert (results / f"{stage}.status").read_text() == "2\n"
        error = (results / f"{stage}.err").read_text()
        assert len(error.splitlines()) == 1
        assert "Read-only file system" in error
    for stage in stages[2:]:
        assert (results / f"{stage}.status").read_text() == "0\n", (results / f"{stage}.err").read_text()
    assert contents(project) == before


#: Mounts a small file system (in a private namespace) as the cache, and runs the command with growing sizes.
FULL_DISK = """
set -e
mount -t tmpfs -o size=4m tmpfs "$CACHE"
for kib in 8 {sizes} 65536; do
    mount -o remount,size=${{kib}}k "$CACHE"
    status=0
    "$@" >"$RESULTS/$kib.out" 2>"$RESULTS/$kib.err" || status=$?
    echo $status >"$RESULTS/$kib.status"
    cp -a "$CACHE" "$RESULTS/$kib.cache"
done
"""


@pytest.mark.slow
def test_a_full_disk_is_one_error_and_the_next_run_continues(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    """A tmpfs that is too small four times, each time larger than before."""
    project = lay_out(tmp_path / "project")
    cache, results = project.folder / "cache", tmp_path / "results"
    cache.mkdir()
    results.mkdir()
    probe = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(cache)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not permit mounts")
    script = FULL_DISK.format(sizes="200 500 800")
    subprocess.run(
        [*probe[:3], "sh", "-c", script, "sh", sys.executable, "-m", "pipeline", "precompute", *project.arguments()],
        cwd=REPOSITORY,
        env={**ENVIRONMENT, "CACHE": str(cache), "RESULTS": str(results)},
        check=True,
        capture_output=True,
        timeout=5 * PATIENCE,
    )
    before: dict[str, Marker] = {}
    counts = []
    for size in (8, 200, 500, 800, 65536):
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(results / f"{size}.cache", cache)
        error = (results / f"{size}.err").read_text()
        status = int((results / f"{size}.status").read_text())
        assert status == (0 if size == 65536 else 2), error
        if size != 65536:
            assert error.startswith("error: ")
            assert "No space left on device" in error
            assert len(error.splitlines()) == 1
        assert_whole(project)
        now = markers(project)
        assert {name: now.get(name) for name in before} == before
        before = now
        counts.append(len(before))
    assert counts == sorted(counts)
    assert 0 == counts[0] < counts[1] < counts[3] < counts[4]
    assert contents(project) == undisturbed
