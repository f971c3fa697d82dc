"""The executor: failures are outcomes, memory is bounded, every way of running is the same."""

from __future__ import annotations

import errno
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ImageError, UserError
from pipeline.data.manifests import ImageRecord
from pipeline.execution.executor import STEPS, Execution, ImageTask, Outcome, parse_shard, run_images


@dataclass(frozen=True)
class Count(ImageTask):
    """Notes every opening and every image as a file; some images fail."""

    folder: Path

    def open(self) -> Callable[[ImageRecord], dict[str, Any]]:
        (self.folder / f"open-{os.getpid()}-{time.monotonic_ns()}").touch()

        def work(record: ImageRecord) -> dict[str, Any]:
            if record.id == "bad":
                raise ImageError("bad picture")
            if record.id == "bug":
                raise ZeroDivisionError("one by nought")
            if record.id == "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            if record.id == "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            (self.folder / f"done-{record.id}").touch()
            return {"pid": os.getpid()}

        return work

    def record_failure(self, image_id: str, reason: str) -> None:
        (self.folder / f"failed-{image_id}").write_text(reason)


def run_all(*arguments: Any) -> list[Outcome]:
    return list(run_images(*arguments))


def records(*ids: str) -> list[ImageRecord]:
    return [ImageRecord(i, "train", Path(i), None) for i in ids]


@pytest.mark.parametrize(
    "execution", [Execution(), Execution(threads=2), Execution(workers=2)], ids=["inline", "threads", "dask"]
)
def test_failures_are_outcomes_and_the_others_go_on(tmp_path: Path, execution: Execution) -> None:
    outcomes = run_all(Count(tmp_path), records("a", "bad", "b", "bug", "c"), execution)
    failures = {o.id: o.failure for o in outcomes if o.failure}
    assert set(failures) == {"bad", "bug"}
    assert failures["bad"] == "bad picture"
    assert "ZeroDivisionError: one by nought" in failures["bug"]
    assert {p.name for p in tmp_path.glob("done-*")} == {"done-a", "done-b", "done-c"}
    assert (tmp_path / "failed-bad").read_text() == "bad picture"
    assert len(list(tmp_path.glob("open-*"))) <= execution.workers  # a model is loaded once a worker


def test_a_full_disk_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"full: the cache cannot be written .*nothing finished is lost"):
        run_all(Count(tmp_path), records("a", "full", "b"))


def test_a_full_disk_in_a_worker_prints_nothing_but_the_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"^full: the cache cannot be written .*nothing finished is lost$"):
        run_all(Count(tmp_path), records("a", "full", *map(str, range(20))), Execution(workers=2))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_worker_that_dies_takes_one_image_with_it(tmp_path: Path) -> None:
    outcomes = run_all(Count(tmp_path), records("a", "deadly", "b", "c"), Execution(workers=2))
    assert {o.id for o in outcomes if o.failure is None} == {"a", "b", "c"}
    assert "worker process died" in (tmp_path / "failed-deadly").read_text()


@dataclass(frozen=True)
class Steps(Count):
    """Reads, computes and writes, each for a while; images named after a step fail in it."""

    seconds: float = 0.0
    in_steps: bool = True

    def open(self) -> Any:
        def begin(record: ImageRecord, step: str) -> None:
            (self.folder / f"{time.monotonic_ns()} {step} begins {record.id} {threading.get_ident()}").touch()
            time.sleep(self.seconds)
            if record.id == f"bad {step}":
                raise ImageError(f"no {step}")
            if (record.id, step) == ("full", "write"):
                raise OSError(errno.ENOSPC, "No space left on device")
            (self.folder / f"{time.monotonic_ns()} {step} ends {record.id} {threading.get_ident()}").touch()

        def steps(record: ImageRecord) -> Generator[None, None, dict[str, Any]]:
            begin(record, "read")
            if record.id == "done already":
                return {"done": True}
            yield
            begin(record, "compute")
            yield
            begin(record, "write")
            return {"id": record.id, "pid": os.getpid()}

        def whole(record: ImageRecord) -> dict[str, Any]:
            walk = steps(record)
            while True:
                try:
                    next(walk)
                except StopIteration as end:
                    return dict(end.value)

        return steps if self.in_steps else whole


@dataclass(frozen=True)
class Environment(Count):
    """Says what its process's environment holds."""

    def open(self) -> Any:
        names = ("MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS")
        return lambda record: {name: os.environ.get(name) for name in names}


def started(path: Path) -> int:
    """When a step began or ended, from the name of the file that says so."""
    return int(path.name.split()[0])


@pytest.mark.parametrize(
    "execution", [Execution(), Execution(threads=2), Execution(workers=2)], ids=["overlapped", "threads", "dask"]
)
def test_work_in_steps_is_work(tmp_path: Path, execution: Execution) -> None:
    ids = ["a", "bad read", "b", "bad compute", "done already", "bad write", "c"]
    outcomes = {o.id: o for o in run_all(Steps(tmp_path), records(*ids), execution)}
    assert sorted(outcomes) == sorted(ids)
    for step in ("read", "compute", "write"):
        assert outcomes[f"bad {step}"].failure == f"no {step}"
        assert (tmp_path / f"failed-bad {step}").read_text() == f"no {step}"
    assert outcomes["done already"].summary == {"done": True}
    assert outcomes["c"].summary["id"] == "c"


def test_reading_computing_and_writing_overlap_and_stay_bounded(tmp_path: Path) -> None:
    """With stand-ins that sleep; the baseline is the same work as one step."""
    ids = [str(k) for k in range(12)]
    took = {}
    for in_steps in (False, True):
        folder = tmp_path / str(in_steps)
        folder.mkdir()
        began = time.monotonic()
        outcomes = run_all(Steps(folder, seconds=0.05, in_steps=in_steps), records(*ids))
        took[in_steps] = time.monotonic() - began
        assert sorted(o.id for o in outcomes) == sorted(ids)
    assert took[True] < 0.75 * took[False]
    running: dict[str, int] = {}
    flying: set[str] = set()
    most = 0
    threads: dict[str, set[str]] = {}
    for path in sorted((tmp_path / "True").iterdir(), key=started):
        _, step, what, image, thread = path.name.split()
        running[step] = running.get(step, 0) + (1 if what == "begins" else -1)
        threads.setdefault(step, set()).add(thread)
        assert running[step] in (0, 1), "one step of a sort at a time"
        flying.add(image)
        most = max(most, len(flying))
        if (step, what) == ("write", "ends"):
            flying.remove(image)
    assert most <= 3
    assert all(len(own) == 1 for own in threads.values())
    assert threads["compute"] == {str(threading.get_ident())}, "the model works in the calling thread"


def test_steps_overlap_in_each_worker_of_a_cluster(tmp_path: Path) -> None:
    """Two workers, each with one step of a sort at a time, and steps of different sorts at the same moment."""
    ids = [str(k) for k in range(16)]
    outcomes = run_all(Steps(tmp_path, seconds=0.05), records(*ids), Execution(workers=2))
    assert sorted(o.id for o in outcomes) == sorted(ids)
    assert all(len(o.steps) == len(STEPS) and min(o.steps) >= 0.05 for o in outcomes)
    worker = {o.id: o.summary["pid"] for o in outcomes}
    running: dict[tuple[int, str], int] = {}
    together = 0
    for path in sorted((path for path in tmp_path.iterdir() if path.name[0].isdigit()), key=started):
        _, step, what, image, _ = path.name.split()
        running[worker[image], step] = running.get((worker[image], step), 0) + (1 if what == "begins" else -1)
        assert running[worker[image], step] in (0, 1), "one step of a sort at a time"
        together = max(together, sum(count for (pid, _), count in running.items() if pid == worker[image]))
    assert together >= 2
    assert len(set(worker.values())) == 2


def test_a_full_disk_ends_an_overlapped_run_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"full: the cache cannot be written .*nothing finished is lost"):
        run_all(Steps(tmp_path), records("a", "full", "b", "c"))
    assert len(list(tmp_path.glob("* write ends a *"))) == 1


def test_workers_keep_memory_and_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's own environment would have every freed tensor go back to the system: a model is then half as fast."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (outcome,) = run_all(Environment(tmp_path), records("a"), Execution(workers=2))
    cores = len(os.sched_getaffinity(0))
    assert outcome.summary == {"MALLOC_TRIM_THRESHOLD_": None, "OMP_NUM_THREADS": str(max(1, cores // 2))}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    (outcome,) = run_all(Environment(tmp_path), records("a"), Execution(workers=2))
    assert outcome.summary["OMP_NUM_THREADS"] == "3"


def test_an_existing_scheduler_is_used(tmp_path: Path) -> None:
    from dask.distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        outcomes = run_all(Count(tmp_path), records("a", "b"), Execution(scheduler=cluster.scheduler_address))
    assert {o.summary["pid"] for o in outcomes} != {os.getpid()}
    assert len(outcomes) == 2


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "tls://127.0.0.1:9", "http://127.0.0.1:9", "node1", ""])
def test_no_scheduler_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], address: str
) -> None:
    monkeypatch.setattr("pipeline.execution.dask_cluster.CONNECT_SECONDS", 1)
    with pytest.raises(UserError, match=f"--scheduler {address}: no dask scheduler answers there"):
        run_all(Count(tmp_path), records("a"), Execution(scheduler=address))
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_only_a_few_images_are_in_flight(tmp_path: Path) -> None:
    started: list[str] = []
    lock = threading.Lock()

    class Records(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            for record in super().__iter__():
                with lock:
                    started.append(record.id)
                done = len(list(tmp_path.glob("done-*")))
                assert len(started) - done <= 5
                yield record

    run_all(Count(tmp_path), Records(records(*map(str, range(40)))), Execution(threads=2))
    assert len(started) == 40


def test_shards_partition_whatever_the_order() -> None:
    everything = records(*"gdbface")
    parts = [Execution(shard=(k, 3)).select(everything) for k in range(3)]
    assert sorted(r.id for part in parts for r in part) == sorted("gdbface")
    assert Execution(shard=(0, 3)).select(everything[::-1]) == parts[0]
    assert parse_shard("1/4") == (1, 4)
    for wrong in ("4/4", "1", "a/b", "-1/2", "1/0"):
        with pytest.raises(UserError, match="expected i/n"):
            parse_shard(wrong)


def test_a_shard_that_counts_from_one_is_told_that_shards_count_from_zero() -> None:
    with pytest.raises(UserError, match=r"--shard 3/3: .* count from 0: 0/3, 1/3, 2/3$"):
        parse_shard("3/3")
