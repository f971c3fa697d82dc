"""`kill -9` of every stage that writes, at random moments: files are complete, and the next run gives the same result.

Precompute and fuse are killed in `test_faults.py` too, trainings in `train/test_resume.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pipeline.cache import Cache
from pipeline.data.results import load_results
from pipeline.models.weights import load_state_dict
from tests.conftest import Project, write_yaml
from tests.models import street

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
IMAGES = 12
STUDENT = """
_base_ = [{base!r}]
model = dict(
    backbone=dict(embed_dims=8, num_heads=[1, 1, 1, 1], num_layers=[1, 1, 1, 1]),
    decode_head=dict(in_channels=[8, 8, 8, 8], channels=16))
"""


def start(folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(folder: Path, arguments: list[str], status: int = 0) -> str:
    process = start(folder, arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


def snapshot(folder: Path) -> dict[str, bytes]:
    """Returns every file but temporary ones."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def arrays(folder: Path) -> dict[str, object]:
    """Returns the arrays, attributes and inputs of every finished image of the cache."""
    result: dict[str, object] = {}
    for artefact in Cache(str(folder / "cache"), "toy").artefacts():
        for marker in artefact.markers():
            artefact.verify(marker)
            group = artefact.read(marker.id)
            place = f"{artefact.path} {marker.id}"
            result |= {f"{place} {name}": group.read_array(name).tobytes() for name in group.array_names()}
            result[place] = (marker.content, marker.inputs, group.attributes)
    return result


RUN = ["--manifest", "manifest.yaml", "--config", "config.yaml"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve panoramas through precompute, fuse and a training of four steps."""
    folder = tmp_path_factory.mktemp("made") / "project"
    project = Project(folder)
    for k in range(IMAGES):
        project.add_image(f"p{k:02d}.png", street(seed=k))
    write_yaml(project.manifest_path, {"name": "toy", "root": "images", "splits": {"train": {"images": ["**/*"]}}})
    base = REPOSITORY / "mmseg_configs" / "students" / "goodsam_m.py"
    (folder / "student.py").write_text(STUDENT.format(base=str(base)))
    views = {"width": 128, "stride": 64}
    write_yaml(
        project.config_path,
        {
            "cache": "cache",
            "sam": {"views": views, "generator": {"kind": "felzenszwalb", "min_size": 30}},
            "teacher": {"views": views, "model": {"kind": "module", "builder": "tests.models:tiny_teacher"}},
            "fusion": {"rule": "best"},
            "train": {"student": "student.py", "iterations": 4, "workers": 0},
        },
    )
    finish(folder, ["precompute", *RUN])
    finish(folder, ["fuse", *RUN])
    trained = finish(folder, ["train", "--json", *RUN, "--work-dir", "runs"])
    shutil.copy(folder / json.loads(trained.splitlines()[-1])["checkpoint"], folder / "student.pth")
    return folder


def adapted(folder: Path) -> dict[str, object]:
    """Returns the weights of every finished TA, their expected mIoU, and the cache."""
    result = arrays(folder)
    for weights in sorted((folder / "work_dirs").rglob("ta.pth")):
        state, _ = load_state_dict(weights)
        result |= {f"{weights.parent.name} {name}": values.numpy().tobytes() for name, values in state.items()}
    for report in sorted((folder / "work_dirs").rglob("round.json")):
        result[report.parent.name] = json.loads(report.read_text())["expected"]
    return result


def tables(folder: Path) -> dict[str, object]:
    """Returns the cache, and the figures of every row of the tables."""
    result = arrays(folder)
    for path in sorted((folder / "work_dirs").rglob("results.json")):
        result |= {f"{row.name} {row.kind} {row.seed}": (row.figures, row.keys) for row in load_results(path).rows}
    return result


@dataclass(frozen=True)
class Case:
    """A stage and the results that must be equal in the end.

    Attributes:
        arguments: the command.
        watched: a folder whose files change while the stage works.
        result: returns the results to compare, by default the files in `watched`.
        prepare: changes the project's folder before the runs.
        kills: number of runs that are killed.
    """

    arguments: tuple[str, ...]
    watched: str
    result: Callable[[Path], dict[str, object]] | None = None
    prepare: Callable[[Path], None] | None = None
    kills: int = 10

    def outcome(self, folder: Path) -> dict[str, object]:
        return self.result(folder) if self.result is not None else {**snapshot(folder / self.watched)}


def without_fused(folder: Path) -> None:
    shutil.rmtree(folder / "cache" / "toy" / "fused")


def damaged(folder: Path) -> None:
    for path in sorted((folder / "cache" / "toy" / "teacher").glob("*/images/*"))[::2]:
        path.write_bytes(path.read_bytes()[:100])


def with_orphans(folder: Path) -> None:
    for artefact in (folder / "cache" / "toy").glob("*/*"):
        for k in range(200):
            (artefact / "images" / f"p{k:02d}.0123456789abcdef.zip").write_bytes(b"left by a killed run")


def of_format_1(folder: Path) -> None:
    shutil.rmtree(folder)
    with zipfile.ZipFile(REPOSITORY / "tests" / "data" / "cache_format_1.zip") as archive:
        archive.extractall(folder)


def with_batch_norm(folder: Path) -> None:
    """Another TA, whose statistics are mixed and which is trained in two rounds."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["teacher"]["model"]["builder"] = "tests.models:batch_norm_teacher"
    config["adapt"] = {"statistics": 0.5, "iterations": 6}
    write_yaml(folder / "config.yaml", config)


def with_suite(folder: Path) -> None:
    """A table of two rules and of an adapted TA, with students."""
    rows = [{"vary": {"fusion.rule": ["ta", "paper"]}}, {"name": "adapted", "rounds": [0]}]
    write_yaml(folder / "suite.yaml", {"students": True, "rows": rows})
    with_batch_norm(folder)


CASES = {
    "suite": Case(("ablate", *RUN, "--suite", "suite.yaml"), "work_dirs", tables, with_suite, kills=6),
    "adapt": Case(("adapt", *RUN, "--rounds", "2"), "work_dirs", adapted, with_batch_norm, kills=8),
    "fuse": Case(("fuse", *RUN), "cache/toy/fused", arrays, without_fused, kills=15),
    "migrate": Case(("migrate", *RUN), "cache", arrays, of_format_1),
    "gc": Case(("gc", *RUN, "--older-than", "0"), "cache", arrays, with_orphans, kills=5),
    "labels": Case(("labels", *RUN, "--out", "out"), "out"),
    "predict": Case(("predict", "images", "--student", "student.pth", "--out", "out"), "out"),
    "export": Case(("export", "--student", "student.pth", "--out", "out/student.onnx"), "out", kills=4),
    "view": Case(("view", "p00", *RUN, "--out", "out/view.png"), "out", kills=3),
    "ablate": Case(("ablate", *RUN, "--vary", "fusion.rule=ta,best,paper"), "cache/toy/fused", arrays, kills=5),
}


def changes(folder: Path) -> tuple[int, float]:
    """Returns the number of files and the newest change below a folder, which show that the stage has begun to work."""
    times = [0.0]
    for current, _, files in os.walk(folder):
        for name in files:
            try:
                times.append(os.lstat(os.path.join(current, name)).st_mtime)
            except FileNotFoundError:
                continue
    return len(times), max(times)


@pytest.mark.parametrize("stage", CASES)
def test_a_stage_killed_at_any_moment_ends_with_the_same_result(made: Path, tmp_path: Path, stage: str) -> None:
    case, rng = CASES[stage], random.Random(stage)
    folders = [tmp_path / "undisturbed" / "project", tmp_path / "killed" / "project"]
    for folder in folders:
        shutil.copytree(made, folder)
        if case.prepare is not None:
            case.prepare(folder)
    undisturbed, folder = folders
    began = time.monotonic()
    before = changes(undisturbed / case.watched)
    process = start(undisturbed, list(case.arguments))
    first = None
    while process.poll() is None:
        if first is None and changes(undisturbed / case.watched) != before:
            first = time.monotonic() - began
        time.sleep(0.002)
    assert process.returncode == 0, process.communicate()[0]
    working = max(0.02, time.monotonic() - began - (first or 0))
    expected = case.outcome(undisturbed)
    landed = 0
    for _ in range(case.kills):
        before = changes(folder / case.watched)
        process = start(folder, list(case.arguments))
        while process.poll() is None and changes(folder / case.watched) == before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, working))
        landed += process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        outcome = case.outcome(folder)
        assert {name: value for name, value in outcome.items() if expected.get(name) != value} == {}
    assert landed > 0
    finish(folder, list(case.arguments))
    assert case.outcome(folder) == expected


def test_a_killed_repair_is_continued(made: Path, tmp_path: Path) -> None:
    """Its result depends on the moment; the cache after the stages does not."""
    folder, rng = tmp_path / "project", random.Random(0)
    shutil.copytree(made, folder)
    expected = arrays(folder)
    damaged(folder)
    for _ in range(5):
        process = start(folder, ["verify", *RUN, "--repair"])
        before = changes(folder / "cache")
        while process.poll() is None and changes(folder / "cache") == before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(folder, ["verify", *RUN, "--repair"])
    finish(folder, ["precompute", *RUN])
    finish(folder, ["fuse", *RUN])
    finish(folder, ["verify", *RUN])
    assert arrays(folder) == expected


@pytest.mark.parametrize("kills", [6])
def test_a_training_killed_again_and_again_ends_with_the_same_weights(made: Path, tmp_path: Path, kills: int) -> None:
    arguments = ["train", "--json", *RUN, "--set", "train.iterations=30", "--work-dir", "runs"]
    weights, rng = [], random.Random(1)
    for name in ("undisturbed", "killed"):
        folder = tmp_path / name / "project"
        shutil.copytree(made, folder)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["train"]["overrides"] = {"default_hooks.checkpoint.interval": 3}
        write_yaml(folder / "config.yaml", config)
        for _ in range(kills if name == "killed" else 0):
            before = changes(folder / "runs")
            process = start(folder, arguments)
            while process.poll() is None and changes(folder / "runs") == before:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 2.5))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        output = finish(folder, arguments)
        weights.append(load_state_dict(Path(folder / json.loads(output.splitlines()[-1])["checkpoint"]))[0])
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
