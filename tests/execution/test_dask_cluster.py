"""Dask clusters of real processes: equal results, lost workers and schedulers, and who can connect."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from dask.distributed import Client

from pipeline.cache import Cache
from pipeline.core.errors import UserError
from pipeline.core.progress import SilentProgress
from pipeline.execution.dask_cluster import local_cluster
from pipeline.execution.executor import Execution
from pipeline.execution.task import Outcome
from tests.caches import assert_equal_caches, count_finished
from tests.conftest import Project
from tests.execution.tasks import Count, Environment, Steps, records, run_all, warn_twice

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "clusters.md").read_text(encoding="utf-8")
PATIENCE = 120.0
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def commands_of_page(port: int) -> tuple[str, str, str]:
    """Returns the page's blocks about a cluster by hand, at `port` of this machine: scheduler, worker and commands."""
    section = PAGE.split("## Dask, by hand")[1].split("\n## ")[0]
    scheduler, worker, commands = (
        block.replace("10.0.0.1", "127.0.0.1").replace("10.0.0.2", "127.0.0.1").replace("8786", str(port))
        for block in re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    )
    return scheduler, worker, commands


@dataclass
class DaskProcesses:
    """A scheduler and workers, started by the commands of the page."""

    folder: Path
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        process = self._start(commands_of_page(self.port)[0])
        deadline = time.monotonic() + PATIENCE
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return process
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self._start(f"unset OMP_NUM_THREADS\n{commands_of_page(self.port)[1]}")

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"dask{len(self.processes)}.log").open("wb")
        script = re.sub(r"^dask ", "exec dask ", command, flags=re.MULTILINE)
        process = subprocess.Popen(
            ["sh", "-c", script], cwd=REPOSITORY, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        self.processes.append(process)
        return process

    def listening(self) -> list[Any]:
        """The addresses on which the processes and their children listen."""
        return [address for process in self.processes for address in listening(process.pid)]

    def stop(self) -> None:
        for process in self.processes:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """`kill -9` of a process and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def listening(pid: int) -> list[Any]:
    """The addresses on which a process and its children listen."""
    process = psutil.Process(pid)
    return [
        connection.laddr
        for member in (process, *process.children(recursive=True))
        for connection in member.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


@pytest.fixture
def dask_processes(tmp_path: Path) -> Iterator[DaskProcesses]:
    processes = DaskProcesses(tmp_path)
    yield processes
    processes.stop()


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finished(cache: Path) -> int:
    return count_finished(Cache(str(cache), "toy"))


# -- who can connect


def test_a_local_cluster_listens_on_this_machine_only() -> None:
    """Scheduler, workers, their nannies and dask's HTTP servers."""
    with local_cluster(2, 1, print):
        addresses = listening(os.getpid())
    assert len(addresses) >= 4, "a scheduler and two workers"
    assert {address.ip for address in addresses} == {"127.0.0.1"}


def test_a_warning_in_a_worker_is_one_line_printed_once(capfd: pytest.CaptureFixture[str]) -> None:
    """As in the process of the command, see `print_warnings_once`."""
    with local_cluster(1, 1, print) as pool:
        for _ in range(2):
            pool.result(pool.submit(warn_twice))
    assert capfd.readouterr().err == "warning: an odd image\n"


# -- equal results


@pytest.mark.slow
def test_a_cluster_by_the_commands_of_the_page_gives_the_bytes_of_one_process(
    make_project: Callable[..., Project], dask_processes: DaskProcesses, tmp_path: Path
) -> None:
    project = make_project(6)
    dask_processes.start_scheduler()
    for _ in range(2):
        dask_processes.start_worker()
    stages = []
    for line in commands_of_page(dask_processes.port)[2].strip().splitlines():
        line = line.replace("manifest.yaml", str(project.manifest_path))
        program, stage, *options = line.replace("config.yaml", str(project.config_path)).split()
        assert program == "goodsam"
        stages.append(stage)
        out, err = command(stage, "--json", *options, "--cache", str(tmp_path / "many")).communicate(timeout=PATIENCE)
        assert "Traceback" not in err
        assert json.loads(out)["failed"] == 0
        _, err = command(stage, *project.arguments(), "--cache", str(tmp_path / "one")).communicate()
        assert err == ""
    assert stages == ["precompute", "fuse"]
    assert_equal_caches(tmp_path / "many", tmp_path / "one")
    assert {address.ip for address in dask_processes.listening()} == {"127.0.0.1"}


# -- lost workers and schedulers


class Notes(SilentProgress):
    """Keeps the notes for the user."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.received = threading.Event()

    def note(self, text: str) -> None:
        self.texts.append(text)
        self.received.set()


@pytest.mark.slow
def test_images_of_a_lost_worker_run_on_the_others(tmp_path: Path, dask_processes: DaskProcesses) -> None:
    dask_processes.start_scheduler()
    workers = [dask_processes.start_worker() for _ in range(2)]
    ids = [str(k) for k in range(40)]
    folder = tmp_path / "work"
    folder.mkdir()

    def kill_one() -> None:
        while True:  # until each worker has finished some images
            by_worker = Counter(path.name.split()[-1] for path in folder.glob("*write ends*"))
            if len(by_worker) == 2 and min(by_worker.values()) >= 4:
                break
            time.sleep(0.02)
        kill(workers[0])

    with Client(dask_processes.address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    outcomes = run_all(Steps(folder, seconds=0.05), records(*ids), Execution(scheduler=dask_processes.address))
    assert sorted(o.id for o in outcomes) == sorted(ids)
    assert not [o for o in outcomes if o.failure]
    assert len({o.summary["pid"] for o in outcomes}) == 2
    killer.join(PATIENCE)
    assert workers[0].poll() is not None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lost_scheduler_is_one_error_and_the_same_command_continues(
    make_project: Callable[..., Project], dask_processes: DaskProcesses, tmp_path: Path, number: signal.Signals
) -> None:
    project = make_project(30)
    scheduler = dask_processes.start_scheduler()
    dask_processes.start_worker()
    arguments = ("precompute", *project.arguments(), "--cache", str(tmp_path / "many"))
    run = command(*arguments, "--scheduler", dask_processes.address)
    deadline = time.monotonic() + PATIENCE
    while not (before := finished(tmp_path / "many")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(scheduler.pid, number)
    _, err = run.communicate(timeout=PATIENCE)
    assert err == (
        f"error: the dask scheduler {dask_processes.address} has ended or was restarted; what was finished is kept, "
        "the same command goes on from there\n"
    )
    assert run.returncode == 2
    assert before <= finished(tmp_path / "many") < 90
    for cache in ("many", "one"):
        out, err = command(*arguments[:-1], str(tmp_path / cache), "--json").communicate(timeout=PATIENCE)
        assert "Traceback" not in err
        computed = sum(json.loads(out)[kind]["computed"] for kind in ("sam", "masks", "teacher"))
        assert computed == 90 if cache == "one" else 0 < computed <= 90 - before
    assert_equal_caches(tmp_path / "many", tmp_path / "one")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short times for a test."""
    monkeypatch.setattr("pipeline.execution.dask_cluster.WORKERS_SECONDS", 1.0)
    monkeypatch.setattr("pipeline.execution.dask_cluster.COUNT_SECONDS", 0.2)


def run_in_background(task: Count, ids: list[str], scheduler: str, notes: Notes) -> tuple[threading.Thread, list[Any]]:
    """Starts `run_all` in a thread; the list receives its outcomes or its error."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(run_all(task, records(*ids), Execution(scheduler=scheduler), notes))
        except UserError as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_scheduler_without_workers_is_noted_and_ends_the_run_after_a_while(
    tmp_path: Path, dask_processes: DaskProcesses
) -> None:
    dask_processes.start_scheduler()
    notes = Notes()
    with pytest.raises(UserError, match=r"no worker came within 1 seconds; what was finished is kept, the same"):
        run_all(Steps(tmp_path), records("a", "b"), Execution(scheduler=dask_processes.address), notes)
    assert notes.texts == [f"the dask scheduler {dask_processes.address} has no workers: waiting for the first"]


@pytest.mark.slow
def test_a_late_worker_does_the_work(tmp_path: Path, dask_processes: DaskProcesses) -> None:
    """It has the environment that the page gives it."""
    dask_processes.start_scheduler()
    notes = Notes()
    thread, results = run_in_background(Environment(tmp_path), ["a", "b"], dask_processes.address, notes)
    assert notes.received.wait(PATIENCE)
    dask_processes.start_worker()
    thread.join(PATIENCE)
    outcomes: list[Outcome] = results[0]
    assert sorted(o.id for o in outcomes) == ["a", "b"]
    assert all(o.summary == {"MALLOC_TRIM_THRESHOLD_": None, "OMP_NUM_THREADS": "8"} for o in outcomes)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_losing_every_worker_ends_the_run_with_one_error(tmp_path: Path, dask_processes: DaskProcesses) -> None:
    dask_processes.start_scheduler()
    worker = dask_processes.start_worker()
    folder, notes = tmp_path / "work", Notes()
    folder.mkdir()
    with Client(dask_processes.address, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=PATIENCE)
    ids = [str(k) for k in range(200)]
    thread, results = run_in_background(Steps(folder, seconds=0.05), ids, dask_processes.address, notes)
    deadline = time.monotonic() + PATIENCE
    while not list(folder.glob("*write*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kill(worker)
    thread.join(PATIENCE)
    assert "no worker came within" in str(results[0])
    assert len(notes.texts) == 1
