"""What a user's machine does to a run: kills, a full disk, two runs at once, Ctrl-C. All through the real command."""

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
        command = [sys.executable, "-m", "pipeline", self.stage, *self.project.arguments(), *self.options]
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
        """Exit status, stdout and stderr."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def figures(self) -> dict[str, Any]:
        """The line of JSON of a run that must end well."""
        status, out, err = self.wait()
        assert status == 0, err
        return json.loads(out.strip().splitlines()[-1])

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
    """Starts the command; what still runs when the test ends is killed."""
    runs: list[Run] = []

    def begin(project: Project, *options: str, stage: str = "precompute") -> Run:
        runs.append(Run(project, stage, options))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.kill()


def artefacts(project: Project) -> list[Artefact]:
    return Cache(str(project.folder / "cache"), "toy").artefacts()


def markers(project: Project) -> dict[str, Marker]:
    """Every finished image, as `kind/id`."""
    return {f"{a.kind}/{i}": marker for a in artefacts(project) for i, marker in a.done().items()}


def contents(project: Project) -> dict[str, str]:
    return {name: marker.content for name, marker in markers(project).items()}


def attempts(project: Project) -> int:
    """Files of images, those of finished ones and those that a kill left."""
    return sum(1 for a in artefacts(project) for _ in (project.folder / "cache" / "toy" / a.path).glob("images/*.zip"))


def assert_whole(project: Project) -> None:
    """Every finished image is what was written, to the byte; every other one does not exist for a reader."""
    for artefact in artefacts(project):
        done = artefact.done()
        for marker in done.values():
            artefact.verify(marker)
            group = artefact.read(marker.id)
            for name in group.names():
                group.array(name)
        for image in {path.stem for path in (project.folder / "images").iterdir()} - set(done):
            with pytest.raises(ImageError, match="is not in"):
                artefact.read(image)


def wait_for(project: Project, finished: int, run: Run) -> None:
    """Returns when at least so many images are finished, over all artefacts, or the run has ended."""
    folder = project.folder / "cache" / "toy"
    deadline = time.monotonic() + PATIENCE
    while sum(1 for _ in folder.glob("*/*/done/*.json")) < finished and run.process.poll() is None:
        assert time.monotonic() < deadline, f"fewer than {finished} images were finished in time"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run that nobody disturbs puts into the cache: the content of every image, by `kind/id`."""
    project = lay_out(tmp_path_factory.mktemp("undisturbed") / "project")
    figures = Run(project).figures()
    assert all(figures[kind]["computed"] == IMAGES for kind in KINDS)
    return contents(project)


# -- killed


@pytest.fixture(scope="module")
def undisturbed_many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """As `undisturbed`, of as many images as the runs that are killed again and again."""
    project = lay_out(tmp_path_factory.mktemp("undisturbed") / "project", MANY)
    Run(project).figures()
    return contents(project)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_twenty_moments_it_goes_on_to_the_same_bytes(
    tmp_path: Path, start: Callable[..., Run], undisturbed_many: dict[str, str], workers: int
) -> None:
    """After each kill what is finished is whole, and nothing finished before has changed."""
    project = lay_out(tmp_path / "project", MANY)
    options = ("--workers", str(workers)) if workers > 1 else ()
    finished: dict[str, Marker] = {}
    for images, seconds in moments_of(workers, KILLS):
        run = start(project, *options)
        wait_for(project, images, run)
        time.sleep(seconds)
        run.kill()
        assert_whole(project)
        now = markers(project)
        assert {name: now.get(name) for name in finished} == finished
        finished = now
    figures = start(project, *options).figures()
    assert sum(figures[kind]["computed"] for kind in KINDS) == MANY * len(KINDS) - len(finished)
    assert contents(project) == undisturbed_many
    assert {name: markers(project)[name] for name in finished} == finished
    assert attempts(project) <= len(undisturbed_many) + KILLS * workers  # the images in flight at each kill


def moments_of(seed: int, count: int) -> list[tuple[int, float]]:
    """`count` random moments of the work: images finished by then, and seconds after that; the first at once."""
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(1, MANY * len(KINDS) - 1), count - 1))
    return [(images, rng.uniform(0, 0.08)) for images in (0, *cuts)]


@pytest.mark.slow
def test_fuse_killed_and_fed_by_a_killed_precompute(tmp_path: Path, start: Callable[..., Run]) -> None:
    project, twin = lay_out(tmp_path / "project"), lay_out(tmp_path / "twin")
    run = start(project)
    wait_for(project, 2 * IMAGES + IMAGES // 2, run)  # in the midst of the last artefact, the TA's
    run.kill()
    status, out, _ = start(project, stage="fuse").wait()
    assert status == 3  # what is there is fused, what is not is named
    report = json.loads(out.strip().splitlines()[-1])
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
    assert not any(artefact.failed() for artefact in artefacts(project))


@pytest.mark.slow
def test_what_a_kill_left_is_swept(tmp_path: Path, start: Callable[..., Run], undisturbed: dict[str, str]) -> None:
    project = lay_out(tmp_path / "project")
    run = start(project)
    wait_for(project, 5, run)
    run.kill()
    start(project).figures()
    start(project, "--older-than", "0", stage="gc").figures()
    assert attempts(project) == len(undisturbed)
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
    assert attempts(project) == len(undisturbed)  # who came second took its own attempt away


@pytest.mark.slow
def test_two_shards_on_one_cache(tmp_path: Path, start: Callable[..., Run], undisturbed: dict[str, str]) -> None:
    project = lay_out(tmp_path / "project")
    runs = [start(project, "--shard", f"{k}/2") for k in range(2)]
    figures = [run.figures() for run in runs]
    assert [f["panoramas"] for f in figures] == [IMAGES // 2] * 2
    assert all(f[kind]["computed"] == IMAGES // 2 for f in figures for kind in KINDS)
    assert_whole(project)
    assert contents(project) == undisturbed
    assert attempts(project) == len(undisturbed)
    assert all(figures[kind]["reused"] == IMAGES for figures in [start(project).figures()] for kind in KINDS)


@pytest.mark.slow
def test_sweeping_beside_a_run_loses_nothing(
    tmp_path: Path, start: Callable[..., Run], undisturbed: dict[str, str]
) -> None:
    """`gc --older-than 0` again and again: it takes temporary files, and files whose marker is still to come."""
    project = lay_out(tmp_path / "project")
    run, sweeps = start(project), 0
    while run.process.poll() is None:
        start(project, "--older-than", "0", stage="gc").figures()
        sweeps += 1
    figures = run.figures()
    assert sweeps > 1
    assert figures["failed"] == 0
    assert_whole(project)
    assert contents(project) == undisturbed


@pytest.mark.slow
def test_a_clock_that_goes_back_changes_nothing(tmp_path: Path, start: Callable[..., Run]) -> None:
    """Image files, and what the cache holds of them, are from the future; a replaced image is older than the first."""
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
def test_control_c_is_a_friendly_sentence(tmp_path: Path, start: Callable[..., Run], options: tuple[str, ...]) -> None:
    project = lay_out(tmp_path / "project")
    run = start(project, *options)
    wait_for(project, 4, run)
    run.signal_group(signal.SIGINT)  # as a terminal does, to the workers too
    status, _, err = run.wait()
    assert status == 130, err
    assert err.strip().splitlines()[-1] == ("stopped; what was finished is kept, the same command goes on from there")
    assert "Traceback" not in err
    finished = markers(project)
    assert 4 <= len(finished) < IMAGES * len(KINDS)
    assert_whole(project)


# -- what the command says


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
    assert (status, err) == (3, "")
    assert json.loads(out.strip().splitlines()[-1])["failed"] == 1
    assert "p03: failed: " in out
    assert "Traceback" not in out
    bad.write_bytes(good)
    status, out, err = start(project).wait()
    assert (status, err) == (0, "")
    assert json.loads(out.strip().splitlines()[-1])["sam"]["computed"] == 1


def test_a_refused_run_says_one_sentence(tmp_path: Path) -> None:
    project = lay_out(tmp_path / "project")
    done = command("-m", "pipeline", "precompute", *project.arguments(), "--set", "sam.nonsense=1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "sam.nonsense: unknown key" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project.folder / "cache").exists()


def stages() -> list[str]:
    return sorted(path.parent.name for path in (REPOSITORY / "stages").glob("*/cli.py"))


@pytest.mark.parametrize("stage", stages())
def test_every_stage_has_help(stage: str) -> None:
    done = command("-m", "pipeline", stage, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--manifest" in done.stdout or stage in ("predict", "export", "settings")


def test_the_command_line_starts_at_once_and_loads_nothing_heavy() -> None:
    command("-m", "pipeline", "--help")  # warms the page cache
    began = sum(os.times()[2:4])
    done = command("-X", "importtime", "-m", "pipeline", "--help")
    assert sum(os.times()[2:4]) - began < 1.5, "CPU seconds: others may use the machine too"
    assert all(stage in done.stdout for stage in stages())
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert not loaded & {"torch", "zarr", "dask", "distributed", "mmengine", "mmseg", "scipy", "skimage", "matplotlib"}
