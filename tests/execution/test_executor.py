"""The executor: failures are outcomes, memory is bounded, every way of running gives the same results."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.execution.executor import Execution, parse_shard
from pipeline.execution.task import STEPS
from tests.execution.tasks import Count, Environment, Meeting, Steps, records, run_all


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
    assert len(list(tmp_path.glob("setup-*"))) <= execution.workers  # a model is loaded once in each worker


def test_a_full_disk_ends_the_run_with_one_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"full: the cache cannot be written .*nothing finished is lost"):
        run_all(Count(tmp_path), records("a", "full", "b"))


def test_a_full_disk_in_a_worker_prints_nothing_but_the_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"^full: the cache cannot be written .*nothing finished is lost$"):
        run_all(Count(tmp_path), records("a", "full", *map(str, range(20))), Execution(workers=2))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_an_image_that_kills_its_worker_fails_alone(tmp_path: Path) -> None:
    outcomes = run_all(Count(tmp_path), records("a", "deadly", "b", "c"), Execution(workers=2))
    assert {o.id for o in outcomes if o.failure is None} == {"a", "b", "c"}
    assert "worker process died" in (tmp_path / "failed-deadly").read_text()


@pytest.mark.parametrize(
    "execution", [Execution(), Execution(threads=2), Execution(workers=2)], ids=["overlapped", "threads", "dask"]
)
def test_each_step_may_fail(tmp_path: Path, execution: Execution) -> None:
    ids = ["a", "bad read", "b", "bad compute", "done already", "bad write", "c"]
    outcomes = {o.id: o for o in run_all(Steps(tmp_path), records(*ids), execution)}
    assert sorted(outcomes) == sorted(ids)
    for step in ("read", "compute", "write"):
        assert outcomes[f"bad {step}"].failure == f"no {step}"
        assert (tmp_path / f"failed-bad {step}").read_text() == f"no {step}"
    assert outcomes["done already"].summary == {"done": True}
    assert outcomes["c"].summary["id"] == "c"


def test_steps_of_different_images_overlap_and_stay_bounded(tmp_path: Path) -> None:
    """Computing waits until the next image is read and the one before is written, so it ends only with overlap."""
    ids = [str(k) for k in range(12)]
    task = Meeting(tmp_path, images=len(ids))
    outcomes = run_all(task, records(*ids))
    assert [(o.id, o.failure) for o in outcomes] == [(image_id, None) for image_id in ids]
    running: Counter[str] = Counter()
    in_flight: set[str] = set()
    most_in_flight = 0
    threads: dict[str, set[str]] = {}
    for event in task.events():
        running[event.step] += 1 if event.name == "begins" else -1
        assert running[event.step] in (0, 1), "one image at a time takes a step"
        threads.setdefault(event.step, set()).add(event.thread)
        in_flight.add(event.image)
        most_in_flight = max(most_in_flight, len(in_flight))
        if (event.step, event.name) == ("write", "ends"):
            in_flight.remove(event.image)
    assert most_in_flight <= 3
    assert all(len(idents) == 1 for idents in threads.values())
    assert threads["compute"] == {str(threading.get_ident())}, "the model works in the calling thread"


def test_steps_overlap_in_each_worker_of_a_cluster(tmp_path: Path) -> None:
    """Each of two workers takes a step for one image at a time, and steps of different images at the same time."""
    ids = [str(k) for k in range(16)]
    task = Steps(tmp_path, seconds=0.05)
    outcomes = run_all(task, records(*ids), Execution(workers=2))
    assert sorted(o.id for o in outcomes) == sorted(ids)
    assert all(len(o.steps) == len(STEPS) and min(o.steps) >= 0.05 for o in outcomes)
    worker = {o.id: o.summary["pid"] for o in outcomes}
    running: Counter[tuple[int, str]] = Counter()
    most_running = 0
    for event in task.events():
        pid = worker[event.image]
        running[pid, event.step] += 1 if event.name == "begins" else -1
        assert running[pid, event.step] in (0, 1), "one image at a time takes a step"
        most_running = max(most_running, sum(count for (other, _), count in running.items() if other == pid))
    assert most_running >= 2
    assert len(set(worker.values())) == 2


def test_a_full_disk_ends_an_overlapped_run_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"full: the cache cannot be written .*nothing finished is lost"):
        run_all(Steps(tmp_path), records("a", "full", "b", "c"))
    assert len(list(tmp_path.glob("* write ends a *"))) == 1


def test_workers_keep_freed_memory_and_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's own environment returns every freed tensor to the system, which halves the speed of a model."""
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
def test_a_missing_scheduler_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], address: str
) -> None:
    monkeypatch.setattr("pipeline.execution.dask_cluster.CONNECT_SECONDS", 1)
    with pytest.raises(UserError, match=f"--scheduler {address}: no dask scheduler answers there"):
        run_all(Count(tmp_path), records("a"), Execution(scheduler=address))
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_only_a_few_images_are_in_flight(tmp_path: Path) -> None:
    taken: list[str] = []

    class Records(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            for record in super().__iter__():
                taken.append(record.id)
                done = len(list(tmp_path.glob("done-*")))
                assert len(taken) - done <= 5
                yield record

    run_all(Count(tmp_path), Records(records(*map(str, range(40)))), Execution(threads=2))
    assert len(taken) == 40


def test_shards_partition_the_images_in_any_order() -> None:
    everything = records(*"gdbface")
    parts = [Execution(shard=(k, 3)).select(everything) for k in range(3)]
    assert sorted(r.id for part in parts for r in part) == sorted("gdbface")
    assert Execution(shard=(0, 3)).select(everything[::-1]) == parts[0]
    assert parse_shard("1/4") == (1, 4)
    for wrong in ("4/4", "1", "a/b", "-1/2", "1/0"):
        with pytest.raises(UserError, match="expected i/n"):
            parse_shard(wrong)


def test_the_error_for_a_shard_counted_from_one_explains_the_count() -> None:
    with pytest.raises(UserError, match=r"--shard 3/3: .* count from 0: 0/3, 1/3, 2/3$"):
        parse_shard("3/3")
