"""Kills, two runs at once, garbage collection beside a run, and Ctrl-C, all through the real command."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.cache import Artefact, Cache, Marker
from pipeline.core.errors import ImageError
from tests.caches import failed, finished
from tests.conftest import Project, write_yaml
from tests.models import street

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "160"}
IMAGES = 12
MANY, KILLS = 40, 20  # of the runs that are killed again and again
KINDS = ("sam", "masks", "teacher")
PATIENCE = 120.0  # seconds, for a machine that others use too


def lay_out(folder: Path, images: int = IMAGES) -> Project:
    """Small panoramas with their manifest and settings; the cache is in the folder."""
    project = Project(folder)
    for k in range(images):
        project.add_image(f"p{k:02d}.png", street(seed=k))
    write_yaml(project.manifest_path, {"name": "toy", "root": "images", "splits": {"train": {"images": ["**/*"]}}})
    views = {"width": 128, "stride": 64}
    write_yaml(
        project.config_path,
        {
            "cache": str(folder / "cache"),
            "sam": {"views": views, "generator": {"kind": "felzenszwalb", "min_size": 30}},
            "teacher": {"views": views, "model": {"kind": "module", "builder": "tests.models:tiny_teacher"}},
        },
    )
    return project


@dataclass
class Run:
    """A run of the real command, in a process group of its own."""

    project: Project
    stage: str = "precompute"
    options: tuple[str, ...] = ()
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "pipeline", self.stage, "--json", *self.project.arguments(), *self.options]
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            # a shell starts background jobs with SIGINT ignored, and children inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def wait(self) -> tuple[int, str, str]:
        """Returns exit status, stdout and stderr."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def figures(self) -> dict[str, Any]:
        """Returns the figures of a run, which must succeed."""
        status, out, err = self.wait()
        assert status == 0, err
        return json.loads(out)

    def signal_group(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """`kill -9` of the process and all its workers; returns when none is left."""
        self.signal_group(signal.SIGKILL)
        self.wait()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                self.signal_group(signal.SIGKILL)
            except ProcessLookupError:
                return
            time.sleep(0.01)
        raise TimeoutError("a worker outlived kill -9")


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    """Starts the command; runs that outlive the test are killed."""
    runs: list[Run] = []

    def start_run(project: Project, *options: str, stage: str = "precompute") -> Run:
        runs.append(Run(project, stage, options))
        return runs[-1]

    yield start_run
    for run in runs:
        if run.process.poll() is None:
            run.kill()


def artefacts(project: Project) -> list[Artefact]:
    return Cache(str(project.folder / "cache"), "toy").artefacts()


def markers(project: Project) -> dict[str, Marker]:
    """Returns the marker of every finished image by `kind/id`."""
    return {f"{a.kind}/{i}": marker for a in artefacts(project) for i, marker in finished(a).items()}


def contents(project: Project) -> dict[str, str]:
    return {name: marker.content for name, marker in markers(project).items()}


def image_files(project: Project) -> int:
    """Returns the number of image files: those of finished images and those that a kill left."""
    return sum(1 for a in artefacts(project) for _ in (project.folder / "cache" / "toy" / a.path).glob("images/*.zip"))


def assert_whole(project: Project) -> None:
    """Checks that every finished image is complete, and that every other one does not exist for a reader."""
    for artefact in artefacts(project):
        images = finished(artefact)
        for marker in images.values():
            artefact.verify(marker)
            group = artefact.read(marker.id)
            for name in group.array_names():
                group.read_array(name)
        for image in {path.stem for path in (project.folder / "images").iterdir()} - set(images):
            with pytest.raises(ImageError, match="is not in"):
                artefact.read(image)


def wait_for(project: Project, images: int, run: Run) -> None:
    """Waits for at least `images` finished images, over all artefacts, or for the end of the run."""
    folder = project.folder / "cache" / "toy"
    deadline = time.monotonic() + PATIENCE
    while sum(1 for _ in folder.glob("*/*/done/*.json")) < images and run.process.poll() is None:
        assert time.monotonic() < deadline, f"fewer than {images} images were finished in time"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The content of every image after a run without disturbance, by `kind/id`."""
    project = lay_out(tmp_path_factory.mktemp("undisturbed") / "project")
    figures = Run(project).figures()
    assert all(figures[kind]["computed"] == IMAGES for kind in KINDS)
    return contents(project)


# -- killed


@pytest.fixture(scope="module")
def undisturbed_many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """As `undisturbed`, with `MANY` images."""
    project = lay_out(tmp_path_factory.mktemp("undisturbed") / "project", MANY)
    Run(project).figures()
    return contents(project)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_killed_at_twenty_moments_ends_with_the_same_bytes(
    tmp_path: Path, start: Callable[..., Run], undisturbed_many: dict[str, str], workers: int
) -> None:
    """After each kill finished images are complete, and those finished before are unchanged."""
    project = lay_out(tmp_path / "project", MANY)
    options = ("--workers", str(workers)) if workers > 1 else ()
    before: dict[str, Marker] = {}
    for images, seconds in moments_of(workers, KILLS):
        run = start(project, *options)
        wait_for(project, images, run)
        time.sleep(seconds)
        run.kill()
        assert_whole(project)
        now = markers(project)
        assert {name: now.get(name) for name in before} == before
        before = now
    figures = start(project, *options).figures()
    assert sum(figures[kind]["computed"] for kind in KINDS) == MANY * len(KINDS) - len(before)
    assert contents(project) == undisturbed_many
    assert {name: markers(project)[name] for name in before} == before
    assert image_files(project) <= len(undisturbed_many) + KILLS * workers  # the images in flight at each kill


def moments_of(seed: int, count: int) -> list[tuple[int, float]]:
    """Returns `count` random moments: images finished by then, and seconds after that; the first is the start."""
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(1, MANY * len(KINDS) - 1), count - 1))
    return [(images, rng.uniform(0, 0.08)) for images in (0, *cuts)]


@pytest.mark.slow
def test_fuse_is_killed_after_a_killed_precompute(tmp_path: Path, start: Callable[..., Run]) -> None:
    project, twin = lay_out(tmp_path / "project"), lay_out(tmp_path / "twin")
    run = start(project)
    wait_for(project, 2 * IMAGES + IMAGES // 2, run)  # half of the last artefact, the TA's
    run.kill()
    status, out, _ = start(project, stage="fuse").wait()
    assert status == 3  # some images are missing upstream
    report = json.loads(out)
    assert 0 < report["computed"] < IMAGES
    assert report["computed"] + report["failed"] == IMAGES
    start(project).figures()
    run = start(project, stage="fuse")
    wait_for(project, len(KINDS) * IMAGES + report["computed"] + 2, run)
    run.kill()
    assert_whole(project)
    start(project, stage="fuse").figures()
    start(twin).figures()
    start(twin, stage="fuse").figures()
    assert contents(project) == contents(twin)
    assert not any(failed(artefact) for artefact in artefacts(project))


@pytest.mark.slow
def test_files_of_killed_runs_are_removed(
    tmp_path: Path, start: Callable[..., Run], undisturbed: dict[str, str]
) -> None:
    project = lay_out(tmp_path / "project")
    run = start(project)
    wait_for(project, 5, run)
    run.kill()
    start(project).figures()
    start(project, "--older-than", "0", stage="gc").figures()
    assert image_files(project) == len(undisturbed)
    assert not list((project.folder / "cache").rglob("*.tmp"))
    assert_whole(project)
    assert contents(project) == undisturbed


# -- together


@pytest.mark.slow
def test_two_full_runs_on_one_cache(tmp_path: Path, start: Callable[..., Run], undisturbed: dict[str, str]) -> None:
    project = lay_out(tmp_path / "project")
    runs = [start(project), start(project)]
    for run in runs:
        figures = run.figures()
        assert figures["failed"] == 0
        assert all(figures[kind]["computed"] + figures[kind]["reused"] == IMAGES for kind in KINDS)
    assert_whole(project)
    assert contents(project) == undisturbed
    assert image_files(project) == len(undisturbed)  # both runs wrote the same files


@pytest.mark.slow
def test_two_shards_on_one_cache(tmp_path: Path, start: Callable[..., Run], undisturbed: dict[str, str]) -> None:
    project = lay_out(tmp_path / "project")
    runs = [start(project, "--shard", f"{k}/2") for k in range(2)]
    figures = [run.figures() for run in runs]
    assert [f["panoramas"] for f in figures] == [IMAGES // 2] * 2
    assert all(f[kind]["computed"] == IMAGES // 2 for f in figures for kind in KINDS)
    assert_whole(project)
    assert contents(project) == undisturbed
    assert image_files(project) == len(undisturbed)
    assert all(figures[kind]["reused"] == IMAGES for figures in [start(project).figures()] for kind in KINDS)


@pytest.mark.slow
def test_garbage_collection_beside_a_run_loses_nothing(
    tmp_path: Path, start: Callable[..., Run], undisturbed: dict[str, str]
) -> None:
    """`gc --older-than 0` again and again removes temporary files, and files whose marker is not written yet."""
    project = lay_out(tmp_path / "project")
    run, collections = start(project), 0
    while run.process.poll() is None:
        start(project, "--older-than", "0", stage="gc").figures()
        collections += 1
    figures = run.figures()
    assert collections > 1
    assert figures["failed"] == 0
    assert_whole(project)
    assert contents(project) == undisturbed


@pytest.mark.slow
def test_a_clock_that_goes_back_changes_nothing(tmp_path: Path, start: Callable[..., Run]) -> None:
    """Image files and the cache are dated in the future; a replaced image is older than the first."""
    project = lay_out(tmp_path / "project")
    later = time.time() + 10 * 86400
    for path in (project.folder / "images").iterdir():
        os.utime(path, (later, later))
    start(project).figures()
    for path in (project.folder / "cache").rglob("*"):
        os.utime(path, (later, later))
    figures = start(project).figures()
    assert all(figures[kind]["reused"] == IMAGES for kind in KINDS)
    before = markers(project)
    assert start(project, "--older-than", "0", stage="gc").figures()["removed"] == 0
    path = project.add_image("p03.png", street(seed=99))
    os.utime(path, (1e9, 1e9))
    figures = start(project).figures()
    assert all(figures[kind]["computed"] == 1 for kind in KINDS)
    changed = {name for name, marker in markers(project).items() if before[name] != marker}
    assert changed == {f"{kind}/p03" for kind in KINDS}


# -- stopped


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--threads", "2"), ("--workers", "2")], ids=["inline", "threads", "dask"])
def test_control_c_ends_the_run_with_one_message(
    tmp_path: Path, start: Callable[..., Run], options: tuple[str, ...]
) -> None:
    project = lay_out(tmp_path / "project")
    run = start(project, *options)
    wait_for(project, 4, run)
    run.signal_group(signal.SIGINT)  # as a terminal does, to the workers too
    status, _, err = run.wait()
    assert status == 130, err
    assert err.strip().splitlines()[-1] == "stopped; finished work is kept, and the same command continues from there"
    assert "Traceback" not in err
    assert 4 <= len(markers(project)) < IMAGES * len(KINDS)
    assert_whole(project)


# -- messages of the command


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_exit_codes(tmp_path: Path, start: Callable[..., Run]) -> None:
    project = lay_out(tmp_path / "project")
    bad = project.folder / "images" / "p03.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:100])
    status, out, err = start(project).wait()
    assert status == 3
    assert json.loads(out)["failed"] == 1
    assert "p03: failed: " in err
    assert "Traceback" not in err
    bad.write_bytes(good)
    status, out, err = start(project).wait()
    assert status == 0
    assert json.loads(out)["sam"]["computed"] == 1


def test_a_refused_run_is_one_error(tmp_path: Path) -> None:
    project = lay_out(tmp_path / "project")
    result = command("-m", "pipeline", "precompute", *project.arguments(), "--set", "sam.nonsense=1")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "sam.nonsense: unknown key" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (project.folder / "cache").exists()
